use super::*;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// The same watch over the same octets, whole and one by one.
fn watch(octets: &[u8]) -> Watch {
    let mut whole = Watch::new(Side::Client);
    whole.came(octets);
    let mut single = Watch::new(Side::Client);
    for octet in octets {
        single.came(&[*octet]);
    }
    assert_eq!(whole.abuse(), single.abuse());
    assert_eq!(whole.flaws, single.flaws);
    whole
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn path(path: &[u8]) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    [&[0x04, length], path].concat()
}

#[test]
fn a_fragment_and_a_pseudo_header_in_trailers_are_seen_in_any_form() {
    let fragment = Flaws {
        fragment: true,
        trailers: false,
    };
    let block = path(b"/a#b");
    let padded = [&[2][..], &block, &[0, 0]].concat();
    let with_priority = [&[0, 0, 0, 0, 9][..], &block].concat();
    let both = [&[1][..], &[0, 0, 0, 0, 9], &block, &[0]].concat();
    let cut = [frame(1, 1, 1, &block[..3]), frame(9, 4, 1, &block[3..])].concat();
    for (name, octets) in [
        ("plain", frame(1, 5, 1, &block)),
        ("padded", frame(1, 5 | 8, 1, &padded)),
        ("with a priority", frame(1, 5 | 0x20, 1, &with_priority)),
        ("both", frame(1, 5 | 0x28, 1, &both)),
        ("in two frames", cut),
    ] {
        let watch = watch(&[PREFACE, &octets].concat());
        assert_eq!(
            (watch.abuse(), watch.flaws_of(1)),
            (None, fragment),
            "{name}"
        );
    }
    let trailers = [
        PREFACE,
        &frame(1, 4, 1, &path(b"/a")),
        &frame(1, 5, 1, &path(b"/b")),
    ]
    .concat();
    let mut watch = watch(&trailers);
    assert!(watch.flaws_of(1).trailers && !watch.flaws_of(3).trailers);
    watch.forget(1);
    assert_eq!(watch.flaws_of(1), Flaws::default());
    // By the table: a path that was kept is read again.
    let mut kept = path(b"/a#b");
    kept[0] = 0x44;
    let octets = [PREFACE, &frame(1, 5, 1, &kept), &frame(1, 5, 3, &[0xbe])].concat();
    let again = self::watch(&octets);
    assert_eq!(again.flaws_of(3), fragment);
}

#[test]
fn what_can_not_be_read_ends_the_connection() {
    for (payload, flags) in [
        (&[0xff][..], 5),
        (&[9, 1], 5 | 8),
        (&[0, 0], 5 | 0x20),
        (&[], 5 | 8),
    ] {
        let octets = [PREFACE, &frame(1, flags, 1, payload)].concat();
        assert_eq!(watch(&octets).abuse(), Some(Abuse::Block), "{payload:?}");
    }
}

#[test]
fn a_block_has_so_many_frames() {
    let most = frame(9, 0, 1, &[]).repeat(HTTP2_CONTINUATIONS_MAX as usize);
    let octets = [PREFACE, &frame(1, 1, 1, &[]), &most].concat();
    assert_eq!(watch(&octets).abuse(), None);
    let octets = [octets, frame(9, 4, 1, &[])].concat();
    assert_eq!(watch(&octets).abuse(), Some(Abuse::Continuations));
}

#[test]
fn frames_without_content_are_bounded_but_for_those_that_streams_justify() {
    let ping = frame(6, 0, 0, &[0; 8]);
    let mut watch = Watch::new(Side::Client);
    watch.came(PREFACE);
    for _ in 0..HTTP2_CONTROL_FRAMES_MAX {
        watch.came(&ping);
    }
    assert_eq!(watch.abuse(), None);
    // Half of them are forgotten after half of the time; and content that was sent may be answered.
    watch.tick();
    for _ in 0..10_000 {
        watch.sent_data();
        watch.came(&frame(8, 0, 0, &[0, 0, 0, 9]));
        watch.came(&frame(8, 0, 1, &[0, 0, 0, 9]));
    }
    for _ in 0..HTTP2_CONTROL_FRAMES_MAX / 2 {
        watch.came(&ping);
    }
    assert_eq!(watch.abuse(), None);
    watch.came(&ping);
    assert_eq!(watch.abuse(), Some(Abuse::Control));
    // What may come in advance is bounded too.
    let mut watch = Watch::new(Side::Client);
    watch.came(PREFACE);
    for _ in 0..HTTP2_JUSTIFIED_MAX {
        watch.sent_data();
    }
    for _ in 0..HTTP2_JUSTIFIED_MAX + HTTP2_CONTROL_FRAMES_MAX {
        watch.came(&ping);
    }
    assert_eq!(watch.abuse(), None);
    watch.came(&ping);
    assert_eq!(watch.abuse(), Some(Abuse::Control));
}

#[test]
fn resets_are_bounded_if_they_are_most_of_all_and_in_a_while() {
    let open = |stream| frame(1, 5, stream, &path(b"/"));
    let run = |streams_for_each: u32, count: u32| {
        let mut watch = Watch::new(Side::Client);
        watch.came(PREFACE);
        let mut stream = 1;
        for _ in 0..count {
            for _ in 0..streams_for_each {
                watch.came(&open(stream));
                stream += 2;
            }
            watch.came(&frame(3, 0, stream - 2, &[0, 0, 0, 8]));
        }
        watch
    };
    assert_eq!(run(1, HTTP2_RESETS_MAX).abuse(), None);
    assert_eq!(run(1, HTTP2_RESETS_MAX + 1).abuse(), Some(Abuse::Resets));
    assert_eq!(run(3, 500).abuse(), None, "a third of all");
    let mut watch = run(1, HTTP2_RESETS_MAX);
    for _ in 0..HTTP2_RESETS_WINDOW.as_secs() / TICK.as_secs() {
        watch.tick();
    }
    watch.came(&frame(3, 0, 1, &[0, 0, 0, 8]));
    assert_eq!(watch.abuse(), None, "that was long ago");
}

#[test]
fn flaws_that_nobody_asks_for_are_bounded() {
    let mut watch = Watch::new(Side::Client);
    watch.came(PREFACE);
    let count = u32::try_from(HTTP2_FLAWS_MAX).unwrap();
    for number in 0..=count {
        assert_eq!(watch.abuse(), None);
        watch.came(&frame(1, 5, 2 * number + 1, &path(b"/#")));
    }
    assert_eq!(watch.abuse(), Some(Abuse::Flaws));
}

#[test]
fn a_block_may_not_take_for_ever() {
    let mut watch = Watch::new(Side::Client);
    watch.came(&[PREFACE, &frame(1, 0, 1, &[])].concat());
    for _ in 0..2 {
        watch.tick();
        assert_eq!(watch.abuse(), None);
    }
    watch.tick();
    assert_eq!(watch.abuse(), Some(Abuse::Slow));
}

#[test]
fn the_end_of_a_servers_streams_is_known() {
    let mut watch = Watch::new(Side::Server);
    watch.came(&frame(0, 1, 5, b"x"));
    assert!(watch.has_ended(5) && !watch.has_ended(3));
    watch.forget(5);
    assert!(!watch.has_ended(5));
    for number in 0..2000 {
        watch.came(&frame(1, 5, 2 * number + 1, &[]));
        assert!(watch.ended.len() <= HTTP2_FLAWS_MAX);
    }
    assert!(!watch.is_leaving());
    watch.came(&frame(7, 0, 0, &[0; 8]));
    assert!(watch.is_leaving());
}
