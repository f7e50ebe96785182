//! Which cases the stock `hubble` command shows for which flags, and what it says to wrong ones.
#![expect(clippy::unwrap_used, reason = "a test may die")]

use flow::{Filter, FilterError, Flow, Line};

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

/// The filter of a command line; `--not` is for the flag after it.
fn filter(flags: &str) -> Result<Filter, FilterError> {
    let mut filter = Filter::default();
    let (mut words, mut is_denied) = (flags.split(' ').peekable(), false);
    while let Some(flag) = words.next() {
        if flag == "--not" {
            is_denied = true;
            continue;
        }
        let value = words.next_if(|word| !word.starts_with("--")).unwrap_or("");
        if std::mem::take(&mut is_denied) {
            filter.deny(flag, value)?;
        } else {
            filter.allow(flag, value)?;
        }
    }
    Ok(filter)
}

#[test]
fn each_flag_set_shows_what_hubble_shows() {
    let flows = flows();
    let mut rows = 0;
    for row in include_str!("data/filters.tsv").lines().skip(1) {
        let columns: Vec<_> = row.split('\t').collect();
        let (flags, shown) = (
            columns[1],
            columns[2].split(',').filter(|it| !it.is_empty()),
        );
        let filter = filter(flags).unwrap_or_else(|error| panic!("{flags}: {error}"));
        let ours = flows.iter().filter(|(_, flow)| filter.matches(flow));
        let ours: Vec<u32> = ours.map(|(number, _)| *number).collect();
        let shown: Vec<u32> = shown.map(|it| it.parse().unwrap()).collect();
        let of_our_kinds = |number: &u32| flows.iter().any(|(it, _)| it == number);
        let shown: Vec<u32> = shown.into_iter().filter(of_our_kinds).collect();
        assert_eq!(ours, shown, "row {}: {flags}", columns[0]);
        rows += 1;
    }
    assert_eq!(rows, 49);
}

#[test]
fn wrong_flags_are_refused_by_flag_and_value() {
    let mut rows = 0;
    for row in include_str!("data/errors.tsv").lines().skip(1) {
        let columns: Vec<_> = row.split('\t').collect();
        let error = filter(columns[1]).expect_err(columns[1]).to_string();
        let words: Vec<_> = columns[1].split(' ').collect();
        let [.., flag, value] = words.as_slice() else {
            panic!("{row}")
        };
        assert!(
            error.contains(flag) && error.contains(value),
            "{}: {error}",
            columns[1]
        );
        rows += 1;
    }
    assert_eq!(rows, 13);
}

#[test]
fn refused_flag_leaves_the_filter_as_it_was() {
    let mut filter = Filter::default();
    filter.allow("--verdict", "DROPPED").unwrap();
    let error = filter.allow("--verdict", "dropped").unwrap_err();
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
    let error = filter.allow("--nope", "1").unwrap_err();
    assert_eq!(
        error,
        FilterError::UnknownFlag {
            flag: "nope".to_owned()
        }
    );
    assert_eq!(
        flows()
            .iter()
            .filter(|(_, flow)| filter.matches(flow))
            .count(),
        15
    );
}

#[test]
fn empty_filter_shows_all_and_short_flags_are_known() {
    assert!(
        flows()
            .iter()
            .all(|(_, flow)| Filter::default().matches(flow))
    );
    assert!(Filter::knows("-n") && Filter::knows("-t") && Filter::knows("from-pod"));
    assert!(!Filter::knows("--http-path"));
}

#[test]
fn pod_without_namespace_is_looked_for_in_the_namespaces_given() {
    let in_shop = filter("--pod cart --namespace shop").unwrap();
    let with_slash = filter("--pod shop/cart").unwrap();
    for (number, flow) in flows() {
        assert_eq!(
            in_shop.matches(&flow),
            with_slash.matches(&flow),
            "case {number}"
        );
    }
}
