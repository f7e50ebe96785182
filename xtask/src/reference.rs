//! `cargo xtask reference`: the page of all keys of the configuration, which the program itself knows. A test
//! of the program says when the committed one is an old one.

use anyhow::{Context as _, Result};

use crate::command::{cargo, output};

const PAGE: &str = "docs/configuration.md";

pub(crate) fn run() -> Result<()> {
    let mut command = cargo();
    command.args("run --quiet --locked --package namegate -- config reference".split(' '));
    let page = output(&mut command)?;
    std::fs::write(PAGE, page + "\n").context(PAGE)?;
    println!("{PAGE}");
    Ok(())
}
