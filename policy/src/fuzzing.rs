//! Doors for fuzzers: whatever the bytes, these return, and hold what the readers promise.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::http::{HttpRule, HttpRules, Path, Request, check_regex};
use crate::{
    Cast, Code, Compiler, EndpointId, Identities, Label, Labels, Loader, LocalEndpoint, NamedPorts,
    Options, Problem, Severity, SniPattern, Source, Workload,
};

/// A policy file: read, read again, and compiled if nothing is wrong with it.
///
/// # Panics
/// If a promise does not hold.
pub fn load(bytes: &[u8]) {
    let sources = [source(text_of(bytes).into_owned())];
    let mut loader = Loader::new();
    let loaded = loader.load(&sources);
    for problem in &loaded.problems {
        let has_place = problem.line > 0 && problem.column > 0;
        assert!(has_place || problem.code == Code::Limit, "{problem}");
        assert!(problem.file == "fuzz.yaml" && !format!("{problem:#}").is_empty());
    }
    assert_eq!(loader.load(&sources).problems, loaded.problems);
    if loaded.has_errors() {
        return;
    }
    let mut identities = Identities::new();
    let inputs = (&loaded.set, &cast(), Options::default());
    match Compiler::new().build(1, inputs, &mut identities) {
        Ok(snapshot) => {
            let everybody = (1..).map_while(EndpointId::new).take(APPS.len());
            for endpoint in everybody {
                assert!(snapshot.entries(endpoint).is_some());
            }
            snapshot.release(&mut identities);
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                let is_known = matches!(problem.code, Code::Conflict | Code::Limit);
                assert!(is_known && problem.is_error(), "{problem}");
            }
        }
    }
}

/// A policy file: formatted, it says the same, and is formatted.
///
/// # Panics
/// If a promise does not hold.
pub fn format(bytes: &[u8]) {
    let before = source(text_of(bytes).into_owned());
    let Ok(text) = crate::format(&before) else {
        return;
    };
    let after = source(text);
    assert_eq!(crate::format(&after).as_ref(), Ok(&after.text));
    let faults = faults(&before);
    assert_eq!(faults, self::faults(&after), "{}", after.text);
}

/// A regular expression and a target of a request, with a line feed between.
///
/// # Panics
/// If a promise does not hold.
pub fn http(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let expression = text_of(parts.next().unwrap_or_default());
    let target = parts.next().unwrap_or_default();
    let path = Path::parse(target).ok();
    if let Some(path) = &path {
        assert!((1..=5).contains(&path.readings().count()));
        let again = Path::parse(path.normal().as_bytes());
        assert_eq!(again.as_ref().map(Path::normal), Ok(path.normal()));
        assert!(Path::parse_raw(target).is_ok());
    }
    if check_regex(&expression).is_err() {
        return;
    }
    let rule = HttpRule {
        path: Some((&*expression).into()),
        ..HttpRule::default()
    };
    let rules = HttpRules::compile(&[rule]);
    assert!(rules.is_ok(), "{expression:?}: {rules:?}");
    if let Ok(rules) = rules {
        let request = Request {
            method: "GET",
            path: path.as_ref(),
            host: None,
            port: 80,
            headers: &[],
        };
        assert_eq!(rules.judge(&request), rules.judge(&request));
    }
}

/// An item of `serverNames`: it matches what it was made of, unless that is an address.
///
/// # Panics
/// If a promise does not hold.
pub fn sni(bytes: &[u8]) {
    let text = text_of(bytes);
    let Ok(pattern) = SniPattern::parse(&text) else {
        return;
    };
    assert_eq!(pattern.text(), text);
    let name = text.replace('*', "x").to_ascii_uppercase();
    let is_address = name.parse::<IpAddr>().is_ok();
    assert_eq!(pattern.matches(&name), !is_address, "{text}");
}

/// What endpoints have as `app`.
const APPS: [&str; 3] = ["", "a", "b"];

fn cast() -> Cast {
    let numbered = (1..).map_while(EndpointId::new).zip(1_u8..);
    let endpoint = |((id, last), app): ((EndpointId, u8), &&str)| {
        let mut labels = Labels::default();
        if !app.is_empty() {
            labels.insert(Label::from_key("app", app));
        }
        LocalEndpoint {
            id,
            workload: Workload {
                namespace: "default".to_owned(),
                name: format!("w{last}"),
                labels,
                ports: NamedPorts::from([("http".into(), (80, crate::L4Protocol::Tcp))]),
                owner: None,
            },
            audit: false,
            is_redirectable: true,
            addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 1, 0, last))],
        }
    };
    Cast {
        endpoints: numbered.zip(&APPS).map(endpoint).collect(),
        ..Cast::default()
    }
}

fn source(text: String) -> Source {
    Source {
        path: "fuzz.yaml".to_owned(),
        text,
    }
}

fn text_of(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// How many problems of each kind a file has.
fn faults(source: &Source) -> BTreeMap<(Severity, Code), usize> {
    let mut faults = BTreeMap::new();
    let loaded = crate::load(std::slice::from_ref(source));
    for Problem { severity, code, .. } in loaded.problems {
        *faults.entry((severity, code)).or_default() += 1;
    }
    faults
}

#[cfg(test)]
mod tests;
