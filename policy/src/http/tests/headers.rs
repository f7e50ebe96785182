use super::*;

fn with_headers(headers: Vec<HeaderRule>) -> HttpRule {
    HttpRule {
        headers,
        ..HttpRule::default()
    }
}

#[test]
fn a_header_is_compared_as_one_value() {
    let required = |value| {
        let rule = with_headers(vec![header("x-my-header", value, Mismatch::Fail)]);
        HttpRules::compile(&[rule]).expect("valid")
    };
    let exact = required(Some("true"));
    for (asked, expected) in [
        (get("/").with("X-My-Header", "true"), true),
        (get("/").with("X-My-Header", "TRUE"), false),
        (
            get("/")
                .with("X-My-Header", "true")
                .with("x-my-header", "bad"),
            false,
        ),
        (get("/").with("X-My-Header", "tru"), false),
        (get("/").with("X-My-Header", "truex"), false),
        (get("/").with("X_My_Header", "true"), false),
        (get("/"), false),
    ] {
        assert_eq!(
            asked.rule(&exact).is_some(),
            expected,
            "{:?}",
            asked.headers
        );
    }
    let joined = required(Some("a,b"));
    assert!(
        get("/")
            .with("X-My-Header", "a")
            .with("X-MY-HEADER", "b")
            .rule(&joined)
            .is_some()
    );
    let present = required(None);
    assert!(get("/").with("X-My-Header", "").rule(&present).is_some());
    assert!(get("/").rule(&present).is_none());
    let empty = required(Some(""));
    assert!(get("/").with("X-My-Header", "").rule(&empty).is_some());
    assert!(get("/").with("X-My-Header", "x").rule(&empty).is_none());
    let never = required(Some("a\r\nb: c"));
    assert!(
        get("/")
            .with("X-My-Header", "a\r\nb: c")
            .rule(&never)
            .is_none()
    );
}

#[test]
fn an_action_is_run_and_told() {
    use Mismatch::{Add, Delete, Log, Replace};

    let two = || get("/").with("X", "2");
    for (mismatch, value, asked, expected) in [
        (Log, Some("1"), get("/"), "missing x=1"),
        (Log, Some("1"), two(), "missing x=1"),
        (Log, Some("2"), two(), ""),
        (Add, Some("1"), get("/"), "add x=1, missing x=1"),
        (Add, Some("1"), two(), "add x=1, missing x=1"),
        (Add, Some("2"), two(), ""),
        (Delete, Some("1"), get("/"), ""),
        (Delete, Some("1"), two(), "delete x, rejected x=2"),
        (
            Delete,
            Some("1"),
            two().with("x", "1"),
            "delete x, rejected x=2,1",
        ),
        (Delete, Some("2"), two(), ""),
        (Delete, None, two(), ""),
        (Delete, None, get("/"), ""),
        (Replace, Some("1"), get("/"), "replace x=1, missing x=1"),
        (
            Replace,
            Some("1"),
            two(),
            "replace x=1, rejected x=2, missing x=1",
        ),
        (Replace, Some("2"), two(), ""),
    ] {
        let rule = with_headers(vec![header("x", value, mismatch)]);
        let rules = HttpRules::compile(&[rule]).expect("valid");
        let (_, effects, notes) = asked.judge(&rules).expect("an action denies nothing");
        let done = [effects, notes].concat().join(", ");
        assert_eq!(done, expected, "{mismatch:?} {value:?}");
    }
}

#[test]
fn all_rules_whose_other_parts_match_run_their_actions() {
    let mut rules = vec![
        rule("GET /a"),
        rule("GET /.*"),
        rule("POST"),
        rule("- /a"),
        rule("- /b"),
    ];
    rules[1].headers = vec![header("x", Some("1"), Mismatch::Replace)];
    rules[2].headers = vec![header("x", Some("3"), Mismatch::Replace)];
    rules[3].headers = vec![
        header("y", None, Mismatch::Fail),
        header("x", Some("4"), Mismatch::Add),
    ];
    rules[4].headers = vec![header("x", Some("5"), Mismatch::Add)];
    let rules = HttpRules::compile(&rules).expect("valid");
    let judged = get("/a").with("X", "2").judge(&rules).expect("allowed");
    assert_eq!((judged.0, judged.1), (0, vec!["replace x=1".to_owned()]));
    let judged = get("/a")
        .with("X", "2")
        .with("Y", "")
        .judge(&rules)
        .expect("allowed");
    assert_eq!(judged.1, ["replace x=1", "add x=4"]);
    let judged = get("/c").with("X", "1").judge(&rules).expect("allowed");
    assert_eq!((judged.0, judged.1), (1, vec![]));
    assert_eq!(get("/a").by("PUT").judge(&rules), None);
    // A rule of another reading runs too, and once.
    let two = [
        header("x", Some("1"), Mismatch::Log),
        header("z", Some("1"), Mismatch::Add),
    ];
    let mut rules = vec![rule("- /p.*"), rule("- /p/a/b")];
    rules[0].headers = vec![two[0].clone()];
    rules[1].headers = vec![two[1].clone()];
    let rules = HttpRules::compile(&rules).expect("valid");
    let judged = get("/p/a%2Fb").judge(&rules).expect("allowed");
    assert_eq!(
        judged,
        (
            0,
            vec!["add z=1".to_owned()],
            vec!["missing x=1".to_owned(), "missing z=1".to_owned()]
        )
    );
}

#[test]
fn a_secret_wins_and_is_never_told() {
    let mut secret = header("x", Some("inline"), Mismatch::Add);
    secret.secret = Some(("ns".into(), "token".into()));
    let known = with_headers(vec![secret.clone()]);
    let value = |value: &'static [u8]| {
        move |namespace: &str, name: &str| {
            ((namespace, name) == ("ns", "token")).then(|| value.into())
        }
    };
    let rules = [known];
    let compiled = HttpRules::compile_with(&rules, &value(b"s3cret")).expect("valid");
    let judged = get("/").judge(&compiled).expect("allowed");
    assert_eq!(judged.1, ["add x=s3cret"]);
    assert_eq!(judged.2, [format!("missing x={}", text(REDACTED))]);
    let compiled = HttpRules::compile(&rules).expect("valid");
    assert_eq!(
        get("/").judge(&compiled).expect("allowed").1,
        ["add x=inline"]
    );
    let compiled = HttpRules::compile_with(&rules, &value(b"a\nb")).expect("valid");
    assert_eq!(get("/").judge(&compiled), None);
    secret.value = None;
    let unknown = with_headers(vec![secret]);
    let compiled = HttpRules::compile(&[unknown]).expect("valid");
    assert_eq!(get("/").judge(&compiled), None);
}
