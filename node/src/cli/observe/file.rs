//! Flows of a file, as a daemon would show them that had seen them.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, BufRead, Read};
use std::path::Path;

use flow::limits::LINE_OCTETS_MAX;
use flow::{Line, NodeStatus, Printer, Query, ReadError, Recorded};

use super::sink::Sink;
use crate::cli::lines;

/// What is said to standard error beside the flows.
#[derive(Clone, Copy)]
pub(super) struct Aside {
    /// How lines about nodes are written.
    pub(super) printer: Printer,
    /// Nothing is.
    pub(super) is_silent: bool,
    /// Of nodes also what is usual.
    pub(super) all_nodes: bool,
}

/// Shows what is wanted of a file's lines. Those that are no events are told and left out; of other events than
/// flows, which an exporter writes too, the first alone is told, and so is the first field that no event has.
pub(super) fn read(
    path: &Path,
    (query, aside): (Query, Aside),
    sink: &mut Sink,
) -> anyhow::Result<()> {
    let named = |error: io::Error| anyhow::anyhow!("{}: {error}", path.display());
    let mut input = lines::open(path).map_err(named)?;
    let mut choice = Choice::new(query);
    let limit = u64::try_from(LINE_OCTETS_MAX + 1).unwrap_or(u64::MAX);
    let mut text = Vec::new();
    let (mut has_told, mut has_told_field) = (false, false);
    let say = |number: u64, what: &dyn Display| {
        if !aside.is_silent {
            anstream::eprintln!("{}:{number}: {what}", path.display());
        }
    };
    for number in 1_u64.. {
        text.clear();
        let read = (&mut input).take(limit).read_until(b'\n', &mut text);
        if read.map_err(named)? == 0 {
            break;
        }
        let line = text.strip_suffix(b"\n").unwrap_or(&text);
        if line.len() > LINE_OCTETS_MAX {
            let path = path.display();
            anyhow::bail!("{path}:{number}: a line of more than {LINE_OCTETS_MAX} octets");
        }
        let line = String::from_utf8_lossy(line);
        match Recorded::parse(&line) {
            Ok(read) => {
                let unknown = (!has_told_field).then(|| read.unknown_field()).flatten();
                if let Some(field) = unknown {
                    has_told_field = true;
                    say(
                        number,
                        &format_args!("unknown field {field:?}: this and others are passed over"),
                    );
                }
                choice.take(read, sink)?;
            }
            Err(_) if line.trim().is_empty() => {}
            Err(ReadError::OtherEvent {
                kind: "node_status",
            }) => match NodeStatus::parse(&line) {
                Ok(status) => aside.tell(&status),
                Err(error) => say(number, &format_args!("left out: {error}")),
            },
            Err(ReadError::OtherEvent { .. }) if std::mem::replace(&mut has_told, true) => {}
            Err(error) => say(number, &format_args!("left out: {error}")),
        }
        if choice.is_over {
            break; // and what writes into a pipe may have no more to say
        }
    }
    choice.kept.iter().try_for_each(|read| sink.show(read))
}

impl Aside {
    fn tell(&self, status: &NodeStatus) {
        if self.is_silent || status.change.is_usual() && !self.all_nodes {
            return;
        }
        let mut line = String::new();
        self.printer.write_node_status(status, &mut line);
        anstream::eprintln!("{line}");
    }
}

/// What is wanted of lines that come one by one. Lost events always are, and are not counted.
struct Choice {
    query: Query,
    /// Flows so far.
    flows: u64,
    /// Lines that wait, where only the last are wanted.
    kept: VecDeque<Recorded>,
    is_over: bool,
}

impl Choice {
    fn new(query: Query) -> Self {
        Self {
            query,
            flows: 0,
            kept: VecDeque::new(),
            is_over: false,
        }
    }

    fn take(&mut self, read: Recorded, sink: &mut Sink) -> anyhow::Result<()> {
        if let Line::Flow(flow) = read.line() {
            // Lines of several nodes are not in order: what is later is no end, as it is for a node's ring.
            if self.query.is_past(flow) || !self.query.wants(flow) {
                return Ok(());
            }
            self.flows += 1;
        }
        let number = self.query.number;
        let is_forward = self.query.first || self.query.since.is_some() || number == 0;
        if is_forward {
            self.is_over = number > 0 && self.flows == number;
            return sink.show(&read);
        }
        self.kept.push_back(read);
        while self.flows > number {
            let gone = self.kept.pop_front();
            let is_flow = |read: Recorded| matches!(read.line(), Line::Flow(_));
            self.flows -= u64::from(gone.is_some_and(is_flow));
        }
        Ok(())
    }
}
