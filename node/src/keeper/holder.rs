//! A process that holds descriptors and does nothing else: it is given them by a daemon and gives them to
//! the next one. It ends when it is told so, and a while after its last daemon has.
//!
//! Messages: `keep NAME` with a descriptor, `settle` (what an earlier connection gave is let go), `give`
//! (answered by `1 NAME` with each descriptor, then `1`), `end`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, socket_with, socketpair, sockopt,
};

use super::KEPT_MAX;
use super::wire::{receive, send};
use crate::clock;
use crate::instance::Instance;

/// How long descriptors are held without a daemon: whoever asked before has given up long ago.
const ALONE_MAX: Duration = Duration::from_secs(60);
/// Daemons and commands at once; one more is turned away.
const CONNECTIONS_MAX: usize = 4;
/// How long a daemon waits for what is held.
const GIVE_WAIT: Duration = Duration::from_secs(2);
/// The first word of each answer: another one is of another version, whose process is ended.
const VERSION: &str = "1";

/// Who may hold: the daemon's end of the connection.
pub(super) struct Holder {
    socket: OwnedFd,
    /// Where it is this daemon's own child.
    child: Option<Child>,
    pid: i32,
}

impl Holder {
    /// The one that holds for an instance, with what it holds. One of another version is ended.
    pub(super) fn find(instance: &Instance) -> Option<(Self, Vec<(String, OwnedFd)>)> {
        let socket = call(&instance.holder()).ok()?;
        let pid = sockopt::socket_peercred(&socket).ok()?;
        let holder = Self {
            socket,
            child: None,
            pid: pid.pid.as_raw_nonzero().get(),
        };
        match holder.give() {
            Ok((held, true)) => Some((holder, held)),
            Ok((_, false)) | Err(_) => {
                tracing::warn!(
                    "the process that holds the sockets can't be understood: it is ended"
                );
                holder.end();
                None
            }
        }
    }

    /// What it holds, and whether it is of our version.
    fn give(&self) -> io::Result<(Vec<(String, OwnedFd)>, bool)> {
        send(&self.socket, "give", None)?;
        sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Recv, Some(GIVE_WAIT))?;
        let mut held = Vec::new();
        for _ in 0..=2 * KEPT_MAX {
            let Some(message) = receive(&self.socket, RecvFlags::empty())? else {
                break;
            };
            match (message.text.split_once(' '), message.fd) {
                (Some((VERSION, name)), Some(fd)) => held.push((name.to_owned(), fd)),
                _ => return Ok((held, message.text == VERSION)),
            }
        }
        Ok((held, false))
    }

    /// A new one.
    pub(super) fn start(instance: &Instance) -> io::Result<Self> {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (ours, its) = socketpair(family, kind, SocketFlags::CLOEXEC, None)?;
        // This program, also where its file was replaced since.
        let child = Command::new("/proc/self/exe")
            .args(["hold", "--instance", instance.name()])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(its))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            socket: ours,
            pid: i32::try_from(child.id()).unwrap_or(0),
            child: Some(child),
        })
    }

    pub(super) fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        send(&self.socket, &format!("keep {name}"), Some(fd))
    }

    /// What earlier daemons gave is let go.
    pub(super) fn settle(&self) -> io::Result<()> {
        send(&self.socket, "settle", None)
    }

    /// Has it end.
    pub(super) fn end(mut self) {
        let _ = send(&self.socket, "end", None);
        // It closes the connection with its end, and has let everything go then.
        let _ = sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Recv, Some(GIVE_WAIT));
        let _ = receive(&self.socket, RecvFlags::empty());
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }

    pub(super) fn is_alive(&mut self) -> bool {
        if let Some(child) = &mut self.child
            && !matches!(child.try_wait(), Ok(None))
        {
            return false;
        }
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(poll(&mut fds, Some(&now)), Ok(0))
    }

    pub(super) const fn pid(&self) -> i32 {
        self.pid
    }
}

/// Ends the process that holds for an instance, if there is one; whether there was.
pub(crate) fn end(instance: &Instance) -> bool {
    let Ok(socket) = call(&instance.holder()) else {
        return false;
    };
    let holder = Holder {
        socket,
        child: None,
        pid: 0,
    };
    holder.end();
    true
}

