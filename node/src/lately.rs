//! What was learned since it was last written to disk: noted before an answer is released, in memory that
//! outlives the daemon. Whoever is killed right after an answer leaves it there to the next one.
//!
//! Two halves take turns. What is gathered for the disk holds all that stands in the other half than the one
//! that is noted in since, so that one is emptied once it is written.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use transport::{SharedFile, SharedPart};

use crate::clock;
use crate::remembered::{Pair, RememberedIdentity, RememberedName};

/// Octets of a half, about fifteen thousand answers. What has no room until the next writing is counted, and
/// would be closed by a daemon that follows a kill.
pub(crate) const NOTED_OCTETS_MAX: usize = 4 << 20;

/// The name of the memory.
const NAME: &str = "namegate-lately";
/// Before the notes of a half: how many octets of it are notes.
const HEADER: usize = 8;
/// Before each note: how long it is.
const LENGTH: usize = 4;

/// An answer: whose it was, what it opened, and what the kernel takes that for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Note {
    /// `NAMESPACE/NAME` of the endpoint.
    owner: String,
    /// The name, with ends in milliseconds since boot.
    name: RememberedName,
    identities: Vec<RememberedIdentity>,
}

/// The memory.
pub(crate) struct Lately {
    halves: Mutex<Halves>,
    descriptor: OwnedFd,
}

struct Halves {
    both: [SharedPart; 2],
    /// In which of them is noted.
    current: usize,
}

impl Note {
    /// Of an answer.
    pub(crate) fn new(
        owner: &str,
        (name, opened, now): (RememberedName, &[(IpAddr, Instant)], Instant),
        identities: Vec<RememberedIdentity>,
    ) -> Self {
        let booted_ms = clock::boot_ns() / 1_000_000;
        let end = |(ip, end): &(IpAddr, Instant)| {
            let left = end.saturating_duration_since(now).as_millis();
            let left = u64::try_from(left).unwrap_or(u64::MAX);
            (*ip, booted_ms.saturating_add(left))
        };
        Self {
            owner: owner.to_owned(),
            name: RememberedName {
                addresses: opened.iter().map(end).collect(),
                ..name
            },
            identities,
        }
    }
}

impl Lately {
    /// The memory that an earlier daemon left, with what it had noted, else a new one.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn open(left: Option<OwnedFd>) -> io::Result<(Self, Vec<Note>)> {
        let len = 2 * NOTED_OCTETS_MAX;
        let adopted = left.and_then(|left| SharedFile::adopt(left, len).ok());
        let file = match adopted {
            Some(file) => file,
            None => SharedFile::create(NAME, len)?,
        };
        let descriptor = file.descriptor()?;
        let both = <[SharedPart; 2]>::try_from(file.parts(NOTED_OCTETS_MAX));
        let both = both.map_err(|_| io::Error::other("not two halves"))?;
        let notes = both.iter().flat_map(notes).collect();
        let halves = Mutex::new(Halves { both, current: 0 });
        Ok((Self { halves, descriptor }, notes))
    }

    /// Another descriptor of the memory, to be kept by somebody.
    ///
    /// # Errors
    /// If there are too many.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.descriptor.try_clone()
    }

    /// Notes an answer: when this returns, the next daemon finds it. Says whether there was room.
    pub(crate) fn note(&self, note: &Note) -> bool {
        let octets = serde_json::to_vec(note).unwrap_or_default();
        let len = u32::try_from(octets.len()).unwrap_or(u32::MAX);
        let mut halves = self.halves.lock();
        let current = halves.current;
        let Some(half) = halves.both.get_mut(current) else {
            return false;
        };
        let used = used(half);
        let end = HEADER + used + LENGTH + octets.len();
        if end > NOTED_OCTETS_MAX {
            return false;
        }
        half.write(HEADER + used, &len.to_ne_bytes());
        half.write(HEADER + used + LENGTH, &octets);
        // Whoever is killed before leaves no half of a note.
        half.set_long(0, u64::try_from(end - HEADER).unwrap_or(0));
        true
    }

    /// To be called before what is learned is gathered for the disk: what is noted later may not be among it.
    pub(crate) fn turn(&self) {
        let mut halves = self.halves.lock();
        let other = 1 - halves.current;
        // Else the last writing failed, or isn't over: what stands there is needed yet.
        if halves.both.get(other).is_some_and(|half| used(half) == 0) {
            halves.current = other;
        }
    }

    /// To be called when what was gathered is on disk.
    pub(crate) fn written(&self) {
        let mut halves = self.halves.lock();
        let other = 1 - halves.current;
        if let Some(half) = halves.both.get_mut(other) {
            half.set_long(0, 0);
        }
    }

    /// Whether it is time to write to disk, since there is soon no room.
    pub(crate) fn is_filling(&self) -> bool {
        let halves = self.halves.lock();
        let half = halves.both.get(halves.current);
        half.is_some_and(|half| used(half) > NOTED_OCTETS_MAX / 2)
    }
}

/// What endpoints knew, by their names.
type Known = BTreeMap<String, Vec<Pair>>;

