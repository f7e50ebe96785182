//! Requests near those of the corpora, read by us and by hyper.

#![expect(clippy::indexing_slicing, reason = "a test may die")]

mod oracle;

use std::path::Path;

const INSERTED: &[u8] = b"\r\n :,\t;%/?#@[]*\"<>\\^`{|}~";

/// What we accept, hyper accepts and reads alike; it may accept more.
#[test]
fn hyper_reads_the_same_wherever_we_read_something() {
    let (mut seed, mut taken) = (2_718_281_828_u64, 0_u32);
    let mut below = |end: usize| {
        seed ^= seed >> 12;
        seed ^= seed << 25;
        seed ^= seed >> 27;
        let number = seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap() % end.max(1)
    };
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for corpus in ["http_head", "http_connection", "http_hyper"] {
        let mut files: Vec<_> = std::fs::read_dir(corpora.join(corpus))
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        for file in files {
            let bytes = std::fs::read(file).unwrap();
            taken += u32::from(oracle::check(&bytes));
            for _ in 0..if bytes.len() > 2_000 { 20 } else { 1_500 } {
                let mut near = bytes.clone();
                for _ in 0..=below(2) {
                    let at = below(near.len());
                    match below(4) {
                        0 if at < near.len() => near[at] = u8::try_from(below(256)).unwrap(),
                        1 if at < near.len() => _ = near.remove(at),
                        2 => near.insert(at, INSERTED[below(INSERTED.len())]),
                        _ => {
                            let end = at + below((near.len() - at).min(12));
                            let piece = near[at..end].to_vec();
                            let to = below(near.len());
                            near.splice(to..to, piece);
                        }
                    }
                }
                taken += u32::from(oracle::check(&near));
            }
        }
    }
    assert!(taken > 10_000, "only {taken} were requests");
}
