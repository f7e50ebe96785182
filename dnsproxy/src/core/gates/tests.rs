use policy::L4Protocol::{self, Tcp, Udp};

use super::{GateReason, gate_query};
use crate::limits::{OWN_ANSWER_GROWTH_MAX, UDP_QUERY_OCTETS_MAX};
use crate::question::{Header, RawQuestion, Rcode};
use crate::refuse::write_answer;
use crate::testing::{A, AAAA, Dice, Draft, IN, TSIG, TXT, check_corpus, wire};

/// What a gate does with a row's message.
enum Then {
    Pass,
    /// Refused in silence.
    Silence(GateReason),
    /// Answered without the question, counted only.
    Bare(GateReason, Rcode),
    /// Answered with the question copied, counted only: it is no plain query.
    Copied(GateReason, Rcode),
    /// Answered with the question copied, and an exchange with a record.
    Named(GateReason, Rcode),
}
use Then::{Bare, Copied, Named, Pass, Silence};

fn check(case: &str, message: &Draft, transport: L4Protocol, then: &Then) {
    let bytes = &message.0;
    let refusal = match gate_query(bytes, transport) {
        Ok(query) => {
            assert!(matches!(then, Pass), "{case}: passed");
            assert_eq!(query.message.id, 7, "{case}");
            return;
        }
        Err(refusal) => refusal,
    };
    let (reason, rcode, is_copied, is_named) = match *then {
        Pass => panic!("{case}: refused, {:?}", refusal.reason),
        Silence(reason) => (reason, None, false, false),
        Bare(reason, rcode) => (reason, Some(rcode), false, false),
        Copied(reason, rcode) => (reason, Some(rcode), true, false),
        Named(reason, rcode) => (reason, Some(rcode), true, true),
    };
    assert_eq!(refusal.reason, reason, "{case}");
    assert_eq!(refusal.question.is_some(), is_named, "{case}: named");
    let Some((repeated, answer)) = refusal.answer() else {
        assert_eq!(rcode, None, "{case}: silent");
        return;
    };
    let mut out = Vec::new();
    write_answer(&repeated, answer, &mut out);
    assert!(out.len() <= bytes.len() + OWN_ANSWER_GROWTH_MAX, "{case}");
    let header = Header::read(&out).unwrap();
    let asked = Header::read(bytes).unwrap();
    assert_eq!(Some(header.flags.rcode()), rcode, "{case}");
    assert_eq!(header.id, asked.id, "{case}");
    assert_eq!(header.flags.opcode(), asked.flags.opcode(), "{case}");
    // QR and RA set; AA, TC, Z, AD, CD clear; RD as asked.
    let rd = asked.flags.bits() & 0x0100;
    assert_eq!(header.flags.bits() & 0x87F0, 0x8080 | rd, "{case}");
    assert_eq!(header.questions, u16::from(is_copied), "{case}: copied");
    if is_copied {
        let end = RawQuestion::read(bytes).unwrap().end;
        assert_eq!(out[12..end], bytes[12..end], "{case}");
    }
}

fn good() -> Draft {
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
fn header_rows() -> Vec<(&'static str, Draft, L4Protocol, Then)> {
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
fn body_rows() -> Vec<(&'static str, Draft, L4Protocol, Then)> {
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

#[test]
fn each_row_of_the_table_of_gates_holds() {
    for (case, message, transport, then) in header_rows().into_iter().chain(body_rows()) {
        check(case, &message, transport, &then);
    }
}

#[test]
fn the_rows_are_the_corpus() {
    let rows: Vec<_> = header_rows().into_iter().chain(body_rows()).collect();
    let cases = rows
        .iter()
        .map(|(case, message, ..)| (*case, &message.0[..]));
    check_corpus("question", cases);
}

#[test]
fn an_error_answer_has_an_opt_if_and_only_if_the_query_had_one() {
    for (case, message, transport, then) in header_rows().into_iter().chain(body_rows()) {
        let Err(refusal) = gate_query(&message.0, transport) else {
            continue;
        };
        let Some((repeated, answer)) = refusal.answer() else {
            continue;
        };
        let mut out = Vec::new();
        write_answer(&repeated, answer, &mut out);
        let has_opt = [
            "06 cookie probe",
            "14 one octet behind opt",
            "19 two opts",
            "19 opt owner",
            "19 opt options cut",
            "23 1233 octets",
            "tsig before opt",
            "additional cut",
        ];
        let opts = Header::read(&out).unwrap().additionals;
        assert_eq!(opts == 1, has_opt.contains(&case), "{case}");
        assert!(!matches!(then, Pass));
    }
}

#[test]
fn a_query_is_truncated_until_it_is_whole() {
    let whole = good()
        .opt(1232, true, &[0, 10, 0, 2, 1, 2])
        .additional(&wire("key.example"), TSIG, &[1; 20])
        .0;
    for len in 0..whole.len() {
        let reason = gate_query(&whole[..len], Udp).unwrap_err().reason;
        let expected = match len {
            0..12 => GateReason::Short,
            12 => GateReason::NoQuestion,
            _ => GateReason::Truncated,
        };
        assert_eq!(reason, expected, "{len}");
    }
    assert!(gate_query(&whole, Udp).unwrap().message.signed);
}

#[test]
fn what_is_read_is_what_hickory_reads() {
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let seeds: Vec<Draft> = header_rows()
        .into_iter()
        .chain(body_rows())
        .filter(|(.., then)| matches!(then, Pass))
        .map(|(_, message, ..)| message)
        .collect();
    let mut both = 0;
    for round in 0..60_000 {
        let mut bytes = seeds[round % seeds.len()].0.clone();
        if round >= seeds.len() {
            dice.mutate(&mut bytes);
        }
        let Ok(query) = gate_query(&bytes, Tcp) else {
            continue;
        };
        let theirs = match hickory_proto::op::Message::from_vec(&bytes) {
            Ok(theirs) => theirs,
            // It reads into the options of an OPT and the data of signatures; we do not.
            Err(error) => {
                assert!(
                    query.message.opt.is_some() || query.message.signed,
                    "{error}"
                );
                continue;
            }
        };
        both += 1;
        let asked = &theirs.queries[0];
        let name = fqdn::Name::from_labels(asked.name().iter()).unwrap();
        assert_eq!(query.question.name, name);
        assert_eq!(query.question.qtype, u16::from(asked.query_type()));
        assert_eq!(query.question.qclass, u16::from(asked.query_class()));
        assert_eq!(query.message.id, theirs.metadata.id);
        assert_eq!(
            query.message.opt.map(|opt| opt.size.max(512)),
            theirs.edns.as_ref().map(|edns| edns.max_payload().max(512)),
        );
    }
    assert!(both > 5_000, "{both}");
}
