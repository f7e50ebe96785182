use super::*;

fn wire(labels: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in labels {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label);
    }
    bytes.push(0);
    bytes
}

#[track_caller]
fn check(labels: &[&[u8]], text: &str) {
    let bytes = wire(labels);
    let (name, len) = Name::from_wire(&bytes).unwrap();
    assert_eq!(len, bytes.len());
    assert_eq!(name.to_string(), text);
    assert_eq!(Name::from_text(text).unwrap(), name, "{text} read back");
    let lower: Vec<Vec<u8>> = labels.iter().map(|l| l.to_ascii_lowercase()).collect();
    assert!(name.labels().eq(lower.iter().map(Vec::as_slice)));
}

#[test]
fn text_shows_the_labels_of_the_wire() {
    check(&[b"good", b"com"], "good.com.");
    check(&[b"GOOD", b"CoM"], "good.com.");
    check(&[b"www.good", b"com"], "www\\.good.com.");
    check(&[b"good.com"], "good\\.com.");
    check(&[b"good", b"com\0"], "good.com\\000.");
    check(&[b"_dmarc", b"good", b"com"], "_dmarc.good.com.");
    check(&["g\u{43e}od".as_bytes(), b"com"], "g\\208\\190od.com.");
    check(&[b"xn--gd-gmc", b"com"], "xn--gd-gmc.com.");
    check(
        &[b"a b", b"\\", b"\"(;@$)"],
        "a\\032b.\\\\.\\034\\040\\059\\064\\036\\041.",
    );
    check(&[], ".");
}

#[test]
fn a_spelling_keeps_its_capitals_and_is_escaped_all_the_same() {
    let rows: [(&[&[u8]], &str); 3] = [
        (&[b"GOOD", b"CoM"], "GOOD.CoM."),
        (&[b"Www.X", b"\x01"], "Www\\.X.\\001."),
        (&[], "."),
    ];
    for (labels, text) in rows {
        assert_eq!(Spelled(&wire(labels)).to_string(), text);
    }
    // What is cut off is told as far as it goes.
    assert_eq!(Spelled(b"\x01a\x05b").to_string(), "a.");
}

#[test]
fn a_dot_inside_a_label_is_not_a_boundary() {
    let good = Name::from_text("good.com").unwrap();
    let one_label = Name::from_wire(&wire(&[b"good.com"])).unwrap().0;
    assert_ne!(one_label, good);
    let inside = Name::from_wire(&wire(&[b"www.good", b"com"])).unwrap().0;
    assert!(!inside.ends_with(&good));
    assert!(!Name::from_text("notgood.com").unwrap().ends_with(&good));
    assert!(Name::from_text("WWW.good.com.").unwrap().ends_with(&good));
    assert!(good.ends_with(&good));
    assert!(good.ends_with(&Name::root()));
}

#[test]
fn octets_outside_ascii_are_compared_exactly() {
    let upper = Name::from_wire(&wire(&[&[0xC3, 0x84]])).unwrap().0;
    let lower = Name::from_wire(&wire(&[&[0xC3, 0xA4]])).unwrap().0;
    assert_ne!(upper, lower);
}

#[test]
fn a_zero_length_byte_ends_the_name() {
    let (name, len) = Name::from_wire(b"\x03com\x00\x04good\x00").unwrap();
    assert_eq!((name.to_string().as_str(), len), ("com.", 5));
}

#[test]
fn lengths_are_bounded() {
    let label63 = [b'a'; 63];
    let full: Vec<&[u8]> = vec![&label63, &label63, &label63, &label63[..61]];
    assert_eq!(Name::from_wire(&wire(&full)).unwrap().1, NAME_OCTETS_MAX);
    let over: Vec<&[u8]> = vec![&label63, &label63, &label63, &label63[..62]];
    assert_eq!(Name::from_wire(&wire(&over)), Err(NameError::TooLong));
    assert_eq!(Name::from_labels(over), Err(NameError::TooLong));
    let label64: &[u8] = &[b'a'; LABEL_OCTETS_MAX + 1];
    assert_eq!(
        Name::from_wire(&wire(&[label64])),
        Err(NameError::LabelType(64))
    );
    assert_eq!(Name::from_labels([label64]), Err(NameError::TooLong));
    let shortest: Vec<&[u8]> = vec![b"a"; 127];
    assert_eq!(Name::from_labels(shortest).unwrap().labels().count(), 127);
}

#[test]
fn what_is_no_name_is_refused() {
    assert_eq!(Name::from_wire(b""), Err(NameError::Truncated));
    assert_eq!(Name::from_wire(b"\x03co"), Err(NameError::Truncated));
    assert_eq!(Name::from_wire(b"\x03com"), Err(NameError::Truncated));
    assert_eq!(
        Name::from_wire(b"\xc0\x0c"),
        Err(NameError::LabelType(0xc0))
    );
    assert_eq!(Name::from_text("a..b"), Err(NameError::EmptyLabel));
    assert_eq!(Name::from_text(".a"), Err(NameError::EmptyLabel));
    assert_eq!(Name::from_text(""), Err(NameError::EmptyLabel));
    assert_eq!(Name::from_text("a b"), Err(NameError::Text));
    assert_eq!(Name::from_text("a\\25"), Err(NameError::Text));
    assert_eq!(Name::from_text("a\\256"), Err(NameError::Text));
}
