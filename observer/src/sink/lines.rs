//! Events as lines of a file, as Hubble's exporter writes them.

use std::io::{self, Write as _};
use std::path::Path;

use flow::{AgentEvent, Flow, Losses, Time};

use super::file::RotatingFile;
use super::{Account, FileTarget, Outlet};

/// The way into a file, or to standard output.
pub(super) struct Lines {
    to: Way,
    octets_max: u64,
    account: Account,
    line: String,
    chunk: Chunk,
}

enum Way {
    File(RotatingFile),
    Output,
}

impl Way {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write(lines),
            Self::Output => {
                let mut output = io::stdout().lock();
                output.write_all(lines)?;
                output.flush()
            }
        }
    }
}

/// Lines that are written at once: either all of them are in the file, or none counts as such.
#[derive(Default)]
struct Chunk {
    text: String,
    /// Flows, and what the agent did.
    events: u64,
    /// Lost events that lines of these tell.
    told: Losses,
}

/// Octets that are written at once, unless one line is longer.
const CHUNK_OCTETS: u64 = 64 * 1024;

impl Lines {
    pub(super) fn open(target: &FileTarget, account: Account) -> io::Result<Self> {
        let to = match target.path == Path::new(FileTarget::OUTPUT) {
            true => Way::Output,
            false => Way::File(RotatingFile::open(target)?),
        };
        Ok(Self {
            to,
            octets_max: target.octets_max,
            account,
            line: String::new(),
            chunk: Chunk::default(),
        })
    }

    /// Begins a chunk with lines that tell of what was lost, if something was.
    fn tell_lost(&mut self) {
        self.chunk.told = self.account.take_untold();
        for lost in self.chunk.told.events() {
            let now = Some((self.account.now)());
            lost.write_exporter_line(&self.account.node_name, now, &mut self.chunk.text);
            self.chunk.text.push('\n');
        }
    }

    /// Puts the line of an event into the chunk.
    fn add_line(&mut self) {
        self.line.push('\n');
        let octets = self.chunk.text.len() + self.line.len();
        let room = CHUNK_OCTETS.min(self.octets_max);
        if u64::try_from(octets).unwrap_or(u64::MAX) > room {
            self.flush();
        }
        if self.chunk.text.is_empty() {
            self.tell_lost();
        }
        self.chunk.text.push_str(&self.line);
        self.chunk.events += 1;
        self.line.clear();
    }
}

impl Outlet for Lines {
    fn take(&mut self, flow: &Flow) {
        flow.write_wanted_line(&self.account.mask, &mut self.line);
        self.add_line();
    }

    fn take_agent(&mut self, time: Time, event: &AgentEvent) {
        event.write_exporter_line(&self.account.node_name, time, &mut self.line);
        self.add_line();
    }

    /// Writes the chunk, or what was lost alone. What isn't written is lost, and told in front of what is written
    /// next.
    fn flush(&mut self) {
        if self.chunk.text.is_empty() {
            self.tell_lost();
        }
        if self.chunk.text.is_empty() {
            return;
        }
        match self.to.write(self.chunk.text.as_bytes()) {
            Ok(()) => self.account.arrived(self.chunk.events),
            Err(error) => {
                self.account.lose(self.chunk.events);
                self.account.leave_untold(self.chunk.told);
                self.account.fail(error.to_string());
            }
        }
        self.chunk.text.clear();
        (self.chunk.events, self.chunk.told) = (0, Losses::default());
    }
}
