//! `cargo xtask reproducible`: the program is built twice, in two folders of different names, and both must be
//! the same, octet by octet.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{self, cargo_home, output, root, run as run_command, target_dir};

/// What is built, and how.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Without optimisation: sooner, and no release's program
    #[arg(long)]
    debug: bool,
    /// For another target, as x86_64-unknown-linux-musl
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
}

/// Of different lengths, so that no offset is the same by chance.
const FOLDERS: [&str; 2] = ["one", "the-other-one"];
/// Octets that are compared at once.
const STEP: u64 = 1 << 16;

pub(crate) fn run(args: &Args) -> Result<()> {
    let place = target_dir()?.join("reproducible");
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    let folders = FOLDERS.map(|name| place.join(name));
    // Both before the first is built: somebody may commit meanwhile.
    folders.iter().try_for_each(|folder| unpack(folder))?;
    let programs = folders.iter().map(|folder| build(folder, args));
    let programs = programs.collect::<Result<Vec<_>>>()?;
    let [one, other] = programs.as_slice() else {
        bail!("two programs are compared");
    };
    match first_difference(fs::File::open(one)?, fs::File::open(other)?)? {
        None => {
            let sum = output(Command::new("sha256sum").arg(one))?;
            let sum = sum.split_whitespace().next().unwrap_or_default();
            println!(
                "both are the same: {} octets, SHA-256 {sum}",
                fs::metadata(one)?.len()
            );
            Ok(fs::remove_dir_all(&place)?)
        }
        Some(at) => bail!(
            "they differ from octet {at} on: {}, {}",
            one.display(),
            other.display()
        ),
    }
}

/// What is committed, and nothing else.
fn unpack(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let archive = folder.with_extension("tar");
    let mut pack = Command::new("git");
    pack.current_dir(root()).args(["archive", "--output"]);
    run_command(pack.arg(&archive).arg("HEAD"))?;
    run_command(
        Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(folder),
    )?;
    Ok(fs::remove_file(archive)?)
}

fn build(folder: &Path, args: &Args) -> Result<PathBuf> {
    let target = folder.join("target");
    let mut command = command::cargo();
    command
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_INCREMENTAL", "0")
        .env("RUSTFLAGS", remapped(folder)?)
        .args(["build", "--locked", "--package", "namegate"]);
    if !args.debug {
        command.arg("--release");
    }
    let mut built = target;
    if let Some(triple) = &args.target {
        command.args(["--target", triple]);
        built.push(triple);
    }
    run_command(&mut command)?;
    built.push(if args.debug { "debug" } else { "release" });
    Ok(built.join("namegate"))
}

/// Has the compiler write no path of this machine: neither the folder nor where crates are kept.
fn remapped(folder: &Path) -> Result<String> {
    let of = |path: &Path, shown: &str| format!("--remap-path-prefix={}={shown}", path.display());
    Ok([of(folder, "/namegate"), of(&cargo_home()?, "/cargo")].join(" "))
}

/// Where two programs differ first, if they do.
fn first_difference(mut one: impl Read, mut other: impl Read) -> Result<Option<u64>> {
    let mut at = 0;
    loop {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        one.by_ref().take(STEP).read_to_end(&mut ours)?;
        other.by_ref().take(STEP).read_to_end(&mut theirs)?;
        let pairs = ours.iter().zip(&theirs);
        let same = pairs.take_while(|(ours, theirs)| ours == theirs).count();
        at += same as u64;
        if same < ours.len().max(theirs.len()) {
            return Ok(Some(at));
        }
        if ours.is_empty() {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_octet_that_differs_is_found() {
        let step = usize::try_from(STEP).unwrap();
        let long = vec![7; step + 9];
        let mut other = long.clone();
        *other.last_mut().unwrap() = 8;
        let differs = |one: &[u8], other: &[u8]| first_difference(one, other).unwrap();
        assert_eq!(differs(&long, &long), None);
        assert_eq!(differs(&long, &vec![7; step]), Some(STEP));
        assert_eq!(differs(&long, &other), Some(STEP + 8));
        assert_eq!(differs(&[], &[1]), Some(0));
    }

    #[test]
    fn no_folder_of_this_machine_is_shown() {
        let flags = remapped(Path::new("/builds/7")).unwrap();
        assert!(
            flags.contains("--remap-path-prefix=/builds/7=/namegate"),
            "{flags}"
        );
        assert!(flags.contains("=/cargo"), "{flags}");
    }
}
