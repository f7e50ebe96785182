//! The real daemon on a node.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Node, Workload};

/// `namegate run` with folders of its own.
pub struct Daemon<'a> {
    node: &'a Node,
    dir: TempDir,
    child: Option<Child>,
    /// Whether it is started by what stands in for systemd, which keeps so many descriptors.
    managed: Option<usize>,
    /// The program, with its words, that starts it in place of us.
    starter: Vec<String>,
    /// What it wrote to standard error, line by line.
    log: Option<mpsc::Receiver<String>>,
}

/// How long a start may take; far more than it does, since machines are shared.
const START_MAX: Duration = Duration::from_secs(30);

/// How long an answer waits for the datapath, as without the option.
const INSTALL_WAIT_MILLIS: u32 = 100;
/// And the longest that the option takes.
const INSTALL_WAIT_MILLIS_MAX: u32 = 4_000;

/// How many times longer than usual everything may take: `NAMEGATE_TEST_PATIENCE`, on a machine that is
/// emulated.
#[must_use]
pub fn patience() -> u32 {
    let factor = std::env::var_os("NAMEGATE_TEST_PATIENCE");
    factor
        .and_then(|factor| factor.to_str()?.parse().ok())
        .unwrap_or(1)
}

/// Waits until something is so, for some ten seconds, times [`patience`].
///
/// # Panics
/// If it isn't by then, with `what`.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let soon = |_| {
        std::thread::sleep(Duration::from_millis(50));
        is_so()
    };
    assert!((0..200 * patience()).any(soon), "{what}");
}

impl<'a> Daemon<'a> {
    /// Empty folders, nothing started.
    ///
    /// # Errors
    /// If the folders can't be made.
    pub fn prepare(node: &'a Node) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("policies"))?;
        fs::create_dir(dir.path().join("endpoints"))?;
        Ok(Self {
            node,
            dir,
            child: None,
            managed: None,
            starter: Vec::new(),
            log: None,
        })
    }

    /// Not started either; it will guard a workload by this policy, in a file of its name, unless that is empty.
    ///
    /// # Errors
    /// If its files can't be written.
    pub fn guarding(node: &'a Node, workload: &Workload, policy: &str) -> Result<Self> {
        let daemon = Self::prepare(node)?;
        daemon.endpoint(workload)?;
        if !policy.is_empty() {
            daemon.policy(&format!("{}.yaml", workload.name), policy)?;
        }
        Ok(daemon)
    }

    /// From now on it is started by what stands in for systemd, which starts it again whenever it ends and
    /// keeps up to `store_max` descriptors for it. [`Daemon::pid`] is the manager's.
    pub fn manage(&mut self, store_max: usize) {
        self.managed = Some(store_max);
    }

    /// From now on it is started by strace, and killed by the kernel's SIGKILL; no words: as usual again.
    pub fn strace(&mut self, words: Vec<String>) {
        self.starter = words;
    }

    /// The binary under test.
    ///
    /// # Errors
    /// If it was not built.
    pub fn binary() -> Result<PathBuf> {
        let mut path = std::env::current_exe()?;
        path.pop();
        if path.ends_with("deps") {
            path.pop();
        }
        let path = path.join("namegate");
        if path.exists() {
            return Ok(path);
        }
        bail!(
            "{} isn't built: run `cargo build --workspace` first",
            path.display()
        )
    }

