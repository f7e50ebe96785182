//! The control socket: one request a connection, one line of JSON each way. Root's alone (0600).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use anyhow::Context as _;
use bpf_redirect::{Journal, JournalCursor};
use flow::{Filter, FlowFilter, Query, Reader, Time};
use observer::{AgentQuery, AgentReader, AgentRing, SharedRing};
use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock;
use crate::exit::Exit;
use crate::maps;
use crate::run::Wake;

/// What can be asked of a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Command {
    /// One screen of how it is.
    Status,
    /// The endpoints.
    Endpoints,
    /// All that is known of an endpoint, by its number or `NAMESPACE/NAME`.
    Endpoint {
        /// Which one.
        endpoint: String,
    },
    /// The identities, and who has them.
    Identities {
        /// This one alone, with all its addresses.
        number: Option<u32>,
    },
    /// What endpoints have learned: names, addresses, ends.
    FqdnCache {
        /// Of this endpoint alone, `NAMESPACE/NAME`.
        endpoint: Option<String>,
    },
    /// The names and patterns of `toFQDNs`, with what they select now.
    FqdnSelectors {
        /// Of this endpoint alone, `NAMESPACE/NAME`.
        endpoint: Option<String>,
    },
    /// All metrics as text.
    Metrics,
    /// Forget what endpoints have learned.
    FqdnClean {
        /// Of this endpoint alone, `NAMESPACE/NAME`.
        endpoint: Option<String>,
        /// Of the names that this pattern matches alone.
        names: Option<String>,
    },
    /// Make names known before anybody asks for them.
    FqdnLoad {
        /// To this endpoint alone, `NAMESPACE/NAME`, whatever the names say.
        endpoint: Option<String>,
        /// Which.
        names: Vec<KnownName>,
    },
    /// How much is logged.
    LogLevel {
        /// From now on; else it is only told.
        level: Option<String>,
    },
    /// Take everything away and end.
    Detach,
    /// The last writes to the maps, and those to come.
    MapEvents {
        /// To this one alone.
        map: Option<String>,
        /// And all that come.
        follow: bool,
    },
    /// The flows: those that are there, and those to come.
    Observe(Observe),
    /// What the daemon did, in the same form; there are no filters.
    AgentEvents(Observe),
}

/// A name and its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KnownName {
    /// Whose it is, `NAMESPACE/NAME`; absent: of all whose rules name it.
    pub(crate) endpoint: Option<String>,
    pub(crate) name: String,
    /// Each with its TTL in seconds.
    pub(crate) addresses: Vec<(IpAddr, u32)>,
}

/// Which flows are wanted, as [`Query`] has it. The answer is a stream of Hubble's exporter lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Observe {
    /// How many; 0 for no limit.
    pub(crate) number: u64,
    /// The oldest, not the newest.
    pub(crate) first: bool,
    /// And all that come.
    pub(crate) follow: bool,
    /// None before, in RFC 3339.
    pub(crate) since: Option<String>,
    /// None after.
    pub(crate) until: Option<String>,
    /// Flow filters that allow.
    pub(crate) allow: Vec<Value>,
    /// Flow filters that deny.
    pub(crate) deny: Vec<Value>,
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
pub(crate) const REQUEST_MAX: u64 = 65_536;
/// How long a client may take to ask, and the daemon to answer.
const WAIT: Duration = Duration::from_secs(10);

/// The listening socket; its file goes with it.
pub(crate) struct Server {
    path: PathBuf,
}

/// What a connection needs.
#[derive(Clone)]
struct Desk {
    wake: Sender<Wake>,
    ring: Arc<SharedRing>,
    agent: Arc<AgentRing>,
    journal: Arc<Journal>,
    node_name: Arc<str>,
    open: Arc<AtomicUsize>,
}

/// Clients at once; one more is told so and turned away.
const CLIENTS_MAX: usize = 64;

