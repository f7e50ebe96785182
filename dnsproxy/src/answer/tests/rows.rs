use crate::answer::Invalid;
use crate::limits::{ALIASES_PER_ANSWER_MAX, CHAIN_NAMES_MAX};
use crate::testing::{A, AAAA, CNAME, DNAME, Draft, IN, QNAME, wire};

/// All rows.
pub(super) fn rows() -> Rows {
    section_rows()
        .into_iter()
        .chain(hint_rows())
        .chain(chain_rows())
        .collect()
}

pub(super) fn answer() -> Draft {
    Draft::answer(7, "good.com", A)
}

/// An HTTPS record of the question's name with these data.
fn https(rdata: &[u8]) -> Draft {
    Draft::answer(7, "good.com", 65).record(&QNAME, 65, 60, rdata)
}

/// HTTPS data in service mode with an `alpn` and these hints, lengths as they are said.
fn hinted(hints: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let mut rdata = vec![0, 1, 0, 0, 1, 0, 3, 2, b'h', b'2'];
    for (key, len, value) in hints {
        rdata.extend([0, *key, 0, *len]);
        rdata.extend(*value);
    }
    rdata
}

const V4_HINT: [u8; 4] = [192, 0, 2, 1];
const V6_HINT: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// The rule about the hints of HTTPS and SVCB records.
fn hint_rows() -> Rows {
    let [a, b, c, d] = V4_HINT;
    let two = [a, b, c, d, a, b, c, 2];
    let mut alias = wire("other.com");
    alias.splice(0..0, [0, 0]);
    let odd = hinted(&[(4, 4, &V4_HINT), (6, 15, &V6_HINT[..15])]);
    vec![
        (
            "10 hints of both families",
            https(&hinted(&[(4, 8, &two), (6, 16, &V6_HINT)])),
            Ok("192.0.2.1 60, 192.0.2.2 60, 2001:db8::1 60"),
        ),
        (
            "10 svcb",
            answer().record(&QNAME, 64, 9, &hinted(&[(4, 4, &V4_HINT)])),
            Ok("192.0.2.1 9"),
        ),
        (
            "10 behind an alias",
            answer().cname("good.com", 5, "cdn.com").record(
                &wire("cdn.com"),
                65,
                60,
                &hinted(&[(4, 4, &V4_HINT)]),
            ),
            Ok("192.0.2.1 5"),
        ),
        (
            "10 of another owner",
            answer().record(&wire("evil.com"), 65, 60, &hinted(&[(4, 4, &V4_HINT)])),
            Ok(""),
        ),
        ("10 alias mode", https(&alias), Ok("")),
        (
            "10 a hint of no address",
            https(&hinted(&[(4, 0, &[])])),
            Ok(""),
        ),
        ("10 one odd hint spoils the record", https(&odd), Ok("")),
        (
            "10 a parameter that runs past the end",
            https(&hinted(&[(4, 8, &V4_HINT)])),
            Ok(""),
        ),
        ("10 too short", https(&[0]), Ok("")),
    ]
}

fn chain_of(links: usize) -> Draft {
    let mut message = Draft::answer(7, "n0", A);
    for link in 0..links {
        message = message.cname(&format!("n{link}"), 60, &format!("n{}", link + 1));
    }
    message.address_of(&wire(&format!("n{links}")), 60, "192.0.2.1")
}

pub(super) fn addresses(count: usize) -> Draft {
    (0..count).fold(answer(), |message, index| {
        message.address(60, &format!("10.0.{}.{}", index / 256, index % 256))
    })
}

/// The rule's number with a word, the message, and what it teaches.
pub(super) type Rows = Vec<(&'static str, Draft, Result<&'static str, Invalid>)>;

