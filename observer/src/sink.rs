//! Flows for a file, as Hubble's exporter writes them.
//!
//! A thread writes; whoever tells it a flow never waits. What its queue can't hold, and what a full disk
//! doesn't take, is lost and told in the file once it is written again.

mod file;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fmt, io};

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
}

/// A file that flows are written to, by a thread of its own.
#[derive(Debug)]
pub struct FileSink {
    queue: SyncSender<Arc<Flow>>,
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
}

impl FileSink {
    /// Opens the file and starts the thread. `node_name` and the clock are for what the file tells of
    /// lost flows.
    ///
    /// # Errors
    /// If the file can't be opened, or the thread not be made.
    pub fn start(export: Export, node_name: Arc<str>, now: fn() -> Time) -> io::Result<Self> {
        let file = RotatingFile::open(&export)?;
        let (queue, flows) = sync_channel(SINK_FLOWS_MAX);
        let figures = Arc::<Figures>::default();
        let mut writer = Writer {
            file,
            figures: Arc::clone(&figures),
            node_name,
            now,
            export,
            line: String::new(),
        };
        let thread = std::thread::Builder::new()
            .name("flow-file".to_owned())
            .spawn(move || writer.run(&flows))?;
        Ok(Self {
            queue,
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
}

/// How long written lines may wait in memory.
const FLUSH_AFTER: Duration = Duration::from_millis(100);

impl Writer {
    fn run(&mut self, flows: &Receiver<Arc<Flow>>) {
        loop {
            match flows.recv_timeout(FLUSH_AFTER) {
                Ok(flow) => self.take(&flow),
                Err(RecvTimeoutError::Timeout) => self.flush(),
                Err(RecvTimeoutError::Disconnected) => return self.flush(),
            }
        }
    }

    fn take(&mut self, flow: &Flow) {
        if !self.export.filter.matches(flow) {
            return;
        }
        self.line.clear();
        self.tell_lost();
        flow.write_wanted_line(&self.export.mask, &mut self.line);
        self.line.push('\n');
        match self.file.write(self.line.as_bytes()) {
            Ok(()) => {
                self.figures.written.fetch_add(1, Ordering::Relaxed);
                self.heal();
            }
            Err(error) => {
                self.figures.lose(1);
                self.fail(&error);
            }
        }
    }

    /// Puts a line in front that tells of what was lost. If it isn't written either, it is told again.
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
            lost.write_exporter_line(&self.node_name, Some(now), &mut self.line);
            self.line.push('\n');
        }
    }

    fn flush(&mut self) {
        if let Err(error) = self.file.flush() {
            self.fail(&error);
        }
    }

    fn fail(&self, error: &dyn fmt::Display) {
        let mut fault = self
            .figures
            .fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if fault.is_none() {
            let path = self.export.path.display();
            tracing::error!("flows are lost: {path}: {error}");
        }
        *fault = Some(error.to_string());
    }

    fn heal(&self) {
        let was_fault = {
            let fault = self
                .figures
                .fault
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            fault.is_some()
        };
        if was_fault {
            self.figures.set_fault(None);
            tracing::info!("flows are written again: {}", self.export.path.display());
        }
    }
}

#[cfg(test)]
mod tests;
