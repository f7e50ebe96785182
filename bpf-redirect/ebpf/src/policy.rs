//! The verdict of an endpoint's policy map.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use bpf_redirect_common::{Drop, Match, PolicyKey, Verdict};

use crate::{
    maps::{POLICY, PolicyMap},
    packet::Fragment,
};

/// A verdict, and what made it.
pub struct Judgement {
    pub verdict: Verdict,
    /// The number of a [`Match`].
    pub matched: u8,
    pub rule: u32,
}

/// What is judged: a flow's first packet, seen from the endpoint.
pub struct Flow {
    pub identity: u32,
    /// Destination port, or type of ICMP, host byte order; `None` where there is neither.
    pub port: Option<u16>,
    pub protocol: u8,
    pub direction: u8,
}

/// Asks all entries that can match and takes the strongest verdict; among equal ones the longer
/// protocol and port, then the specific identity. `None`: the endpoint has no
/// policy map, nothing may pass.
#[inline(always)]
pub fn judge(endpoint: u32, flow: &Flow) -> Option<Judgement> {
    let port = flow.port.map_or(0, |port| HAS_PORT | u64::from(port));
    let way = u64::from(flow.protocol) << 32 | u64::from(flow.direction) << 40;
    match strongest(endpoint, flow.identity, way | port) {
        NO_POLICY => None,
        best => Some(Judgement::of(best)),
    }
}

/// What no entry is: its verdict would be the 255th.
const NO_POLICY: u64 = u64::MAX;

/// Of what is asked, beside 16 bits of port, the protocol from bit 32 and the direction from bit 40.
const HAS_PORT: u64 = 1 << 16;

/// The strongest entry in one number: verdict, proxy, rank, form, rule; 0 if there is none.
///
/// A function that the verifier looks at by itself, for any numbers, and not once more for each way on which
/// a packet can come here: that was three quarters of all that it did.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn strongest(endpoint: u32, identity: u32, asked: u64) -> u64 {
    // SAFETY: the inner map is only asked, by helpers.
    let Some(map) = (unsafe { POLICY.get(&endpoint) }) else {
        return NO_POLICY;
    };
    let (protocol, direction) = ((asked >> 32) as u8, (asked >> 40) as u8);
    let mut search = Search {
        map,
        identity,
        port: 0,
        protocol,
        direction,
        best: 0,
        lengths: 0,
    };
    if asked & HAS_PORT != 0 {
        search.port = asked as u16;
        search.ask_ports(16);
        // SAFETY: a word that is read once.
        let lengths = unsafe { map.get(&PolicyKey::lengths(direction)) };
        search.lengths = lengths.map_or(0, |[value]| value.rule);
        if search.lengths & PARTS_OF_RANGES != 0 {
            let search: *mut Search = &mut search;
            // SAFETY: the callback gets `search`, which lives on; 15 turns, from 15 bits down to 1.
            unsafe { bpf_loop(15, ask_length as *mut c_void, search.cast(), 0) };
        }
    }
    let key = |identity, protocol| PolicyKey::new(direction, identity, protocol, (0, 0));
    search.ask(&key(identity, protocol), (4, Match::L3Proto));
    search.ask(&key(0, protocol), (3, Match::ProtoOnly));
    search.ask(&key(identity, 0), (2, Match::L3Only));
    search.ask(&key(0, 0), (1, Match::All));
    search.best
}

/// The lengths that neither one port nor all of them have.
const PARTS_OF_RANGES: u32 = 0xfffe;

/// One turn of the search for parts of ranges.
unsafe extern "C" fn ask_length(turn: u32, search: *mut c_void) -> i64 {
    // SAFETY: `strongest` gives a pointer to its own search.
    let search = unsafe { &mut *search.cast::<Search>() };
    let bits = 15 - (turn & 0xf) as u8;
    if search.lengths >> bits & 1 != 0 {
        search.ask_ports(bits);
    }
    0
}

/// A search for the strongest entry.
struct Search {
    map: &'static PolicyMap,
    /// The strongest so far.
    best: u64,
    identity: u32,
    lengths: u32,
    port: u16,
    protocol: u8,
    direction: u8,
}

impl Search {
    /// Asks the entries with the first `bits` bits of the port.
    #[inline(always)]
    fn ask_ports(&mut self, bits: u8) {
        let Self {
            identity,
            protocol,
            direction,
            ..
        } = *self;
        let rank = 2 * bits + 4;
        let key = |identity| PolicyKey::new(direction, identity, protocol, (self.port, bits));
        let (own, any) = (key(identity), key(0));
        self.ask(&own, (rank + 1, Match::L3L4));
        self.ask(&any, (rank, Match::L4Only));
    }

    /// Takes an entry's verdict if it is stronger.
    #[inline(always)]
    fn ask(&mut self, key: &PolicyKey, place: (u8, Match)) {
        let (rank, matched) = place;
        // SAFETY: plain integers; a torn read can't happen, entries are replaced, not written to.
        let Some([value]) = (unsafe { self.map.get(key) }) else {
            return;
        };
        let place = u64::from(rank) << 40 | (matched as u64) << 32;
        let strength = u64::from(value.verdict) << 56 | u64::from(value.proxy) << 48;
        let entry = strength | place | u64::from(value.rule);
        if entry > self.best {
            self.best = entry;
        }
    }

}

/// Whether a direction lets pass what no other entry is about: no policy is, or it is only audited.
#[inline(always)]
pub fn is_open(endpoint: u32, direction: u8) -> bool {
    // SAFETY: the inner map is only asked, by helpers.
    let Some(map) = (unsafe { POLICY.get(&endpoint) }) else {
        return false;
    };
    let key = PolicyKey::new(direction, 0, 0, (0, 0));
    // SAFETY: plain integers; entries are replaced, not written to.
    let Some([value]) = (unsafe { map.get(&key) }) else {
        return false;
    };
    matches!(
        Verdict::from_number(value.verdict),
        Verdict::Allow | Verdict::AuditUnmatched | Verdict::AuditDeny
    )
}

impl Judgement {
    /// What an endpoint sends to itself.
    pub const OWN: Self = Self { verdict: Verdict::Allow, matched: Match::None as u8, rule: 0 };

    /// Of the strongest entry.
    #[inline(always)]
    fn of(best: u64) -> Self {
        let verdict = Verdict::from_number((best >> 56) as u8);
        let matched = match verdict {
            // Its entry stands for want of one.
            Verdict::AuditUnmatched => 0,
            _ => (best >> 32) as u8,
        };
        Self { verdict, matched, rule: best as u32 }
    }

    /// Why a packet is dropped that it doesn't let pass.
    #[inline(always)]
    pub fn reason(&self, fragment: Fragment) -> Drop {
        match self.verdict {
            Verdict::Deny => Drop::PolicyDeny,
            Verdict::Refuse => Drop::NameHidden,
            Verdict::FailAuthentication => Drop::AuthenticationRequired,
            // Entries for ports may allow the packet that it is a part of.
            _ if fragment == Fragment::Later => Drop::FragmentNotFound,
            _ => Drop::PolicyDenied,
        }
    }
}
