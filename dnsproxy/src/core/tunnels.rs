//! Names under a pattern that look like data. A pattern is a channel: whoever may ask for `*.example.com`
//! can say something to the server of `example.com` with each name. It can't be closed, only be seen: by many
//! new names, many octets of name, names of random letters, or many that don't exist. Caches and antivirus programs look alike, and a
//! slow tunnel passes; only whole names (`matchName`) with scrubbed queries carry nothing.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fqdn::Name;
use policy::{DnsPermit, EndpointId};

use super::record::{Outcome, Told};
use crate::limits::{
    TUNNEL_CLOSED, TUNNEL_NAMES_MAX, TUNNEL_OCTETS_MAX, TUNNEL_WATCHED_MAX,
    TUNNEL_WATCHED_PER_ENDPOINT_MAX, TUNNEL_WINDOW,
};
use crate::question::Rcode;

/// From how many names on their letters are looked at.
const RANDOM_NAMES_MIN: usize = 50;
/// Bits that a letter of such a label carries, on average; words carry about 3.
const RANDOM_BITS_MIN: f32 = 3.8;
/// From how many names on it is looked at how many of them don't exist; more than half are too many.
const ABSENT_NAMES_MIN: usize = 50;
/// The steps in which a window slides.
const SLICES: u32 = 12;
/// How long each is.
const SLICE: Duration = Duration::from_secs(TUNNEL_WINDOW.as_secs() / SLICES as u64);
/// Labels that stand for the owner of a name where a pattern names fewer.
const OWNER_LABELS: usize = 2;

/// What is done about names that look like data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelMode {
    /// Nobody looks.
    Off,
    /// They are told.
    Report,
    /// They are told, and names that weren't asked before are denied for a while.
    Enforce,
}

/// What is seen in a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing.
    Usual,
    /// With it there are too many; said once in a window.
    Suspected,
    /// The endpoint's new names under the pattern are closed.
    Closed,
    /// Too much of the endpoint's is watched already: nobody looks at this one.
    Unwatched,
}

/// The names of all endpoints in their last minute, by what their patterns name.
#[derive(Debug, Default)]
pub struct Tunnels {
    watched: Mutex<Watched>,
    hasher: RandomState,
}

/// The windows of each endpoint, by a hash of the suffix; that two have the same is less likely than a false
/// alarm.
#[derive(Debug, Default)]
struct Watched {
    by_endpoint: HashMap<EndpointId, HashMap<u64, Window>>,
    count: usize,
}

impl Watched {
    /// Makes room for one more window of an endpoint: those that are over go, and where the node watches as
    /// many as it may, the oldest of whoever has most. `false` if that is this endpoint, or it has its share.
    fn make_room(&mut self, endpoint: EndpointId, now: Instant) -> bool {
        let own = self.by_endpoint.get(&endpoint).map_or(0, HashMap::len);
        if own < TUNNEL_WATCHED_PER_ENDPOINT_MAX && self.count < TUNNEL_WATCHED_MAX {
            return true;
        }
        for windows in self.by_endpoint.values_mut() {
            windows.retain(|_, window| !window.is_over(now));
        }
        self.by_endpoint.retain(|_, windows| !windows.is_empty());
        self.count = self.by_endpoint.values().map(HashMap::len).sum();
        let own = self.by_endpoint.get(&endpoint).map_or(0, HashMap::len);
        if own >= TUNNEL_WATCHED_PER_ENDPOINT_MAX {
            return false;
        }
        if self.count < TUNNEL_WATCHED_MAX {
            return true;
        }
        let most = self.by_endpoint.values_mut().max_by_key(|all| all.len());
        let Some(most) = most.filter(|most| most.len() > own + 1) else {
            return false;
        };
        // What is closed stays so if it can.
        let oldest = most
            .iter()
            .min_by_key(|(_, it)| (it.suspected_until, it.asked));
        if let Some(oldest) = oldest.map(|(key, _)| *key) {
            most.remove(&oldest);
            self.count -= 1;
        }
        true
    }

    fn window(&mut self, (endpoint, key): (EndpointId, u64), now: Instant) -> Option<&mut Window> {
        let is_there = |all: &HashMap<u64, Window>| all.contains_key(&key);
        if !self.by_endpoint.get(&endpoint).is_some_and(is_there) {
            if !self.make_room(endpoint, now) {
                return None;
            }
            self.count += 1;
        }
        let windows = self.by_endpoint.entry(endpoint).or_default();
        Some(windows.entry(key).or_insert_with(|| Window::new(now)))
    }
}

