//! Points in time and the ways to write them: JSON, and the layouts that `hubble --time-format` has.
//!
//! Everything is UTC. Civil dates are computed by the usual count of days from 0000-03-01, so that no
//! time zone data is needed.

use std::fmt::Write;

/// A point in time, in nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Time(i128);

impl Time {
    /// The point this many nanoseconds after the epoch.
    #[must_use]
    pub const fn from_unix_nanos(nanos: i128) -> Self {
        Self(nanos)
    }

    /// The point this many nanoseconds earlier.
    #[must_use]
    pub const fn before(self, nanos: i128) -> Self {
        Self(self.0.saturating_sub(nanos))
    }

    /// Nanoseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn unix_nanos(self) -> i128 {
        self.0
    }

    /// The time that this RFC 3339 text names, of any offset; digits past the ninth are cut.
    #[must_use]
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let (date, rest) = text.split_once(['T', 't'])?;
        let (clock, offset_secs) = split_offset(rest)?;
        let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
        let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
        let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let days = days_from_civil(year, month, day);
        let date = civil_from_days(days);
        if (date.year, date.month, date.day) != (year, month, day) {
            return None; // the 30th of February
        }
        let secs = days * SECS_PER_DAY + hour * 3600 + minute * 60 + second - offset_secs;
        Some(Self(i128::from(secs) * NANOS_PER_SEC + nanos(fraction)?))
    }

    /// The time as RFC 3339 has it, in UTC.
    #[must_use]
    pub fn rfc3339(self) -> String {
        let mut text = String::new();
        self.write_json(&mut text);
        text
    }

    /// The time as it stands in the names of files that were put aside: `2026-03-05T09-07-01.037`.
    #[must_use]
    pub fn file_stamp(self) -> String {
        let parts = Parts::of(self);
        let mut text = String::new();
        parts.write_date_time(&mut text);
        let mut text = text.replace(':', "-");
        write!(text, ".{:03}", parts.nanos / 1_000_000).ok();
        text
    }

    /// Appends the time as protobuf's JSON has it: 0, 3, 6 or 9 digits, whichever is exact.
    pub(crate) fn write_json(self, out: &mut String) {
        let parts = Parts::of(self);
        parts.write_date_time(out);
        match parts.nanos {
            0 => Ok(()),
            n if n % 1_000_000 == 0 => write!(out, ".{:03}", n / 1_000_000),
            n if n % 1_000 == 0 => write!(out, ".{:06}", n / 1_000),
            n => write!(out, ".{n:09}"),
        }
        .ok();
        out.push('Z');
    }
}

/// A layout of `hubble --time-format`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum TimeFormat {
    /// `Jan _2 15:04:05.000`.
    #[default]
    StampMilli,
    /// `2006-01-02`.
    YearMonthDay,
    /// `2006-01-02T15Z`.
    YearMonthDayHour,
    /// `2006-01-02T15:04Z`.
    YearMonthDayHourMinute,
    /// `2006-01-02T15:04:05Z`.
    Rfc3339,
    /// As RFC 3339, to the millisecond, without trailing zeros.
    Rfc3339Milli,
    /// As RFC 3339, to the microsecond, without trailing zeros.
    Rfc3339Micro,
    /// As RFC 3339, to the nanosecond, without trailing zeros.
    Rfc3339Nano,
    /// `Mon, 02 Jan 2006 15:04:05 +0000`.
    Rfc1123Z,
}

