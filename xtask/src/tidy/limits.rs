//! Every public limit is named in some test: a bound that nothing hits is a guess.

use super::{Report, crate_of};
use crate::source::File;

/// The datapath's sizes are hit from several crates' tests.
const SHARED: &str = "bpf-redirect/common/src/map.rs";

pub(super) fn check(files: &[File], report: &mut Report) {
    for file in files {
        if file.path.ends_with("/limits.rs") || file.path == SHARED {
            for limit in limits(&file.text) {
                if !is_tested(limit, file, files) {
                    report.note(format!("{}: no test names {limit}", file.path));
                }
            }
        }
    }
}

/// The limits that a file declares.
fn limits(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split_once(':'))
        .map(|(name, _)| name)
        .filter(|name| name.ends_with("_MAX"))
}

/// Whether a test of the same crate names it, or of any crate where the limit is shared.
fn is_tested(limit: &str, home: &File, files: &[File]) -> bool {
    files
        .iter()
        .filter(|file| file.path.ends_with(".rs"))
        .filter(|file| home.path == SHARED || crate_of(file) == crate_of(home) || is_system(file))
        .any(|file| {
            let mut words = file
                .test_text()
                .split(|c: char| !c.is_alphanumeric() && c != '_');
            words.any(|word| word == limit)
        })
}

fn is_system(file: &File) -> bool {
    file.path.starts_with("tests/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_no_test_names_is_noted() {
        let file = |path: &str, text: &str| File {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let files = [
            file(
                "a/src/limits.rs",
                "pub const A_MAX: u8 = 1;\npub const B_MAX: u8 = 1;\nconst C_MAX: u8 = 1;\n",
            ),
            file("a/src/x.rs", "B_MAX\n#[cfg(test)]\nmod tests {\n A_MAX\n}"),
            file("b/src/tests.rs", "B_MAX"),
        ];
        let mut report = Report::default();
        check(&files, &mut report);
        assert_eq!(report.notes, ["a/src/limits.rs: no test names B_MAX"]);
    }
}
