use proptest::prelude::*;

use super::*;
use crate::{NameError, PatternError};

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

fn set(patterns: &[&str]) -> PatternSet<usize> {
    let mut set = PatternSet::new();
    for (index, text) in patterns.iter().enumerate() {
        set.insert(&Pattern::parse(text, Everything::AnyName).unwrap(), index);
    }
    set
}

/// Pattern and set must say the same.
#[track_caller]
fn check(pattern: &str, wire: &Name, expected: bool) {
    let parsed = Pattern::parse(pattern, Everything::AnyName).unwrap();
    assert_eq!(parsed.matches(wire), expected, "{pattern} on {wire}");
    let hit = set(&[pattern]).first_match(wire.as_wire());
    assert_eq!(hit.is_some(), expected, "set of {pattern} on {wire}");
}

#[test]
fn patterns_mean_what_the_reference_says() {
    #[rustfmt::skip]
    let rows: &[(&str, &[&str], &[&str])] = &[
        ("cilium.io", &["cilium.io", "CILIUM.IO."], &["www.cilium.io", "xcilium.io"]),
        ("*.cilium.io", &["www.cilium.io", "_x-1.cilium.io"], &["cilium.io", "a.b.cilium.io"]),
        ("*cilium.io", &["cilium.io", "sub-cilium.io"], &["www.cilium.io"]),
        ("sub*.cilium.io", &["sub.cilium.io", "subdomain.cilium.io"], &["xsub.cilium.io", "sub.x.cilium.io"]),
        ("**.cilium.io", &["app.cilium.io", "test.app.cilium.io"], &["cilium.io"]),
        ("***.cilium.io", &["app.cilium.io", "test.app.cilium.io"], &["cilium.io"]),
        ("**cilium.io", &["cilium.io", "xcilium.io"], &["a.cilium.io"]),
        ("a.**.cilium.io", &["a.b.cilium.io"], &["a.b.c.cilium.io", "a.cilium.io"]),
        ("part*ial.com", &["partial.com", "part-extra-ial.com"], &["part.ial.com"]),
        ("*.com", &["example.com"], &["a.example.com", "com"]),
        ("*.*.svc.cluster.local", &["web.ns.svc.cluster.local"], &["ns.svc.cluster.local"]),
        ("**.a*.io", &["x.a.io", "x.y.ab.io"], &["a.io", "x.b.io"]),
        ("a*b*c.io", &["abc.io", "axbxc.io", "abbc.io"], &["ac.io", "abxcx.io"]),
        ("ab*ba.io", &["abba.io", "abxba.io"], &["aba.io"]),
        ("*.WWW.Io.", &["a.www.io"], &[]),
        ("*", &["a", "a.b.c", ".", "a\\000.b", "\\*.good.com"], &[]),
        ("**.", &["a", "a.b.c", "."], &[]),
    ];
    for (pattern, yes, no) in rows {
        for text in *yes {
            check(pattern, &name(text), true);
        }
        for text in *no {
            check(pattern, &name(text), false);
        }
    }
}

#[test]
fn matching_is_by_wire_label() {
    for text in [
        "www\\.good.com",
        "good\\.com",
        "good.com\\000",
        "good.com.evil.com",
        "notgood.com",
    ] {
        check("good.com", &name(text), false);
        check("*.good.com", &name(text), false);
    }
    check("*.good.com", &name("\\*.good.com"), false);
    check("*.good.com", &name("_dmarc.good.com"), true);
    check("*.good.com", &name("a.b.good.com"), false);
    check("**.good.com", &name("a.b.good.com"), true);
    check(
        "**.good.com",
        &name("a b.c.good.com".replace(' ', "\\032").as_str()),
        false,
    );
    check(
        "*.good.com",
        &name(&format!("{}.good.com", "f".repeat(63))),
        true,
    );
    check("good.com", &name("evil.com\\.good.com"), false);
}

/// What a letter looks like, how it is encoded, and that a name has no labels, makes no match.
#[test]
fn octets_and_the_root_match_no_letters() {
    let cyrillic = "g\\208\\190od";
    let full = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "a".repeat(61));
    for (pattern, text, expected) in [
        ("good.com", format!("{cyrillic}.com"), false),
        ("*.com", format!("{cyrillic}.com"), false),
        ("*.good.com", format!("{cyrillic}.good.com"), false),
        ("*", format!("{cyrillic}.com"), true),
        ("good.com", "xn--gd-gmc.com".to_owned(), false),
        ("xn--gd-gmc.com", "XN--gd-gmc.com".to_owned(), true),
        ("xn--gd-gmc.com", format!("{cyrillic}.com"), false),
        ("good.com", ".".to_owned(), false),
        ("*.good.com", ".".to_owned(), false),
        ("*.com", ".".to_owned(), false),
        ("**.com", ".".to_owned(), false),
        ("*.*", ".".to_owned(), false),
        ("*.good.com", "good.com".to_owned(), false),
        (&full, full.to_uppercase(), true),
    ] {
        check(pattern, &name(&text), expected);
    }
    let longer = Pattern::exact(&format!("{full}a"));
    assert_eq!(longer, Err(PatternError::TooLong));
}

#[test]
fn stars_alone_mean_two_things() {
    let plain = Pattern::parse("*", Everything::PlainNames).unwrap();
    let set: PatternSet<u8> = [(&plain, 1)].into_iter().collect();
    for (text, expected) in [
        ("a.b", true),
        (".", true),
        ("a\\000.b", false),
        ("a.b\\032c", false),
    ] {
        assert_eq!(plain.matches(&name(text)), expected);
        assert_eq!(set.first_match(name(text).as_wire()).is_some(), expected);
    }
}

