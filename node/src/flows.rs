//! The flows of this node: a queue that nobody waits for, and the thread that makes flows of it, for the
//! ring, files and metrics.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bpf_redirect_common::Event as KernelEvent;
use dnsproxy::Told;
use flow::Flow;
use observer::{FlowMetrics, SharedRing};

use crate::clock;
use crate::exporters::SharedExporters;
use crate::tell::Teller;

/// What is to be told.
pub(crate) enum News {
    /// A finished exchange.
    Exchange(Box<Told>),
    /// What the HTTP proxy tells.
    Http(httpproxy::News),
    /// An event of the kernel.
    Kernel(KernelEvent),
    /// Nothing: who waits for news is to look whether it was stopped.
    End,
}

/// News that wait to become flows; more are lost and counted. The query path never waits.
pub(crate) const NEWS_MAX: usize = 16_384;

/// Where news go in.
#[derive(Clone)]
pub(crate) struct NewsSink {
    queue: SyncSender<News>,
    lost: Arc<AtomicU64>,
}

/// The receiving end of a [`NewsSink`].
pub(crate) struct NewsQueue {
    news: Receiver<News>,
    /// By which who waits is woken.
    wake: SyncSender<News>,
}

/// A queue for news.
pub(crate) fn news() -> (NewsSink, NewsQueue) {
    let (queue, receiver) = sync_channel(NEWS_MAX);
    let wake = queue.clone();
    (
        NewsSink {
            queue,
            lost: Arc::default(),
        },
        NewsQueue {
            news: receiver,
            wake,
        },
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

/// Flows that are handed on at once.
const BATCH_MAX: usize = 512;
/// How long news gather, once some came after a rest. Meanwhile nobody waits for the next piece, so that
/// who brings it has no thread to wake: that would cost a request more than all else that is told of it.
const GATHER: Duration = Duration::from_millis(5);

/// The thread that turns news into flows.
pub(crate) struct FlowThread {
    stop: Arc<AtomicU64>,
    wake: SyncSender<News>,
    thread: JoinHandle<()>,
}

impl FlowThread {
    /// Starts it; files get the flows that they want, and metrics count them.
    ///
    /// # Errors
    /// If the thread can't be made.
    pub(crate) fn start(
        queue: NewsQueue,
        (teller, ring): (Arc<Teller>, Arc<SharedRing>),
        (exporters, metrics): (SharedExporters, Option<Arc<FlowMetrics>>),
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicU64::new(0));
        let stopped = Arc::clone(&stop);
        let NewsQueue { news: queue, wake } = queue;
        let thread = std::thread::Builder::new()
            .name("flows".to_owned())
            .spawn(move || {
                while let Some(batch) = next_batch(&queue, &stopped) {
                    let exporters = exporters.load();
                    let told = |flow: &Arc<Flow>| {
                        exporters.iter().for_each(|one| one.sink.tell(flow));
                        metrics.iter().for_each(|metrics| metrics.see(flow));
                    };
                    let flows = batch.into_iter().flat_map(|news| flows_of(&teller, news));
                    ring.push(flows.flatten().inspect(told), clock::now());
                }
            })?;
        Ok(Self { stop, wake, thread })
    }

    /// Tells what waits, and ends. Whoever brings news must have ended.
    pub(crate) fn stop(self) {
        self.stop.store(1, Ordering::Relaxed);
        // If the queue is full nobody waits for it.
        let _ = self.wake.try_send(News::End);
        let _ = self.thread.join();
    }
}

/// One or two, or none where it is only counted. Each is in its last place as soon as it is made: it is large.
fn flows_of(teller: &Teller, news: News) -> [Option<Arc<Flow>>; 2] {
    let (first, second) = match news {
        News::Exchange(told) => {
            let (request, response) = teller.exchange(&told);
            (Some(request), response)
        }
        News::Http(news) => (teller.http(&news), None),
        News::Kernel(event) => (teller.kernel(&event), None),
        News::End => (None, None),
    };
    [first.map(Arc::new), second.map(Arc::new)]
}

/// What came since; `None` once it was stopped and nothing is left.
fn next_batch<T>(queue: &Receiver<T>, stopped: &AtomicU64) -> Option<Vec<T>> {
    const WAIT: Duration = Duration::from_millis(100);
    let is_stopped = stopped.load(Ordering::Relaxed) != 0;
    let waiting: Vec<T> = queue.try_iter().take(BATCH_MAX).collect();
    if !waiting.is_empty() {
        return Some(waiting);
    }
    if is_stopped {
        return None;
    }
    match queue.recv_timeout(WAIT) {
        Ok(first) => {
            std::thread::sleep(GATHER);
            let more = queue.try_iter().take(BATCH_MAX - 1);
            Some(std::iter::once(first).chain(more).collect())
        }
        Err(RecvTimeoutError::Timeout) => Some(Vec::new()),
        Err(RecvTimeoutError::Disconnected) => None,
    }
}

#[cfg(test)]
mod tests;
