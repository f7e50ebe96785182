//! The tests on an older kernel: Debian's, in a machine of its own, over the files of this one.
//!
//! The machine has no disk and no network. Its root is this machine's root, read only, with all writes
//! in memory; so the tests that were built here run there as they are, beside the programs that are
//! installed here.

mod initramfs;

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::command::{self, output, run as run_command, which};
use crate::{debian, test};
use initramfs::Archive;

/// Programs that make and run the machine, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 3] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("dpkg-deb", "dpkg"),
];
/// Whose dependency is the kernel that this Debian ships: 6.1 on Debian 12.
const KERNEL: &str = "linux-image-amd64";
/// The crates whose tests ask the kernel; the others know nothing of it.
const CRATES: [&str; 4] = ["namegate-tests", "namegate", "bpf-redirect", "transport"];

/// The machine's memory in MiB, all that the tests write included, and its CPUs.
const MEMORY_MIB_MAX: &str = "6144";
const CPUS: &str = "2";
/// One test program may take so long, and the machine in all; then it is ended.
const PROGRAM_SECONDS_MAX: u32 = 3_600;
const MACHINE_SECONDS_MAX: u64 = 6 * 3_600;
/// A machine that works says hello long before this.
const HELLO_SECONDS_MAX: u64 = 20;
/// How many times longer a test waits for something on a machine that is emulated, unless
/// `NAMEGATE_TEST_PATIENCE` says so.
const PATIENCE_EMULATED: u32 = 4;
/// How often the machine is looked at.
const TICK: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask vm                                   the tests that ask the kernel, on Debian's
  cargo xtask vm --install                         first install the Debian packages that are missing
  cargo xtask vm -- -p namegate-tests --test path  some of them; the words go to cargo test
  cargo xtask vm -- -p namegate-tests --test path -- --exact answers_in_fragments_arrive_whole

The kernel is downloaded and unpacked into the target folder; it is not installed.")]
pub(crate) struct Args {
    /// Install the Debian packages that are missing
    #[arg(long)]
    install: bool,
    /// The package that has the kernel [default: what linux-image-amd64 depends on]
    #[arg(long, value_name = "PACKAGE")]
    kernel: Option<String>,
    /// How the machine runs
    #[arg(long, value_enum, default_value = "auto")]
    accel: Accel,
    /// Words for cargo test, and after another -- for the test programs
    #[arg(last = true)]
    words: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Accel {
    /// KVM if a machine says hello by it, else emulated
    Auto,
    /// By the CPU itself
    Kvm,
    /// Emulated
    Tcg,
}

/// Where the machine's parts are.
struct Parts {
    kernel: PathBuf,
    initramfs: PathBuf,
    /// What the machine writes into.
    out: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(
        std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0),
        "the machine reads all of this one's files: run this as root"
    );
    look_at_programs(args.install)?;
    let folder = command::target_dir()?.join("vm");
    let (vmlinuz, modules) = kernel(&folder, args.kernel.as_deref())?;
    let (build_words, test_words) = split(&args.words);
    let programs = build(build_words)?;
    ensure!(!programs.is_empty(), "these words name no test");
    let parts = Parts {
        kernel: vmlinuz,
        initramfs: folder.join("initramfs"),
        out: folder.join("out"),
    };
    let _ = std::fs::remove_dir_all(&parts.out);
    std::fs::create_dir_all(&parts.out)?;
    // Once to see whether it runs at all, so without tests.
    write_initramfs(&parts, &modules, "")?;
    let accel = choose(args.accel, &parts)?;
    let script = script(&programs, test_words, accel);
    write_initramfs(&parts, &modules, &script)?;
    println!(
        "{} test programs on {}",
        programs.len(),
        parts.kernel.display()
    );
    let ended = wait(start(&parts, accel, "")?, MACHINE_SECONDS_MAX)?;
    ensure!(
        ended,
        "ended after {MACHINE_SECONDS_MAX} s: it never powered off"
    );
    let code = std::fs::read_to_string(parts.out.join("failed"))
        .context("the machine ended before its tests did")?;
    ensure!(code.trim().is_empty(), "failed:\n{}", code.trim());
    println!("all passed");
    Ok(())
}

fn look_at_programs(may_install: bool) -> Result<()> {
    let missing = || {
        let own = PROGRAMS
            .into_iter()
            .filter(|(name, _)| which(name).is_none());
        let (_, mut packages) = test::missing();
        packages.extend(own.map(|(_, package)| package));
        packages
    };
    if may_install && !missing().is_empty() {
        debian::install(&missing())?;
    }
    let packages = missing();
    ensure!(
        packages.is_empty(),
        "on Debian: apt-get install {} (or `cargo xtask vm --install`)",
        packages.join(" ")
    );
    Ok(())
}

