//! Namegate: a node-level gate by name. The daemon and the command line.
#![forbid(unsafe_code)]

mod cli;
mod clock;
mod control;
mod daemon;
mod datapath;
mod endpoints;
mod exit;
mod files;
mod guard;
mod instance;
mod learner;
mod proxy;
mod run;
mod state;
mod status;
mod watch;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let command = cli::Namegate::parse();
    match command.run() {
        Ok(code) => code,
        Err(error) => {
            // Standard error may be closed; the code says enough then.
            let _ = writeln!(std::io::stderr(), "namegate: {error:#}");
            exit::Exit::code_of(&error)
        }
    }
}
