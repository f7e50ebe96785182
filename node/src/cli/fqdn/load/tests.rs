use super::*;

const NOW: &str = "2026-03-05T09:00:00Z";

fn parsed(text: &str) -> anyhow::Result<Content> {
    parse(text, Time::from_rfc3339(NOW).unwrap())
}

fn known(endpoint: Option<&str>, name: &str, addresses: &[(&str, u32)]) -> KnownName {
    let addresses = addresses.iter();
    KnownName {
        endpoint: endpoint.map(str::to_owned),
        name: name.to_owned(),
        addresses: addresses
            .map(|(ip, ttl)| (ip.parse().unwrap(), *ttl))
            .collect(),
    }
}

#[test]
fn both_forms_are_read() {
    let rows = [
        // As Cilium prints it.
        (
            r#"{"fqdn": "a.io.", "ips": ["192.0.2.1", "2001:db8::1"], "ttl": 60, "endpoint-id": 7,
                "lookup-time": "2026-03-05T08:59:50Z", "expiration-time": "2026-03-05T09:00:50.900Z",
                "source": "lookup"}"#,
            known(None, "a.io.", &[("192.0.2.1", 50), ("2001:db8::1", 50)]),
        ),
        (
            r#"{"fqdn": "A.io", "ips": ["192.0.2.1"], "ttl": 0}"#,
            known(None, "a.io.", &[("192.0.2.1", 0)]),
        ),
        (
            r#"{"fqdn": "a.io", "ips": ["192.0.2.1"], "ttl": 5, "expiration-time": "2999-01-01T00:00:00Z"}"#,
            known(None, "a.io.", &[("192.0.2.1", 5)]),
        ),
        (
            r#"{"fqdn": "a.io", "ips": ["192.0.2.1"], "expiration-time": "2026-03-05T11:00:30+02:00"}"#,
            known(None, "a.io.", &[("192.0.2.1", 30)]),
        ),
        // As we do.
        (
            r#"{"endpoint": "d/x", "name": "a.io.", "taught_by": null, "rules": [], "addresses": [
                {"address": "192.0.2.1", "expires_secs": 9, "identity": null},
                {"address": "192.0.2.2", "expires_secs": 0, "identity": 16777217},
                {"address": "192.0.2.3", "expires_secs": null, "identity": 16777217}]}"#,
            known(Some("d/x"), "a.io.", &[("192.0.2.1", 9)]),
        ),
    ];
    for (text, expected) in rows {
        let content = parsed(&format!("[{text}]")).unwrap();
        assert_eq!(
            (content.names, content.ended),
            (vec![expected], vec![]),
            "{text}"
        );
    }
    for empty in ["[]", "null"] {
        assert_eq!(parsed(empty).unwrap(), Content::default(), "{empty}");
    }
}