/// The last minute, which goes on by a slice at a time.
#[derive(Debug)]
struct Window {
    /// When its first slice began.
    began: Instant,
    /// When the last name was asked.
    asked: Instant,
    /// The slice that it is in.
    slice: u32,
    /// By hashes of what stands before the suffix.
    names: HashMap<u64, Asked>,
    /// What was asked in each slice, at the slice's number modulo their count.
    octets: [usize; SLICES as usize],
    /// Labels of all names, and the sum of their bits per letter.
    letters: (u32, f32),
    /// How many of the names don't exist.
    absent: usize,
    /// Nothing is counted until then: it was said that there are too many.
    suspected_until: Option<Instant>,
    /// Until then, names that weren't asked before are denied.
    is_closed: bool,
}

/// A name of a window.
#[derive(Debug)]
struct Asked {
    /// The last slice in which it was asked.
    slice: u32,
    labels: u32,
    /// The sum of the bits per letter, over its labels.
    bits: f32,
    /// It was answered that it doesn't exist.
    is_absent: bool,
}

impl Tunnels {
    /// Looks at an allowed question. One for a whole name that a rule names is never suspected.
    pub fn look(&self, permit: &DnsPermit, mode: TunnelMode, now: Instant) -> Seen {
        let Some(kept) = kept(permit.literal_labels()) else {
            return Seen::Usual;
        };
        let name = &permit.question().name;
        self.look_at((permit.endpoint(), name, kept), mode, now)
    }

    /// Heeds how an exchange ended: of a name that doesn't exist it is noted.
    pub fn heed(&self, told: &Told) {
        let is_absent =
            matches!(&told.outcome, Outcome::Answered(answer) if answer.rcode == Rcode::NX_DOMAIN);
        let literal = told.allowed_by.and_then(|by| by.literal_labels);
        let Some(kept) = kept(literal).filter(|_| is_absent) else {
            return;
        };
        self.note_absent(told.origin.endpoint, &told.question.name, kept);
    }

    fn note_absent(&self, endpoint: EndpointId, name: &Name, kept: usize) {
        let Some((_, front, suffix)) = split(name, kept) else {
            return;
        };
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let windows = watched.by_endpoint.get_mut(&endpoint);
        if let Some(window) = windows.and_then(|all| all.get_mut(&self.hasher.hash_one(suffix))) {
            window.note_absent(self.hasher.hash_one(front));
        }
    }

    fn look_at(
        &self,
        (endpoint, name, kept): (EndpointId, &Name, usize),
        mode: TunnelMode,
        now: Instant,
    ) -> Seen {
        if mode == TunnelMode::Off {
            return Seen::Usual;
        }
        let Some((labels, front, suffix)) = split(name, kept) else {
            return Seen::Usual;
        };
        let key = (endpoint, self.hasher.hash_one(suffix));
        let hash = self.hasher.hash_one(front);
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(window) = watched.window(key, now) else {
            return match mode {
                // Else it would be the way to be watched no more.
                TunnelMode::Enforce => Seen::Closed,
                TunnelMode::Off | TunnelMode::Report => Seen::Unwatched,
            };
        };
        window.slide(now);
        window.look((labels, front.len(), hash), mode, now)
    }
}

