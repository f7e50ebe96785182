//! Names under a pattern that look like data. A pattern is a channel: whoever may ask for `*.example.com`
//! can say something to the server of `example.com` with each name. It can't be closed, only be seen: by many
//! new names, many octets of name, or names of random letters. Caches and antivirus programs look alike, and a
//! slow tunnel passes; only whole names (`matchName`) with scrubbed queries carry nothing.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use fqdn::Name;
use policy::{DnsPermit, EndpointId};

use crate::limits::{
    TUNNEL_CLOSED, TUNNEL_NAMES_MAX, TUNNEL_OCTETS_MAX, TUNNEL_WATCHED_MAX,
    TUNNEL_WATCHED_PER_ENDPOINT_MAX, TUNNEL_WINDOW,
};

/// From how many names on their letters are looked at.
const RANDOM_NAMES_MIN: u32 = 50;
/// Bits that a letter of such a label carries, on average; words carry about 3.
const RANDOM_BITS_MIN: f32 = 3.8;
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
            .min_by_key(|(_, it)| (it.is_suspected, it.began));
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

/// A minute, from its first name on.
#[derive(Debug)]
struct Window {
    began: Instant,
    /// Hashes of what stands before the suffix.
    names: HashSet<u64>,
    octets: usize,
    labels: u32,
    /// The sum of the bits per letter, over the labels of each name once.
    bits: f32,
    is_suspected: bool,
    closed_until: Option<Instant>,
}

impl Tunnels {
    /// Looks at an allowed question. One for a whole name that a rule names is never suspected.
    pub fn look(&self, permit: &DnsPermit, mode: TunnelMode, now: Instant) -> Seen {
        let Some(literal) = permit.literal_labels() else {
            return Seen::Usual;
        };
        let kept = usize::from(literal).max(OWNER_LABELS);
        let name = &permit.question().name;
        self.look_at((permit.endpoint(), name, kept), mode, now)
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
        if window.is_over(now) {
            window.begin_anew(now);
        }
        window.look((labels, front.len(), hash), mode, now)
    }
}

impl Window {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            names: HashSet::new(),
            octets: 0,
            labels: 0,
            bits: 0.0,
            is_suspected: false,
            closed_until: None,
        }
    }

    /// The room for names stays: who asks much asks as much again.
    fn begin_anew(&mut self, now: Instant) {
        let mut names = std::mem::take(&mut self.names);
        names.clear();
        *self = Self {
            names,
            ..Self::new(now)
        };
    }

    fn is_over(&self, now: Instant) -> bool {
        match self.closed_until {
            Some(until) => now >= until,
            None => now.saturating_duration_since(self.began) >= TUNNEL_WINDOW,
        }
    }

    /// Looks at what stands before the suffix: its labels, how many octets they are, and their hash.
    fn look<'a>(
        &mut self,
        (labels, octets, hash): (impl Iterator<Item = &'a [u8]>, usize, u64),
        mode: TunnelMode,
        now: Instant,
    ) -> Seen {
        if self.is_suspected {
            let is_closed = self.closed_until.is_some() && !self.names.contains(&hash);
            return if is_closed { Seen::Closed } else { Seen::Usual };
        }
        self.octets += octets;
        if self.names.insert(hash) {
            for label in labels {
                self.labels += 1;
                self.bits += bits_per_letter(label);
            }
        }
        let count = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        #[expect(clippy::cast_precision_loss, reason = "some hundred labels")]
        let is_random =
            count > RANDOM_NAMES_MIN && self.bits > RANDOM_BITS_MIN * self.labels as f32;
        let is_much = self.names.len() > TUNNEL_NAMES_MAX || self.octets > TUNNEL_OCTETS_MAX;
        if !(is_much || is_random) {
            return Seen::Usual;
        }
        self.is_suspected = true;
        if mode == TunnelMode::Enforce {
            self.closed_until = Some(now + TUNNEL_CLOSED);
        }
        Seen::Suspected
    }
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
