use policy::L4Protocol::{self, Tcp, Udp};

use super::{GateReason, gate_query};
use crate::limits::OWN_ANSWER_GROWTH_MAX;
use crate::question::{Header, RawQuestion, Rcode};
use crate::refuse::write_answer;
use crate::testing::{Dice, Draft, TSIG, check_corpus, wire};

mod rows;

use rows::{good, rows};

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

fn check(case: &str, message: &Draft, transport: L4Protocol, then: &Then) {
    let bytes = &message.0;
    let refusal = match gate_query(bytes, transport) {
        Ok(query) => {
            assert!(matches!(then, Then::Pass), "{case}: passed");
            assert_eq!(query.message.id, 7, "{case}");
            return;
        }
        Err(refusal) => refusal,
    };
    let (reason, rcode, is_copied, is_named) = match *then {
        Then::Pass => panic!("{case}: refused, {:?}", refusal.reason),
        Then::Silence(reason) => (reason, None, false, false),
        Then::Bare(reason, rcode) => (reason, Some(rcode), false, false),
        Then::Copied(reason, rcode) => (reason, Some(rcode), true, false),
        Then::Named(reason, rcode) => (reason, Some(rcode), true, true),
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

#[test]
fn each_row_of_the_table_of_gates_holds() {
    for (case, message, transport, then) in rows() {
        check(case, &message, transport, &then);
    }
}

#[test]
fn the_rows_are_the_corpus() {
    let rows = rows();
    let cases = rows
        .iter()
        .map(|(case, message, ..)| (*case, &message.0[..]));
    check_corpus("question", cases);
}

#[test]
fn an_error_answer_has_an_opt_if_and_only_if_the_query_had_one() {
    for (case, message, transport, then) in rows() {
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
        assert!(!matches!(then, Then::Pass));
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
    let seeds: Vec<Draft> = rows()
        .into_iter()
        .filter(|(.., then)| matches!(then, Then::Pass))
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