/// The kernel and the folder of its modules, unpacked.
fn kernel(folder: &Path, package: Option<&str>) -> Result<(PathBuf, PathBuf)> {
    let package = match package {
        Some(package) => package.to_owned(),
        None => shipped()?,
    };
    let release = package
        .strip_prefix("linux-image-")
        .with_context(|| format!("{package} is no package of a kernel"))?;
    let unpacked = folder.join(&package);
    let modules = unpacked.join("lib/modules").join(release);
    let index = modules.join("modules.dep");
    if !index.exists() {
        std::fs::create_dir_all(folder)?;
        run_command(
            Command::new("apt-get")
                .current_dir(folder)
                .args(["download", "-q", &package]),
        )?;
        let deb = newest_deb(folder, &package)?;
        run_command(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked))?;
        std::fs::remove_file(deb)?;
        run_command(
            Command::new("busybox")
                .args(["depmod", "-b"])
                .arg(&unpacked)
                .arg(release),
        )?;
    }
    Ok((
        unpacked.join("boot").join(format!("vmlinuz-{release}")),
        modules,
    ))
}

/// The package of the kernel that this Debian ships.
fn shipped() -> Result<String> {
    let text = output(Command::new("apt-cache").args(["depends", KERNEL]))?;
    let name = text
        .split_whitespace()
        .find(|word| word.starts_with("linux-image-") && *word != KERNEL);
    name.map(str::to_owned).with_context(|| {
        format!("apt-cache names no kernel for {KERNEL}: `apt-get update`, or name one by --kernel")
    })
}

fn newest_deb(folder: &Path, package: &str) -> Result<PathBuf> {
    let start = format!("{package}_");
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with(&start) && name.ends_with(".deb")) {
            return Ok(path);
        }
    }
    bail!("apt-get downloaded no {package}")
}

/// The words for cargo, and those for the test programs.
fn split(words: &[String]) -> (&[String], &[String]) {
    let place = words.iter().position(|word| word == "--");
    match place.and_then(|place| words.split_at_checked(place)) {
        Some((build, test)) => (build, test.get(1..).unwrap_or_default()),
        None => (words, &[]),
    }
}

/// A test program and the folder in which cargo would run it.
struct Program {
    path: String,
    folder: String,
}

