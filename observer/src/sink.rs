//! Flows for a file, a collector of logs or the journal.
//!
//! A thread hands them on; whoever tells it a flow never waits. What its queue can't hold, and what the
//! other side doesn't take, is lost, counted, and told there once it can be.

mod facts;
mod file;
mod groups;
mod journal;
mod lines;
mod otlp;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use flow::{AgentEvent, FieldMask, Filter, Flow, Losses, Time};
use tokio::sync::watch;

use crate::limits::SINK_FLOWS_MAX;
pub use groups::Aggregate;
use groups::Groups;
use journal::Journal;
use lines::Lines;
use otlp::Otlp;
pub use otlp::{Collector, CollectorError};

/// What is told where.
#[derive(Clone, Debug)]
pub struct Export {
    /// Where.
    pub to: Target,
    /// Which flows.
    pub filter: Filter,
    /// Which fields of them.
    pub mask: FieldMask,
    /// What happened later is not told.
    pub end: Option<Time>,
    /// Where one flow stands for all that are alike.
    pub aggregate: Option<Aggregate>,
}

/// Where flows go.
#[derive(Clone, Debug)]
pub enum Target {
    /// Into a file, as lines of JSON.
    File(FileTarget),
    /// To a collector of logs, by OpenTelemetry's protocol.
    Collector(Collector),
    /// Into the journal, by this socket.
    Journal(PathBuf),
}

/// A file, and when it is put aside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileTarget {
    /// The file, or [`FileTarget::OUTPUT`].
    pub path: PathBuf,
    /// Octets at which it is put aside and begun anew.
    pub octets_max: u64,
    /// Files that were put aside and are kept; the oldest goes. None for all.
    pub backups_max: Option<usize>,
    /// Whether those are compressed.
    pub compress: bool,
    /// Whether it gets what the agent did too, whatever flows are wanted. Neither a collector nor the journal
    /// gets it.
    pub agent_events: bool,
}

impl FileTarget {
    /// In place of a path: standard output, which is never put aside.
    pub const OUTPUT: &str = "stdout";
}

impl Target {
    /// The file's or the socket's path, or the collector's address.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::File(file) => file.path.display().to_string(),
            Self::Collector(collector) => collector.address().to_owned(),
            Self::Journal(socket) => socket.display().to_string(),
        }
    }
}

/// Where flows are told to, by a thread of its own.
#[derive(Debug)]
pub struct FlowSink {
    queue: SyncSender<News>,
    takes_agent_events: bool,
    place: String,
    figures: Arc<Figures>,
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

/// What waits to be told.
#[derive(Debug)]
enum News {
    Flow(Arc<Flow>),
    Agent(Time, Arc<AgentEvent>),
    /// That something was lost before it could wait here.
    Lost,
}

/// What became of the events of a sink.
#[derive(Debug, Default)]
struct Figures {
    written: AtomicU64,
    /// All that were lost, for whichever reason.
    lost: AtomicU64,
    /// What the other side wasn't told of yet, what was lost before the sink too.
    untold: Mutex<Losses>,
    fault: Mutex<Option<String>>,
}

/// What became of the events of a sink.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SinkFigures {
    /// Events that arrived: flows, and what the agent did.
    pub written: u64,
    /// Events that did not: the queue was full, or the other side took them not.
    pub lost: u64,
    /// Why nothing can be told at the moment.
    pub fault: Option<String>,
}

impl Figures {
    fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
        let queue = count;
        self.leave_untold(Losses { queue, kernel: 0 });
    }

    fn leave_untold(&self, more: Losses) {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        *untold = untold.and(more);
    }

    fn set_fault(&self, fault: Option<String>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }
}