impl Window {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            asked: now,
            slice: 0,
            names: HashMap::new(),
            octets: [0; SLICES as usize],
            letters: (0, 0.0),
            absent: 0,
            suspected_until: None,
            is_closed: false,
        }
    }

    /// Whether nothing of it counts any more.
    fn is_over(&self, now: Instant) -> bool {
        match self.suspected_until {
            Some(until) => now >= until,
            None => now.saturating_duration_since(self.asked) >= TUNNEL_WINDOW,
        }
    }

    /// Goes on to the time. The room for names stays: who asks much asks as much again.
    fn slide(&mut self, now: Instant) {
        if self.is_over(now) {
            let mut names = std::mem::take(&mut self.names);
            names.clear();
            *self = Self {
                names,
                ..Self::new(now)
            };
        }
        self.asked = now;
        let passed = now.saturating_duration_since(self.began).as_secs() / SLICE.as_secs();
        let slice = u32::try_from(passed).unwrap_or(u32::MAX);
        if self.suspected_until.is_some() || slice == self.slice {
            return;
        }
        for gone in (self.slice + 1..=slice).take(SLICES as usize) {
            if let Some(octets) = self.octets.get_mut((gone % SLICES) as usize) {
                *octets = 0;
            }
        }
        self.slice = slice;
        self.names.retain(|_, asked| slice - asked.slice < SLICES);
        self.letters = (0, 0.0);
        for asked in self.names.values() {
            self.letters.0 += asked.labels;
            self.letters.1 += asked.bits;
        }
        self.absent = self.names.values().filter(|asked| asked.is_absent).count();
    }

    fn note_absent(&mut self, hash: u64) {
        if let Some(asked) = self.names.get_mut(&hash).filter(|asked| !asked.is_absent) {
            asked.is_absent = true;
            self.absent += 1;
        }
    }

    /// Looks at what stands before the suffix: its labels, how many octets they are, and their hash.
    fn look<'a>(
        &mut self,
        (labels, octets, hash): (impl Iterator<Item = &'a [u8]>, usize, u64),
        mode: TunnelMode,
        now: Instant,
    ) -> Seen {
        if self.suspected_until.is_some() {
            let is_closed = self.is_closed && !self.names.contains_key(&hash);
            return if is_closed { Seen::Closed } else { Seen::Usual };
        }
        if let Some(sum) = self.octets.get_mut((self.slice % SLICES) as usize) {
            *sum += octets;
        }
        let slice = self.slice;
        let letters = &mut self.letters;
        let asked = self.names.entry(hash).or_insert_with(|| {
            let (mut count, mut bits) = (0, 0.0);
            for label in labels {
                count += 1;
                bits += bits_per_letter(label);
            }
            *letters = (letters.0 + count, letters.1 + bits);
            Asked {
                slice,
                labels: count,
                bits,
                is_absent: false,
            }
        });
        asked.slice = slice;
        if !self.is_suspicious() {
            return Seen::Usual;
        }
        self.is_closed = mode == TunnelMode::Enforce;
        let silent = if self.is_closed {
            TUNNEL_CLOSED
        } else {
            TUNNEL_WINDOW
        };
        self.suspected_until = Some(now + silent);
        Seen::Suspected
    }

    #[expect(clippy::cast_precision_loss, reason = "some hundred labels")]
    fn is_suspicious(&self) -> bool {
        let (count, (labels, bits)) = (self.names.len(), self.letters);
        let is_much =
            count > TUNNEL_NAMES_MAX || self.octets.iter().sum::<usize>() > TUNNEL_OCTETS_MAX;
        let is_random = count > RANDOM_NAMES_MIN && bits > RANDOM_BITS_MIN * labels as f32;
        let is_absent = count > ABSENT_NAMES_MIN && self.absent * 2 > count;
        is_much || is_random || is_absent
    }
}

/// How many labels at a name's end are the owner's, by how many its pattern names.
fn kept(literal: Option<u8>) -> Option<usize> {
    Some(usize::from(literal?).max(OWNER_LABELS))
}

/// What stands before the last labels of a name, label by label and as octets, and those; `None` if there
/// is nothing before them.
fn split(name: &Name, kept: usize) -> Option<(impl Iterator<Item = &[u8]>, &[u8], &[u8])> {
    let labels = name.labels();
    let dropped = labels.clone().count().checked_sub(kept);
    let front = labels.take(dropped.filter(|dropped| *dropped > 0)?);
    let octets: usize = front.clone().map(|label| 1 + label.len()).sum();
    let (octets, suffix) = name.as_wire().split_at_checked(octets)?;
    Some((front, octets, suffix))
}

/// How many bits a letter of a label carries, by how often each occurs in it (Shannon's entropy).
#[expect(clippy::cast_precision_loss, reason = "63 letters at most")]
fn bits_per_letter(label: &[u8]) -> f32 {
    let mut counts = [0_u8; 256];
    for octet in label {
        if let Some(count) = counts.get_mut(usize::from(*octet)) {
            *count = count.saturating_add(1);
        }
    }
    let all = label.len() as f32;
    let shares = counts.iter().filter(|count| **count > 0);
    let shares = shares.map(|count| f32::from(*count) / all);
    shares.map(|share| -share * share.log2()).sum()
}

#[cfg(test)]
mod tests;
