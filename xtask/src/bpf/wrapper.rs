//! What stands before the compiler while the object is built.
//!
//! Cargo salts a crate's symbols with the folder of a path dependency and with its own version. A
//! function that isn't inlined carries that salt into the object, and the object would differ from
//! folder to folder. Here the salt of each crate is its name and version.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::variable;

/// Set where this program is to stand before the compiler.
pub(super) const FLAG: &str = "NAMEGATE_XTASK_WRAPS_RUSTC";

/// Whether this program was started by cargo, before the compiler.
pub(crate) fn is_wanted() -> bool {
    variable(FLAG).is_some()
}

/// Becomes the compiler; comes back only if it can't.
pub(crate) fn run(arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut arguments = arguments.skip(1);
    let rustc = arguments.next().context("cargo named no compiler")?;
    let arguments: Vec<String> = arguments.collect();
    let version = variable("CARGO_PKG_VERSION").unwrap_or_default();
    let error = Command::new(&rustc)
        .args(salted(arguments, &version))
        .exec();
    bail!("{rustc}: {error}")
}

/// The arguments, with our salt if they make code for BPF.
fn salted(mut arguments: Vec<String>, version: &str) -> Vec<String> {
    let after = |word: &str| {
        let at = arguments.iter().position(|argument| argument == word)?;
        arguments.get(at + 1).cloned()
    };
    if after("--target").as_deref() != Some(super::build::TARGET) {
        return arguments;
    }
    let name = after("--crate-name").unwrap_or_default();
    for argument in &mut arguments {
        if argument.starts_with("metadata=") {
            *argument = format!("metadata={name}-{version}");
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn only_code_for_bpf_is_salted() {
        let line = "--crate-name core --target bpfel-unknown-none -C metadata=1f -C opt-level=3";
        let expected = line.replace("1f", "core-1.0");
        assert_eq!(salted(words(line), "1.0"), words(&expected));
        let host = "--crate-name syn -C metadata=1f";
        assert_eq!(salted(words(host), "1.0"), words(host));
    }
}
