//! Lines of the log as objects: `ts level target msg`, then what else an event tells.

use std::fmt::{self, Write as _};

use flow::TimeFormat;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::clock;

/// The field of an event that is its text.
const MESSAGE: &str = "message";

/// Writes an event as one object in one line.
pub(super) struct Objects;

/// The fields of an event, as members of the object.
#[derive(Default)]
struct Members {
    message: String,
    /// Each with a comma before it.
    others: String,
}

impl Members {
    fn add(&mut self, field: &Field, value: &Value) {
        match (field.name(), value) {
            (MESSAGE, Value::String(text)) => self.message.clone_from(text),
            (MESSAGE, other) => self.message = other.to_string(),
            // Writing to a string can't fail.
            (name, value) => drop(write!(self.others, ",{}:{value}", Value::from(name))),
        }
    }
}

impl Visit for Members {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, &value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, &value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, &value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, &value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, &value.into());
    }
}

impl<S, N> FormatEvent<S, N> for Objects
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        TimeFormat::Rfc3339Nano.write(clock::time_of_day(clock::now()), &mut time);
        let mut members = Members::default();
        event.record(&mut members);
        let about = event.metadata();
        let level = about.level().as_str().to_lowercase();
        writeln!(
            writer,
            "{{\"ts\":\"{time}\",\"level\":\"{level}\",\"target\":{},\"msg\":{}{}}}",
            Value::from(about.target()),
            Value::from(members.message),
            members.others,
        )
    }
}