/// The rules of learning that look at sections, types and sizes.
#[expect(clippy::too_many_lines, reason = "one table")]
fn section_rows() -> Rows {
    let other = |case, rtype, rdata: &[u8]| {
        (
            case,
            answer().record(&QNAME, rtype, 60, rdata),
            Err(Invalid::Malformed),
        )
    };
    vec![
        (
            "an address",
            answer().address(60, "192.0.2.1"),
            Ok("192.0.2.1 60"),
        ),
        ("no data", answer(), Ok("")),
        (
            "02 nxdomain with an address",
            answer().with(2, 0x8183).address(60, "192.0.2.1"),
            Ok(""),
        ),
        (
            "03 tc with an address",
            answer().with(2, 0x8380).address(60, "192.0.2.1"),
            Ok("192.0.2.1 60"),
        ),
        (
            "04 glue",
            answer()
                .raw_record(&QNAME, [A, IN], 60, &[192, 0, 2, 1])
                .with(10, 1),
            Ok(""),
        ),
        (
            "04 authority",
            answer()
                .raw_record(&QNAME, [A, IN], 60, &[192, 0, 2, 1])
                .with(8, 1),
            Ok(""),
        ),
        (
            "05 class chaos",
            answer()
                .raw_record(&QNAME, [A, 3], 60, &[192, 0, 2, 1])
                .with(6, 1),
            Ok(""),
        ),
        other("08 a of 5", A, &[192, 0, 2, 1, 0]),
        other("08 a of 3", A, &[192, 0, 2]),
        other("08 a of 0", A, &[]),
        other("08 aaaa of 4", AAAA, &[192, 0, 2, 1]),
        other("08 cname with rest", CNAME, b"\x01a\0\0"),
        other("08 cname cut", CNAME, b"\x01"),
        other("08 cname pointer loop", CNAME, &[0xC0, 0x26]),
        other("08 cname into header", CNAME, &[0xC0, 0x02]),
        (
            "11 a to an aaaa question",
            Draft::answer(7, "good.com", AAAA).address(60, "192.0.2.1"),
            Ok("192.0.2.1 60"),
        ),
        (
            "11 both to any",
            Draft::answer(7, "good.com", 255)
                .address(9, "2001:db8::1")
                .address(8, "192.0.2.1"),
            Ok("2001:db8::1 9, 192.0.2.1 8"),
        ),
        (
            "unknown type passes",
            answer().record(&QNAME, 65_280, 60, &[0xC0; 9]),
            Ok(""),
        ),
        (
            "authority garbage passes",
            answer().address(60, "192.0.2.1").with(8, 9).raw(&[0xFF; 7]),
            Ok("192.0.2.1 60"),
        ),
        (
            "count too high",
            answer().address(60, "192.0.2.1").with(6, 2),
            Err(Invalid::Malformed),
        ),
        (
            "65535 answers in a header",
            Draft::empty(7, 0x8180).with(6, 65_535),
            Err(Invalid::Malformed),
        ),
        (
            "owner is a pointer to itself",
            answer().record(&[0xC0, 0x1A], A, 60, &[192, 0, 2, 1]),
            Err(Invalid::Malformed),
        ),
        (
            "owner of reserved type",
            answer().record(&[0x80, 0], A, 60, &[192, 0, 2, 1]),
            Err(Invalid::Malformed),
        ),
        (
            "owner in other case",
            answer().address_of(&wire("GOOD.com"), 60, "192.0.2.1"),
            Ok("192.0.2.1 60"),
        ),
        (
            "two addresses",
            addresses(2),
            Ok("10.0.0.0 60, 10.0.0.1 60"),
        ),
        ("ttl 0", answer().address(0, "192.0.2.1"), Ok("192.0.2.1 0")),
        (
            "ttl with top bit",
            answer().address(0x8000_0000, "192.0.2.1"),
            Ok("192.0.2.1 0"),
        ),
        (
            "ttl largest",
            answer().address(0x7FFF_FFFF, "192.0.2.1"),
            Ok("192.0.2.1 2147483647"),
        ),
        (
            "ttl for each address",
            answer().address(10, "192.0.2.1").address(300, "192.0.2.2"),
            Ok("192.0.2.1 10, 192.0.2.2 300"),
        ),
        (
            "same address twice",
            answer()
                .address(300, "192.0.2.9")
                .address(9, "192.0.2.1")
                .address(10, "192.0.2.9"),
            Ok("192.0.2.9 10, 192.0.2.1 9"),
        ),
    ]
}

