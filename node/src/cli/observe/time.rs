//! The values of `--since` and `--until`.

use flow::Time;

const NANOS_PER_SEC: i128 = 1_000_000_000;

/// A time of day, or how long ago: `5m`, `1.5h`, `2026-03-05`, `2026-03-05T09:07Z`, `2026-03-05T09:07:01Z`,
/// `Thu, 05 Mar 2026 09:07:01 +0000`.
pub(super) fn read(text: &str, now: Time) -> Option<Time> {
    if text == "now" {
        return Some(now);
    }
    of_day(text)
        .or_else(|| of_mail(text))
        .or_else(|| Some(now.before(ago(text)?)))
}

/// RFC 3339, of which the end of the time may be left out, and the zone: then it is UTC's.
fn of_day(text: &str) -> Option<Time> {
    let (date, rest) = text.split_at_checked("2026-03-05".len())?;
    let zone = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (time, zone) = rest.split_at_checked(zone)?;
    let missing = match time.len() {
        0 => "T00:00:00",
        3 => ":00:00",
        6 => ":00",
        _ => "",
    };
    let zone = if zone.is_empty() { "Z" } else { zone };
    Time::from_rfc3339(&format!("{date}{time}{missing}{zone}"))
}

/// RFC 1123's form with a zone in digits.
fn of_mail(text: &str) -> Option<Time> {
    const DAYS: [&str; 7] = ["Mon,", "Tue,", "Wed,", "Thu,", "Fri,", "Sat,", "Sun,"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let [weekday, day, month, year, time, zone] = text.split(' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let (hours, minutes) = zone.split_at_checked("+00".len())?;
    let text = format!("{year}-{month:02}-{day}T{time}{hours}:{minutes}");
    Time::from_rfc3339(&text).filter(|_| DAYS.contains(&weekday))
}

/// A length of time in nanoseconds, as Go writes it, and with days.
fn ago(text: &str) -> Option<i128> {
    const UNITS: [(&str, i128); 8] = [
        ("ns", 1),
        ("us", NANOS_PER_SEC / 1_000_000),
        ("µs", NANOS_PER_SEC / 1_000_000),
        ("ms", NANOS_PER_SEC / 1000),
        ("s", NANOS_PER_SEC),
        ("m", 60 * NANOS_PER_SEC),
        ("h", 3600 * NANOS_PER_SEC),
        ("d", 86_400 * NANOS_PER_SEC),
    ];
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut rest = text;
    let mut sum: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !is_number(c))?;
        let (number, unit) = rest.split_at_checked(digits)?;
        let end = unit.find(is_number).unwrap_or(unit.len());
        let (unit, next) = unit.split_at_checked(end)?;
        let (_, nanos) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        sum += times(number, nanos)?;
        rest = next;
    }
    (sum > 0).then_some(sum)
}

/// So many times a unit: `2`, `1.5`, `.5`.
fn times(number: &str, unit: i128) -> Option<i128> {
    const DIGITS_MAX: usize = 9;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| match text {
        "" => Some(0),
        text => text.parse::<u32>().ok().map(i128::from),
    };
    if whole.len() + part.len() == 0 || part.len() > DIGITS_MAX {
        return None;
    }
    let tenths = 10_i128.pow(u32::try_from(part.len()).ok()?);
    Some(digits(whole)? * unit + digits(part)? * unit / tenths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_points_or_lengths() {
        let at = |text| Time::from_rfc3339(text).unwrap();
        let now = at("2026-03-05T09:07:30Z");
        for (text, expected) in [
            ("now", "2026-03-05T09:07:30Z"),
            ("30s", "2026-03-05T09:07:00Z"),
            ("1h7m", "2026-03-05T08:00:30Z"),
            ("500ms", "2026-03-05T09:07:29.5Z"),
            ("1d", "2026-03-04T09:07:30Z"),
            ("1.5h", "2026-03-05T07:37:30Z"),
            (".5s", "2026-03-05T09:07:29.5Z"),
            ("1h0.25m", "2026-03-05T08:07:15Z"),
            ("1us", "2026-03-05T09:07:29.999999Z"),
            ("1µs", "2026-03-05T09:07:29.999999Z"),
            ("2ns", "2026-03-05T09:07:29.999999998Z"),
            ("2026-03-05T09:07Z", "2026-03-05T09:07:00Z"),
            ("2026-03-05T09Z", "2026-03-05T09:00:00Z"),
            ("2026-03-05T10:07+01:00", "2026-03-05T09:07:00Z"),
            ("2026-03-05T09:07:01.5Z", "2026-03-05T09:07:01.5Z"),
            ("Thu, 05 Mar 2026 09:07:01 +0000", "2026-03-05T09:07:01Z"),
            ("Thu, 05 Mar 2026 10:07:01 +0100", "2026-03-05T09:07:01Z"),
            ("2026-03-05", "2026-03-05T00:00:00Z"),
            ("2026-03-05T09", "2026-03-05T09:00:00Z"),
            ("2026-03-05T09:07", "2026-03-05T09:07:00Z"),
            ("2026-03-05T09:07:01", "2026-03-05T09:07:01Z"),
            ("2026-03-05T10:07:01+01:00", "2026-03-05T09:07:01Z"),
        ] {
            assert_eq!(read(text, now), Some(at(expected)), "{text}");
        }
        for wrong in [
            "",
            "yesterday",
            "5",
            "m",
            "5x",
            "-5m",
            "0s",
            "99999999999h",
            ".s",
            "1.2.3s",
            "1.0000000001s",
            "2026-03-05T09:0Z",
            "Thu, 05 Mar 2026",
            "Xyz, 05 Mar 2026 09:07:01 +0000",
            "Thu, 05 Mar 2026 09:07:01 UTC",
            "2026-03-0é",
        ] {
            assert_eq!(read(wrong, now), None, "{wrong}");
        }
    }
}