impl Server {
    /// Listens, and hands every request to the daemon.
    ///
    /// # Errors
    /// If the socket can't be made.
    pub(crate) fn start(
        path: &Path,
        wake: Sender<Wake>,
        (ring, agent, journal): (Arc<SharedRing>, Arc<AgentRing>, Arc<Journal>),
        node_name: Arc<str>,
    ) -> anyhow::Result<Self> {
        let failed =
            |error: io::Error| anyhow::anyhow!("control socket {}: {error}", path.display());
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        // The lock of the namespace says that no other daemon is behind an old file.
        observer::clear_socket(path).map_err(failed)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let desk = Desk {
            wake,
            ring,
            agent,
            journal,
            node_name,
            open: Arc::default(),
        };
        std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                for stream in listener.incoming().flatten() {
                    desk.admit(stream);
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

impl Desk {
    /// Serves a client on a thread of its own; one over the limit is turned away.
    fn admit(&self, mut stream: UnixStream) {
        let desk = self.clone();
        if desk.open.fetch_add(1, Ordering::Relaxed) >= CLIENTS_MAX {
            desk.open.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!("a control client is turned away: {CLIENTS_MAX} are there");
            let reason = format!("{CLIENTS_MAX} clients are there already");
            // It fits into the empty buffer; whoever is gone needs no reason.
            let _ = writeln!(stream, "{}", serde_json::json!({ "error": reason }));
            return;
        }
        let open = Arc::clone(&self.open);
        let spawned = std::thread::Builder::new()
            .name("control-client".to_owned())
            .spawn(move || {
                if let Err(error) = desk.serve(&stream) {
                    tracing::debug!("a control client: {error}");
                }
                desk.open.fetch_sub(1, Ordering::Relaxed);
            });
        if spawned.is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn serve(&self, mut stream: &UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(WAIT))?;
        stream.set_write_timeout(Some(WAIT))?;
        let peer = rustix::net::sockopt::socket_peercred(stream)?;
        let own = rustix::process::geteuid();
        if !peer.uid.is_root() && peer.uid != own {
            return writeln!(
                stream,
                "{}",
                serde_json::json!({"error": "only root may ask"})
            );
        }
        let mut line = String::new();
        BufReader::new(stream.take(REQUEST_MAX)).read_line(&mut line)?;
        let answer = match serde_json::from_str::<Command>(&line) {
            Ok(Command::Observe(observe)) => match self.reader(&observe) {
                Ok(reader) => return self.stream_flows(stream, reader),
                Err(error) => serde_json::json!({"error": error.to_string()}),
            },
            Ok(Command::AgentEvents(observe)) => match observe.agent_reader() {
                Ok(reader) => return self.stream_agent(stream, (reader, observe.follow)),
                Err(error) => serde_json::json!({"error": error.to_string()}),
            },
            Ok(Command::MapEvents { map, follow }) => {
                return self.stream_writes(stream, (map.as_deref(), follow));
            }
            Ok(command) => self.ask(command)?,
            Err(error) => serde_json::json!({"error": format!("not a command: {error}")}),
        };
        writeln!(stream, "{answer}")
    }

    fn reader(&self, observe: &Observe) -> anyhow::Result<Reader> {
        let query = observe.query()?;
        Ok(self.ring.reader(query)?)
    }

    fn ask(&self, command: Command) -> io::Result<Value> {
        let (reply, answered) = mpsc::channel();
        let gone = || io::Error::other("the daemon is ending");
        self.wake
            .send(Wake::Control(Request { command, reply }))
            .map_err(|_| gone())?;
        answered.recv_timeout(WAIT).map_err(|_| gone())
    }

    /// Writes the writes to the maps until all are told or, where they are followed, until the client
    /// goes.
    fn stream_writes(
        &self,
        mut stream: &UnixStream,
        (map, follow): (Option<&str>, bool),
    ) -> io::Result<()> {
        if follow {
            stream.set_write_timeout(None)?;
        }
        let mut cursor = JournalCursor::default();
        loop {
            let (writes, lost) = self.journal.read(&mut cursor, map);
            let mut text = String::new();
            if lost > 0 {
                text.push_str(&format!("{}\n", serde_json::json!({ "lost": lost })));
            }
            for write in &writes {
                text.push_str(&format!("{}\n", maps::event(write)));
            }
            stream.write_all(text.as_bytes())?;
            if !follow || is_gone(stream) {
                return Ok(());
            }
            std::thread::sleep(WRITES_WAIT);
        }
    }

    /// Writes what the daemon did until all is written or, where it is followed, until the client goes.
    fn stream_agent(
        &self,
        mut stream: &UnixStream,
        (mut reader, follow): (AgentReader, bool),
    ) -> io::Result<()> {
        if follow {
            stream.set_write_timeout(None)?;
        }
        loop {
            let mut text = String::new();
            for (time, event) in reader.take(&self.agent) {
                event.write_exporter_line(&self.node_name, time, &mut text);
                text.push('\n');
            }
            stream.write_all(text.as_bytes())?;
            if reader.is_over() || is_gone(stream) {
                return Ok(());
            }
            std::thread::sleep(WRITES_WAIT);
        }
    }

    /// Writes flows until all are written or, where they are followed, until the client goes. A slow
    /// client loses flows, is told how many, and holds up nobody.
    fn stream_flows(&self, mut stream: &UnixStream, mut reader: Reader) -> io::Result<()> {
        if reader.follows() {
            // A pager that is not read on is no failure; it holds a place, and there are enough.
            stream.set_write_timeout(None)?;
        }
        let mut text = String::new();
        loop {
            let wait = if reader.follows() {
                FOLLOW_WAIT
            } else {
                Duration::ZERO
            };
            let batch = self.ring.wait_from(reader.cursor(), wait);
            let is_end = batch.flows.is_empty();
            text.clear();
            let now = clock::now();
            let time = clock::time_of_day(now);
            let wanted = reader.take(batch, time);
            let is_done = reader.is_over() || (is_end && !reader.follows());
            let lost = match is_done {
                true => reader.rest_lost(),
                false => reader.lost(now),
            };
            for lost in lost {
                lost.write_exporter_line(&self.node_name, Some(time), &mut text);
                text.push('\n');
            }
            for flow in wanted {
                flow.write_exporter_line(&mut text);
                text.push('\n');
            }
            stream.write_all(text.as_bytes())?;
            if is_done || is_gone(stream) {
                return Ok(());
            }
        }
    }
}

/// How often the journal of writes, and what the daemon did, is looked at for a follower.
const WRITES_WAIT: Duration = Duration::from_millis(200);

/// How often a follower's connection is looked at while nothing happens.
const FOLLOW_WAIT: Duration = Duration::from_millis(500);

/// Whether the client has closed its end.
fn is_gone(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

impl Observe {
    /// Of what the daemon did, what it asks.
    ///
    /// # Errors
    /// What is wrong with a time, or makes no sense.
    fn agent_reader(&self) -> anyhow::Result<AgentReader> {
        anyhow::ensure!(
            self.allow.is_empty() && self.deny.is_empty(),
            "filters are about flows alone"
        );
        Ok(AgentReader::new(AgentQuery {
            number: self.number,
            first: self.first,
            follow: self.follow,
            since: time(self.since.as_deref())?,
            until: time(self.until.as_deref())?,
        })?)
    }

    /// What it asks.
    ///
    /// # Errors
    /// What is wrong with a filter or a time.
    fn query(&self) -> anyhow::Result<Query> {
        let filters = |values: &[Value]| {
            let read = |value: &Value| FlowFilter::from_json(&value.to_string());
            values.iter().map(read).collect::<Result<Vec<_>, _>>()
        };
        Ok(Query {
            number: self.number,
            first: self.first,
            follow: self.follow,
            since: time(self.since.as_deref())?,
            until: time(self.until.as_deref())?,
            filter: Filter::new(&filters(&self.allow)?, &filters(&self.deny)?)?,
        })
    }
}

fn time(text: Option<&str>) -> anyhow::Result<Option<Time>> {
    let time = text.map(|text| Time::from_rfc3339(text).context("not a time"));
    time.transpose()
}

/// Filters as they go into an [`Observe`].
pub(crate) fn filters_as_json(filters: &[FlowFilter]) -> Vec<Value> {
    let value = |filter: &FlowFilter| {
        let mut text = String::new();
        filter.write_json(&mut text);
        serde_json::from_str(&text).unwrap_or_default()
    };
    filters.iter().map(value).collect()
}

/// Asks a running daemon for a stream; gives its lines one by one.
///
/// # Errors
/// If none listens there.
pub(crate) fn stream(
    path: &Path,
    command: &Command,
) -> anyhow::Result<impl Iterator<Item = io::Result<String>> + use<>> {
    let stream = connect(path)?;
    say(&stream, command)?;
    Ok(BufReader::new(stream).lines())
}

fn say(mut stream: &UnixStream, command: &Command) -> anyhow::Result<()> {
    match writeln!(stream, "{}", serde_json::to_string(command)?) {
        // Turned away: the reason is there to be read.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn connect(path: &Path) -> anyhow::Result<UnixStream> {
    UnixStream::connect(path).map_err(|error| {
        let cure = match error.kind() == io::ErrorKind::PermissionDenied {
            true => "a daemon answers root and its own user",
            false => "is `namegate run` running? --socket names another place",
        };
        let path = path.display();
        Exit::with(1, format!("no daemon answers at {path}: {error} ({cure})"))
    })
}

/// Asks a running daemon.
///
/// # Errors
/// If none listens there, or it refuses.
pub(crate) fn call(path: &Path, command: &Command) -> anyhow::Result<Value> {
    let stream = connect(path)?;
    stream.set_read_timeout(Some(WAIT))?;
    say(&stream, command)?;
    let mut text = String::new();
    BufReader::new(stream).read_line(&mut text)?;
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| anyhow::anyhow!("the daemon's answer can't be read: {error}"))?;
    match value.get("error").and_then(Value::as_str) {
        Some(error) => anyhow::bail!("the daemon refuses: {error}"),
        None => Ok(value),
    }
}
