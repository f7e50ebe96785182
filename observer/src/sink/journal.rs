//! Flows for systemd's journal, by its native protocol: one datagram for each, with a line for people and
//! fields to search by (`journalctl SYSLOG_IDENTIFIER=namegate HUBBLE_VERDICT=DROPPED`).
//!
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>

use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flow::{Flow, Losses, LostEvents, Printer, Verdict};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::facts::{self, Fact};
use super::{Account, Outlet};

/// The way into the journal.
pub(super) struct Journal {
    socket: PathBuf,
    connected: Option<UnixDatagram>,
    account: Account,
    /// The exporter's line of the flow in the making.
    json: String,
    entry: Entry,
}

/// How long one try to send may take; it is looked then whether all is to end.
const TRY_MAX: Duration = Duration::from_millis(500);

/// What kind of entry a flow is: `journalctl -t namegate MESSAGE_ID=…` shows them all.
const FLOW_ID: &str = "0c8f5f8a4d1b4d0f9a5c1e2b7d3a6f41";
/// The same of those that tell of lost flows.
const LOST_ID: &str = "0c8f5f8a4d1b4d0f9a5c1e2b7d3a6f42";

/// Syslog's levels.
const WARNING: u8 = 4;
const NOTICE: u8 = 5;
const INFO: u8 = 6;

impl Journal {
    pub(super) fn new(socket: &Path, account: Account) -> Self {
        Self {
            socket: socket.to_owned(),
            connected: None,
            account,
            json: String::new(),
            entry: Entry::default(),
        }
    }

    fn write_flow(&mut self, flow: &Flow) {
        let mask = &self.account.mask;
        self.json.clear();
        flow.write_wanted_line(mask, &mut self.json);
        let priority = match flow.verdict {
            _ if mask.of("verdict").is_none() => INFO,
            Verdict::Dropped | Verdict::Error => WARNING,
            Verdict::Audit => NOTICE,
            Verdict::Unknown
            | Verdict::Forwarded
            | Verdict::Redirected
            | Verdict::Traced
            | Verdict::Translated => INFO,
        };
        let line = facts::line(flow, (mask, &self.json));
        self.entry.begin(&line, priority, FLOW_ID);
        self.entry.field("HUBBLE_FLOW", &self.json);
        for (name, fact) in facts::of(flow, mask) {
            let name = name.to_ascii_uppercase().replace('.', "_");
            match fact {
                Fact::Text(text) => self.entry.field(&name, &text),
                Fact::Number(number) => self.entry.field(&name, &number.to_string()),
            }
        }
    }

    fn write_lost(&mut self, lost: &LostEvents) {
        let mut line = String::new();
        Printer::default().write_loss(lost, &mut line);
        self.entry.begin(&line, WARNING, LOST_ID);
        self.entry
            .field("HUBBLE_LOST_EVENTS", &lost.count.to_string());
        self.entry
            .field("HUBBLE_LOST_WHERE", &lost.source.to_string());
    }

    /// Sends the entry. A journal that takes nothing is waited for; one that isn't there is not.
    fn send(&mut self) -> io::Result<()> {
        loop {
            match self.try_to_send() {
                Err(error) if is_busy(&error) && !self.account.has_stopped() => {
                    self.account.fail("it takes nothing".to_owned());
                }
                other => return other,
            }
        }
    }

    fn try_to_send(&mut self) -> io::Result<()> {
        if let Some(socket) = self.connected.take() {
            let sent = send(&socket, &self.entry.octets);
            if sent.as_ref().err().is_none_or(is_busy) {
                self.connected = Some(socket);
                return sent;
            }
            // Whoever listened there has gone, and another one may be there.
        }
        let socket = connect(&self.socket)?;
        let sent = send(&socket, &self.entry.octets);
        self.connected = Some(socket);
        sent
    }
}

