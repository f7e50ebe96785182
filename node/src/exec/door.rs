//! Where the command's process meets the one that guards it: it hands out the sockets of the network that it
//! has made, and waits until it may become the command.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::RecvFlags;
use transport::Listening;

use super::command::Running;
use super::cure::Here;
use crate::clock;
use crate::exit::{EXEC_FAILED, Exit};
use crate::keeper::wire;

/// How long the other process may take.
const HANDED_WAIT: Duration = Duration::from_secs(20);
const HANDED_STEP: Duration = Duration::from_millis(2);
/// What it is told when somebody listens.
const GO: &str = "go";
/// The sockets' names, in their order.
const NAMES: [&str; 4] = ["dns-udp", "dns-tcp", "tcp", "dropped"];

/// The other process, and what it handed out. Each message has a socket, so none is read with the next one.
type Handed = (UnixStream, Listening);

/// Where the sockets are handed out: a name that no other process of this machine can guess.
pub(super) struct Door {
    listener: UnixListener,
    pub(super) name: String,
}

impl Door {
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn open() -> Result<Self> {
        let name = format!("namegate-exec-{:032x}", rand::random::<u128>());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, name })
    }

    /// Waits for the other process; or gives its code if it has ended, which said why.
    ///
    /// # Errors
    /// If it doesn't come, or a signal does.
    pub(super) fn meet(self, running: &Running) -> Result<Result<UnixStream, u8>> {
        let end = clock::now() + HANDED_WAIT;
        let stream = loop {
            if let Some(code) = running.ended()? {
                return Ok(Err(code));
            }
            match self.listener.accept() {
                Ok((stream, _)) if is_of(&stream, running) => break stream,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    anyhow::ensure!(clock::now() < end, "the command's process doesn't come");
                    std::thread::sleep(HANDED_STEP);
                }
                Err(error) => return Err(error.into()),
            }
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(HANDED_WAIT))?;
        Ok(Ok(stream))
    }

    /// Waits for the sockets; or gives the code of the other process as [`Door::meet`].
    ///
    /// # Errors
    /// If they don't come.
    pub(super) fn take(self, running: &Running) -> Result<Result<Handed, u8>> {
        let stream = match self.meet(running)? {
            Ok(stream) => stream,
            Err(code) => return Ok(Err(code)),
        };
        let mut sockets = Vec::new();
        for name in NAMES {
            let message = wire::receive(&stream, RecvFlags::empty())?;
            let Some(message) = message else {
                return await_end(running).map(Err);
            };
            anyhow::ensure!(
                message.text == name,
                "{:?} in place of {name}",
                message.text
            );
            sockets.extend(message.fd);
        }
        let [dns_udp, dns_tcp, tcp, dropped] = <[OwnedFd; 4]>::try_from(sockets)
            .map_err(|_| anyhow::anyhow!("sockets are missing"))?;
        let listening = Listening {
            dns_udp,
            dns_tcp,
            tcp,
            dropped,
        };
        Ok(Ok((stream, listening)))
    }
}

/// It has closed its end.
fn await_end(running: &Running) -> Result<u8> {
    let end = clock::now() + HANDED_WAIT;
    loop {
        if let Some(code) = running.ended()? {
            return Ok(code);
        }
        anyhow::ensure!(clock::now() < end, "the command's process doesn't end");
        std::thread::sleep(HANDED_STEP);
    }
}

fn is_of(stream: &UnixStream, running: &Running) -> bool {
    let peer = rustix::net::sockopt::socket_peercred(stream);
    peer.is_ok_and(|peer| peer.pid == running.pid())
}

/// Lets the other process go on.
///
/// # Errors
/// If it is gone.
pub(super) fn let_go(stream: &UnixStream) -> io::Result<()> {
    wire::send(stream, GO, None)
}

/// In that other process: comes to the door.
///
/// # Errors
/// If nobody is there.
pub(super) fn come(name: &str) -> Result<UnixStream> {
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)
        .context("the process that called")
}

/// In that other process: waits until it may go on.
///
/// # Errors
/// If it may not.
pub(super) fn wait(stream: &UnixStream) -> Result<()> {
    let answer = wire::receive(stream, RecvFlags::empty())?;
    if answer.is_none_or(|message| message.text != GO) {
        // It has said why.
        return Err(Exit::with(EXEC_FAILED, "namegate is gone"));
    }
    Ok(())
}

/// In that other process: makes the network, hands out what listens there, waits until it may go on, and goes
/// where the command is to be.
///
/// # Errors
/// What the system forbids, with what would help.
pub(super) fn make_network(name: &str) -> Result<()> {
    let stream = come(name)?;
    let here = Here::look();
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    transport::enter_user_network().map_err(|error| here.explained(&error))?;
    let (sandbox, listening) = transport::open_splice().map_err(|error| here.explained(&error))?;
    let Listening {
        dns_udp,
        dns_tcp,
        tcp,
        dropped,
    } = listening;
    for (name, socket) in NAMES.into_iter().zip([dns_udp, dns_tcp, tcp, dropped]) {
        wire::send(&stream, name, Some(socket.as_fd()))?;
    }
    wait(&stream)?;
    sandbox.inside.enter().context("the command's network")?;
    let user = (uid.as_raw(), gid.as_raw());
    transport::enter_user(user).map_err(|error| here.explained(&error))
}
