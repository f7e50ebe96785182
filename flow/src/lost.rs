//! What a reader is told when events were lost on the way to it.

use std::fmt;

use crate::foreign::{Names, name_of, number_of};
use crate::json::Object;
use crate::time::Time;

/// Events that were lost, and where. Filters never hide it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LostEvents {
    /// Where they were lost.
    pub source: LostSource,
    /// How many.
    pub count: u64,
    /// The processor whose buffer was full, if that is known.
    pub cpu: Option<i32>,
    /// When the first was lost, if that is known.
    pub first: Option<Time>,
    /// When the last was lost, if that is known.
    pub last: Option<Time>,
}

/// Where events get lost, by Hubble's number; other agents may have more of them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LostSource(u32);

/// The places that have a name.
pub(crate) const LOST_SOURCES: Names = &[
    (0, "UNKNOWN_LOST_EVENT_SOURCE"),
    (1, "PERF_EVENT_RING_BUFFER"),
    (2, "OBSERVER_EVENTS_QUEUE"),
    (3, "HUBBLE_RING_BUFFER"),
];

/// How many events were lost before the ring, since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Losses {
    /// Between kernel and daemon.
    pub kernel: u64,
    /// In the daemon, on their way to become flows.
    pub queue: u64,
}

impl Losses {
    /// What came on top of what was known before.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            kernel: self.kernel.saturating_sub(before.kernel),
            queue: self.queue.saturating_sub(before.queue),
        }
    }

    /// Both together.
    #[must_use]
    pub const fn and(self, more: Self) -> Self {
        Self {
            kernel: self.kernel.saturating_add(more.kernel),
            queue: self.queue.saturating_add(more.queue),
        }
    }

    /// The same as events, those that there were.
    pub fn events(self) -> impl Iterator<Item = LostEvents> {
        let both = [
            (LostSource::PERF_EVENT_RING_BUFFER, self.kernel),
            (LostSource::OBSERVER_EVENTS_QUEUE, self.queue),
        ];
        let lost = both.into_iter().filter(|(_, count)| *count > 0);
        lost.map(|(source, count)| LostEvents::at(source, count))
    }
}

impl LostSource {
    /// Between kernel and daemon.
    pub const PERF_EVENT_RING_BUFFER: Self = Self(1);
    /// In the daemon, before the ring.
    pub const OBSERVER_EVENTS_QUEUE: Self = Self(2);
    /// In the ring: the reader was overtaken.
    pub const HUBBLE_RING_BUFFER: Self = Self(3);

    /// The number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The source of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        number_of(LOST_SOURCES, name).map(Self)
    }

    /// The source of this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }
}

/// The name in JSON and in print, or the number where there is none.
impl fmt::Display for LostSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match name_of(LOST_SOURCES, self.0) {
            Some(name) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

impl LostEvents {
    /// Events that a reader of the ring missed.
    #[must_use]
    pub const fn in_ring(count: u64) -> Self {
        Self::at(LostSource::HUBBLE_RING_BUFFER, count)
    }

    const fn at(source: LostSource, count: u64) -> Self {
        Self {
            source,
            count,
            cpu: None,
            first: None,
            last: None,
        }
    }

    /// The same as a count of what was lost before the ring; nothing where it was lost elsewhere.
    #[must_use]
    pub const fn to_losses(&self) -> Losses {
        let (mut kernel, mut queue) = (0, 0);
        match self.source {
            LostSource::PERF_EVENT_RING_BUFFER => kernel = self.count,
            LostSource::OBSERVER_EVENTS_QUEUE => queue = self.count,
            _ => {}
        }
        Losses { kernel, queue }
    }

    /// Appends the exporter's line, `{"lost_events":…,"node_name":…,"time":…}`, without a newline.
    pub fn write_exporter_line(&self, node_name: &str, time: Option<Time>, out: &mut String) {
        Object::write(out, |line| {
            line.nested("lost_events", |object| {
                object.enumerated("source", LOST_SOURCES, self.source.number());
                object.long("num_events_lost", self.count);
                if let Some(cpu) = self.cpu {
                    object.raw("cpu", cpu);
                }
                object.time("first", self.first);
                object.time("last", self.last);
            });
            line.text("node_name", node_name);
            line.time("time", time);
        });
    }
}