fn build(words: &[String]) -> Result<Vec<Program>> {
    // The tests in namespaces start target/debug/namegate.
    run_command(command::cargo().args(["build", "--workspace"]))?;
    let mut cargo = command::cargo();
    cargo.args([
        "test",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    if !words.iter().any(|word| word == "-p" || word == "--package") {
        cargo.args(CRATES.iter().flat_map(|name| ["-p", name]));
    }
    let text = output(cargo.args(words))?;
    let mut programs = Vec::new();
    for line in text.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's messages")?;
        let word = |path: &str| message.pointer(path).and_then(Value::as_str);
        let is_test = message.pointer("/profile/test").and_then(Value::as_bool);
        if is_test != Some(true) {
            continue;
        }
        if let (Some(path), Some(manifest)) = (word("/executable"), word("/manifest_path")) {
            let folder = Path::new(manifest)
                .parent()
                .unwrap_or_else(|| Path::new("/"));
            programs.push(Program {
                path: path.to_owned(),
                folder: folder.display().to_string(),
            });
        }
    }
    Ok(programs)
}

/// What the machine runs: one program after the other; those that failed are written down.
fn script(programs: &[Program], words: &[String], accel: Accel) -> String {
    let mut text = String::new();
    for name in ["PATH", "HOME", "NAMEGATE_TEST_LOG"] {
        if let Some(value) = command::variable(name) {
            let _ = writeln!(text, "export {name}={}", quoted(&value));
        }
    }
    if accel != Accel::Kvm {
        let patience = command::variable("NAMEGATE_TEST_PATIENCE");
        let patience = patience.unwrap_or_else(|| PATIENCE_EMULATED.to_string());
        let _ = writeln!(text, "export NAMEGATE_TEST_PATIENCE={}", quoted(&patience));
        // To load the programs takes half a minute there, of which no test takes part of another's.
        text.push_str("export RUST_TEST_THREADS=1\n");
    }
    // Neither is asked for by name: sysctls of the one, and the device of the other, are there only with them.
    text.push_str("/run/machine/modprobe br_netfilter\n/run/machine/modprobe tun\necho \"Linux $(uname -r)\"\nfailed=\n");
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    for Program { path, folder } in programs {
        let name = Path::new(path).file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        let _ = writeln!(
            text,
            "echo \"== {name}, at $(cut -d. -f1 /proc/uptime) s\"\ncd {}\n\
             CARGO_MANIFEST_DIR={} /run/machine/timeout -k 10 {PROGRAM_SECONDS_MAX} {} {} || \
             failed=\"${{failed}}{name} ($?)\n\"",
            quoted(folder),
            quoted(folder),
            quoted(path),
            words.join(" "),
        );
    }
    text.push_str("printf %s \"$failed\" >/run/machine/out/failed\nsync\n");
    text.push_str("/run/machine/poweroff -f\n");
    text
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn write_initramfs(parts: &Parts, modules: &Path, script: &str) -> Result<()> {
    let busybox = which("busybox").context("no busybox")?;
    let mut archive = Archive::default();
    archive.folder("bin")?;
    archive.file("bin/busybox", &std::fs::read(busybox)?)?;
    archive.file("init", include_bytes!("vm/init.sh"))?;
    let all = modules.parent().unwrap_or(modules).display().to_string();
    let environment = format!("MODULES={}\n", quoted(&all));
    archive.file("machine.env", environment.as_bytes())?;
    archive.file("tests.sh", script.as_bytes())?;
    archive.early_modules(modules)?;
    std::fs::write(&parts.initramfs, archive.finish()?).context("the initramfs")
}

/// KVM may be there and not run this kernel: so a machine is asked to say hello.
fn choose(wanted: Accel, parts: &Parts) -> Result<Accel> {
    if wanted != Accel::Auto {
        return Ok(wanted);
    }
    let opened = File::options().read(true).write(true).open("/dev/kvm");
    if let Err(error) = opened {
        println!("/dev/kvm: {error}; the machine is emulated");
        return Ok(Accel::Tcg);
    }
    wait(
        start(parts, Accel::Kvm, "namegate.hello")?,
        HELLO_SECONDS_MAX,
    )?;
    if parts.out.join("hello").exists() {
        return Ok(Accel::Kvm);
    }
    println!("by KVM the machine said nothing in {HELLO_SECONDS_MAX} s; it is emulated");
    Ok(Accel::Tcg)
}

fn start(parts: &Parts, accel: Accel, words: &str) -> Result<Child> {
    let cpu = match accel {
        Accel::Kvm => ["-accel", "kvm", "-cpu", "host"],
        // Where the CPU says that its string instructions are quick, the kernel copies by them, and they are
        // emulated octet by octet: without them the programs are loaded in two thirds of the time.
        Accel::Auto | Accel::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,-erms,-fsrm"],
    };
    let out = parts.out.display().to_string();
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(cpu)
        .args(["-m", MEMORY_MIB_MAX, "-smp", CPUS])
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio"])
        .args(["-kernel", &parts.kernel.display().to_string()])
        .args(["-initrd", &parts.initramfs.display().to_string()])
        .args([
            "-append",
            // Nothing in there is to be kept from anybody, and retpolines are slow to emulate.
            &format!("console=ttyS0 loglevel=3 panic=-1 mitigations=off {words}"),
        ])
        .args([
            "-fsdev",
            "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
            "-device",
            "virtio-9p-pci,fsdev=root,mount_tag=root",
            "-fsdev",
            &format!("local,id=out,path={out},security_model=none"),
            "-device",
            "virtio-9p-pci,fsdev=out,mount_tag=out",
        ])
        .stdin(Stdio::null());
    qemu.spawn().context("qemu can't be started")
}

/// Waits for the machine to power off; after so long it is ended. Says whether it ended by itself.
fn wait(mut machine: Child, seconds_max: u64) -> Result<bool> {
    let ticks = seconds_max * 1_000 / TICK.as_millis() as u64;
    for _ in 0..ticks {
        if machine.try_wait()?.is_some() {
            return Ok(true);
        }
        std::thread::sleep(TICK);
    }
    machine.kill()?;
    machine.wait()?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_after_a_second_mark_are_the_test_programs() {
        let words: Vec<String> = ["-p", "x", "--", "--exact", "name"]
            .map(str::to_owned)
            .into();
        let (build, test) = split(&words);
        assert_eq!((build.len(), test), (2, words.get(3..).unwrap()));
        assert_eq!(split(build), (build, [].as_slice()));
    }

    #[test]
    fn what_fails_is_written_down_and_the_machine_always_powers_off() {
        let program = Program {
            path: "/t/it's-1".to_owned(),
            folder: "/w".to_owned(),
        };
        let text = script(&[program], &["--exact".to_owned()], Accel::Tcg);
        assert!(text.contains(r"timeout -k 10 3600 '/t/it'\''s-1' '--exact' || failed="));
        assert!(text.contains("NAMEGATE_TEST_PATIENCE="));
        assert!(text.trim_end().ends_with("poweroff -f"));
    }
}
