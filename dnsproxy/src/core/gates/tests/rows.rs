use policy::L4Protocol::{self, Tcp, Udp};

use super::Then::{self, Bare, Copied, Named, Pass, Silence};
use crate::core::gates::GateReason;
use crate::limits::UDP_QUERY_OCTETS_MAX;
use crate::question::Rcode;
use crate::testing::{A, AAAA, Draft, IN, TSIG, TXT, wire};

/// The row's number in the table of gates with a word, the message, how it came, what is done.
pub(super) type Row = (&'static str, Draft, L4Protocol, Then);

/// All rows.
pub(super) fn rows() -> Vec<Row> {
    header_rows().into_iter().chain(body_rows()).collect()
}

pub(super) fn good() -> Draft {
    Draft::query(7, "good.com", A)
}

fn asked(name: &[u8]) -> Draft {
    Draft::empty(7, 0x0100).question(name, A, IN)
}

/// A name of so many octets on the wire.
fn name_of(octets: usize) -> Vec<u8> {
    let mut name = Vec::new();
    while name.len() + 1 < octets {
        let len = (octets - name.len() - 2).min(63);
        name.push(u8::try_from(len).unwrap());
        name.extend(std::iter::repeat_n(b'a', len));
    }
    name.push(0);
    assert_eq!(name.len(), octets);
    name
}

const FORM: Rcode = Rcode::FORM_ERR;

/// The rows of the table of gates that the header decides.
#[expect(clippy::too_many_lines, reason = "one table")]
fn header_rows() -> Vec<Row> {
    use GateReason::{NoQuestion, NotAQuery, Opcode, Qdcount, Sections, Short};
    let opcode = |code: u16| good().with(2, 0x0100 | code << 11);
    vec![
        ("01 empty", Draft(vec![]), Udp, Silence(Short)),
        ("01 eleven octets", Draft(vec![0; 11]), Tcp, Silence(Short)),
        (
            "02 an answer",
            Draft::answer(7, "good.com", A),
            Udp,
            Silence(NotAQuery),
        ),
        (
            "03 header only",
            Draft::empty(7, 0x0100).with(4, 1),
            Udp,
            Bare(NoQuestion, FORM),
        ),
        ("04 iquery", opcode(1), Udp, Copied(Opcode, Rcode::NOT_IMP)),
        ("04 status", opcode(2), Tcp, Copied(Opcode, Rcode::NOT_IMP)),
        ("04 three", opcode(3), Udp, Copied(Opcode, Rcode::NOT_IMP)),
        (
            "04 dso",
            Draft::empty(7, 6 << 11),
            Tcp,
            Bare(Opcode, Rcode::NOT_IMP),
        ),
        (
            "04 fifteen",
            opcode(15),
            Udp,
            Copied(Opcode, Rcode::NOT_IMP),
        ),
        ("05 notify", opcode(4), Udp, Copied(Opcode, Rcode::NOT_IMP)),
        ("05 update", opcode(5), Udp, Copied(Opcode, Rcode::NOT_IMP)),
        (
            "06 no question",
            Draft::empty(7, 0x0100),
            Udp,
            Bare(Qdcount, FORM),
        ),
        (
            "06 cookie probe",
            Draft::empty(7, 0).opt(1232, false, &[0, 10, 0, 2, 1, 2]),
            Udp,
            Bare(Qdcount, FORM),
        ),
        (
            "07 two questions",
            good().question(&wire("evil.com"), A, IN),
            Udp,
            Bare(Qdcount, FORM),
        ),
        (
            "07 65535 questions",
            Draft::empty(7, 0x0100).with(4, 65_535),
            Udp,
            Bare(Qdcount, FORM),
        ),
        (
            "08 an answer record",
            good().address(1, "192.0.2.1"),
            Udp,
            Named(Sections, FORM),
        ),
        (
            "08 65535 answers",
            good().with(6, 65_535),
            Udp,
            Named(Sections, FORM),
        ),
        (
            "08 an authority record",
            good().raw_record(&[0], [2, IN], 0, &[0]).with(8, 1),
            Udp,
            Named(Sections, FORM),
        ),
        (
            "09 three additionals",
            good().with(10, 3),
            Udp,
            Named(Sections, FORM),
        ),
        (
            "20 edns version",
            good()
                .raw_record(&[0], [41, 1232], 0x0001_0000, &[])
                .with(10, 1),
            Udp,
            Pass,
        ),
        ("21 tc set", good().with(2, 0x0300), Udp, Pass),
        ("22 rd clear", good().with(2, 0), Udp, Pass),
        ("22 ad cd and z set", good().with(2, 0x0170), Udp, Pass),
    ]
}

/// The rows that name, type and additional records decide.
#[expect(clippy::too_many_lines, reason = "one table")]
fn body_rows() -> Vec<Row> {
    use GateReason::{
        Class, LabelType, NameLength, Opt, Pointer, Sections, Size, Trailing, Transfer, Truncated,
        Type,
    };
    let class = |class| Draft::empty(7, 0x0100).question(&wire("version.bind"), TXT, class);
    let qtype = |qtype| Draft::query(7, "good.com", qtype);
    let padded = |len: usize| {
        good().opt(
            1232,
            false,
            &[
                [0, 12, (len >> 8) as u8, len as u8].as_slice(),
                &vec![0; len],
            ]
            .concat(),
        )
    };
    let room = UDP_QUERY_OCTETS_MAX - padded(0).0.len();
    let refused = Rcode::REFUSED;
    vec![
        (
            "10 label type 40",
            asked(&[0x40, b'a', 0]),
            Udp,
            Bare(LabelType, FORM),
        ),
        (
            "10 label type bf",
            asked(&[0xBF, b'a', 0]),
            Udp,
            Bare(LabelType, FORM),
        ),
        (
            "11 pointer to itself",
            asked(&[0xC0, 0x0C]),
            Udp,
            Bare(Pointer, FORM),
        ),
        (
            "11 pointer into the header",
            asked(&[0xC0, 0x04]),
            Udp,
            Bare(Pointer, FORM),
        ),
        (
            "11 pointer after a label",
            asked(&[1, b'a', 0xC0, 0x0C]),
            Tcp,
            Bare(Pointer, FORM),
        ),
        ("12 255 octets", asked(&name_of(255)), Udp, Pass),
        (
            "12 256 octets",
            asked(&name_of(256)),
            Udp,
            Bare(NameLength, FORM),
        ),
        (
            "12 label of 63",
            asked(&wire(&format!("{}.good.com", "f".repeat(63)))),
            Udp,
            Pass,
        ),
        (
            "13 name without end",
            Draft::empty(7, 0).with(4, 1).raw(b"\x04good"),
            Udp,
            Bare(Truncated, FORM),
        ),
        (
            "13 no class",
            Draft::empty(7, 0).with(4, 1).raw(b"\x04good\0\0\x01\0"),
            Udp,
            Bare(Truncated, FORM),
        ),
        (
            "14 200 octets behind",
            good().raw(&[0; 200]),
            Udp,
            Named(Trailing, FORM),
        ),
        (
            "14 one octet behind opt",
            good().opt(1232, true, &[]).raw(&[0]),
            Tcp,
            Named(Trailing, FORM),
        ),
        (
            "14 empty label in the middle",
            asked(b"\0\x04good\0"),
            Udp,
            Named(Trailing, FORM),
        ),
        ("15 chaos", class(3), Udp, Named(Class, refused)),
        ("15 hesiod", class(4), Udp, Named(Class, refused)),
        ("15 none", class(254), Udp, Named(Class, refused)),
        ("15 any class", class(255), Tcp, Named(Class, refused)),
        ("16 type opt", qtype(41), Udp, Named(Type, FORM)),
        ("16 type tsig", qtype(250), Udp, Named(Type, FORM)),
        ("16 type 0", qtype(0), Udp, Named(Type, FORM)),
        ("17 axfr", qtype(252), Tcp, Named(Transfer, refused)),
        ("17 ixfr", qtype(251), Udp, Named(Transfer, refused)),
        ("17 mailb", qtype(253), Udp, Named(Transfer, refused)),
        ("17 maila", qtype(254), Udp, Named(Transfer, refused)),
        ("18 any", qtype(255), Udp, Pass),
        ("18 unknown type", qtype(65_280), Udp, Pass),
        (
            "19 two opts",
            good().opt(1232, false, &[]).opt(1232, false, &[]),
            Udp,
            Named(Opt, FORM),
        ),
        (
            "19 opt owner",
            good().additional(&wire("a"), 41, &[]),
            Udp,
            Named(Opt, FORM),
        ),
        (
            "19 opt options cut",
            good().opt(1232, false, &[0, 10, 0, 9, 1]),
            Udp,
            Named(Opt, FORM),
        ),
        ("23 1232 octets", padded(room), Udp, Pass),
        ("23 1233 octets", padded(room + 1), Udp, Named(Size, FORM)),
        ("23 1233 octets over tcp", padded(room + 1), Tcp, Pass),
        (
            "04 secret owner",
            good().additional(&wire("secret.evil.com"), TXT, b"\x01a"),
            Udp,
            Named(Sections, FORM),
        ),
        (
            "04 pointer owner",
            good().additional(&[0xC0, 0x0C], TSIG, &[]),
            Udp,
            Named(Pointer, FORM),
        ),
        (
            "04 option of 400 octets",
            good().opt(
                4096,
                true,
                &[&[0xFD, 0xE9, 1, 0x90], [9; 400].as_slice()].concat(),
            ),
            Udp,
            Pass,
        ),
        (
            "04 case carries bits",
            Draft::query(7, "gOoD.cOm", AAAA),
            Udp,
            Pass,
        ),
        (
            "opt and tsig",
            good()
                .opt(1232, false, &[])
                .additional(&wire("key"), TSIG, &[0; 8]),
            Udp,
            Pass,
        ),
        (
            "tsig before opt",
            good()
                .additional(&wire("key"), TSIG, &[0; 8])
                .opt(1232, false, &[]),
            Udp,
            Named(Sections, FORM),
        ),
        ("sig 0", good().additional(&[0], 24, &[0; 20]), Udp, Pass),
        (
            "sig of a type",
            good().additional(&[0], 24, &[0, 1, 0]),
            Udp,
            Named(Sections, FORM),
        ),
        (
            "additional cut",
            good().opt(1232, false, &[]).with(10, 2),
            Udp,
            Named(Truncated, FORM),
        ),
    ]
}
