//! The flows of this node: a queue that nobody waits for, a ring that readers follow, a log file.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bpf_redirect_common::Event as KernelEvent;
use dnsproxy::Told;
use flow::{Batch, Cursor, Flow, Query, QueryError, Reader, Ring};

use crate::tell::{LAST_WORDS, Teller};

/// What is to be told.
pub(crate) enum News {
    /// A finished exchange.
    Exchange(Box<Told>),
    /// What the HTTP proxy tells.
    Http(httpproxy::News),
    /// An event of the kernel.
    Kernel(KernelEvent),
}

/// News that wait to become flows; more are lost and counted. The query path never waits.
pub(crate) const NEWS_MAX: usize = 65_536;

/// Where news go in.
#[derive(Clone)]
pub(crate) struct NewsSink {
    queue: SyncSender<News>,
    lost: Arc<AtomicU64>,
}

/// The receiving end of a [`NewsSink`].
pub(crate) struct NewsQueue(Receiver<News>);

/// A queue for news.
pub(crate) fn news() -> (NewsSink, NewsQueue) {
    let (queue, receiver) = sync_channel(NEWS_MAX);
    (
        NewsSink {
            queue,
            lost: Arc::default(),
        },
        NewsQueue(receiver),
    )
}

impl NewsSink {
    /// Takes one piece of news, or counts it as lost.
    pub(crate) fn tell(&self, news: News) {
        if self.queue.try_send(news).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many were lost.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// The last flows, for readers of different speed.
#[derive(Default)]
pub(crate) struct FlowRing {
    ring: Mutex<Ring>,
    more: Condvar,
}

impl FlowRing {
    fn push(&self, flows: impl Iterator<Item = Flow>) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        for flow in flows {
            ring.push(flow);
        }
        drop(ring);
        self.more.notify_all();
    }

    /// A reader that begins where its query says.
    ///
    /// # Errors
    /// A query that makes no sense.
    pub(crate) fn reader(&self, query: Query) -> Result<Reader, QueryError> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        Reader::new(query, &ring)
    }

    /// Everything that the ring holds, and where a follower goes on.
    pub(crate) fn all(&self) -> (Vec<Arc<Flow>>, Cursor) {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        (ring.last(ring.len()), ring.end())
    }

    /// How many flows there were.
    pub(crate) fn seen(&self) -> u64 {
        self.ring
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .seen()
    }

    /// What came behind a cursor, waited for up to `wait`.
    pub(crate) fn wait_from(&self, cursor: Cursor, wait: Duration) -> Batch {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing_new = |ring: &mut Ring| ring.end() == cursor;
        let (ring, _) = self
            .more
            .wait_timeout_while(ring, wait, nothing_new)
            .unwrap_or_else(PoisonError::into_inner);
        ring.read_from(cursor, BATCH_MAX)
    }
}

/// Flows that are handed on at once.
const BATCH_MAX: usize = 512;

/// A file of JSON lines, as Hubble's exporter writes them.
struct FlowLog {
    file: BufWriter<File>,
    line: String,
}

impl FlowLog {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self {
            file: BufWriter::new(file),
            line: String::new(),
        })
    }

    fn write(&mut self, flow: &Flow) -> io::Result<()> {
        self.line.clear();
        flow.write_exporter_line(&mut self.line);
        self.line.push('\n');
        self.file.write_all(self.line.as_bytes())
    }
}

/// The thread that turns news into flows.
pub(crate) struct FlowThread {
    stop: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl FlowThread {
    /// Starts it; `log` is a file that gets every flow.
    ///
    /// # Errors
    /// If the file can't be opened or the thread not be made.
    pub(crate) fn start(
        queue: NewsQueue,
        (teller, ring): (Arc<Teller>, Arc<FlowRing>),
        log: Option<&Path>,
    ) -> io::Result<Self> {
        let mut log = log.map(FlowLog::open).transpose()?;
        let stop = Arc::new(AtomicU64::new(0));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("flows".to_owned())
            .spawn(move || {
                while let Some(batch) = next_batch(&queue.0, &stopped) {
                    let mut flows = Vec::with_capacity(batch.len() * 2);
                    for news in &batch {
                        match news {
                            News::Exchange(told) => {
                                let (request, response) = teller.exchange(told);
                                flows.push(request);
                                flows.extend(response);
                            }
                            News::Http(news) => flows.extend(teller.http(news)),
                            News::Kernel(event) => flows.extend(teller.kernel(event)),
                        }
                    }
                    write_log(&mut log, &flows);
                    ring.push(flows.into_iter());
                }
            })?;
        Ok(Self { stop, thread })
    }

    /// Tells what waits, and ends.
    pub(crate) fn stop(self) {
        self.stop.store(1, Ordering::Relaxed);
        let _ = self.thread.join();
    }
}

/// What came since; `None` once it was stopped and nothing comes any more.
fn next_batch(queue: &Receiver<News>, stopped: &AtomicU64) -> Option<Vec<News>> {
    const WAIT: Duration = Duration::from_millis(100);
    let wait = if stopped.load(Ordering::Relaxed) == 0 {
        WAIT
    } else {
        LAST_WORDS.min(WAIT)
    };
    match queue.recv_timeout(wait) {
        Ok(first) => {
            let mut batch = vec![first];
            batch.extend(queue.try_iter().take(BATCH_MAX - 1));
            Some(batch)
        }
        Err(RecvTimeoutError::Timeout) if stopped.load(Ordering::Relaxed) == 0 => Some(Vec::new()),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
    }
}

/// A full disk stops the log, never the gate.
fn write_log(log: &mut Option<FlowLog>, flows: &[Flow]) {
    let Some(file) = log else { return };
    let written = flows
        .iter()
        .try_for_each(|flow| file.write(flow))
        .and_then(|()| file.file.flush());
    if let Err(error) = written {
        tracing::error!("the flow log ends here: {error}");
        *log = None;
    }
}
