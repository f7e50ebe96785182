use super::*;
use crate::testing::Dice;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    let pair = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

fn fields(table: &mut Hpack, block: &[u8]) -> Result<String, BadBlock> {
    let mut seen = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    table.read(block, |name, value| {
        seen.push(format!("{}={}", text(name), text(value)));
    })?;
    Ok(seen.join(" "))
}

/// RFC 7541, appendix C.3, C.4 and C.6: blocks of one connection, one after the other.
#[test]
fn the_rfcs_examples_are_read() {
    let requests = [
        ":method=GET :scheme=http :path=/ :authority=www.example.com",
        ":method=GET :scheme=http :path=/ :authority=www.example.com cache-control=no-cache",
        ":method=GET :scheme=https :path=/index.html :authority=www.example.com custom-key=custom-value",
    ];
    for blocks in [
        [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ],
        [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ],
    ] {
        let mut table = Hpack::default();
        for (block, expected) in blocks.iter().zip(requests) {
            assert_eq!(fields(&mut table, &hex(block)).as_deref(), Ok(expected));
        }
    }
    // With a table of 256 octets, in which entries are given up.
    let mut table = Hpack::default();
    let first = "3fe1 01 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 \
                 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
    let told = ":status=302 cache-control=private date=Mon, 21 Oct 2013 20:13:21 GMT \
                location=https://www.example.com";
    assert_eq!(fields(&mut table, &hex(first)).as_deref(), Ok(told));
    let second = fields(&mut table, &hex("4883 640e ffc1 c0bf"));
    assert_eq!(second, Ok(told.replace("302", "307")));
    assert_eq!((table.entries.len(), table.octets), (4, 222));
}

#[test]
fn what_is_no_block_is_refused() {
    for block in [
        "80",                // index 0
        "be",                // an entry that is not there
        "ff 80808080 01",    // a number of too many octets
        "7f",                // a number that is cut
        "40 01",             // a string that is cut
        "82 3f e1 01",       // a new size after a field
        "3f e2 1f",          // a size that was not offered
        "40 81 00 00",       // a code that is not filled with ones
        "40 82 ffff 00",     // one that is filled with too many
        "40 84 ffffffff 00", // the end of string in a string
    ] {
        assert_eq!(
            fields(&mut Hpack::default(), &hex(block)),
            Err(BadBlock),
            "{block}"
        );
    }
    assert_eq!(
        fields(&mut Hpack::default(), &hex("3f e1 1f")).as_deref(),
        Ok("")
    );
}

#[test]
fn the_table_never_holds_more_than_its_bound() {
    let mut table = Hpack::default();
    for size in 0..300 {
        let value = vec![b'v'; size * 20];
        table.keep(b"name", &value);
        assert!(table.octets <= HTTP2_TABLE_OCTETS_MAX);
        let kept = table.entries.iter();
        let counted: usize = kept.map(|(n, v)| n.len() + v.len() + ENTRY_OCTETS).sum();
        assert_eq!(table.octets, counted);
    }
    assert_eq!(table.octets, 0, "what has no room empties it");
}

#[test]
fn every_octet_has_its_code() {
    let mut dice = Dice(11);
    for _ in 0..500 {
        let text: Vec<u8> = (0..dice.below(40))
            .map(|_| u8::try_from(dice.below(256)).unwrap())
            .collect();
        let mut read = Vec::new();
        assert_eq!(huffman::read(&huffman::write(&text), &mut read), Some(()));
        assert_eq!(read, text);
    }
}
