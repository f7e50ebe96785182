//! `cargo xtask deb`: the Debian package, and a trial of it: installed, run, upgraded, removed and purged in a
//! Debian of its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::command::{self, cargo, output, run as run_command};
use crate::debian;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Of the debug build: quicker, and larger
    #[arg(long)]
    debug: bool,
    /// Try it in a Debian of its own, which debootstrap makes; needs root
    #[arg(long = "try")]
    trial: bool,
}

/// Folders that a package has and that nothing is in.
const FOLDERS: [&str; 3] = [
    "etc/namegate/config.d",
    "etc/namegate/endpoints",
    "etc/namegate/policies",
];
/// What of the repository is in the package as it is, with its mode.
const FILES: [(&str, &str, u32); 6] = [
    (
        "deploy/systemd/namegate.service",
        "lib/systemd/system/namegate.service",
        0o644,
    ),
    (
        "deploy/apparmor/namegate",
        "usr/share/namegate/apparmor/namegate",
        0o644,
    ),
    (
        "deploy/prometheus/namegate.rules.yaml",
        "usr/share/namegate/prometheus/namegate.rules.yaml",
        0o644,
    ),
    ("deploy/debian/postinst", "DEBIAN/postinst", 0o755),
    ("deploy/debian/prerm", "DEBIAN/prerm", 0o755),
    ("deploy/debian/postrm", "DEBIAN/postrm", 0o755),
];
/// Pages for people.
const DOCUMENTS: [&str; 4] = [
    "README.md",
    "docs/configuration.md",
    "docs/install.md",
    "docs/security.md",
];
/// Where each shell looks for completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/namegate"),
    ("zsh", "usr/share/zsh/vendor-completions/_namegate"),
    ("fish", "usr/share/fish/vendor_completions.d/namegate.fish"),
];
/// What editors complete files by, and what says it.
const SCHEMAS: [(&str, &str); 2] = [
    ("config", "config.schema.json"),
    ("policy", "policy.schema.json"),
];
/// What the trial does, in the new Debian.
const TRIAL: &str = include_str!("deb/trial.sh");

pub(crate) fn run(args: &Args) -> Result<()> {
    let binary = build(args.debug)?;
    let folder = command::target_dir()?.join("deb");
    fs::create_dir_all(&folder)?;
    let version = version(&binary)?;
    let package = pack(&folder, &binary, &version)?;
    println!("{}", package.display());
    if args.trial {
        let newer = pack(&folder, &binary, &format!("{version}+1"))?;
        try_it(&folder, &package, &newer)?;
        println!("installed, run, upgraded, removed and purged");
    }
    Ok(())
}

/// The program.
fn build(debug: bool) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--locked", "--package", "namegate"]);
    if !debug {
        command.arg("--release");
    }
    run_command(&mut command)?;
    let kind = if debug { "debug" } else { "release" };
    Ok(command::target_dir()?.join(kind).join("namegate"))
}

fn version(binary: &Path) -> Result<String> {
    let text = output(Command::new(binary).arg("version"))?;
    let version = text.split(' ').next_back().unwrap_or_default();
    ensure!(!version.is_empty(), "no version in {text:?}");
    Ok(version.to_owned())
}

/// Makes a package; all in it is of one time, so that the same content is the same file.
fn pack(folder: &Path, binary: &Path, version: &str) -> Result<PathBuf> {
    let tree = folder.join("tree");
    let _ = fs::remove_dir_all(&tree);
    fill(&tree, binary)?;
    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?;
    let control = fs::read_to_string(command::root().join("deploy/debian/control"))?
        .replace("@VERSION@", version)
        .replace("@ARCHITECTURE@", &architecture)
        .replace("@GLIBC@", &glibc(binary)?);
    fs::write(tree.join("DEBIAN/control"), control)?;
    fs::write(tree.join("DEBIAN/conffiles"), "/etc/namegate/config.yaml\n")?;
    let package = folder.join(format!("namegate_{version}_{architecture}.deb"));
    let mut command = Command::new("dpkg-deb");
    command.env("SOURCE_DATE_EPOCH", epoch()?);
    command.args(["--root-owner-group", "--build"]);
    run_command(command.arg(&tree).arg(&package))?;
    Ok(package)
}

/// The time of the last commit.
fn epoch() -> Result<String> {
    let mut git = Command::new("git");
    output(
        git.current_dir(command::root())
            .args(["log", "-1", "--format=%ct"]),
    )
}

