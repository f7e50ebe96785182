mod random;

use std::collections::BTreeMap;

use granit_parser::{Event, Parser};

use super::*;

fn source(text: &str) -> Source {
    Source {
        path: "p.yaml".to_owned(),
        text: text.to_owned(),
    }
}

#[track_caller]
fn formatted(text: &str) -> String {
    format(&source(text)).unwrap_or_else(|problem| panic!("{problem}\n{text}"))
}

/// How often each comment stands in a text.
fn comments(text: &str) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for (event, _) in Parser::new_from_str(text).map_while(Result::ok) {
        if let Event::Comment(comment, _) = event {
            *count.entry(comment.trim_end().to_owned()).or_default() += 1;
        }
    }
    count
}

/// Formats, and checks what holds for every file: the same tree, the same comments, and that formatting
/// what is formatted changes nothing.
#[track_caller]
fn check(text: &str) -> String {
    let once = formatted(text);
    assert_eq!(formatted(&once), once, "twice:\n{once}\nfrom:\n{text}");
    assert_eq!(comments(&once), comments(text), "{once}\nfrom:\n{text}");
    let (before, after) = (yaml::parse(text).unwrap(), yaml::parse(&once).unwrap());
    assert_eq!(before.len(), after.len());
    assert!(before.iter().zip(&after).all(|(a, b)| says_same(a, b)));
    once
}

#[track_caller]
fn becomes(text: &str, expected: &str) {
    assert_eq!(check(text), expected, "from:\n{text}");
}

#[test]
fn the_whole_corpus_keeps_its_meaning_and_its_comments() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            check(&std::fs::read_to_string(&path).unwrap());
            count += 1;
        }
    }
    assert_eq!(count, 124);
}

#[test]
fn keys_stand_in_their_order_in_blocks() {
    becomes(
        "kind: CiliumNetworkPolicy
spec:
    egress:
      - toPorts: [{rules: {dns: [{types: [TXT, A], matchPattern: \"*\"}]}, ports: [{protocol: UDP, port: \"53\"}]}]
        toEndpoints: [{matchLabels: {'k8s:app': \"dns\"}}]
    endpointSelector: {}
    other: 1
metadata: {namespace: 'a', name: \"p\"}
apiVersion: \"cilium.io/v2\"
",
        "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: p
  namespace: a
spec:
  endpointSelector: {}
  egress:
  - toEndpoints:
    - matchLabels:
        k8s:app: dns
    toPorts:
    - ports:
      - port: \"53\"
        protocol: UDP
      rules:
        dns:
        - matchPattern: \"*\"
          types:
          - TXT
          - A
  other: 1
",
    );
}

#[test]
fn other_objects_keep_their_order() {
    becomes("b: 1\na: 2\n", "b: 1\na: 2\n");
    becomes(
        "spec: {egress: 1, description: 2}\nkind: ConfigMap\n",
        "kind: ConfigMap\nspec:\n  egress: 1\n  description: 2\n",
    );
}

#[test]
fn comments_move_with_what_they_are_about() {
    becomes(
        "# The licence.

# About the kind.
kind: CiliumNetworkPolicy # beside the kind
# About the version.
apiVersion: cilium.io/v2
spec: # beside the spec
  # About the rule.
  egress:
    # About the item.
    - toPorts: # beside the ports
        # - ports: old
        - ports: [{port: '1'}] # the port
      # About the peer.
      toEntities: [ # open
        world, # one
        # own
        host # two
      ] # close
      # The end of the item.
    # The end of the list.
  # The end of the rule.
# The end.
",
        "# The licence.

# About the version.
apiVersion: cilium.io/v2
# About the kind.
kind: CiliumNetworkPolicy # beside the kind
spec: # beside the spec
  # About the rule.
  egress:
  # About the item.
  # About the peer.
  # close
  - toEntities: # open
    - world # one
    # own
    - host # two
    toPorts: # beside the ports
    # - ports: old
    - ports: # the port
      - port: \"1\"
    # The end of the item.
  # The end of the list.
  # The end of the rule.
# The end.
",
    );
}

#[test]
fn comments_of_a_dash_stand_above_it() {
    becomes(
        "a:\n- # one\n  # two\n  b: 1\n- # three\n- # four\n  c\n-\n# five\n- - # six\n    d\n",
        "a:\n# one\n# two\n- b: 1\n- # three\n- c # four\n-\n# five\n- - d # six\n",
    );
}

#[test]
fn documents_keep_their_marks_and_comments() {
    becomes(
        "# head\n--- # first\na: 1\n# foot\n---\n# only a comment\n---\n# top\n\nb: 2\n...\n# between\n--- text\n# last\n",
        "# head\n--- # first\na: 1\n# foot\n---\n# only a comment\n---\n# top\n\nb: 2\n# between\n---\ntext\n# last\n",
    );
    becomes("", "");
    becomes("# nothing else\n", "# nothing else\n");
}

#[test]
fn one_blank_line_stays() {
    becomes(
        "\n\na:\n\n\n  b: 1\n\n\n  c: 2\n\n\n\n# d\nd: |+\n  x\n\n\ne: 3\n\n",
        "a:\n  b: 1\n\n  c: 2\n\n# d\nd: |+\n  x\n\n\ne: 3\n",
    );
}

#[test]
fn blocks_of_text_stay_blocks() {
    becomes(
        "a: | # beside\n      x\n       y\n\nb: >-\n    one\n    two\n\n    three\nc: \"x\\ny\"\nd:\n- |-\n  z\n",
        "a: | # beside\n  x\n   y\n\nb: >-\n  one\n  two\n\n  three\nc: \"x\\ny\"\nd:\n- |-\n  z\n",
    );
}

#[test]
fn odd_values_stay() {
    becomes(
        "c:\nd: ~\ne: yes\nf: 'yes'\ng: 0x1f\nh: []\n",
        "c:\nd: ~\ne: yes\nf: \"yes\"\ng: 0x1f\nh: []\n",
    );
    becomes("[a, [b, {c: d}]]", "- a\n- - b\n  - c: d\n");
    becomes("'text'", "text\n");
    becomes(
        "a: one\n  two\nb: 'x\n\n  y'\n",
        "a: one two\nb: \"x\\ny\"\n",
    );
}

#[test]
fn line_ends_and_a_byte_order_mark_are_made_plain() {
    becomes(
        "\u{feff}a: 1 # b\r\n# c\r\nd: 2\r\n",
        "a: 1 # b\n# c\nd: 2\n",
    );
}

#[test]
fn what_can_not_be_kept_is_refused_by_place() {
    for (text, code, line, column) in [
        ("a: &x 1\nb: *x\n", Code::NotSupported, 1, 7),
        ("a: !!str 5\n", Code::NotSupported, 1, 10),
        ("%YAML 1.2\n---\na: 1\n", Code::NotSupported, 2, 1),
        ("? [a]\n: b\n", Code::NotSupported, 1, 3),
        ("a: 1\nb: 2\na: 3\n", Code::Duplicate, 3, 1),
        ("a: [\nb\n", Code::Yaml, 1, 4),
        ("a: b: c\n", Code::Yaml, 1, 5),
    ] {
        let problem = format(&source(text)).unwrap_err();
        let got = (problem.code, problem.line, problem.column);
        assert_eq!(got, (code, line, column), "{problem}");
    }
}
