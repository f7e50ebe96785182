//! What the daemon logs to standard error: in which form, and how much, which can change while it runs.

mod json;

use std::io::{self, Stderr, Write};
use std::sync::OnceLock;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::{MakeWriter, layer};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, reload};

use crate::colour;

/// The form of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// With the time, and colours on a terminal.
    Text,
    /// With the level as the journal reads it, and no time.
    Journal,
    /// One object a line.
    Json,
}

/// Changes how much is logged; there is one log of a process, as `tracing` has it.
static SWITCH: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// A level or a filter, if it is one.
///
/// # Errors
/// Why it is none.
pub(crate) fn parse_level(text: &str) -> Result<String, String> {
    let filter = EnvFilter::try_new(text).map_err(|error| error.to_string())?;
    drop(filter);
    match text.trim() {
        "" => Err("a level is error, warn, info, debug, trace or off".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// Whether standard error goes to the journal, as `JOURNAL_STREAM` (`DEVICE:INODE`) says.
pub(crate) fn is_journal(stream: &str) -> bool {
    let Ok(stat) = rustix::fs::fstat(io::stderr()) else {
        return false;
    };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// Starts to log.
///
/// # Errors
/// If it was started before, or the level is none.
pub(crate) fn start(level: &str, form: Form) -> anyhow::Result<()> {
    let (filter, switch) = reload::Layer::new(EnvFilter::try_new(level)?);
    let lines = layer().with_writer(io::stderr);
    let lines = match form {
        Form::Text => lines.with_ansi(colour::fits(&io::stderr())).boxed(),
        Form::Journal => {
            let lines = lines.without_time().with_ansi(false);
            lines.with_writer(Journal).boxed()
        }
        Form::Json => lines.with_ansi(false).event_format(json::Objects).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    let started = subscriber.try_init();
    started.map_err(|error| anyhow::anyhow!("logging: {error}"))?;
    // Whoever could init has set none before.
    let _ = SWITCH.set(switch);
    Ok(())
}

/// Logs so much from now on.
///
/// # Errors
/// If the level is none, or nothing is logged.
pub(crate) fn set(level: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(parse_level(level)?).map_err(|error| error.to_string())?;
    let switch = SWITCH.get().ok_or("nothing is logged")?;
    switch.reload(filter).map_err(|error| error.to_string())
}

/// Standard error with the level in front, as `sd-daemon` has it.
struct Journal;

/// One event of a level.
struct JournalLine {
    priority: u8,
    stderr: Stderr,
}

impl<'a> MakeWriter<'a> for Journal {
    type Writer = JournalLine;

    fn make_writer(&'a self) -> JournalLine {
        JournalLine {
            priority: priority(Level::INFO),
            stderr: io::stderr(),
        }
    }

    fn make_writer_for(&'a self, of: &Metadata<'_>) -> JournalLine {
        JournalLine {
            priority: priority(*of.level()),
            stderr: io::stderr(),
        }
    }
}

/// The number of syslog.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

impl Write for JournalLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut whole = format!("<{}>", self.priority).into_bytes();
        whole.extend_from_slice(line);
        self.stderr.lock().write_all(&whole)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stderr.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};
    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_object_has_its_keys_in_order_and_every_value() {
        let mut sheet = tempfile::tempfile().unwrap();
        let lines = layer().with_writer(Arc::new(sheet.try_clone().unwrap()));
        let lines = lines.with_ansi(false).event_format(json::Objects);
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(endpoint = 3, ratio = 0.5, why = ?"x\ny", ok = true, "say {}", "\"a\"");
        });
        let mut said = String::new();
        sheet.seek(io::SeekFrom::Start(0)).unwrap();
        sheet.read_to_string(&mut said).unwrap();
        let (time, rest) = said.split_once("\",\"level\"").unwrap();
        let time = time.strip_prefix("{\"ts\":\"").unwrap();
        assert!(
            flow::Time::from_rfc3339(time).is_some() && time.ends_with('Z'),
            "{time}"
        );
        assert_eq!(
            rest,
            ":\"warn\",\"target\":\"namegate::log::tests\",\"msg\":\"say \\\"a\\\"\",\
             \"endpoint\":3,\"ratio\":0.5,\"why\":\"\\\"x\\\\ny\\\"\",\"ok\":true}\n"
        );
    }

    #[test]
    fn a_level_or_a_filter_is_read_and_nothing_else() {
        for text in [
            "info",
            "warn",
            "namegate=debug",
            "info,namegate::run=trace",
            "off",
        ] {
            assert!(parse_level(text).is_ok(), "{text}");
        }
        for text in ["", " ", "namegate=loud", "=x="] {
            assert!(parse_level(text).is_err(), "{text}");
        }
    }

    #[test]
    fn levels_have_the_numbers_of_syslog() {
        let numbers = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG].map(priority);
        assert_eq!(numbers, [3, 4, 6, 7]);
    }

    #[test]
    fn another_stream_is_not_the_journal() {
        assert!(!is_journal("") && !is_journal("0:0"));
        let stat = rustix::fs::fstat(io::stderr()).unwrap();
        assert!(is_journal(&format!("{}:{}", stat.st_dev, stat.st_ino)));
    }
}
