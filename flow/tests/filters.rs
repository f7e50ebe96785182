//! Which cases the stock `hubble` command shows for which flags, and what it says to wrong ones.
#![expect(clippy::unwrap_used, reason = "a test may die")]

use flow::{Filter, FilterError, FilterFlags, Flow, FlowFilter, Line, Query, Reader, Ring, Time};

/// All flows among the golden cases, with their numbers.
fn flows() -> Vec<(u32, Flow)> {
    let lines = include_str!("data/cases.txt")
        .lines()
        .map(|line| line.split_once('\t').unwrap());
    let mut flows = Vec::new();
    for (number, case) in lines {
        if let Line::Flow(flow) = Line::parse(case).unwrap() {
            flows.push((number.parse().unwrap(), *flow));
        }
    }
    flows
}

/// The words of a command line; quotes keep blanks.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    let words = parts.flat_map(|(at, part)| match at % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    match line.starts_with("--allowlist") || line.starts_with("--denylist") {
        true => line.split(' ').map(str::to_owned).collect(),
        false => words.collect(),
    }
}

/// The filter flags of a command line; `--not` is for the flag after it.
fn flags(line: &str) -> Result<FilterFlags, FilterError> {
    let mut flags = FilterFlags::default();
    let words = words(line);
    let (mut words, mut is_denied) = (words.iter().map(String::as_str).peekable(), false);
    while let Some(flag) = words.next() {
        if flag == "--not" {
            is_denied = true;
            continue;
        }
        let value = words.next_if(|word| !word.starts_with("--")).unwrap_or("");
        match (flag, std::mem::take(&mut is_denied)) {
            ("--since" | "--until" | "--first" | "--last", _) => {}
            ("--allowlist", _) => flags.allow_json(value)?,
            ("--denylist", _) => flags.deny_json(value)?,
            (flag, true) => flags.deny(flag, value)?,
            (flag, false) => flags.allow(flag, value)?,
        }
    }
    Ok(flags)
}

fn filter(line: &str) -> Result<Filter, FilterError> {
    let (allow, deny) = flags(line)?.filters();
    Filter::new(&allow, &deny)
}

fn option(line: &str, flag: &str) -> Option<String> {
    let words = words(line);
    let at = words.iter().position(|word| word == flag)?;
    words.get(at + 1).cloned()
}

/// What Hubble's server gives for a command line.
fn query(line: &str) -> Query {
    let time = |flag| option(line, flag).map(|it| Time::from_rfc3339(&it).unwrap());
    let number = |flag| option(line, flag).map(|it| it.parse().unwrap());
    Query {
        number: number("--first").or_else(|| number("--last")).unwrap_or(0),
        first: number("--first").is_some(),
        follow: false,
        since: time("--since"),
        until: time("--until"),
        filter: filter(line).unwrap_or_else(|error| panic!("{line}: {error}")),
    }
}

#[test]
fn each_flag_set_shows_what_hubble_shows() {
    let flows = flows();
    let mut ring = Ring::default();
    for (_, flow) in &flows {
        ring.push(flow.clone());
    }
    let mut rows = 0;
    for row in include_str!("data/filters.tsv").lines().skip(1) {
        let [line, allow, deny, shown] = row.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{row}")
        };
        if line.starts_with("--cel-expression") {
            let error = filter(line).unwrap_err().to_string();
            assert!(error.contains("not implemented"), "{error}");
            continue;
        }
        let (ours_allow, ours_deny) = flags(line).unwrap().filters();
        assert_eq!(written(&ours_allow), read(allow), "{line}");
        assert_eq!(written(&ours_deny), read(deny), "{line}");
        let mut reader = Reader::new(query(line), &ring).unwrap();
        let ours = reader.take(
            ring.read_from(reader.cursor(), usize::MAX),
            Time::from_unix_nanos(0),
        );
        let ours: Vec<u32> = ours.iter().map(|flow| number_of(&flows, flow)).collect();
        let shown = shown.split(',').filter_map(|it| it.parse().ok());
        // Lost events are not filtered, and not counted.
        let shown: Vec<u32> = match line {
            "--last 3" => vec![68, 69, 72],
            _ => shown.filter(|number| ![70, 71].contains(number)).collect(),
        };
        assert_eq!(ours, shown, "{line}");
        rows += 1;
    }
    assert_eq!(rows, 98);
}

fn number_of(flows: &[(u32, Flow)], flow: &Flow) -> u32 {
    flows.iter().find(|(_, it)| it == flow).unwrap().0
}

fn written(filters: &[FlowFilter]) -> Vec<serde_json::Value> {
    let values = filters.iter().map(|filter| {
        let mut text = String::new();
        filter.write_json(&mut text);
        assert_eq!(FlowFilter::from_json(&text).as_ref(), Ok(filter));
        serde_json::from_str(&text).unwrap()
    });
    values.collect()
}

