//! Lines of a file of flows, each of bounded length.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::Args;

use super::Which;
use crate::control::{self, Command, stream};
use crate::exit::{Exit, USAGE};
use crate::suggest::limits::LINE_BYTES_MAX;

/// A line of more than [`LINE_BYTES_MAX`].
pub(super) struct TooLong;

/// Where flows are read: a file, or the daemon.
#[derive(Args)]
pub(super) struct FlowSource {
    /// The flows: a file, or - for standard input.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "live",
        conflicts_with = "live"
    )]
    from: Option<PathBuf>,
    /// The flows that the daemon has at this moment.
    #[arg(long)]
    live: bool,
}

impl FlowSource {
    /// Hands on each line.
    ///
    /// # Errors
    /// If the file can't be read, which is wrong usage, or the daemon refuses.
    pub(super) fn each(
        &self,
        which: &Which,
        mut take: impl FnMut(Result<&[u8], TooLong>),
    ) -> anyhow::Result<()> {
        if let Some(path) = &self.from {
            let failed = |error| Exit::with(USAGE, format_args!("{}: {error}", path.display()));
            let mut input = open(path).map_err(failed)?;
            return each(&mut *input, take).map_err(failed);
        }
        let all = control::Observe::default();
        for line in stream(&which.socket()?, &Command::Observe(all))? {
            let line = line?;
            if line.starts_with("{\"error\"") {
                anyhow::bail!("the daemon refuses: {line}");
            }
            take(Ok(line.as_bytes()));
        }
        Ok(())
    }
}

/// Opens a file, or standard input by `-`.
///
/// # Errors
/// If it can't be opened.
pub(super) fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    Ok(Box::new(BufReader::new(File::open(path)?)))
}

/// Hands on each line, without its end.
///
/// # Errors
/// If it can't be read.
pub(super) fn each(
    input: &mut dyn BufRead,
    mut take: impl FnMut(Result<&[u8], TooLong>),
) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = u64::try_from(LINE_BYTES_MAX + 2).unwrap_or(u64::MAX);
        if (&mut *input).take(limit).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        if text.len() <= LINE_BYTES_MAX {
            take(Ok(text));
            continue;
        }
        if !line.ends_with(b"\n") {
            skip_line(input)?;
        }
        take(Err(TooLong));
    }
}

/// Reads on to the end of a line without keeping it.
fn skip_line(input: &mut dyn BufRead) -> io::Result<()> {
    loop {
        let there = input.fill_buf()?;
        if there.is_empty() {
            return Ok(());
        }
        let end = there.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(there.len(), |at| at + 1);
        input.consume(length);
        if end.is_some() {
            return Ok(());
        }
    }
}
