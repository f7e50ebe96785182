//! How a command ends: a code that scripts and units rely on, and one line that says why.

use std::fmt;
use std::process::ExitCode;

/// Wrong usage, as clap's own.
pub(crate) const USAGE: u8 = 2;
/// A command that `exec` ran ended well, but something was denied to it.
pub(crate) const DENIED: u8 = 124;
/// A command that `exec` runs: namegate failed before it ran, as env, timeout and docker have it.
pub(crate) const EXEC_FAILED: u8 = 125;
/// It can't be run.
pub(crate) const CANT_RUN: u8 = 126;
/// There is no such program.
pub(crate) const NOT_FOUND: u8 = 127;
/// A missing privilege or kernel feature (`EX_NOPERM`); the unit doesn't restart.
pub(crate) const NO_PERMISSION: u8 = 77;
/// A configuration that can't be used (`EX_CONFIG`); the unit doesn't restart.
pub(crate) const BAD_CONFIG: u8 = 78;

/// A failure with an exit code of its own; all others end with 1.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Exit {
    /// A failure that ends with `code`.
    pub(crate) fn with(code: u8, message: impl fmt::Display) -> anyhow::Error {
        anyhow::Error::new(Self {
            code,
            message: message.to_string(),
        })
    }

    /// The code for a failure.
    pub(crate) fn code_of(error: &anyhow::Error) -> ExitCode {
        let code = error
            .chain()
            .find_map(|cause| cause.downcast_ref::<Self>())
            .map_or(1, |exit| exit.code);
        ExitCode::from(code)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Exit {}
