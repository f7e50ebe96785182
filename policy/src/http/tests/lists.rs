use proptest::prelude::*;
use regex_automata::meta::Regex;
use regex_automata::util::syntax;

use super::*;
use crate::limits::{HTTP_PROGRAMS_MAX, HTTP_RULES_MAX};

#[test]
fn a_list_has_bounds() {
    let many = vec![HttpRule::default(); HTTP_RULES_MAX + 1];
    let error = HttpRules::compile(&many).expect_err("too many");
    assert_eq!(error, BadHttpRules::TooMany(HTTP_RULES_MAX + 1));
    assert_eq!(
        HttpRules::compile(&many[1..]).expect("all").len(),
        HTTP_RULES_MAX
    );
    let large: Vec<_> = (0..1_000)
        .map(|index| rule(&format!("- /[^a]{{2000}}{index}.*x")))
        .collect();
    let error = HttpRules::compile(&large).expect_err("too large");
    assert_eq!(error, BadHttpRules::TooLarge, "over {HTTP_PROGRAMS_MAX}");
    for (line, expected) in [
        ("- /[", 1),
        ("[ /", 1),
        ("- - a)|(b", 1),
        ("- (?:a{1000}){1000}x*", 1),
    ] {
        match HttpRules::compile(&[rule("- /"), rule(line)]) {
            Err(BadHttpRules::Regex { index, .. }) => assert_eq!(index, expected, "{line}"),
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn rules_that_begin_alike_are_matched_at_once() {
    let lines: Vec<_> = (0..100)
        .map(|index| format!("GET /[a-z]+/{index}/.*x"))
        .collect();
    let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    lines.push("PUT /[a-z]+/7/.*x");
    lines.push("GET /[a-z]+/[0-9]/.*");
    let rules = compile(&lines);
    assert_eq!(get("/a/7/x").rule(&rules), Some(7));
    assert_eq!(get("/a/99/x").rule(&rules), Some(99));
    assert_eq!(get("/a/100/x").rule(&rules), None);
    assert_eq!(get("/a/7/x").by("PUT").rule(&rules), Some(100));
    assert_eq!(get("/a/7/y").rule(&rules), Some(101));
}

/// One expression compiled by itself, in the plainest way.
fn naive(text: Option<&str>, value: &str) -> bool {
    text.is_none_or(|text| {
        let ascii = syntax::Config::new().unicode(false).utf8(false);
        let regex = Regex::builder()
            .syntax(ascii)
            .build(&format!("^(?:{text})$"))
            .expect("valid");
        regex.is_match(value)
    })
}

fn expression() -> impl Strategy<Value = String> {
    let atom = prop_oneof![
        Just("/a".to_owned()),
        Just("/".to_owned()),
        Just("b".to_owned()),
        Just("[ab]".to_owned()),
        Just("[^/]+".to_owned()),
        Just(".*".to_owned()),
        Just(".+".to_owned()),
        Just("(/b|a)".to_owned()),
        Just("(?:/a)?".to_owned()),
        Just(r"\b".to_owned()),
        Just("(?i:A)".to_owned()),
        Just("^".to_owned()),
        Just("$".to_owned()),
        Just("a|/".to_owned()),
        Just("|".to_owned()),
    ];
    proptest::collection::vec(atom, 0..5).prop_map(|atoms| atoms.concat())
}

fn any_rule() -> impl Strategy<Value = HttpRule> {
    let method = prop_oneof![
        Just(None),
        Just(Some("GET")),
        Just(Some("GET|HEAD")),
        Just(Some("P.*"))
    ];
    let host = prop_oneof![4 => Just(None), 1 => Just(Some("a")), 1 => Just(Some("[ab]+"))];
    let path = proptest::option::weighted(0.9, expression());
    (method, path, host).prop_map(|(method, path, host)| HttpRule {
        method: method.map(Into::into),
        path: path.map(String::into_boxed_str),
        host: host.map(Into::into),
        headers: Vec::new(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_list_judges_as_its_rules_one_by_one(
        rules in proptest::collection::vec(any_rule(), 0..24),
        paths in proptest::collection::vec("/[ab/A]{0,5}", 6),
        method in prop_oneof![Just("GET"), Just("HEAD"), Just("PUT")],
        host in prop_oneof![Just("a"), Just("ab"), Just("c")],
    ) {
        let compiled = HttpRules::compile(&rules).expect("valid");
        let mut logged = rules.clone();
        if let Some(last) = logged.last_mut() {
            last.headers.push(header("x", None, Mismatch::Log));
        }
        let logged = HttpRules::compile(&logged).expect("valid");
        for path in paths {
            let asked = get(&path).by(method).at(host);
            let path = Path::parse(path.as_bytes()).expect("plain");
            let expected = rules.iter().position(|rule| {
                naive(rule.method.as_deref(), method)
                    && naive(rule.path.as_deref(), path.normal())
                    && naive(rule.host.as_deref(), host)
            });
            prop_assert_eq!(asked.rule(&compiled), expected, "{}", path.normal());
            prop_assert_eq!(asked.rule(&logged), expected, "{} with actions", path.normal());
        }
    }
}