impl FlowSink {
    /// Opens a file or readies a connection, and starts the thread. `node_name` and the clock are for what
    /// is told of lost flows. Whether a collector or the journal is there shows later.
    ///
    /// # Errors
    /// If the file can't be opened, or the thread not be made.
    pub fn start(export: Export, node_name: Arc<str>, now: fn() -> Time) -> io::Result<Self> {
        let place = export.to.place();
        let takes_agent_events = match &export.to {
            Target::File(file) => file.agent_events,
            Target::Collector(_) | Target::Journal(_) => false,
        };
        let (queue, news) = sync_channel(SINK_FLOWS_MAX);
        let (stop, stopped) = watch::channel(false);
        let figures = Arc::<Figures>::default();
        let account = Account {
            figures: Arc::clone(&figures),
            place: place.clone(),
            node_name,
            now,
            mask: export.mask.clone(),
            stopped,
            is_failing: false,
        };
        let (name, mut outlet): (_, Box<dyn Outlet>) = match &export.to {
            Target::File(file) => ("flow-file", Box::new(Lines::open(file, account)?)),
            Target::Collector(collector) => ("flow-otlp", Box::new(Otlp::new(collector, account)?)),
            Target::Journal(socket) => ("flow-journal", Box::new(Journal::new(socket, account))),
        };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(&news, (&export, now), &mut *outlet))?;
        Ok(Self {
            queue,
            takes_agent_events,
            place,
            figures,
            stop,
            thread,
        })
    }

    /// Takes a flow, or counts it as lost.
    pub fn tell(&self, flow: &Arc<Flow>) {
        self.send(News::Flow(Arc::clone(flow)));
    }

    /// Takes what the agent did, or counts it as lost; a sink that wants none of it leaves it.
    pub fn tell_agent(&self, time: Time, event: &Arc<AgentEvent>) {
        if self.takes_agent_events {
            self.send(News::Agent(time, Arc::clone(event)));
        }
    }

    /// Takes that events were lost on their way to become flows. It is told in front of what is told next, or alone.
    pub fn tell_lost(&self, lost: Losses) {
        self.figures.leave_untold(lost);
        // Whoever is behind a full queue looks soon.
        let _ = self.queue.try_send(News::Lost);
    }

    fn send(&self, news: News) {
        if self.queue.try_send(news).is_err() {
            self.figures.lose(1);
        }
    }

    /// Where they go.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What became of the events.
    #[must_use]
    pub fn figures(&self) -> SinkFigures {
        let fault = self.figures.fault.lock();
        SinkFigures {
            written: self.figures.written.load(Ordering::Relaxed),
            lost: self.figures.lost.load(Ordering::Relaxed),
            fault: fault.unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Tells what waits, as far as the other side takes it, and ends.
    pub fn stop(self) {
        let _ = self.stop.send(true);
        drop(self.queue);
        // A panic there was logged when it happened.
        let _ = self.thread.join();
    }
}

/// Events that are taken from the queue before what there is is handed on.
const BATCH_MAX: usize = 512;

fn run(queue: &Receiver<News>, (export, now): (&Export, fn() -> Time), outlet: &mut dyn Outlet) {
    let is_over = |time: Option<Time>| export.end.is_some_and(|end| time > Some(end));
    let mut groups = export.aggregate.as_ref().map(|by| Groups::new(by, now()));
    loop {
        let first = match &mut groups {
            Some(groups) => queue.recv_timeout(groups.wait(now())),
            None => queue.recv().map_err(RecvTimeoutError::from),
        };
        let is_end = matches!(first, Err(RecvTimeoutError::Disconnected));
        let more = queue.try_iter().take(BATCH_MAX);
        for news in first.into_iter().chain(more) {
            match news {
                News::Flow(flow) if !is_over(flow.time) && export.filter.matches(&flow) => {
                    match &mut groups {
                        Some(groups) => groups.take(flow).iter().for_each(|one| outlet.take(one)),
                        None => outlet.take(&flow),
                    }
                }
                // Filters are about flows alone.
                News::Agent(time, event) if !is_over(Some(time)) => {
                    outlet.take_agent(time, &event);
                }
                News::Flow(_) | News::Agent(..) | News::Lost => {}
            }
        }
        if let Some(groups) = &mut groups
            && (is_end || groups.wait(now()).is_zero())
        {
            groups.tell(now(), |flow| outlet.take(flow));
        }
        outlet.flush();
        if is_end {
            return;
        }
    }
}

/// The thread's way out. It counts what became of all that it took.
trait Outlet: Send {
    /// Takes a flow.
    fn take(&mut self, flow: &Flow);

    /// Takes what the agent did; only from a sink that wants it.
    fn take_agent(&mut self, _time: Time, _event: &AgentEvent) {}

    /// Hands on what was taken.
    fn flush(&mut self);
}

/// What an outlet writes down, and what it needs for that.
#[derive(Debug)]
struct Account {
    figures: Arc<Figures>,
    place: String,
    node_name: Arc<str>,
    now: fn() -> Time,
    mask: FieldMask,
    /// Whether all is to end.
    stopped: watch::Receiver<bool>,
    is_failing: bool,
}

impl Account {
    /// What is to be told of lost events; whoever can't tell it gives it back.
    fn take_untold(&self) -> Losses {
        let mut untold = self
            .figures
            .untold
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *untold)
    }

    /// Gives back what would have been told of lost events and was not.
    fn leave_untold(&self, lost: Losses) {
        self.figures.leave_untold(lost);
    }

    fn lose(&self, count: u64) {
        self.figures.lose(count);
    }

    fn has_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Whether nothing more is tried: all is to end, and the last try failed.
    fn gives_up(&self) -> bool {
        self.is_failing && self.has_stopped()
    }

    /// So many arrived of what was told at once.
    fn count(&self, arrived: u64) {
        self.figures.written.fetch_add(arrived, Ordering::Relaxed);
    }

    /// So many were told, and all arrived.
    fn arrived(&mut self, all: u64) {
        self.count(all);
        if self.is_failing {
            self.is_failing = false;
            self.figures.set_fault(None);
            tracing::info!("flows are told again: {}", self.place);
        }
    }

    /// Nothing can be told at the moment.
    fn fail(&mut self, why: String) {
        if !self.is_failing {
            tracing::error!("flows can't be told: {}: {why}", self.place);
        }
        self.is_failing = true;
        self.figures.set_fault(Some(why));
    }
}

#[cfg(test)]
mod tests;