/// What notes say that endpoints knew and that has not ended by `now`, and the numbers that the kernel knows.
pub(crate) fn read(
    notes: Vec<Note>,
    (now, boot_ns): (Instant, u64),
) -> (Known, Vec<RememberedIdentity>) {
    let (mut known, mut identities) = (Known::new(), Vec::new());
    let booted_ms = boot_ns / 1_000_000;
    for note in notes {
        identities.extend(note.identities);
        let open = note.name.pairs(booted_ms, now);
        known.entry(note.owner).or_default().extend(open);
    }
    (known, identities)
}

/// How many octets of a half are notes.
fn used(half: &SharedPart) -> usize {
    let used = usize::try_from(half.long(0)).unwrap_or(usize::MAX);
    used.min(NOTED_OCTETS_MAX - HEADER)
}

/// What stands in a half; as far as it can be read, where another version wrote it.
fn notes(half: &SharedPart) -> Vec<Note> {
    let mut all = vec![0; used(half)];
    half.read(HEADER, &mut all);
    let (mut notes, mut rest) = (Vec::new(), &all[..]);
    while let Some((length, tail)) = rest.split_first_chunk::<LENGTH>() {
        let length = usize::try_from(u32::from_ne_bytes(*length)).unwrap_or(usize::MAX);
        let Some((note, tail)) = tail.split_at_checked(length) else {
            break;
        };
        notes.extend(serde_json::from_slice::<Note>(note).ok());
        rest = tail;
    }
    notes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn note(number: usize) -> Note {
        let name = RememberedName {
            name: format!("n{number}.io."),
            server: None,
            addresses: Vec::new(),
        };
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let now = clock::now();
        let opened = [(address, now + Duration::from_secs(60))];
        Note::new("default/a", (name, &opened, now), Vec::new())
    }

    /// What the next one would find.
    fn left(lately: &Lately) -> Vec<String> {
        let (_, notes) = Lately::open(Some(lately.descriptor().unwrap())).unwrap();
        notes.into_iter().map(|note| note.name.name).collect()
    }

    #[test]
    fn what_is_noted_is_found_until_it_is_on_disk() {
        let (lately, notes) = Lately::open(None).unwrap();
        assert!(notes.is_empty());
        lately.note(&note(1));
        lately.turn();
        lately.note(&note(2)); // while the first is gathered
        assert_eq!(left(&lately), ["n1.io.", "n2.io."]);
        lately.written();
        assert_eq!(left(&lately), ["n2.io."]);
        lately.turn();
        // The disk is full: that one stays, and is with the next in the same half.
        lately.note(&note(3));
        lately.turn();
        lately.note(&note(4));
        assert_eq!(left(&lately), ["n3.io.", "n4.io.", "n2.io."]);
        lately.written();
        assert_eq!(left(&lately), ["n3.io.", "n4.io."]);
        lately.turn();
        lately.written();
        assert_eq!(left(&lately), [""; 0]);
    }

    #[test]
    fn a_daemon_after_a_kill_keeps_both_halves_until_it_has_written() {
        let (lately, _) = Lately::open(None).unwrap();
        lately.note(&note(1));
        lately.turn();
        lately.note(&note(2));
        let (next, notes) = Lately::open(Some(lately.descriptor().unwrap())).unwrap();
        assert_eq!(notes.len(), 2);
        next.note(&note(3));
        assert_eq!(left(&next), ["n1.io.", "n3.io.", "n2.io."]);
        for _ in 0..2 {
            next.turn();
            next.written();
        }
        assert_eq!(left(&next), [""; 0]);
    }

    #[test]
    fn what_has_no_room_is_said_and_a_note_ends_when_it_should() {
        let (lately, _) = Lately::open(None).unwrap();
        let mut count = 0;
        while lately.note(&note(count)) {
            count += 1;
            let used = used(&lately.halves.lock().both[0]);
            assert_eq!(lately.is_filling(), used > NOTED_OCTETS_MAX / 2);
        }
        assert!(count > 10_000, "{count}");
        let (_, notes) = Lately::open(Some(lately.descriptor().unwrap())).unwrap();
        assert_eq!(notes.len(), count);
        lately.turn();
        assert!(lately.note(&note(count)), "room again");
        let (now, boot_ns) = (clock::now(), clock::boot_ns());
        let after = |secs: u64| {
            let (found, _) = read(vec![note(7)], (now, boot_ns + secs * 1_000_000_000));
            found["default/a"].iter().map(|pair| pair.end - now).max()
        };
        let left = after(20).unwrap();
        assert!(
            left <= Duration::from_secs(41) && left > Duration::from_secs(39),
            "{left:?}"
        );
        assert_eq!(after(61), None);
    }

    #[test]
    fn what_another_version_left_is_as_nothing() {
        let (lately, _) = Lately::open(None).unwrap();
        let mut halves = lately.halves.lock();
        halves.both[0].set_long(0, u64::MAX);
        halves.both[0].write(HEADER, &[9; 64]);
        halves.both[1].set_long(0, 20);
        halves.both[1].write(HEADER, &[2, 0, 0, 0, b'{', b'}', 200, 0, 0, 0]);
        drop(halves);
        assert_eq!(left(&lately), [""; 0]);
        let other = SharedFile::create("other", 4_096).unwrap();
        let (_, notes) = Lately::open(Some(other.descriptor().unwrap())).unwrap();
        assert!(notes.is_empty());
    }
}
