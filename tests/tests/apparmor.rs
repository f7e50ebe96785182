//! The profile for AppArmor, by its own parser.

#![expect(clippy::unwrap_used, reason = "a test may die")]
#![expect(
    clippy::print_stderr,
    reason = "what an older parser leaves out is said"
)]

use std::fs;
use std::path::Path;
use std::process::Command;

const PROFILE: &str = include_str!("../../deploy/apparmor/namegate");
const HOW_TO: &str = include_str!("../../docs/install.md");
/// What parsers before version 4 don't know.
const NEW: [&str; 2] = ["abi <abi/4.0>,", "userns,"];

/// What the parser says of a profile, without loading it.
fn parse(profile: &str) -> (bool, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), profile).unwrap();
    let mut parser = Command::new("apparmor_parser");
    let output = parser.args(["-Q", "-K"]).arg(file.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), said)
}

/// The profile as the parser that is here can know it.
fn known(profile: &str) -> String {
    if Path::new("/etc/apparmor.d/abi/4.0").exists() {
        return profile.to_owned();
    }
    eprintln!("this parser is older than version 4: all but {NEW:?} is looked at");
    NEW.iter()
        .fold(profile.to_owned(), |text, new| text.replace(new, ""))
}

#[test]
fn the_parser_takes_the_profile() {
    for line in NEW {
        assert!(PROFILE.lines().any(|own| own.trim() == line), "{line}");
    }
    let (is_well, said) = parse(&known(PROFILE));
    assert!(is_well, "{said}");
    // And says what is wrong where something is.
    let (is_well, _) = parse(&known(PROFILE).replace("flags=(unconfined)", "flags=(unconfind)"));
    assert!(!is_well);
}

#[test]
fn the_lines_to_paste_are_a_profile_too() {
    let lines = HOW_TO.lines().skip_while(|line| line.trim() != NEW[0]);
    let lines: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    let (is_well, said) = parse(&known(&lines.join("\n")));
    assert!(is_well, "{lines:#?}{said}");
}