/// The rules of learning that follow aliases.
#[expect(clippy::too_many_lines, reason = "one table")]
fn chain_rows() -> Rows {
    let dname =
        |message: Draft, owner, target| message.record(&wire(owner), DNAME, 30, &wire(target));
    let below = || Draft::answer(7, "a.b.good.com", A);
    vec![
        (
            "06 chain",
            answer()
                .cname("good.com", 5, "x.net")
                .cname("x.net", 300, "y.net")
                .address_of(&wire("y.net"), 60, "192.0.2.1"),
            Ok("192.0.2.1 5"),
        ),
        (
            "06 address before its cname",
            answer()
                .address_of(&wire("x.net"), 60, "192.0.2.1")
                .cname("good.com", 9, "x.net"),
            Ok("192.0.2.1 9"),
        ),
        (
            "06 loop",
            answer().cname("good.com", 5, "b").cname("b", 5, "good.com"),
            Ok(""),
        ),
        (
            "06 loop to itself",
            answer()
                .cname("good.com", 5, "good.com")
                .address(60, "192.0.2.1"),
            Ok("192.0.2.1 60"),
        ),
        (
            "06 sixteen links",
            chain_of(CHAIN_NAMES_MAX),
            Ok("192.0.2.1 60"),
        ),
        (
            "06 seventeen links",
            chain_of(CHAIN_NAMES_MAX + 1),
            Err(Invalid::Chain),
        ),
        (
            "06 second cname of an owner",
            answer()
                .cname("good.com", 5, "x")
                .cname("good.com", 5, "y")
                .address_of(&wire("y"), 60, "192.0.2.1"),
            Ok(""),
        ),
        (
            "06 aliases off the chain",
            (0..=ALIASES_PER_ANSWER_MAX).fold(answer(), |message, _| message.cname("a", 1, "b")),
            Err(Invalid::Chain),
        ),
        (
            "07 dname and its cname",
            dname(below(), "good.com", "x.net")
                .cname("a.b.good.com", 7, "a.b.x.net")
                .address_of(&wire("a.b.x.net"), 60, "192.0.2.1"),
            Ok("192.0.2.1 7"),
        ),
        (
            "07 dname alone",
            dname(below(), "good.com", "x.net").address_of(&wire("a.b.x.net"), 60, "192.0.2.1"),
            Ok("192.0.2.1 30"),
        ),
        (
            "07 dname at the name itself",
            dname(answer(), "good.com", "x.net").address_of(&wire("x.net"), 60, "192.0.2.1"),
            Ok(""),
        ),
        (
            "07 dname across a label",
            dname(Draft::answer(7, "notgood.com", A), "good.com", "x").address_of(
                &wire("notx"),
                60,
                "192.0.2.1",
            ),
            Ok(""),
        ),
        (
            "07 dname to a name too long",
            dname(
                below(),
                "good.com",
                &format!("{0}.{0}.{0}.{0}", "l".repeat(62)),
            ),
            Ok(""),
        ),
        (
            "09 out of the chain",
            answer()
                .address(60, "192.0.2.1")
                .address_of(&wire("evil.com"), 60, "203.0.113.1"),
            Ok("192.0.2.1 60"),
        ),
        (
            "09 the same labels cut otherwise",
            answer().address_of(b"\x08good.com\0", 60, "192.0.2.1"),
            Ok(""),
        ),
        (
            "compressed targets",
            answer()
                .record(&QNAME, CNAME, 50, b"\x03www\xC0\x0C")
                .address_of(&[0xC0, 0x26], 60, "192.0.2.1"),
            Ok("192.0.2.1 50"),
        ),
    ]
}
