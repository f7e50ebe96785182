//! All tests, as root: what they need is looked at first, so that nothing is skipped in silence.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::command::{self, output, which};
use crate::debian;

/// Programs that the tests start, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 34] = [
    ("dig", "bind9-dnsutils"),
    ("tcpdump", "tcpdump"),
    ("strace", "strace"),
    ("nft", "nftables"),
    ("knotd", "knot"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("ip", "iproute2"),
    ("kdig", "knot-dnsutils"),
    ("musl-gcc", "musl-tools"),
    ("ping", "iputils-ping"),
    ("socat", "socat"),
    ("curl", "curl"),
    ("nginx", "nginx-light"),
    ("openssl", "openssl"),
    ("iptables-nft", "iptables"),
    ("iptables-legacy", "iptables"),
    ("dnsmasq", "dnsmasq-base"),
    ("nsd", "nsd"),
    ("unbound", "unbound"),
    ("dnsperf", "dnsperf"),
    ("python3", "python3"),
    ("cc", "gcc"),
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("protoc", "protobuf-compiler"),
    ("promtool", "prometheus"),
    ("script", "bsdutils"),
    ("journalctl", "systemd"),
    ("chromium", "chromium"),
    ("git", "git"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("apparmor_parser", "apparmor"),
];

/// Files that programs of tests are made with, and the packages that have them.
const FILES: [(&str, &str); 6] = [
    ("/usr/include/ares.h", "libc-ares-dev"),
    (
        "/usr/lib/python3/dist-packages/grpc/__init__.py",
        "python3-grpcio",
    ),
    (
        "/usr/include/google/protobuf/timestamp.proto",
        "libprotobuf-dev",
    ),
    (
        "/usr/lib/python3/dist-packages/google/protobuf/message.py",
        "python3-protobuf",
    ),
    (
        "/usr/lib/python3/dist-packages/websockets/__init__.py",
        "python3-websockets",
    ),
    (
        "/usr/lib/python3/dist-packages/pip/__init__.py",
        "python3-pip",
    ),
];

/// What a namespace must be able to do: each is tried in one of its own.
const ABILITIES: [(&str, &[&str]); 5] = [
    ("network namespaces", &["true"]),
    (
        "veth pairs",
        &[
            "ip", "link", "add", "ng0", "type", "veth", "peer", "name", "ng1",
        ],
    ),
    ("nftables", &["nft", "add", "table", "inet", "try"]),
    (
        "clsact qdiscs",
        &["tc", "qdisc", "add", "dev", "lo", "clsact"],
    ),
    ("tables of iptables-legacy", &["iptables-legacy", "-L"]),
];

#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask test                     all tests
  cargo xtask test --install           first install the Debian packages that are missing
  cargo xtask test -- -p dnsproxy      one crate's; the words go to the test runner")]
pub(crate) struct Args {
    /// Install the Debian packages that are missing
    #[arg(long)]
    install: bool,
    /// Words for cargo nextest, or cargo test where nextest is missing
    #[arg(last = true)]
    words: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(
        std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0),
        "the tests make network namespaces and load programs: run this as root"
    );
    if args.install {
        install()?;
    }
    let (missing, packages) = missing();
    ensure!(
        missing.is_empty(),
        "not found: {}\nOn Debian: apt-get install {} (or `cargo xtask test --install`)",
        missing.join(" "),
        packages.join(" ")
    );
    look_at_kernel()?;
    // The tests in namespaces start target/debug/namegate.
    command::run(command::cargo().args(["build", "--workspace"]))?;
    let profile = match command::variable("CI") {
        Some(_) => "ci",
        None => "default",
    };
    let mut runner = command::cargo();
    if output(command::cargo().args(["nextest", "--version"])).is_ok() {
        runner.args(["nextest", "run", "--profile", profile]);
    } else {
        println!("cargo-nextest not found: cargo test instead");
        runner.args(["test", "--no-fail-fast"]);
    }
    if !args
        .words
        .iter()
        .any(|word| word == "-p" || word == "--package")
    {
        runner.arg("--workspace");
    }
    // In our place: the last lines are the runner's own, also when a test fails.
    let error = runner.args(&args.words).exec();
    bail!("the test runner can't be started: {error}")
}

/// The programs that aren't there, and the packages that have them.
pub(crate) fn missing() -> (Vec<&'static str>, Vec<&'static str>) {
    let mut packages = Vec::new();
    let mut programs = Vec::new();
    for (program, package) in PROGRAMS.into_iter().chain(FILES) {
        if which(program).is_none() {
            programs.push(program);
            if !packages.contains(&package) {
                packages.push(package);
            }
        }
    }
    (programs, packages)
}

fn install() -> Result<()> {
    let (missing, packages) = missing();
    if packages.is_empty() {
        return Ok(());
    }
    debian::install(&packages)?;
    if missing.contains(&"knotd") {
        debian::disable_service("knot")?;
    }
    Ok(())
}

fn look_at_kernel() -> Result<()> {
    ensure!(
        Path::new("/proc/sys/kernel/unprivileged_bpf_disabled").exists(),
        "this kernel has no bpf system call (CONFIG_BPF_SYSCALL)"
    );
    ensure!(
        Path::new("/sys/kernel/btf/vmlinux").exists(),
        "this kernel does not describe its types (CONFIG_DEBUG_INFO_BTF), or /sys is not mounted"
    );
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    ensure!(
        filesystems.split_whitespace().any(|name| name == "bpf"),
        "this kernel has no bpf file system"
    );
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    ensure!(
        mounts
            .lines()
            .any(|line| line.split(' ').nth(2) == Some("cgroup2")),
        "no cgroup file system of version 2 is mounted"
    );
    for (what, words) in ABILITIES {
        output(Command::new("unshare").arg("--net").args(words))
            .with_context(|| format!("the tests need {what}"))?;
    }
    Ok(())
}
