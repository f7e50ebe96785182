//! The control socket: one request a connection, one line of JSON each way. Root's alone (0600).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::exit::Exit;
use crate::run::Wake;

/// What can be asked of a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Command {
    /// One screen of how it is.
    Status,
    /// The endpoints.
    Endpoints,
    /// Take everything away and end.
    Detach,
}

/// A command with somebody who waits.
pub(crate) struct Request {
    command: Command,
    reply: Sender<Value>,
}

impl Request {
    pub(crate) fn command(&self) -> &Command {
        &self.command
    }

    pub(crate) fn is_detach(&self) -> bool {
        self.command == Command::Detach
    }

    pub(crate) fn reply(self, value: Value) {
        // The client may have gone.
        let _ = self.reply.send(value);
    }
}

/// Octets of a request; more is refused.
const REQUEST_MAX: u64 = 4_096;
/// How long a client may take to ask, and the daemon to answer.
const WAIT: Duration = Duration::from_secs(10);

/// The listening socket; its file goes with it.
pub(crate) struct Server {
    path: PathBuf,
}

impl Server {
    /// Listens, and hands every request to the daemon.
    ///
    /// # Errors
    /// If the socket can't be made.
    pub(crate) fn start(path: &Path, wake: Sender<Wake>) -> anyhow::Result<Self> {
        let failed =
            |error: io::Error| anyhow::anyhow!("control socket {}: {error}", path.display());
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        // The lock of the namespace says that no other daemon is behind an old file.
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                for stream in listener.incoming().flatten() {
                    if let Err(error) = serve(&stream, &wake) {
                        tracing::debug!("a control client: {error}");
                    }
                }
            })?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Takes the socket's file away.
    pub(crate) fn close(self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn serve(stream: &UnixStream, wake: &Sender<Wake>) -> io::Result<()> {
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    let own = rustix::process::geteuid();
    let answer = if peer.uid.is_root() || peer.uid == own {
        let mut line = String::new();
        BufReader::new(stream.take(REQUEST_MAX)).read_line(&mut line)?;
        match serde_json::from_str::<Command>(&line) {
            Ok(command) => ask(command, wake)?,
            Err(error) => serde_json::json!({"error": format!("not a command: {error}")}),
        }
    } else {
        serde_json::json!({"error": "only root may ask"})
    };
    let mut stream = stream;
    writeln!(stream, "{answer}")
}

fn ask(command: Command, wake: &Sender<Wake>) -> io::Result<Value> {
    let (reply, answered) = mpsc::channel();
    let gone = || io::Error::other("the daemon is ending");
    wake.send(Wake::Control(Request { command, reply }))
        .map_err(|_| gone())?;
    answered.recv_timeout(WAIT).map_err(|_| gone())
}

/// Asks a running daemon.
///
/// # Errors
/// If none listens there, or it refuses.
pub(crate) fn call(path: &Path, command: &Command) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect(path).map_err(|error| {
        Exit::with(1, format!("no daemon answers at {}: {error} (is `namegate run` running? --socket names another place)", path.display()))
    })?;
    stream.set_read_timeout(Some(WAIT))?;
    writeln!(stream, "{}", serde_json::to_string(command)?)?;
    let mut text = String::new();
    BufReader::new(stream).read_line(&mut text)?;
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| anyhow::anyhow!("the daemon's answer can't be read: {error}"))?;
    match value.get("error").and_then(Value::as_str) {
        Some(error) => anyhow::bail!("the daemon refuses: {error}"),
        None => Ok(value),
    }
}
