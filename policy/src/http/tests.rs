mod headers;
mod lists;

use super::*;

/// A rule from a line: method, path, host; `-` for none.
fn rule(line: &str) -> HttpRule {
    let mut parts = line
        .split(' ')
        .map(|part| (part != "-").then(|| part.into()));
    HttpRule {
        method: parts.next().flatten(),
        path: parts.next().flatten(),
        host: parts.next().flatten(),
        headers: Vec::new(),
    }
}

fn header(name: &str, value: Option<&str>, mismatch: Mismatch) -> HeaderRule {
    HeaderRule {
        name: name.into(),
        value: value.map(Into::into),
        secret: None,
        mismatch,
    }
}

/// A request to port 80.
struct Asked {
    method: &'static str,
    target: String,
    host: Option<String>,
    headers: Vec<(&'static str, &'static str)>,
}

fn get(target: &str) -> Asked {
    Asked {
        method: "GET",
        target: target.to_owned(),
        host: Some("shop.test".to_owned()),
        headers: Vec::new(),
    }
}

impl Asked {
    fn by(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    fn at(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The rule that allows it; what becomes of the head; what is told. An empty list otherwise.
    fn judge(&self, rules: &HttpRules) -> Option<(usize, Vec<String>, Vec<String>)> {
        let path = Path::parse(self.target.as_bytes()).expect("a path");
        let headers: Vec<HeaderLine<'_>> = self
            .headers
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        let request = Request {
            method: self.method,
            path: Some(&path),
            host: self.host.as_deref(),
            port: 80,
            headers: &headers,
        };
        match rules.judge(&request) {
            HttpVerdict::Allowed {
                rule,
                effects,
                notes,
            } => {
                let effects = effects.iter().map(effect).collect();
                Some((rule, effects, notes.iter().map(note).collect()))
            }
            HttpVerdict::Denied => None,
        }
    }

    fn rule(&self, rules: &HttpRules) -> Option<usize> {
        self.judge(rules).map(|(rule, ..)| rule)
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

fn effect(effect: &HeaderEffect<'_>) -> String {
    match effect {
        HeaderEffect::Add { name, value } => format!("add {name}={}", text(value)),
        HeaderEffect::Delete { name } => format!("delete {name}"),
        HeaderEffect::Replace { name, value } => format!("replace {name}={}", text(value)),
    }
}

fn note(note: &HeaderNote<'_>) -> String {
    match note {
        HeaderNote::Missing { name, expected } => format!("missing {name}={}", text(expected)),
        HeaderNote::Rejected { name, actual } => format!("rejected {name}={}", text(actual)),
    }
}

fn compile(lines: &[&str]) -> HttpRules {
    let rules: Vec<_> = lines.iter().map(|line| rule(line)).collect();
    HttpRules::compile(&rules).expect("valid rules")
}

#[test]
fn an_empty_rule_allows_all_and_an_empty_list_nothing() {
    let all = HttpRules::compile(&[HttpRule::default()]).expect("valid");
    assert_eq!(get("/x").rule(&all), Some(0));
    let none = HttpRules::compile(&[]).expect("valid");
    assert!(none.is_empty());
    assert_eq!(get("/x").rule(&none), None);
}

#[test]
fn method_path_and_host_must_match_as_a_whole() {
    for (rules, asked, expected) in [
        (&["GET /public"][..], get("/public"), Some(0)),
        (&["GET /public"], get("/public?x=1"), None),
        (&["GET /public"], get("/public/"), None),
        (&["GET /public"], get("/publicx"), None),
        (&["GET /public"], get("/Public"), None),
        (&["GET /public"], get("/public").by("POST"), None),
        (&["GET /public"], get("/public").by("HEAD"), None),
        (&["GET /public"], get("/public").by("get"), None),
        (
            &["GET /public", "- /v2/.*"],
            get("/v2/a").by("POST"),
            Some(1),
        ),
        (&["GET /public", "-"], get("/x").by("DELETE"), Some(1)),
        (&["- /public.*"], get("/publicx"), Some(0)),
        (&["- /public.*"], get("/public/../secret"), None),
        (&["- ^/a$"], get("/a"), Some(0)),
        (&["- /a|/b"], get("/b"), Some(0)),
        (&["- /a|/b"], get("/ax"), None),
        (&["GET|HEAD"], get("/").by("HEAD"), Some(0)),
        (&["- - shop.test"], get("/").at("shopXtest"), Some(0)),
        (&[r"- - shop\.test"], get("/").at("shopXtest"), None),
        (&[r"- \*"], get("*").by("OPTIONS"), Some(0)),
    ] {
        let compiled = compile(rules);
        assert_eq!(
            asked.rule(&compiled),
            expected,
            "{rules:?} {} {}",
            asked.method,
            asked.target
        );
    }
}

#[test]
fn a_host_is_compared_without_case_and_own_port() {
    for (pattern, host, expected) in [
        (r"shop\.test", "shop.test", true),
        (r"shop\.test", "SHOP.test", true),
        (r"shop\.test", "shop.test:80", true),
        (r"shop\.test", "Shop.Test:80", true),
        (r"shop\.test", "shop.test:8080", false),
        (r"shop\.test", "shop.test:+80", false),
        (r"shop\.test", "shop.test:", false),
        (r"shop\.test", "shop.test.", false),
        (r"shop\.test:80", "shop.test:80", true),
        (r"shop\.test:80", "shop.test", false),
        (r"SHOP\.test", "SHOP.test", true),
        (r"\[::1\]", "[::1]:80", true),
        (r"\[::1\]", "[::1]", true),
    ] {
        let rules = compile(&[&format!("- - {pattern}")]);
        assert_eq!(
            get("/").at(host).rule(&rules).is_some(),
            expected,
            "{pattern} {host}"
        );
    }
    let rules = compile(&["- - .*"]);
    let mut hostless = get("/");
    hostless.host = None;
    assert_eq!(hostless.rule(&rules), None);
}

#[test]
fn a_tunnel_is_given_by_rules_that_say_its_method_and_no_path() {
    let asked_for = |host, rules: &HttpRules| {
        let request = Request {
            method: "CONNECT",
            path: None,
            host: Some(host),
            port: 443,
            headers: &[],
        };
        rules.judge(&request) != HttpVerdict::Denied
    };
    let asked = |rules: &HttpRules| asked_for("shop.test:443", rules);
    assert!(!asked(&compile(&["- .*"])));
    assert!(!asked(&compile(&["GET"])));
    assert!(!asked(&compile(&[r"- - shop\.test"])));
    assert!(!asked(&compile(&["-"])), "an empty rule says no method");
    assert!(asked(&compile(&[r"CONNECT - shop\.test"])));
    let any = compile(&[".*"]);
    assert!(asked_for("192.0.2.7:443", &any));
    assert!(asked_for("[2001:db8::7]:443", &any));
    for name in ["shop.test:443", "2130706433:443", "127.1:443", "[::g]:443"] {
        assert!(!asked_for(name, &any), "{name}: no rule says its host");
    }
}

/// The policy of the attack tables.
fn attacked() -> HttpRules {
    let mut rules = vec![
        rule("GET|HEAD /public/.*"),
        rule("POST /public/upload"),
        rule(r"GET /h shop\.test"),
        rule(r"GET /q\?a=1"),
        rule("GET /tok"),
    ];
    rules[4].headers = vec![header("x-token", Some("t0k"), Mismatch::Fail)];
    HttpRules::compile(&rules).expect("valid")
}

#[test]
fn attacks_on_paths_fail() {
    let rules = attacked();
    for (target, forwarded) in [
        ("/public/a", Some("/public/a")),
        ("/public", None),
        ("/public/a?x=/../secret", Some("/public/a?x=/../secret")),
        ("/q?a=1", Some("/q?a=1")),
        ("/q?a=1&b=2", None),
        ("/public/../secret", None),
        ("/public/%2e%2e/secret", None),
        ("/public/..%2fsecret", None),
        ("/public/a%2Fb", Some("/public/a%2Fb")),
        ("/public/..%5csecret", None),
        ("/public\\..\\secret", None),
        ("//public//a", Some("/public/a")),
        ("/secret//public/a", None),
        ("/%70ublic/a", Some("/public/a")),
        ("/public/%41%7e%2d", Some("/public/A~-")),
        (
            "/public/%252e%252e/secret",
            Some("/public/%252e%252e/secret"),
        ),
        ("/public/..;/secret", None),
        ("/public;x=1/../secret", None),
        ("/public/a%23b", Some("/public/a%23b")),
        ("/PUBLIC/a", None),
        ("/public/./b/../c/", Some("/public/c/")),
        (
            "/public/<\">{}|^`",
            Some("/public/%3C%22%3E%7B%7D%7C%5E%60"),
        ),
    ] {
        let path = Path::parse(target.as_bytes()).expect(target);
        let allowed = get(target).rule(&rules).map(|_| path.normal());
        assert_eq!(allowed, forwarded, "{target}");
    }
    assert_eq!(get("/public/a").by("get").rule(&rules), None);
    assert_eq!(get("/h").at("SHOP.test").rule(&rules), Some(2));
    assert_eq!(get("/h").at("shop.test.").rule(&rules), None);
    assert_eq!(get("*").by("OPTIONS").rule(&rules), None);
}

#[test]
fn a_reading_may_be_allowed_by_another_rule() {
    let rules = compile(&["- /p/[^/]*", "- /p/a/b"]);
    assert_eq!(get("/p/a%2Fb").rule(&rules), Some(0));
    assert_eq!(get("/p/a%2Fc").rule(&rules), None);
}
