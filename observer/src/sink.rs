//! Flows for a file, as Hubble's exporter writes them.
//!
//! A thread writes; whoever tells it a flow never waits. What its queue can't hold, and what a full disk
//! doesn't take, is lost and told in the file once it is written again.

mod file;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use flow::{FieldMask, Filter, Flow, LostEvents, LostSource, Time};

use crate::limits::SINK_FLOWS_MAX;
use file::RotatingFile;

/// What is written where.
#[derive(Clone, Debug)]
pub struct Export {
    /// The file.
    pub path: PathBuf,
    /// Octets at which it is put aside and begun anew.
    pub octets_max: u64,
    /// Files that were put aside and are kept; the oldest goes. None for all.
    pub backups_max: Option<usize>,
    /// Whether those are compressed.
    pub compress: bool,
    /// Which flows.
    pub filter: Filter,
    /// Which fields of them.
    pub mask: FieldMask,
    /// Flows that happened later are not written.
    pub end: Option<Time>,
}

/// A file that flows are written to, by a thread of its own.
#[derive(Debug)]
pub struct FileSink {
    queue: SyncSender<Arc<Flow>>,
    path: PathBuf,
    figures: Arc<Figures>,
    thread: JoinHandle<()>,
}

/// What became of the flows of a sink.
#[derive(Debug, Default)]
struct Figures {
    written: AtomicU64,
    /// All that were lost, for whichever reason.
    lost: AtomicU64,
    /// Those that the file hasn't told yet.
    untold: AtomicU64,
    fault: Mutex<Option<String>>,
}

/// What became of the flows of a sink.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SinkFigures {
    /// Flows that are in the file.
    pub written: u64,
    /// Flows that are not: the queue was full, or the disk.
    pub lost: u64,
    /// Why nothing can be written at the moment.
    pub fault: Option<String>,
}

impl Figures {
    fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
        self.untold.fetch_add(count, Ordering::Relaxed);
    }

    fn set_fault(&self, fault: Option<String>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Gives back what a line would have told that was not written.
    fn leave_untold(&self, count: u64) {
        self.untold.fetch_add(count, Ordering::Relaxed);
    }
}

impl FileSink {
    /// Opens the file and starts the thread. `node_name` and the clock are for what the file tells of
    /// lost flows.
    ///
    /// # Errors
    /// If the file can't be opened, or the thread not be made.
    pub fn start(export: Export, node_name: Arc<str>, now: fn() -> Time) -> io::Result<Self> {
        let file = RotatingFile::open(&export)?;
        let path = export.path.clone();
        let (queue, flows) = sync_channel(SINK_FLOWS_MAX);
        let figures = Arc::<Figures>::default();
        let mut writer = Writer {
            file,
            figures: Arc::clone(&figures),
            node_name,
            now,
            export,
            line: String::new(),
            chunk: Chunk::default(),
            is_failing: false,
        };
        let thread = std::thread::Builder::new()
            .name("flow-file".to_owned())
            .spawn(move || writer.run(&flows))?;
        Ok(Self {
            queue,
            path,
            figures,
            thread,
        })
    }

    /// Takes a flow, or counts it as lost.
    pub fn tell(&self, flow: &Arc<Flow>) {
        if self.queue.try_send(Arc::clone(flow)).is_err() {
            self.figures.lose(1);
        }
    }

    /// Where they go.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What became of the flows.
    #[must_use]
    pub fn figures(&self) -> SinkFigures {
        let fault = self.figures.fault.lock();
        SinkFigures {
            written: self.figures.written.load(Ordering::Relaxed),
            lost: self.figures.lost.load(Ordering::Relaxed),
            fault: fault.unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Writes what waits, and ends.
    pub fn stop(self) {
        drop(self.queue);
        // A panic there was logged when it happened.
        let _ = self.thread.join();
    }
}

/// The thread's own.
struct Writer {
    file: RotatingFile,
    figures: Arc<Figures>,
    node_name: Arc<str>,
    now: fn() -> Time,
    export: Export,
    line: String,
    chunk: Chunk,
    is_failing: bool,
}

/// Lines that are written at once: either all of them are in the file, or none counts as such.
#[derive(Default)]
struct Chunk {
    text: String,
    flows: u64,
    /// Lost flows that a line of these tells.
    told: u64,
}

/// Flows that are taken from the queue before what there is is written.
const BATCH_MAX: usize = 512;
/// Octets that are written at once, unless one line is longer.
const CHUNK_OCTETS: u64 = 64 * 1024;

impl Writer {
    fn run(&mut self, flows: &Receiver<Arc<Flow>>) {
        while let Ok(first) = flows.recv() {
            self.take(&first);
            for flow in flows.try_iter().take(BATCH_MAX) {
                self.take(&flow);
            }
            self.write();
        }
    }

    fn take(&mut self, flow: &Flow) {
        let is_over = self.export.end.is_some_and(|end| flow.time > Some(end));
        if is_over || !self.export.filter.matches(flow) {
            return;
        }
        self.line.clear();
        flow.write_wanted_line(&self.export.mask, &mut self.line);
        self.line.push('\n');
        let octets = self.chunk.text.len() + self.line.len();
        let room = CHUNK_OCTETS.min(self.export.octets_max);
        if u64::try_from(octets).unwrap_or(u64::MAX) > room {
            self.write();
        }
        if self.chunk.text.is_empty() {
            self.tell_lost();
        }
        self.chunk.text.push_str(&self.line);
        self.chunk.flows += 1;
    }

    /// Begins a chunk with a line that tells of what was lost, if something was.
    fn tell_lost(&mut self) {
        let untold = self.figures.untold.swap(0, Ordering::Relaxed);
        if untold > 0 {
            let lost = LostEvents {
                source: LostSource::ObserverEventsQueue,
                count: untold,
                cpu: None,
                first: None,
                last: None,
            };
            let now = (self.now)();
            lost.write_exporter_line(&self.node_name, Some(now), &mut self.chunk.text);
            self.chunk.text.push('\n');
            self.chunk.told = untold;
        }
    }

    /// Writes the chunk. What isn't written is lost, and told in front of what is written next.
    fn write(&mut self) {
        if self.chunk.text.is_empty() {
            return;
        }
        match self.file.write(self.chunk.text.as_bytes()) {
            Ok(()) => {
                let written = &self.figures.written;
                written.fetch_add(self.chunk.flows, Ordering::Relaxed);
                self.heal();
            }
            Err(error) => {
                self.figures.lose(self.chunk.flows);
                self.figures.leave_untold(self.chunk.told);
                self.fail(&error);
            }
        }
        self.chunk.text.clear();
        (self.chunk.flows, self.chunk.told) = (0, 0);
    }

    fn fail(&mut self, error: &io::Error) {
        if !self.is_failing {
            let path = self.export.path.display();
            tracing::error!("flows are lost: {path}: {error}");
        }
        self.is_failing = true;
        self.figures.set_fault(Some(error.to_string()));
    }

    fn heal(&mut self) {
        if self.is_failing {
            self.is_failing = false;
            self.figures.set_fault(None);
            tracing::info!("flows are written again: {}", self.export.path.display());
        }
    }
}

#[cfg(test)]
mod tests;
