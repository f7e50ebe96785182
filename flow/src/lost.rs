//! What a reader is told when events were lost on the way to it.

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

/// Where events get lost.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum LostSource {
    /// Not known.
    #[default]
    Unknown,
    /// Between kernel and daemon.
    PerfEventRingBuffer,
    /// In the daemon, before the ring.
    ObserverEventsQueue,
    /// In the ring: the reader was overtaken.
    HubbleRingBuffer,
}

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
            (LostSource::PerfEventRingBuffer, self.kernel),
            (LostSource::ObserverEventsQueue, self.queue),
        ];
        let lost = both.into_iter().filter(|(_, count)| *count > 0);
        lost.map(|(source, count)| LostEvents::at(source, count))
    }
}

impl LostSource {
    const ALL: [Self; 4] = [
        Self::Unknown,
        Self::PerfEventRingBuffer,
        Self::ObserverEventsQueue,
        Self::HubbleRingBuffer,
    ];

    /// The name in JSON and in print.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN_LOST_EVENT_SOURCE",
            Self::PerfEventRingBuffer => "PERF_EVENT_RING_BUFFER",
            Self::ObserverEventsQueue => "OBSERVER_EVENTS_QUEUE",
            Self::HubbleRingBuffer => "HUBBLE_RING_BUFFER",
        }
    }

    /// The source of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.name() == name)
    }

    /// The source of this number.
    #[must_use]
    pub fn from_number(number: usize) -> Option<Self> {
        Self::ALL.get(number).copied()
    }
}

impl LostEvents {
    /// Events that a reader of the ring missed.
    #[must_use]
    pub const fn in_ring(count: u64) -> Self {
        Self::at(LostSource::HubbleRingBuffer, count)
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
            LostSource::PerfEventRingBuffer => kernel = self.count,
            LostSource::ObserverEventsQueue => queue = self.count,
            LostSource::Unknown | LostSource::HubbleRingBuffer => {}
        }
        Losses { kernel, queue }
    }

    /// Appends the exporter's line, `{"lost_events":…,"node_name":…,"time":…}`, without a newline.
    pub fn write_exporter_line(&self, node_name: &str, time: Option<Time>, out: &mut String) {
        Object::write(out, |line| {
            line.nested("lost_events", |object| {
                object.name(
                    "source",
                    self.source.name(),
                    self.source == LostSource::Unknown,
                );
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