impl TimeFormat {
    /// The layout of this name, case ignored. Like Hubble, any other name is the default layout.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "yearmonthday" => Self::YearMonthDay,
            "yearmonthdayhour" => Self::YearMonthDayHour,
            "yearmonthdayhourminute" => Self::YearMonthDayHourMinute,
            "rfc3339" => Self::Rfc3339,
            "rfc3339milli" => Self::Rfc3339Milli,
            "rfc3339micro" => Self::Rfc3339Micro,
            "rfc3339nano" => Self::Rfc3339Nano,
            "rfc1123z" => Self::Rfc1123Z,
            _ => Self::StampMilli,
        }
    }

    /// Appends the time in this layout; digits are cut, not rounded.
    pub fn write(self, time: Time, out: &mut String) {
        let parts = Parts::of(time);
        let Parts {
            year,
            month,
            day,
            hour,
            minute,
            second,
            nanos,
            ..
        } = parts;
        match self {
            Self::StampMilli => {
                let month = parts.month_name();
                let millis = nanos / 1_000_000;
                write!(
                    out,
                    "{month} {day:2} {hour:02}:{minute:02}:{second:02}.{millis:03}"
                )
                .ok();
            }
            Self::YearMonthDay => {
                write!(out, "{year:04}-{month:02}-{day:02}").ok();
            }
            Self::YearMonthDayHour => {
                write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}Z").ok();
            }
            Self::YearMonthDayHourMinute => {
                write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}Z").ok();
            }
            Self::Rfc3339 => parts.write_trimmed(0, out),
            Self::Rfc3339Milli => parts.write_trimmed(3, out),
            Self::Rfc3339Micro => parts.write_trimmed(6, out),
            Self::Rfc3339Nano => parts.write_trimmed(9, out),
            Self::Rfc1123Z => {
                let (weekday, month) = (parts.weekday_name(), parts.month_name());
                write!(out, "{weekday}, {day:02} {month} {year:04} ").ok();
                write!(out, "{hour:02}:{minute:02}:{second:02} +0000").ok();
            }
        }
    }
}

/// A time taken apart.
struct Parts {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    nanos: i64,
    /// Days since 1970-01-01, a Thursday.
    days: i64,
}

impl Parts {
    fn of(time: Time) -> Self {
        let secs = i64::try_from(time.0.div_euclid(NANOS_PER_SEC)).unwrap_or(i64::MAX / 2);
        let nanos = i64::try_from(time.0.rem_euclid(NANOS_PER_SEC)).unwrap_or(0);
        let days = secs.div_euclid(SECS_PER_DAY);
        let clock = secs.rem_euclid(SECS_PER_DAY);
        let Date { year, month, day } = civil_from_days(days);
        let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
        Self {
            year,
            month,
            day,
            hour,
            minute,
            second,
            nanos,
            days,
        }
    }

    fn write_date_time(&self, out: &mut String) {
        let Self {
            year,
            month,
            day,
            hour,
            minute,
            second,
            ..
        } = self;
        write!(
            out,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
        )
        .ok();
    }

    /// RFC 3339 with at most this many digits of a second, without trailing zeros.
    fn write_trimmed(&self, digits: usize, out: &mut String) {
        self.write_date_time(out);
        let fraction = format!("{:09}", self.nanos);
        let fraction = fraction.get(..digits).unwrap_or("").trim_end_matches('0');
        if !fraction.is_empty() {
            out.push('.');
            out.push_str(fraction);
        }
        out.push('Z');
    }

    fn month_name(&self) -> &'static str {
        let names = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        usize::try_from(self.month - 1)
            .ok()
            .and_then(|at| names.get(at).copied())
            .unwrap_or("")
    }

    fn weekday_name(&self) -> &'static str {
        let names = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        usize::try_from(self.days.rem_euclid(7))
            .ok()
            .and_then(|at| names.get(at).copied())
            .unwrap_or("")
    }
}

struct Date {
    year: i64,
    month: i64,
    day: i64,
}

/// The date of a day counted from 1970-01-01. Years are taken to begin in March, so that the day that
/// comes and goes is their last; 146,097 days are 400 years.
fn civil_from_days(days: i64) -> Date {
    let days = days + DAYS_TO_EPOCH;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Date { year, month, day }
}

/// The day of a date, counted from 1970-01-01.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let march_month = (month + 9) % 12;
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - DAYS_TO_EPOCH
}