impl Outlet for Journal {
    fn take(&mut self, flow: &Flow) {
        if self.account.gives_up() {
            self.account.lose(1);
            return;
        }
        self.write_flow(flow);
        match self.send() {
            Ok(()) => self.account.arrived(1),
            Err(error) => {
                self.account.lose(1);
                self.account.fail(error.to_string());
            }
        }
    }

    fn flush(&mut self) {
        if self.account.is_failing {
            return;
        }
        let untold = self.account.take_untold();
        let mut told = Losses::default();
        for lost in untold.events() {
            self.write_lost(&lost);
            if self.send().is_err() {
                self.account.leave_untold(untold.since(told));
                return;
            }
            told = told.and(lost.to_losses());
        }
    }
}

fn is_busy(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_write_timeout(Some(TRY_MAX))?;
    Ok(socket)
}

/// As a datagram, or, if it is too large for one, as a file that only memory has.
fn send(socket: &UnixDatagram, entry: &[u8]) -> io::Result<()> {
    match socket.send(entry) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::MSGSIZE) => {
            let file = sealed(entry)?;
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut with = SendAncillaryBuffer::new(&mut space);
            let file = [file.as_fd()];
            with.push(SendAncillaryMessage::ScmRights(&file));
            sendmsg(socket, &[IoSlice::new(&[])], &mut with, SendFlags::empty())?;
            Ok(())
        }
        sent => sent.map(drop),
    }
}

/// A file in memory that nobody can change any more, as the journal wants it.
fn sealed(entry: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("namegate-flow", flags)?);
    file.write_all(entry)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// Fields in the protocol's form.
#[derive(Default)]
struct Entry {
    octets: Vec<u8>,
}

impl Entry {
    fn begin(&mut self, message: &str, priority: u8, id: &str) {
        self.octets.clear();
        self.field("MESSAGE", message);
        self.field("PRIORITY", &priority.to_string());
        self.field("SYSLOG_IDENTIFIER", "namegate");
        self.field("MESSAGE_ID", id);
    }

    fn field(&mut self, name: &str, value: &str) {
        self.octets.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            let len = u64::try_from(value.len()).unwrap_or(u64::MAX);
            self.octets.push(b'\n');
            self.octets.extend_from_slice(&len.to_le_bytes());
        } else {
            self.octets.push(b'=');
        }
        self.octets.extend_from_slice(value.as_bytes());
        self.octets.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Seek as _};

    use rustix::fs::fcntl_get_seals;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    #[test]
    fn an_entry_that_no_datagram_holds_comes_as_a_file_that_nobody_can_change() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let mut entry = Entry::default();
        entry.begin("m", INFO, FLOW_ID);
        // More than any socket's buffer.
        entry.field("HUBBLE_FLOW", &"x".repeat(8 << 20));
        send(&ours, &entry.octets).unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut with = RecvAncillaryBuffer::new(&mut space);
        let mut rest = [0; 16];
        let mut rest = [io::IoSliceMut::new(&mut rest)];
        let got = recvmsg(&theirs, &mut rest, &mut with, RecvFlags::empty()).unwrap();
        assert_eq!(got.bytes, 0);
        let message = with.drain().next().unwrap();
        let RecvAncillaryMessage::ScmRights(mut files) = message else {
            panic!("no file")
        };
        let mut file = File::from(files.next().unwrap());
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        assert_eq!(fcntl_get_seals(&file).unwrap(), seals);
        file.rewind().unwrap();
        let mut octets = Vec::new();
        file.read_to_end(&mut octets).unwrap();
        assert_eq!(octets, entry.octets);
    }

    #[test]
    fn a_value_of_several_lines_is_written_with_its_length() {
        let mut entry = Entry::default();
        entry.field("A", "b");
        entry.field("C", "d\nE=f");
        let expected = b"A=b\nC\n\x05\0\0\0\0\0\0\0d\nE=f\n";
        assert_eq!(entry.octets, expected);
    }
}