    /// Writes a policy file; a running daemon reads it by itself.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn policy(&self, file: &str, text: &str) -> Result<()> {
        Self::replace(&self.path("policies").join(file), text)
    }

    /// Writes a policy file and waits until a running daemon has read it.
    ///
    /// # Errors
    /// If it can't be written or isn't read.
    pub fn change_policy(&self, file: &str, text: &str) -> Result<()> {
        let before = self.status()?["policy"]["revision"].as_u64();
        self.policy(file, text)?;
        self.wait_beyond(before.context("no revision")?).map(drop)
    }

    /// Writes an endpoint file for a workload of this node.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn endpoint(&self, workload: &Workload) -> Result<()> {
        let name = &workload.name;
        let text = format!(
            "name: {name}\nlabels: {{app: {name}}}\nnetns: {}\n",
            workload.ns_path().display()
        );
        self.endpoint_file(&format!("{name}.yaml"), &text)
    }

    /// Writes an endpoint file.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn endpoint_file(&self, file: &str, text: &str) -> Result<()> {
        Self::replace(&self.path("endpoints").join(file), text)
    }

    /// Writes a file of a secret, which its owner alone may read, into the folder `secrets`.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn secret(&self, name: &str, file: &str, text: &str) -> Result<()> {
        let folder = self.path("secrets").join(name);
        fs::create_dir_all(&folder)?;
        let (path, draft) = (folder.join(file), folder.join("draft"));
        fs::write(&draft, text)?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
        fs::rename(draft, path)?;
        Ok(())
    }

    /// In one step: a reader sees the old file or the new one.
    fn replace(path: &Path, text: &str) -> Result<()> {
        let draft = path.with_extension("draft");
        fs::write(&draft, text)?;
        fs::rename(&draft, path)?;
        Ok(())
    }

    /// A path in its folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts it and waits for `ready`.
    ///
    /// # Errors
    /// If it ends or says nothing for too long; the error holds what it said.
    pub fn start(&mut self, args: &[&str]) -> Result<()> {
        self.spawn(args)?;
        let child = self.child.as_mut().context("just spawned")?;
        let stdout = child.stdout.take().context("no output")?;
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            // To the end, whoever listens: one that is started again says it again.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        match receive.recv_timeout(START_MAX * patience()) {
            Ok(line) if line == "ready" => Ok(()),
            Ok(line) if line.starts_with("systemd: ") => self.wait_for_ready(&receive),
            Ok(line) => bail!("expected ready, got {line:?}"),
            Err(_) => {
                let _ = child.kill();
                bail!("not ready:\n{}", self.said())
            }
        }
    }

    /// Waits for `ready` among what its manager says.
    fn wait_for_ready(&self, lines: &mpsc::Receiver<String>) -> Result<()> {
        loop {
            if lines.recv_timeout(START_MAX * patience())? == "ready" {
                return Ok(());
            }
        }
    }

    /// Starts it and doesn't wait.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn spawn(&mut self, args: &[&str]) -> Result<()> {
        let binary = Self::binary()?.display().to_string();
        let mut command = match self.managed {
            None => match self.starter.split_first() {
                None => self.node.command(&binary),
                Some((program, words)) => {
                    let mut command = self.node.command(program);
                    command.args(words).arg(&binary);
                    command
                }
            },
            Some(store_max) => {
                fs::write(self.path("systemd.py"), include_str!("systemd.py"))?;
                let mut command = self.node.command("python3");
                command
                    .arg(self.path("systemd.py"))
                    .arg(self.path("notify"));
                command.args([store_max.to_string(), binary]);
                command
            }
        };
        let wait = (INSTALL_WAIT_MILLIS * patience()).min(INSTALL_WAIT_MILLIS_MAX);
        let wait = ["--dns-install-wait", &format!("{wait}ms")];
        let is_said = args.contains(&wait[0]);
        let form = ["--log-format", "text"];
        let has_form = args.contains(&form[0]);
        let mut child = command
            .arg("run")
            .arg("--policy-dir")
            .arg(self.path("policies"))
            .arg("--endpoint-dir")
            .arg(self.path("endpoints"))
            .arg("--state-dir")
            .arg(self.path("state"))
            .arg("--socket")
            .arg(self.path("namegate.sock"))
            .args(args)
            .args(wait.iter().filter(|_| !is_said))
            .args(form.iter().filter(|_| !has_form))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take().context("no error output")?;
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if std::env::var_os("NAMEGATE_TEST_LOG").is_some() {
                    eprintln!("daemon: {line}");
                }
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        self.log = Some(receive);
        self.child = Some(child);
        Ok(())
    }

    /// What it said on standard error since the last call.
    pub fn said(&mut self) -> String {
        let Some(log) = &self.log else {
            return String::new();
        };
        let mut text = String::new();
        while let Ok(line) = log.recv_timeout(Duration::from_millis(100)) {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    /// Its process id: `nsenter` becomes the daemon.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it can't be sent.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let status = std::process::Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(self.pid().to_string())
            .status()?;
        anyhow::ensure!(status.success(), "kill -{signal}");
        Ok(())
    }

    /// Sends a signal and waits for the end; gives the exit code, if it ended by itself.
    ///
    /// # Errors
    /// If it isn't running.
    pub fn end_with(&mut self, signal: &str) -> Result<Option<i32>> {
        let mut child = self.child.take().context("not running")?;
        let status = std::process::Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(child.id().to_string())
            .status()?;
        anyhow::ensure!(status.success(), "kill -{signal}");
        Ok(child.wait()?.code())
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// If it isn't running.
    pub fn wait(&mut self) -> Result<Option<i32>> {
        let mut child = self.child.take().context("not running")?;
        Ok(child.wait()?.code())
    }

    /// Another namegate command on the same node, that talks to this daemon.
    ///
    /// # Errors
    /// If it can't be run.
    pub fn namegate(&self, args: &[&str]) -> Result<Output> {
        let binary = Self::binary()?.display().to_string();
        Ok(self
            .node
            .command(&binary)
            .args(args)
            .stdin(Stdio::null())
            .output()?)
    }

    /// `status -o json`.
    ///
    /// # Errors
    /// If it fails or prints something else.
    pub fn status(&self) -> Result<Value> {
        let socket = self.path("namegate.sock").display().to_string();
        let output = self.namegate(&["status", "-o", "json", "--socket", &socket])?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
    }

    /// The datapath's counter of this name; 0 if it never counted.
    ///
    /// # Errors
    /// If the status can't be had.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let status = self.status()?;
        Ok(status["datapath"]["counters"][name].as_u64().unwrap_or(0))
    }

    /// Waits until the daemon has read its folders anew: its policy revision is beyond `revision`.
    ///
    /// # Errors
    /// If that takes too long.
    pub fn wait_beyond(&self, revision: u64) -> Result<u64> {
        for _ in 0..600 * patience() {
            let now = self.status()?["policy"]["revision"].as_u64().unwrap_or(0);
            if now > revision {
                return Ok(now);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("no new policy revision")
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `subject` may ask the server elsewhere for every name below example.com, over IPv4 and
/// IPv6, and reach what `names` are, a list of `toFQDNs`.
#[must_use]
pub fn policy(subject: &str, names: &str) -> String {
    format!(
        "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: {subject}}}
spec:
  endpointSelector: {{matchLabels: {{app: {subject}}}}}
  egress:
  - toCIDR: [203.0.113.2/32, '2001:db8::2/128']
    toPorts:
    - ports: [{{port: '53', protocol: ANY}}]
      rules: {{dns: [{{matchPattern: '*.example.com'}}]}}
  - toFQDNs: {names}
"
    )
}

/// `subject` may ask the workload with the address 10.0.0.3 for every name below example.com, and reach what
/// web.example.com is; at the ports that `more` says, if it says `toPorts`.
#[must_use]
pub fn internet(subject: &str, more: &str) -> String {
    format!(
        "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: internet}}
spec:
  endpointSelector: {{matchLabels: {{app: {subject}}}}}
  egress:
  - toCIDR: [10.0.0.3/32]
    toPorts:
    - ports: [{{port: '53', protocol: ANY}}]
      rules: {{dns: [{{matchPattern: '*.example.com'}}]}}
  - toFQDNs: [{{matchName: web.example.com}}]
    {more}
"
    )
}
