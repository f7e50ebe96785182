//! A workload without a network of its own: a cgroup whose processes share the node's.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::Node;

/// A cgroup of version 2; it ends with this value, with all that runs in it.
pub struct Cgroup {
    /// Its name.
    pub name: String,
    path: PathBuf,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Cgroup {
    /// A child of the root.
    ///
    /// # Errors
    /// If no hierarchy of version 2 is mounted.
    pub fn new(name: &str) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = format!("namegate-test-{}-{number}", std::process::id());
        Self::at(name, mount()?.join(directory))
    }

    /// Where all of them are.
    ///
    /// # Errors
    /// If no hierarchy of version 2 is mounted.
    pub fn root() -> Result<PathBuf> {
        mount()
    }

    /// One at this place.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn at(name: &str, path: PathBuf) -> Result<Self> {
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        let name = name.to_owned();
        Ok(Self { name, path })
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its endpoint file.
    #[must_use]
    pub fn endpoint(&self) -> String {
        let (name, path) = (&self.name, self.path.display());
        format!("name: {name}\nlabels: {{app: {name}}}\ncgroup: {path}\n")
    }

    /// A command that runs in it, in the node's namespaces.
    #[must_use]
    pub fn command(&self, node: &Node, program: &str) -> Command {
        let inner = node.command(program);
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(self.path.join("cgroup.procs"))
            .arg(inner.get_program())
            .args(inner.get_args())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command in it and gives what it printed, also if it failed.
    ///
    /// # Errors
    /// If it can't be run.
    pub fn output(&self, node: &Node, program: &str, args: &[&str]) -> Result<Output> {
        let args = args.iter().map(OsStr::new);
        let mut command = self.command(node, program);
        command.args(args).output().context(program.to_owned())
    }

    /// What a command prints, on both ways, without the last line break.
    ///
    /// # Errors
    /// If it can't be run.
    pub fn said(&self, node: &Node, program: &str, args: &[&str]) -> Result<String> {
        let output = self.output(node, program, args)?;
        let text = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
    }

    /// Ends what runs in it, and removes it.
    ///
    /// # Errors
    /// If it can't be removed.
    pub fn remove(&self) -> Result<()> {
        let _ = std::fs::write(self.path.join("cgroup.kill"), "1");
        for _ in 0..200 {
            match remove_with_below(&self.path) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        bail!("{} can't be removed", self.path.display())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = self.remove();
    }
}

/// One with those that were made in it.
fn remove_with_below(path: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(path)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_with_below(&entry.path())?;
        }
    }
    std::fs::remove_dir(path)
}

/// Where the hierarchy of version 2 is mounted.
fn mount() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' '));
    let path = fields.find_map(|mut fields| {
        let path = fields.nth(1)?;
        (fields.next() == Some("cgroup2")).then(|| PathBuf::from(path))
    });
    path.context("no cgroup of version 2 is mounted")
}
