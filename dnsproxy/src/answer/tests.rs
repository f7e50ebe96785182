use std::time::Duration;

use super::{Answer, Invalid, LearnedAddr, Matched, Reject, Sent, keepalive, matches, read_answer};
use crate::limits::ADDRESSES_PER_ANSWER_MAX;
use crate::testing::{A, AAAA, Draft, IN, check_corpus, wire};

mod oracle;
mod rows;

use rows::{addresses, answer, rows};

/// What an answer teaches, as text: `ip ttl`, comma-separated.
fn taught(reading: &Answer) -> String {
    let text = |learned: &LearnedAddr| format!("{} {}", learned.ip, learned.ttl_secs);
    let all: Vec<String> = reading.addresses.iter().map(text).collect();
    all.join(", ")
}

fn check(case: &str, answer: &Draft, expected: Result<&str, Invalid>) {
    let reading = read_answer(&answer.0);
    let text = reading.as_ref().map(taught);
    assert_eq!(
        text.as_deref().map_err(|invalid| **invalid),
        expected,
        "{case}"
    );
}

#[test]
fn each_row_of_learning_holds() {
    for (case, message, expected) in rows() {
        check(case, &message, expected);
    }
}

#[test]
fn the_rows_are_the_corpus() {
    let rows = rows();
    check_corpus(
        "answer",
        rows.iter()
            .map(|(case, message, _)| (*case, &message.0[..])),
    );
}

#[test]
fn a_thousand_addresses_are_learned_and_one_more_is_too_many() {
    let reading = read_answer(&addresses(ADDRESSES_PER_ANSWER_MAX).0).unwrap();
    assert_eq!(reading.addresses.len(), ADDRESSES_PER_ANSWER_MAX);
    let reading = read_answer(&addresses(ADDRESSES_PER_ANSWER_MAX + 1).0);
    assert_eq!(reading, Err(Invalid::TooMany));
}

/// Whose address one is decides what opens it where aliases do too.
#[test]
fn each_address_says_how_far_down_the_chain_it_stands() {
    let message = answer()
        .cname("good.com", 9, "x")
        .cname("x", 9, "y")
        .address_of(&wire("y"), 9, "1.1.1.3")
        .address_of(&wire("good.com"), 9, "1.1.1.1")
        .address_of(&wire("x"), 9, "1.1.1.2")
        .address_of(&wire("x"), 7, "1.1.1.1");
    let reading = read_answer(&message.0).unwrap();
    let told: Vec<_> = reading
        .addresses
        .iter()
        .map(|one| (one.ip.to_string(), one.chain_len, one.ttl_secs))
        .collect();
    let expected = [("1.1.1.3", 2, 9), ("1.1.1.1", 1, 7), ("1.1.1.2", 1, 9)];
    assert_eq!(
        told,
        expected.map(|(ip, len, ttl)| (ip.to_owned(), len, ttl))
    );
}

/// A client may connect to what a record for a service hints at; it is no address of the name for that.
#[test]
fn a_hint_is_told_from_an_address() {
    const HTTPS: u16 = 65;
    let hints = b"\0\x01\0\0\x04\0\x08\x01\x01\x01\x01\x01\x01\x01\x02";
    let own = wire("good.com");
    let hinted = |message: Draft| message.record(&own, HTTPS, 9, hints);
    let told = |message: &Draft| -> Vec<(String, bool)> {
        let reading = read_answer(&message.0).unwrap();
        let all = reading.addresses.iter();
        all.map(|one| (one.ip.to_string(), one.is_hint)).collect()
    };
    let both = [("1.1.1.1".to_owned(), true), ("1.1.1.2".to_owned(), true)];
    assert_eq!(told(&hinted(answer())), both);
    let either = [
        hinted(answer().address(9, "1.1.1.2")),
        hinted(answer()).address(9, "1.1.1.2"),
    ];
    for message in either {
        let mut all = told(&message);
        all.sort();
        assert_eq!(
            all,
            [("1.1.1.1".to_owned(), true), ("1.1.1.2".to_owned(), false)]
        );
    }
}

#[test]
fn a_chain_is_told_as_it_is_spelt_and_without_success_too() {
    let chain = answer().cname("GOOD.com", 9, "Edge.Example.NET").cname(
        "edge.example.net",
        9,
        "last.example.net",
    );
    for flags in [0x8180, 0x8183] {
        let reading = read_answer(&chain.clone().with(2, flags).0).unwrap();
        let told: Vec<String> = reading.aliases.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            ["Edge.Example.NET.", "last.example.net."],
            "{flags:x}"
        );
        let names = reading.aliases.iter().map(|alias| alias.name.to_string());
        assert!(names.eq(["edge.example.net.", "last.example.net."]));
    }
    // A chain that is too long is no reason to withhold a failure.
    let name = |at: usize| format!("n{at}");
    let long = (0..20).fold(answer().cname("good.com", 9, "n0"), |message, at| {
        message.cname(&name(at), 9, &name(at + 1))
    });
    assert_eq!(read_answer(&long.0), Err(Invalid::Chain));
    let failed = read_answer(&long.with(2, 0x8183).0).unwrap();
    assert!(failed.aliases.is_empty());
}