/// Cuts the offset off; in seconds east of UTC.
fn split_offset(text: &str) -> Option<(&str, i64)> {
    if let Some(clock) = text.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let at = text.rfind(['+', '-'])?;
    let (clock, offset) = (text.get(..at)?, text.get(at + 1..)?);
    let [hours, minutes] = numbers(offset, ':', [2, 2])?;
    let east = hours * 3600 + minutes * 60;
    Some((
        clock,
        if text.get(at..)?.starts_with('-') {
            -east
        } else {
            east
        },
    ))
}

/// Exactly N decimal numbers of exactly these widths.
fn numbers<const N: usize>(text: &str, between: char, widths: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(between);
    let mut numbers = [0; N];
    for (number, width) in numbers.iter_mut().zip(widths) {
        let part = parts.next().filter(|part| part.len() == width)?;
        if !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

/// The nanoseconds that these digits after the point stand for.
fn nanos(fraction: &str) -> Option<i128> {
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    fraction
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(9)
        .try_fold(0i128, |nanos, digit| {
            Some(nanos * 10 + i128::from(digit.checked_sub(b'0')?))
        })
}

const NANOS_PER_SEC: i128 = 1_000_000_000;
const SECS_PER_DAY: i64 = 86_400;
/// Days from 0000-03-01 to 1970-01-01.
const DAYS_TO_EPOCH: i64 = 719_468;

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        let mut out = String::new();
        Time::from_rfc3339(text).expect(text).write_json(&mut out);
        out
    }

    #[test]
    fn json_has_0_3_6_or_9_digits() {
        for (text, expected) in [
            ("2026-03-05T09:08:11Z", "2026-03-05T09:08:11Z"),
            ("2026-03-05T09:08:11.5Z", "2026-03-05T09:08:11.500Z"),
            ("2026-03-05T09:08:00.000001Z", "2026-03-05T09:08:00.000001Z"),
            (
                "2026-03-05T09:08:00.000000001Z",
                "2026-03-05T09:08:00.000000001Z",
            ),
            ("2026-03-05T01:08:11+02:00", "2026-03-04T23:08:11Z"),
            ("2024-02-29T23:59:59-00:30", "2024-03-01T00:29:59Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
            (
                "9999-12-31T23:59:59.999999999Z",
                "9999-12-31T23:59:59.999999999Z",
            ),
        ] {
            assert_eq!(json(text), expected);
        }
    }

    #[test]
    fn bad_times_are_refused() {
        for text in [
            "",
            "2026-02-30T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-03-05",
            "2026-03-05T24:00:00Z",
            "2026-03-05T09:08:11",
            "2026-03-05T09:08:11.Z",
            "26-03-05T09:08:11Z",
            "2026-03-05T09:08:+1Z",
        ] {
            assert_eq!(Time::from_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn every_layout_has_its_form() {
        let time = Time::from_rfc3339("2026-03-05T09:07:01.030709Z").unwrap();
        for (name, expected) in [
            ("StampMilli", "Mar  5 09:07:01.030"),
            ("anything", "Mar  5 09:07:01.030"),
            ("YearMonthDay", "2026-03-05"),
            ("yearmonthdayhour", "2026-03-05T09Z"),
            ("YearMonthDayHourMinute", "2026-03-05T09:07Z"),
            ("RFC3339", "2026-03-05T09:07:01Z"),
            ("RFC3339Milli", "2026-03-05T09:07:01.03Z"),
            ("RFC3339Micro", "2026-03-05T09:07:01.030709Z"),
            ("RFC3339Nano", "2026-03-05T09:07:01.030709Z"),
            ("RFC1123Z", "Thu, 05 Mar 2026 09:07:01 +0000"),
        ] {
            let mut out = String::new();
            TimeFormat::from_name(name).write(time, &mut out);
            assert_eq!(out, expected, "{name}");
        }
    }
}