fn read(filters: &str) -> Vec<serde_json::Value> {
    serde_json::Deserializer::from_str(filters)
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

#[test]
fn wrong_flags_are_refused_by_flag_or_value() {
    // What the command line refuses before there is a filter.
    let not_of_filters = ["--first", "--all", "--not", "--output", "--since", "--uuid"];
    let mut rows = 0;
    for row in include_str!("data/errors.tsv").lines().skip(1) {
        let line = row.split('\t').next().unwrap();
        if not_of_filters.iter().any(|it| line.starts_with(it)) {
            continue;
        }
        let error = filter(line).expect_err(line).to_string();
        let words = words(line);
        let [.., flag, value] = words.as_slice() else {
            panic!("{row}")
        };
        let named = flag.trim_start_matches('-');
        assert!(
            error.contains(named) || error.contains(value),
            "{line}: {error}"
        );
        rows += 1;
    }
    assert_eq!(rows, 25);
}

#[test]
fn refused_flag_leaves_the_flags_as_they_were() {
    let mut flags = FilterFlags::default();
    flags.allow("--verdict", "DROPPED").unwrap();
    let before = flags.filters();
    let error = flags.allow("--verdict", "dropped").unwrap_err();
    assert!(
        matches!(
            error,
            FilterError::BadValue {
                flag: "verdict",
                ..
            }
        ),
        "{error}"
    );
    assert!(flags.allow("--http-path", "(").is_err());
    let error = flags.allow("--nope", "1").unwrap_err();
    let flag = "nope".to_owned();
    assert_eq!(error, FilterError::UnknownFlag { flag });
    assert_eq!(flags.filters(), before);
}

#[test]
fn empty_filter_shows_all_and_short_flags_are_known() {
    assert!(
        flows()
            .iter()
            .all(|(_, flow)| Filter::default().matches(flow))
    );
    assert!(FilterFlags::knows("-n") && FilterFlags::knows("-t") && FilterFlags::knows("from-pod"));
    assert!(!FilterFlags::knows("--pods") && !FilterFlags::knows("-z"));
}

#[test]
fn pod_without_namespace_is_looked_for_in_the_namespaces_given() {
    let in_shop = flags("--pod cart --namespace shop").unwrap();
    let with_slash = flags("--pod shop/cart").unwrap();
    assert_eq!(in_shop.filters(), with_slash.filters());
}

/// As Cilium's options and the stock command's have them.
#[test]
fn several_filters_stand_in_one_text() {
    let (dropped, errors) = (r#"{"verdict":["DROPPED"]}"#, r#"{"verdict":["ERROR"]}"#);
    for (text, count) in [
        (String::new(), 0),
        (" ".to_owned(), 0),
        (dropped.to_owned(), 1),
        (format!("{dropped} {errors}"), 2),
        (format!("{dropped}\n\t{errors}{dropped}"), 3),
    ] {
        let filters = FlowFilter::all_from_json(&text).unwrap();
        assert_eq!(filters.len(), count, "{text}");
        let mut flags = FilterFlags::default();
        flags.allow_json(&text).unwrap();
        flags.deny_json(&text).unwrap();
        assert_eq!(flags.filters(), (filters.clone(), filters), "{text}");
    }
    for wrong in [
        format!("{dropped},{errors}"),
        format!("{dropped} {{"),
        format!("{dropped} 7"),
        format!("{dropped} {{\"nope\":1}}"),
    ] {
        let error = FlowFilter::all_from_json(&wrong).unwrap_err();
        assert!(matches!(error, FilterError::BadJson { .. }), "{error}");
    }
}

/// A sub type that must match does so whatever the type, also where any will do.
#[test]
fn a_sub_type_counts_though_any_type_will_do() {
    let drop = r#"{"event_type":{"type":1,"sub_type":133}}"#;
    let verdict = r#"{"event_type":{"type":5}}"#;
    let to_proxy = r#"{"event_type":{"type":4,"sub_type":1}}"#;
    let flows = [drop, verdict, to_proxy].map(|text| Flow::from_json(text).unwrap());
    for (filter, expected) in [
        (r#"{}"#, [true, true, true]),
        (r#"{"sub_type":133}"#, [true, true, true]),
        (
            r#"{"match_sub_type":true,"sub_type":133}"#,
            [true, false, false],
        ),
        (r#"{"match_sub_type":true}"#, [false, true, false]),
        (
            r#"{"type":4,"match_sub_type":true,"sub_type":1}"#,
            [false, false, true],
        ),
        (
            r#"{"type":1,"match_sub_type":true,"sub_type":1}"#,
            [false; 3],
        ),
    ] {
        let filter = format!(r#"{{"event_type":[{filter}]}}"#);
        let filter = FlowFilter::from_json(&filter).unwrap();
        let filter = Filter::new(&[filter], &[]).unwrap();
        assert_eq!(flows.each_ref().map(|flow| filter.matches(flow)), expected);
    }
}
