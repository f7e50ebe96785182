//! A machine on which commands are run by `namegate exec`: names and web servers elsewhere.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{Authority, Daemon, Node, Running, Workload};

/// What the server of names knows, below `example.com`.
const ZONE: &str = "web 60 IN A 198.18.0.1\nweb 60 IN AAAA 2001:db8:1::1\nother 60 IN A 198.18.0.2\n\
                    shared 60 IN A 198.18.0.1\nsix 60 IN AAAA 2001:db8:1::6\n\
                    metadata 60 IN A 169.254.169.254\nloop 60 IN A 127.0.0.1\n";

/// A node with knot and nginx elsewhere. Its resolv.conf names that server.
pub struct ExecStage {
    /// The machine.
    pub node: Node,
    /// Where the servers are.
    pub world: Workload,
    /// Files of a test; `ca.pem` is the authority by which nginx is web.example.com; `server.pem` is what it shows,
    /// with its key.
    pub dir: TempDir,
    /// Who calls namegate.
    caller: Caller,
    /// Where that is to be found, by everybody.
    pub binary: String,
    _servers: [Running; 2],
}

/// Who calls namegate on a stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    /// By BPF programs.
    Root,
    /// Somebody without privileges: by a user namespace.
    User,
}

/// Where that user looks for programs: not in folders of root's.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The number of that user and of its group, whom no file knows.
pub const USER: u32 = 64_001;

impl ExecStage {
    /// Builds it, for root.
    ///
    /// # Errors
    /// Without root, or if a program is missing.
    pub fn new() -> Result<Self> {
        Self::of(Caller::Root)
    }

    /// Runs a test on a stage of each caller.
    ///
    /// # Panics
    /// If the test does, or a stage can't be built.
    #[expect(clippy::expect_used, reason = "a test may die")]
    pub fn each(test: impl Fn(&Self)) {
        for caller in [Caller::Root, Caller::User] {
            let stage = Self::of(caller).expect("a stage");
            eprintln!("as {caller:?}");
            test(&stage);
        }
    }

    /// Builds it.
    ///
    /// # Errors
    /// Without root, or if a program is missing.
    pub fn of(caller: Caller) -> Result<Self> {
        let node = Node::new()?;
        let world = node.elsewhere()?;
        let authority = Authority::new("exec")?;
        let issued =
            authority.issue(&["web.example.com", "six.example.com", "other.example.com"])?;
        let mut stage = Self {
            _servers: [
                Running::knot(&world.ns, ZONE)?,
                Running::nginx_as(&world.ns, &issued)?,
            ],
            dir: tempfile::tempdir()?,
            binary: Daemon::binary()?.display().to_string(),
            caller,
            node,
            world,
        };
        fs::set_permissions(stage.dir.path(), fs::Permissions::from_mode(0o777))?;
        fs::write(stage.dir.path().join("ca.pem"), authority.pem())?;
        let server = issued.certificate + &issued.key;
        fs::write(stage.dir.path().join("server.pem"), server)?;
        stage.resolve_by(&format!("nameserver {}\n", stage.world.v4))?;
        if caller == Caller::User {
            stage.show_binary()?;
        }
        Ok(stage)
    }

    /// Shows the binary where everybody may come to.
    fn show_binary(&mut self) -> Result<()> {
        let place = self.file("namegate", "")?;
        let binary = std::mem::replace(&mut self.binary, place);
        let mount = ["--bind", &binary, &self.binary];
        self.node.check("mount", &mount).map(drop)
    }

    /// Gives the machine another resolv.conf.
    ///
    /// # Errors
    /// If it can't be mounted.
    pub fn resolve_by(&self, resolv_conf: &str) -> Result<()> {
        let file = self.file("resolv.conf", resolv_conf)?;
        let place = Path::new("/etc/resolv.conf").canonicalize()?;
        let place = place.display().to_string();
        self.node
            .check("mount", &["--bind", &file, &place])
            .map(drop)
    }

    /// Writes a file and gives its path.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.dir.path().join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// A program on the machine, of whoever calls.
    #[must_use]
    pub fn call(&self, program: &str) -> Command {
        match self.caller {
            Caller::Root => self.node.command(program),
            Caller::User => {
                let mut command = self.node.command("setpriv");
                let id = USER.to_string();
                command.args(["--reuid", &id, "--regid", &id, "--clear-groups", program]);
                command.env("PATH", PATH);
                command
            }
        }
    }

    /// `namegate exec` on the machine, with these words.
    ///
    /// # Errors
    /// If it was not built.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.call(&self.binary);
        command.arg("exec").args(words);
        Ok(command)
    }

    /// Runs it to its end, or for two minutes.
    ///
    /// # Errors
    /// If it can't be run.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        let mut command = self.call("timeout");
        let command = command.args(["-k", "5", "120", &self.binary, "exec"]);
        command.args(words).output().context("namegate exec")
    }

    /// What a shell says whose commands may reach `allow`: its code, standard output and error.
    ///
    /// # Errors
    /// If it can't be run.
    pub fn shell(&self, allow: &[&str], script: &str) -> Result<(Option<i32>, String, String)> {
        let mut words: Vec<&str> = allow.iter().flat_map(|name| ["--allow", name]).collect();
        words.extend(["--", "sh", "-c", script]);
        let Output {
            status,
            stdout,
            stderr,
        } = self.run(&words)?;
        let text = |octets: Vec<u8>| String::from_utf8_lossy(&octets).into_owned();
        Ok((status.code(), text(stdout), text(stderr)))
    }
}