fn fill(tree: &Path, binary: &Path) -> Result<()> {
    let root = command::root();
    for name in FOLDERS {
        fs::create_dir_all(tree.join(name))?;
    }
    put(&fs::read(binary)?, &tree.join("usr/bin/namegate"), 0o755)?;
    for (from, to, mode) in FILES {
        put(
            &fs::read(root.join(from)).context(from)?,
            &tree.join(to),
            mode,
        )?;
    }
    let said = |args: &[&str]| output(Command::new(binary).args(args));
    let config = said(&["config", "template"])?;
    put(
        (config + "\n").as_bytes(),
        &tree.join("etc/namegate/config.yaml"),
        0o644,
    )?;
    for (shell, place) in COMPLETIONS {
        let script = said(&["completions", shell])?;
        put((script + "\n").as_bytes(), &tree.join(place), 0o644)?;
    }
    for (command, name) in SCHEMAS {
        let schema = said(&[command, "schema"])?;
        let place = tree.join("usr/share/namegate").join(name);
        put((schema + "\n").as_bytes(), &place, 0o644)?;
    }
    let documents = tree.join("usr/share/doc/namegate");
    for name in DOCUMENTS {
        let base = Path::new(name).file_name().context(name)?;
        put(
            &fs::read(root.join(name)).context(name)?,
            &documents.join(base),
            0o644,
        )?;
    }
    put(
        &fs::read(root.join("LICENSE"))?,
        &documents.join("copyright"),
        0o644,
    )?;
    put(
        &fs::read(root.join("CHANGELOG.md"))?,
        &documents.join("changelog"),
        0o644,
    )?;
    compress(&documents.join("changelog"))?;
    manual(tree, binary)
}

/// The manual pages; the daemon's has its place among those of administrators too.
fn manual(tree: &Path, binary: &Path) -> Result<()> {
    let pages = tree.join("usr/share/man");
    let dir = pages.display().to_string();
    run_command(Command::new(binary).args(["man", "--dir", &dir]))?;
    for section in ["man1", "man5"] {
        for page in fs::read_dir(pages.join(section))? {
            let page = page?.path();
            fs::set_permissions(&page, fs::Permissions::from_mode(0o644))?;
            compress(&page)?;
        }
    }
    let system = tree.join("usr/share/man/man8");
    fs::create_dir_all(&system)?;
    symlink("../man1/namegate-run.1.gz", system.join("namegate.8.gz"))?;
    Ok(())
}

fn put(bytes: &[u8], to: &Path, mode: u32) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(to, bytes).with_context(|| to.display().to_string())?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// Without a name and a time inside.
fn compress(path: &Path) -> Result<()> {
    run_command(Command::new("gzip").args(["-9n", "-f"]).arg(path))
}

/// The newest version of the C library whose symbols the program asks for.
fn glibc(binary: &Path) -> Result<String> {
    let bytes = fs::read(binary)?;
    newest_glibc(&bytes).context("the program names no version of the C library")
}

fn newest_glibc(bytes: &[u8]) -> Option<String> {
    const MARK: &[u8] = b"GLIBC_2.";
    let places = bytes.windows(MARK.len()).enumerate();
    let minors = places
        .filter(|(_, part)| *part == MARK)
        .filter_map(|(at, _)| {
            let rest = bytes.get(at + MARK.len()..)?;
            let digits: String = rest
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .map(|byte| char::from(*byte))
                .collect();
            digits.parse::<u32>().ok()
        });
    minors.max().map(|minor| format!("2.{minor}"))
}

/// Makes a Debian and tries both packages in it, in namespaces of its own.
fn try_it(folder: &Path, package: &Path, newer: &Path) -> Result<()> {
    if command::which("debootstrap").is_none() {
        debian::install(&["debootstrap"])?;
    }
    let root = folder.join("root");
    let _ = fs::remove_dir_all(&root);
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", "--include=iproute2,procps"]);
    run_command(command.arg(codename()?).arg(&root).args(mirror()))?;
    fs::copy(package, root.join("root/first.deb"))?;
    fs::copy(newer, root.join("root/second.deb"))?;
    put(TRIAL.as_bytes(), &root.join("root/trial.sh"), 0o755)?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child"]);
    command.args([
        "sh",
        "-c",
        "mount --make-rprivate / && mount --bind \"$0\" \"$0\" && exec chroot \"$0\" sh /root/trial.sh",
    ]);
    run_command(command.arg(&root))?;
    fs::remove_dir_all(&root).context("the trial's Debian")
}

/// This Debian's name.
fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release")?;
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.map(str::to_owned)
        .context("/etc/os-release names no release")
}

/// Where this machine gets its packages; nothing, if that isn't told in a way that we read.
fn mirror() -> Option<String> {
    let lists = [
        "/etc/apt/sources.list",
        "/etc/apt/sources.list.d/debian.sources",
    ];
    let text: String = lists
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect();
    let words = text
        .lines()
        .filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
        .flat_map(str::split_whitespace);
    let mut found = words.filter(|word| word.contains("://"));
    found.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_of_the_c_library_is_what_counts() {
        let bytes = b"\0GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.2.5\0GLIBC_PRIVATE\0";
        assert_eq!(newest_glibc(bytes), Some("2.34".to_owned()));
        assert_eq!(newest_glibc(b"static"), None);
    }
}
