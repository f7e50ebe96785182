//! The values of `--since` and `--until`.

use flow::Time;

const NANOS_PER_SEC: i128 = 1_000_000_000;

/// A time of day in UTC, or how long ago: `5m`, `1h30m`, `2026-03-05`, `2026-03-05T09:07`,
/// `2026-03-05T09:07:01Z`.
pub(super) fn read(text: &str, now: Time) -> Option<Time> {
    let shorter = [
        text.to_owned(),
        format!("{text}Z"),
        format!("{text}:00Z"),
        format!("{text}:00:00Z"),
        format!("{text}T00:00:00Z"),
    ];
    if text == "now" {
        return Some(now);
    }
    shorter
        .iter()
        .find_map(|text| Time::from_rfc3339(text))
        .or_else(|| Some(now.before(ago(text)?)))
}

/// A length of time in nanoseconds, as Go writes it.
fn ago(text: &str) -> Option<i128> {
    const UNITS: [(&str, i128); 5] = [
        ("ms", NANOS_PER_SEC / 1000),
        ("s", NANOS_PER_SEC),
        ("m", 60 * NANOS_PER_SEC),
        ("h", 3600 * NANOS_PER_SEC),
        ("d", 86_400 * NANOS_PER_SEC),
    ];
    let mut rest = text;
    let mut sum: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = rest.split_at_checked(digits)?;
        let end = unit
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(unit.len());
        let (unit, next) = unit.split_at_checked(end)?;
        let (_, nanos) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        let number: u32 = number.parse().ok()?;
        sum += i128::from(number) * nanos;
        rest = next;
    }
    (sum > 0).then_some(sum)
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
            ("2026-03-05", "2026-03-05T00:00:00Z"),
            ("2026-03-05T09", "2026-03-05T09:00:00Z"),
            ("2026-03-05T09:07", "2026-03-05T09:07:00Z"),
            ("2026-03-05T09:07:01", "2026-03-05T09:07:01Z"),
            ("2026-03-05T10:07:01+01:00", "2026-03-05T09:07:01Z"),
        ] {
            assert_eq!(read(text, now), Some(at(expected)), "{text}");
        }
        for wrong in ["", "yesterday", "5", "m", "5x", "-5m", "0s", "99999999999h"] {
            assert_eq!(read(wrong, now), None, "{wrong}");
        }
    }
}
