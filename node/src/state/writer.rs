//! What was learned is gathered and written by a thread of its own: expiry waits for no disk, and on a busy CPU
//! answers go before it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::remembered::Remembered;

/// How much the thread gives way to others of the node (`setpriority(2)`).
const NICENESS: i32 = 10;

/// Gathers what is to be written.
type Gather = Box<dyn FnOnce() -> Remembered + Send>;

/// The thread; it has one file to write at a time.
pub(crate) struct Writer {
    send: SyncSender<Gather>,
    busy: Arc<AtomicBool>,
    /// Why the last one wasn't written.
    fault: Arc<Mutex<Option<String>>>,
    thread: JoinHandle<()>,
}

impl Writer {
    pub(super) fn start(
        mut write: impl FnMut(&Remembered) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let (send, receive) = sync_channel::<Gather>(1);
        let busy = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&busy);
        let fault = Arc::new(Mutex::new(None));
        let told = Arc::clone(&fault);
        let thread = std::thread::Builder::new().name("keep".to_owned());
        let thread = thread.spawn(move || {
            // Of this thread alone; where it may not be so, it is no worse.
            let _ = rustix::process::setpriority_process(None, NICENESS);
            for gather in receive {
                let failed = write(&gather()).err().map(|error| error.to_string());
                let mut told = told.lock();
                if let (Some(error), None) = (&failed, &*told) {
                    tracing::error!("what was learned can't be kept: {error}");
                }
                *told = failed;
                drop(told);
                done.store(false, Ordering::Release);
            }
        })?;
        Ok(Self {
            send,
            busy,
            fault,
            thread,
        })
    }

    /// Why the last one wasn't written, if it wasn't.
    pub(crate) fn fault(&self) -> Option<String> {
        self.fault.lock().clone()
    }

    /// Whether it has nothing to do: else what is offered has to wait.
    pub(crate) fn is_free(&self) -> bool {
        !self.busy.load(Ordering::Acquire)
    }

    /// Has this gathered and written, if it is free; doesn't wait.
    pub(crate) fn offer(&self, gather: impl FnOnce() -> Remembered + Send + 'static) {
        if !self.busy.swap(true, Ordering::AcqRel) && self.send.try_send(Box::new(gather)).is_err()
        {
            tracing::error!("what was learned can't be kept: the thread that writes is dead");
        }
    }

    /// Has this written last, and waits for it.
    pub(crate) fn end(self, remembered: Remembered) {
        // Dead, and said so.
        let _ = self.send.send(Box::new(|| remembered));
        drop(self.send);
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    fn numbered(number: u64) -> Remembered {
        Remembered::new(
            std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(number),
            &policy::Identities::new(),
            std::collections::BTreeMap::new(),
        )
    }

    #[test]
    fn a_fault_is_told_until_the_disk_takes_it_again() {
        let results = Mutex::new(vec![Ok(()), Err(io::Error::other("full")), Ok(())]);
        let writer = Writer::start(move |_| results.lock().pop().unwrap()).unwrap();
        let told = |number| {
            writer.offer(move || numbered(number));
            while !writer.is_free() {
                std::thread::yield_now();
            }
            writer.fault()
        };
        assert_eq!(told(1), None);
        assert_eq!(told(2).as_deref(), Some("full"));
        assert_eq!(told(3), None);
    }

    #[test]
    fn a_slow_disk_holds_nobody_up_and_has_the_last_word() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let disk = Arc::clone(&written);
        let writer = Writer::start(move |remembered| {
            std::thread::sleep(Duration::from_millis(500));
            disk.lock().push(serde_json::to_string(remembered).unwrap());
            Ok(())
        });
        let writer = writer.unwrap();
        let began = clock::now();
        assert!(writer.is_free());
        writer.offer(|| numbered(1));
        assert!(!writer.is_free());
        writer.offer(|| numbered(2));
        assert!(clock::now() - began < Duration::from_millis(300));
        writer.end(numbered(3));
        let written = written.lock();
        assert_eq!(written.len(), 2, "{written:?}");
        assert!(written[0].contains("\"written_ms\":1,"), "{written:?}");
        assert!(written[1].contains("\"written_ms\":3,"), "{written:?}");
    }
}
