//! What every frame on the side link says of itself.

/// The first two bytes of each source MAC on the side link: locally administered, `N`.
pub const MAC_PREFIX: [u8; 2] = [0x02, 0x4e];

/// The MAC of the gate's end. Its low four bytes name an endpoint that is never given.
pub const GATE_MAC: [u8; 6] = [0x02, 0x4e, 0xff, 0xff, 0xff, 0xff];

/// Where a frame goes that is to be refused: its sender is told by ICMP, in the gate. It names no endpoint.
pub const REFUSAL_MAC: [u8; 6] = [0x02, 0x4e, 0, 0, 0, 0];

/// Which leg of an exchange a frame belongs to, in both directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Gate and network, in the endpoint's name (kind 1).
    Upstream,
    /// Endpoint and gate (kind 2).
    Client,
}

/// Kind and endpoint in 32 bits: `skb->mark` inside the gate, the low four bytes of the source MAC
/// on the side link. Bit 31 set is the upstream leg; the low 31 bits are the endpoint, 1 to
/// 0x7ffffffe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark(u32);

impl Mark {
    const UPSTREAM: u32 = 1 << 31;

    /// The mark of a leg of an endpoint; `None` if the endpoint's number is out of range.
    #[inline(always)]
    #[must_use]
    pub const fn new(kind: Kind, endpoint: u32) -> Option<Self> {
        if endpoint == 0 || endpoint > 0x7fff_fffe {
            return None;
        }
        Some(Self(match kind {
            Kind::Upstream => endpoint | Self::UPSTREAM,
            Kind::Client => endpoint,
        }))
    }

    /// The mark in a number, if it is one.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        let endpoint = number & !Self::UPSTREAM;
        if endpoint == 0 || endpoint == 0x7fff_ffff {
            return None;
        }
        Some(Self(number))
    }

    /// The mark in a frame's source MAC, if it carries one.
    #[inline(always)]
    #[must_use]
    pub const fn from_mac(mac: [u8; 6]) -> Option<Self> {
        let [prefix0, prefix1, a, b, c, d] = mac;
        if prefix0 != MAC_PREFIX[0] || prefix1 != MAC_PREFIX[1] {
            return None;
        }
        Self::from_number(u32::from_be_bytes([a, b, c, d]))
    }

    /// The source MAC that carries this mark.
    #[inline(always)]
    #[must_use]
    pub const fn to_mac(self) -> [u8; 6] {
        let [a, b, c, d] = self.0.to_be_bytes();
        [MAC_PREFIX[0], MAC_PREFIX[1], a, b, c, d]
    }

    /// The number, as `skb->mark`.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The leg.
    #[inline(always)]
    #[must_use]
    pub const fn kind(self) -> Kind {
        if self.0 & Self::UPSTREAM == 0 {
            Kind::Client
        } else {
            Kind::Upstream
        }
    }

    /// The endpoint.
    #[inline(always)]
    #[must_use]
    pub const fn endpoint(self) -> u32 {
        self.0 & !Self::UPSTREAM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_the_frame() {
        for (kind, endpoint) in [
            (Kind::Client, 1),
            (Kind::Upstream, 0x7fff_fffe),
            (Kind::Upstream, 77),
        ] {
            let mark = Mark::new(kind, endpoint).unwrap();
            assert_eq!(Mark::from_mac(mark.to_mac()), Some(mark));
            assert_eq!((mark.kind(), mark.endpoint()), (kind, endpoint));
        }
    }

    #[test]
    fn endpoints_that_are_never_given_make_no_mark() {
        assert_eq!(Mark::new(Kind::Client, 0), None);
        assert_eq!(Mark::new(Kind::Client, 0x7fff_ffff), None);
        assert_eq!(Mark::from_number(0), None);
        assert_eq!(Mark::from_number(1 << 31), None);
        assert_eq!(
            Mark::from_mac(GATE_MAC),
            None,
            "the gate's own MAC is no mark"
        );
        assert_eq!(
            Mark::from_mac([0x02, 0x42, 0, 0, 0, 1]),
            None,
            "another prefix"
        );
    }
}
