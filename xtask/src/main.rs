//! What the repository does to itself: tidy, bpf, deb, proto, reference, reproducible, test, vm.
//!
//! It knows files, cargo and the machine's programs; it links no crate of the product.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people; what it finds is its output"
)]

mod bpf;
mod command;
mod deb;
mod debian;
mod proto;
mod reference;
mod reproducible;
mod source;
mod test;
mod tidy;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What the repository does to itself.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build or check the committed BPF object
    Bpf(bpf::Args),
    /// Make the Debian package, and try it
    Deb(deb::Args),
    /// Make or check the committed code of the flow protocol
    Proto(proto::Args),
    /// Make the committed page of the configuration's keys
    Reference,
    /// Build the program twice, in two folders, and compare them octet by octet; this takes long
    Reproducible(reproducible::Args),
    /// Check arrows between crates, file lengths, comments on dependencies and the like
    Tidy,
    /// Run all tests, as root
    Test(test::Args),
    /// Run the tests that ask the kernel on Debian's, in a machine of its own
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let result = if bpf::wrapper::is_wanted() {
        bpf::wrapper::run(std::env::args())
    } else {
        match Cli::parse().task {
            Task::Bpf(args) => bpf::run(&args),
            Task::Deb(args) => deb::run(&args),
            Task::Proto(args) => proto::run(&args),
            Task::Reference => reference::run(),
            Task::Reproducible(args) => reproducible::run(&args),
            Task::Tidy => tidy::run(),
            Task::Test(args) => test::run(&args),
            Task::Vm(args) => vm::run(&args),
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