#[test]
fn what_has_ended_is_left_out_by_name() {
    for end in [NOW, "2026-03-05T08:59:59Z", "0001-01-01T00:00:00Z"] {
        let text = format!(
            r#"[{{"fqdn": "a.io", "ips": ["192.0.2.1"], "ttl": 60, "expiration-time": "{end}"}},
                {{"name": "b.io", "addresses": [{{"address": "192.0.2.1", "expires_secs": 0}}]}}]"#
        );
        let content = parsed(&text).unwrap();
        assert_eq!(
            (content.names.len(), content.ended),
            (0, vec!["a.io.".to_owned(), "b.io.".to_owned()])
        );
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let long = "x".repeat(ENDPOINT_MAX);
    let long = format!(r#""endpoint": "d/{long}""#);
    let rows = [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{}", "expected a sequence at line 1 column 0"),
        ("[\n{\"fqdn\": 7}]", "at line 2"),
        (
            "[\n\n{\"ips\": [\"192.0.2.300\"]}]",
            "invalid IP address syntax at line 3",
        ),
        ("[\n{\"ttl\": -1}]", "integer `-1`, expected u32 at line 2"),
        ("[{}]", "entry 1: it has neither `fqdn` nor `name`"),
        (
            r#"[{"fqdn": "a", "ips": ["192.0.2.1"], "ttl": 1}, {"fqdn": "a", "name": "a"}]"#,
            "entry 2: it has both `fqdn` and `name`",
        ),
        (r#"[{"fqdn": "a", "ttl": 1}]"#, "entry 1: it has no `ips`"),
        (
            r#"[{"fqdn": "a", "ttl": 1, "ips": []}]"#,
            "entry 1: its `ips` are none",
        ),
        (r#"[{"name": "a"}]"#, "entry 1: it has no `addresses`"),
        (
            r#"[{"name": "a", "addresses": []}]"#,
            "entry 1: its `addresses` are none",
        ),
        (
            r#"[{"fqdn": "a", "ips": ["192.0.2.1"]}]"#,
            "entry 1: it has neither `ttl` nor `expiration-time`",
        ),
        (
            r#"[{"fqdn": "a", "ips": ["192.0.2.1"], "expiration-time": "noon"}]"#,
            "entry 1: its `expiration-time` \"noon\" is no time",
        ),
        (
            r#"[{"fqdn": "a..b", "ips": ["192.0.2.1"], "ttl": 1}]"#,
            "entry 1: \"a..b\" is no name: ",
        ),
        (
            &format!(r#"[{{{long}, "fqdn": "a", "ips": ["192.0.2.1"], "ttl": 1}}]"#),
            "entry 1: its `endpoint` has more than 320 bytes",
        ),
    ];
    for (text, expected) in rows {
        let error = format!("{:#}", parsed(text).unwrap_err());
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(FILE_BYTES_MAX).unwrap();
    assert_eq!(read(file.path()).unwrap().len() as u64, FILE_BYTES_MAX);
    file.as_file().set_len(FILE_BYTES_MAX + 1).unwrap();
    let error = read(file.path()).unwrap_err().to_string();
    assert_eq!(error, "it has more than 33554432 bytes");
}

#[test]
fn each_request_is_one_that_the_daemon_takes() {
    // A label of octets that are written as `\\ddd` in JSON, in a name of the most octets that there are.
    let label = r"\000".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", r"\000".repeat(61));
    Name::from_text(&longest).unwrap();
    let endpoint = "x".repeat(ENDPOINT_MAX);
    let address = "2001:db8:1111:2222:3333:4444:5555:6666";
    let one = |count: usize| known(Some(&endpoint), &longest, &vec![(address, u32::MAX); count]);
    let names = [vec![one(1); 200], vec![one(3 * REQUEST_ADDRESSES_MAX + 1)]].concat();
    let count =
        |names: &[KnownName]| -> usize { names.iter().map(|one| one.addresses.len()).sum() };
    let (all, mut sent) = (count(&names), 0);
    for names in requests(names) {
        let own = count(&names);
        assert!(
            (1..=REQUEST_ADDRESSES_MAX).contains(&own),
            "{own} addresses"
        );
        sent += own;
        let command = Command::FqdnLoad {
            endpoint: Some(endpoint.clone()),
            names,
        };
        let octets = serde_json::to_string(&command).unwrap().len() + 1;
        assert!(octets as u64 <= REQUEST_MAX, "{octets} octets");
    }
    assert_eq!(sent, all);
    let small = vec![known(None, "a.io.", &[("192.0.2.1", 1)]); 300];
    let sizes: Vec<usize> = requests(small).iter().map(Vec::len).collect();
    assert_eq!(sizes, [256, 44]);
    assert!(requests(Vec::new()).is_empty());
}

#[test]
fn refusals_are_told_up_to_a_bound_and_all_counted() {
    let mut outcome = Outcome::default();
    let refusals = [
        serde_json::json!({"endpoint": "d/x", "name": "a.io.", "address": "127.0.0.1", "reason": "loopback"}),
        serde_json::json!({"endpoint": null, "name": "b.io.", "address": null, "reason": "no rule"}),
    ];
    outcome
        .add(&serde_json::json!({"opened": 3, "evicted": 1, "refused": 102, "refusals": refusals}));
    assert_eq!(
        outcome.told(&["c.io.".to_owned()]),
        "refused: d/x: a.io. 127.0.0.1: loopback\nrefused: b.io.: no rule\n\
         left out: c.io.: its time is past\n\
         3 addresses opened, 1 closed to make room, 102 refused, 1 left out\n"
    );
    for _ in 0..TOLD_MAX {
        outcome.add(&serde_json::json!({"refused": 2, "refusals": refusals}));
    }
    assert_eq!(outcome.refusals.len(), TOLD_MAX);
}
