//! Whether text for people has colours where no flag says so: `NO_COLOR`, `CLICOLOR_FORCE`, `TERM=dumb`, and
//! then whether a terminal shows it. No meaning is in a colour alone.

use std::ffi::OsString;
use std::io::IsTerminal;

/// Whether what is written there has colours.
pub(crate) fn fits(stream: &impl IsTerminal) -> bool {
    decide(&|name| std::env::var_os(name), stream.is_terminal())
}

fn decide(environment: &dyn Fn(&str) -> Option<OsString>, is_terminal: bool) -> bool {
    let said = |name| environment(name).filter(|value| !value.is_empty());
    if said("NO_COLOR").is_some() {
        false
    } else if said("CLICOLOR_FORCE").is_some_and(|value| value != "0") {
        true
    } else {
        is_terminal && said("TERM").is_none_or(|value| value != "dumb")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_go_before_the_terminal_and_who_wants_none_before_who_wants_some() {
        for (variables, wanted) in [
            (&[][..], [true, false]),
            (&[("NO_COLOR", "1")], [false, false]),
            (&[("NO_COLOR", "")], [true, false]),
            (&[("CLICOLOR_FORCE", "1")], [true, true]),
            (&[("CLICOLOR_FORCE", "0")], [true, false]),
            (&[("CLICOLOR_FORCE", "1"), ("TERM", "dumb")], [true, true]),
            (
                &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "0")],
                [false, false],
            ),
            (&[("TERM", "dumb")], [false, false]),
            (&[("TERM", "xterm")], [true, false]),
        ] {
            let environment = |name: &str| {
                let found = variables.iter().find(|(own, _)| *own == name);
                found.map(|(_, value)| OsString::from(value))
            };
            let found = [true, false].map(|is_terminal| decide(&environment, is_terminal));
            assert_eq!(found, wanted, "{variables:?}");
        }
    }
}