#[test]
fn an_answer_may_say_how_long_its_connection_may_be_idle() {
    let secs = |secs| Some(Duration::from_secs(secs));
    let cookie = [0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let behind = [&cookie[..], &[0, 11, 0, 2, 0, 50]].concat();
    let rows: [(&str, &[u8], Option<Duration>); 6] = [
        ("none", &[], None),
        ("20 s", &[0, 11, 0, 2, 0, 200], secs(20)),
        ("behind another option", &behind, secs(5)),
        ("none said, as a client does", &[0, 11, 0, 0], None),
        ("cut off", &[0, 11, 0, 2, 0], None),
        ("another option", &cookie, None),
    ];
    for (case, options, expected) in rows {
        let message = answer().address(60, "192.0.2.1").opt(1232, false, options);
        assert_eq!(keepalive(&message.0), expected, "{case}");
    }
    let without = answer().address(60, "192.0.2.1");
    assert_eq!(keepalive(&without.0), None);
}

#[test]
fn aliases_are_told_in_the_order_of_the_chain() {
    let message = answer().cname("x", 1, "y").cname("good.com", 1, "x");
    let aliases = read_answer(&message.0).unwrap().aliases;
    let text: Vec<String> = aliases.iter().map(ToString::to_string).collect();
    assert_eq!(text, ["x.", "y."]);
}

#[test]
fn an_answer_is_invalid_until_its_answer_section_is_whole() {
    let message =
        answer()
            .cname("good.com", 5, "x.net")
            .address_of(&wire("x.net"), 60, "192.0.2.1");
    let whole = message.0.len();
    let message = message.opt(1232, false, &[]).0;
    for len in 0..whole {
        assert_eq!(
            read_answer(&message[..len]),
            Err(Invalid::Malformed),
            "{len}"
        );
    }
    for len in whole..=message.len() {
        assert_eq!(
            read_answer(&message[..len]).unwrap().addresses.len(),
            1,
            "{len}"
        );
    }
}

#[test]
fn only_the_answer_to_what_was_sent_matches() {
    let question = [wire("gOOd.com"), vec![0, 1, 0, 1]].concat();
    let exact = || Draft::answer(7, "gOOd.com", A);
    let bare = |flags| Draft::empty(7, flags);
    let rows = [
        ("exact", exact(), Ok(Matched::Exact)),
        ("other case", answer(), Ok(Matched::CaseChanged)),
        (
            "eleven octets",
            Draft(exact().0[..11].to_vec()),
            Err(Reject::Short),
        ),
        ("a query", exact().with(2, 0x0100), Err(Reject::NotAnAnswer)),
        ("a notify", exact().with(2, 0xA180), Err(Reject::Opcode)),
        ("other id", exact().with(0, 8), Err(Reject::Id)),
        (
            "other name",
            Draft::answer(7, "gOOe.com", A),
            Err(Reject::Question),
        ),
        (
            "longer name",
            Draft::answer(7, "gOOd.com.x", A),
            Err(Reject::Question),
        ),
        (
            "other type",
            Draft::answer(7, "gOOd.com", AAAA),
            Err(Reject::Question),
        ),
        (
            "type in other case",
            Draft::answer(7, "gOOd.com", 0x21),
            Err(Reject::Question),
        ),
        (
            "other class",
            bare(0x8180).question(&wire("gOOd.com"), A, 3),
            Err(Reject::Question),
        ),
        (
            "two questions",
            exact().question(&wire("a"), A, IN),
            Err(Reject::Question),
        ),
        (
            "cut in the question",
            Draft(exact().0[..20].to_vec()),
            Err(Reject::Question),
        ),
        ("header with refused", bare(0x8185), Ok(Matched::HeaderOnly)),
        ("header with formerr", bare(0x8181), Ok(Matched::HeaderOnly)),
        ("header with noerror", bare(0x8180), Err(Reject::Question)),
        (
            "no question but an answer",
            bare(0x8185).address_of(&[0], 1, "192.0.2.1"),
            Err(Reject::Question),
        ),
    ];
    for (case, message, expected) in rows {
        let sent = Sent {
            id: 7,
            question: &question,
        };
        assert_eq!(matches(&sent, &message.0), expected, "{case}");
    }
}
