//! Answers of our own.

use std::time::SystemTime;

use super::buffer::Buffer;
use super::head::Version;

/// An answer that doesn't come from the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a str,
    pub(crate) shape: Shape,
    /// What the connection does after it.
    pub(crate) after: After,
}

/// What of an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Whole,
    /// To a HEAD: the same head, and no body.
    Head,
    /// To gRPC: a status that its clients understand, and no body.
    Grpc,
}

/// What the connection does after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Keep(Version),
    Close,
}

impl Answer<'_> {
    pub(crate) fn write(&self, now: SystemTime, out: &mut Buffer) {
        let status = match self.shape {
            Shape::Grpc => 200,
            Shape::Whole | Shape::Head => self.status,
        };
        let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
        match self.shape {
            Shape::Grpc => {
                let code = grpc_code(self.status);
                head += "content-type: application/grpc\r\ncontent-length: 0\r\n";
                head += &format!(
                    "grpc-status: {code}\r\ngrpc-message: {}\r\n",
                    escape(self.body)
                );
            }
            Shape::Whole | Shape::Head => {
                let length = self.body.len();
                head += &format!("content-type: text/plain\r\ncontent-length: {length}\r\n");
            }
        }
        head += &format!("date: {}\r\n", date(now));
        head += match self.after {
            After::Keep(Version::Http11) => "",
            After::Keep(Version::Http10) => "connection: keep-alive\r\n",
            After::Close => "connection: close\r\n",
        };
        out.put(head.as_bytes());
        out.put(b"\r\n");
        if self.shape == Shape::Whole {
            out.put(self.body.as_bytes());
        }
    }
}

/// The text of a status that we answer with.
pub(crate) const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        408 => "Request Timeout",
        414 => "URI Too Long",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

/// What gRPC calls a status of ours: PERMISSION_DENIED, or UNAVAILABLE.
pub(crate) const fn grpc_code(status: u16) -> &'static str {
    match status {
        403 => "7",
        _ => "14",
    }
}

/// A gRPC message (percent-encoded, as its specification of HTTP/2 says).
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A date as RFC 9110 §5.6.7 writes it.
pub(crate) fn date(now: SystemTime) -> String {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let weekday = name(&["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"], days % 7);
    let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = name(&months, month - 1);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

fn name(names: &[&'static str], index: u64) -> &'static str {
    let index = usize::try_from(index).unwrap_or_default();
    names.get(index).copied().unwrap_or_default()
}

/// Year, month and day of a day since 1970, in eras of 400 years that begin in March.
const fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year + era * 400 + (month <= 2) as u64;
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_date_is_written_as_the_rfc_says() {
        for (seconds, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(date(now), expected);
        }
    }

    #[test]
    fn a_grpc_message_is_escaped() {
        assert_eq!(escape("Access denied\r\n"), "Access denied%0D%0A");
        assert_eq!(escape("100 %"), "100 %25");
    }
}