#[test]
fn a_refused_text_says_why() {
    let long = "a".repeat(crate::PATTERN_TEXT_MAX + 1);
    let label64 = "b".repeat(64);
    let rows: &[(&str, &str)] = &[
        ("", "empty"),
        (".", "empty label"),
        (".a", "empty label"),
        ("a..b", "empty label"),
        ("a.*..b", "empty label"),
        ("ex ample", "' ' (character 3)"),
        ("a/b", "'/' (character 2)"),
        ("b\u{fc}cher.de", "A-label"),
        (&long, "too long"),
        (&label64, "over 63"),
        (
            "a*aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.b",
            "over 63",
        ),
    ];
    for (text, reason) in rows {
        let error = Pattern::parse(text, Everything::AnyName).unwrap_err();
        assert!(error.to_string().contains(reason), "{text}: {error}");
    }
    assert_eq!(Pattern::exact("*.x.io"), Err(PatternError::Star));
    assert_eq!(
        Pattern::exact("A.b.").unwrap().as_exact(),
        Some(&name("a.b"))
    );
    let label = "a".repeat(63);
    let over = format!("*.{label}.{label}.{label}.{}", "a".repeat(61));
    let refused = Pattern::parse(&over, Everything::AnyName);
    assert_eq!(refused, Err(PatternError::TooLong));
}

#[test]
fn every_match_is_visited_exact_first() {
    let set = set(&["*", "*.b.c", "a.b.c", "**.c", "a*.b.c", "**.b.c", "x.b.c"]);
    let mut seen = Vec::new();
    let flow: ControlFlow<()> = set.visit(name("a.b.c").as_wire(), |index| {
        seen.push(index);
        ControlFlow::Continue(())
    });
    assert!(flow.is_continue());
    assert_eq!(seen, [2, 3, 1, 5, 4, 0]);
    assert_eq!(set.first_match(b"\x01a"), None, "no whole name");
    assert_eq!(set.first_match(b""), None);
    assert_eq!(set.first_match(&[0, 0]), None);
}

#[test]
fn ancestors_of_allowed_names_are_known() {
    let set = set(&[
        "api.example.com",
        "*.good.com",
        "*.*.svc.cluster.local",
        "**.deep.io",
        "a*.net",
    ]);
    for text in [
        "example.com",
        "com",
        ".",
        "good.com",
        "svc.cluster.local",
        "ns.svc.cluster.local",
        "deep.io",
        "io",
        "x.deep.io",
        "local",
        "net",
    ] {
        assert!(set.is_ancestor_of_some(&name(text)), "{text}");
    }
    for text in [
        "api.example.com",
        "evil.com",
        "x.good.com",
        "a.ns.svc.cluster.local",
        "org",
        "a.net",
        "x\\032.deep.io",
        "ample.com",
    ] {
        assert!(!set.is_ancestor_of_some(&name(text)), "{text}");
    }
    assert!(!PatternSet::<u8>::new().is_ancestor_of_some(&Name::root()));
    assert!(PatternSet::<u8>::new().is_empty());
}

/// The regular expression that the reference gives for a pattern.
fn oracle(pattern: &str) -> regex::Regex {
    let class = "[-a-zA-Z0-9_]";
    let mut text = pattern.to_ascii_lowercase();
    if !text.ends_with('.') {
        text.push('.');
    }
    let mut regex = String::from("^(?s-u:");
    let stars = text.bytes().take_while(|byte| *byte == b'*').count();
    let mut rest = text.as_str();
    if stars >= 2 && text.as_bytes().get(stars) == Some(&b'.') {
        regex.push_str(&format!("{class}+(\\.{class}+)*\\."));
        rest = &text[stars + 1..];
    }
    let mut in_run = false;
    for ch in rest.chars() {
        match ch {
            '*' if in_run => {}
            '*' => regex.push_str(&format!("{class}*")),
            '.' => regex.push_str("\\."),
            plain => regex.push_str(&regex::escape(&plain.to_string())),
        }
        in_run = ch == '*';
    }
    regex.push_str(")$");
    regex::RegexBuilder::new(&regex)
        .unicode(false)
        .build()
        .unwrap()
}

fn any_name() -> impl Strategy<Value = Name> {
    let label = prop::string::string_regex("[abA_*. -]{1,3}").unwrap();
    prop::collection::vec(label, 0..5).prop_map(|labels| {
        let labels = labels.iter().map(String::as_bytes);
        Name::from_labels(labels).unwrap_or_else(|_: NameError| Name::root())
    })
}

fn any_pattern() -> impl Strategy<Value = String> {
    prop::string::string_regex("(\\*{1,3}\\.)?([abA_*-]{1,3}\\.){0,3}[ab*]{1,2}\\.?").unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_set_says_what_the_regular_expressions_say(
        texts in prop::collection::vec(any_pattern(), 1..40),
        name in any_name(),
    ) {
        let set = set(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        let mut seen = Vec::new();
        let _: ControlFlow<()> = set.visit(name.as_wire(), |index| {
            seen.push(index);
            ControlFlow::Continue(())
        });
        seen.sort_unstable();
        let text = name.to_string();
        let expected: Vec<usize> = texts.iter().enumerate().filter(|(_, pattern)| {
            let everything = pattern.trim_end_matches('.').bytes().all(|byte| byte == b'*');
            let hit = everything || oracle(pattern).is_match(&text);
            let alone = Pattern::parse(pattern, Everything::AnyName).unwrap().matches(&name);
            assert_eq!(alone, hit, "{pattern} on {text}");
            hit
        }).map(|(index, _)| index).collect();
        prop_assert_eq!(seen, expected);
    }
}