fn call(path: &Path) -> io::Result<OwnedFd> {
    let socket = unix_socket()?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    is_ours(&socket)?;
    Ok(socket)
}

fn unix_socket() -> io::Result<OwnedFd> {
    let kind = SocketType::SEQPACKET;
    Ok(socket_with(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Whether the other end is of the same user: both run as root.
fn is_ours(socket: &OwnedFd) -> io::Result<()> {
    let peer = sockopt::socket_peercred(socket)?;
    match peer.uid == rustix::process::geteuid() {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// The process itself.
struct Held {
    listener: OwnedFd,
    /// Numbered, since what they gave is theirs.
    connections: Vec<(u64, OwnedFd)>,
    next: u64,
    /// Name, descriptor, and which connection gave it.
    all: Vec<(String, OwnedFd, u64)>,
    alone_since: Option<Instant>,
    alone_max: Duration,
}

/// Holds what is given to it until its end. Standard input is the connection to the daemon that started
/// it.
///
/// # Errors
/// If its socket can't be made.
pub(crate) fn hold(instance: &Instance) -> Result<()> {
    // Not in the way of who ends the daemon by its terminal.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"namegate-holder");
    let path = instance.holder();
    let listener = open(&path).with_context(|| path.display().to_string())?;
    let starter = io::stdin().as_fd().try_clone_to_owned()?;
    let mut held = Held::new((listener, starter), ALONE_MAX);
    // The second one of the connection is in the way of seeing its end.
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    held.run();
    // Before the connections end: whoever told it to end may listen anew then.
    held.all.clear();
    let _ = std::fs::remove_file(&path);
    Ok(())
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // Whoever starts one has found nobody behind it.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = unix_socket()?;
    bind(&listener, &SocketAddrUnix::new(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listen(&listener, 4)?;
    Ok(listener)
}

impl Held {
    fn new((listener, starter): (OwnedFd, OwnedFd), alone_max: Duration) -> Self {
        Self {
            listener,
            connections: vec![(0, starter)],
            next: 1,
            all: Vec::new(),
            alone_since: None,
            alone_max,
        }
    }

    fn run(&mut self) {
        while let Some((is_called, ready)) = self.wait() {
            for id in ready {
                match self.hear(id) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(_) => self.connections.retain(|(one, _)| *one != id),
                }
            }
            if is_called {
                self.admit();
            }
            if !self.connections.is_empty() {
                self.alone_since = None;
            } else if self.alone_since.is_none() {
                self.alone_since = Some(clock::now());
            }
        }
    }

    /// Waits until somebody calls or says something; `None` once it was alone for too long.
    fn wait(&self) -> Option<(bool, Vec<u64>)> {
        let left = self
            .alone_since
            .map(|since| (since + self.alone_max).saturating_duration_since(clock::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return None;
        }
        let timeout = left.map(|left| Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        let sockets = self.connections.iter().map(|(_, socket)| socket);
        let mut fds: Vec<PollFd<'_>> = std::iter::once(&self.listener)
            .chain(sockets)
            .map(|socket| PollFd::new(socket, PollFlags::IN))
            .collect();
        // A signal, or the timeout: it looks again.
        let _ = poll(&mut fds, timeout.as_ref());
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let is_called = ready.next().unwrap_or(false);
        let said = self.connections.iter().zip(ready);
        let said = said.filter_map(|((id, _), is_ready)| is_ready.then_some(*id));
        Some((is_called, said.collect()))
    }

    fn admit(&mut self) {
        let flags = SocketFlags::CLOEXEC;
        let Ok(socket) = accept_with(&self.listener, flags) else {
            return;
        };
        if self.connections.len() < CONNECTIONS_MAX && is_ours(&socket).is_ok() {
            self.connections.push((self.next, socket));
            self.next += 1;
        }
    }

    /// Does what one connection says next; `false` if it is to end. An error ends the connection.
    fn hear(&mut self, id: u64) -> io::Result<bool> {
        let place = self.connections.iter().find(|(one, _)| *one == id);
        let (_, socket) = place.ok_or(io::ErrorKind::NotFound)?;
        let message = receive(socket, RecvFlags::DONTWAIT)?;
        let message = message.ok_or(io::ErrorKind::UnexpectedEof)?;
        match (message.text.as_str(), message.fd) {
            ("give", None) => {
                for (name, fd, _) in &self.all {
                    send(socket, &format!("{VERSION} {name}"), Some(fd.as_fd()))?;
                }
                send(socket, VERSION, None)?;
            }
            ("settle", None) => self.all.retain(|(_, _, by)| *by == id),
            ("end", None) => return Ok(false),
            (text, Some(fd)) => {
                let name = text
                    .strip_prefix("keep ")
                    .ok_or(io::ErrorKind::InvalidData)?;
                // Twice as many, since those of an earlier connection are there until this one settles.
                if self.all.len() < 2 * KEPT_MAX {
                    self.all.push((name.to_owned(), fd, id));
                }
            }
            (_, None) => return Err(io::ErrorKind::InvalidData.into()),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    /// One that holds, on a thread, at a path of its own; and the connection of its starter.
    fn one(alone_max: Duration) -> (tempfile::TempDir, Holder, std::thread::JoinHandle<usize>) {
        let dir = tempfile::tempdir().unwrap();
        let listener = open(&dir.path().join("holder.sock")).unwrap();
        let kind = SocketType::SEQPACKET;
        let flags = SocketFlags::CLOEXEC;
        let (ours, its) = socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
        let mut held = Held::new((listener, its), alone_max);
        let thread = std::thread::spawn(move || {
            held.run();
            held.all.len()
        });
        (dir, by(ours), thread)
    }

    fn by(socket: OwnedFd) -> Holder {
        Holder {
            socket,
            child: None,
            pid: 0,
        }
    }

    fn names(holder: &Holder) -> Vec<String> {
        let (held, is_ours) = holder.give().unwrap();
        assert!(is_ours);
        held.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn what_one_gave_the_next_one_gets_and_lets_go_with_its_own() {
        let (dir, first, thread) = one(Duration::from_secs(60));
        let file = tempfile::tempfile().unwrap();
        first.keep("a", file.as_fd()).unwrap();
        first.keep("b", file.as_fd()).unwrap();
        first.settle().unwrap();
        assert_eq!(names(&first), ["a", "b"]);
        drop(first);
        let next = by(call(&dir.path().join("holder.sock")).unwrap());
        let (held, _) = next.give().unwrap();
        let number = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        assert_eq!(number(&held[0].1), rustix::fs::fstat(&file).unwrap().st_ino);
        assert_ne!(held[0].1.as_raw_fd(), file.as_raw_fd());
        next.keep("c", file.as_fd()).unwrap();
        assert_eq!(names(&next), ["a", "b", "c"], "until it settles");
        next.settle().unwrap();
        assert_eq!(names(&next), ["c"]);
        next.end();
        assert_eq!(thread.join().unwrap(), 1);
    }

    #[test]
    fn it_ends_when_it_was_alone_for_too_long_and_not_before() {
        let (dir, first, thread) = one(Duration::from_millis(200));
        std::thread::sleep(Duration::from_millis(400));
        drop(first);
        std::thread::sleep(Duration::from_millis(100));
        let next = by(call(&dir.path().join("holder.sock")).unwrap());
        std::thread::sleep(Duration::from_millis(400));
        assert!(names(&next).is_empty());
        drop(next);
        thread.join().unwrap();
    }

    #[test]
    fn it_holds_and_hears_no_more_than_its_bounds() {
        let (dir, first, thread) = one(Duration::from_secs(60));
        let file = tempfile::tempfile().unwrap();
        for _ in 0..2 * KEPT_MAX + 5 {
            while first.keep("a", file.as_fd()).is_err() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        assert_eq!(names(&first).len(), 2 * KEPT_MAX);
        let path = dir.path().join("holder.sock");
        let others: Vec<_> = (0..CONNECTIONS_MAX)
            .map(|_| by(call(&path).unwrap()))
            .collect();
        let turned_away = others.iter().filter(|one| one.give().is_err()).count();
        assert_eq!(turned_away, 1);
        first.end();
        thread.join().unwrap();
    }

    #[test]
    fn who_talks_nonsense_is_heard_no_longer() {
        let (dir, first, thread) = one(Duration::from_secs(60));
        let other = by(call(&dir.path().join("holder.sock")).unwrap());
        send(&other.socket, "nonsense", None).unwrap();
        assert!(other.give().is_err() || other.give().is_err());
        assert!(names(&first).is_empty());
        first.end();
        thread.join().unwrap();
    }
}
