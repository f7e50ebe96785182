//! Types of DNS records by the words that policies and questions name them by.

/// The types that have a word here; every other is `TYPE` and its number (RFC 3597 §5).
const KNOWN: [(&str, u16); 20] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("LOC", 29),
    ("SRV", 33),
    ("NAPTR", 35),
    ("DS", 43),
    ("SSHFP", 44),
    ("DNSKEY", 48),
    ("TLSA", 52),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("ANY", 255),
    ("URI", 256),
    ("CAA", 257),
];

/// The number of a type (RFC 1035 §3.2.3), by its word in capitals or `TYPE` and the number.
#[must_use]
pub fn record_type(text: &str) -> Option<u16> {
    let known = KNOWN.iter().find(|(word, _)| *word == text);
    let number = || {
        let digits = text.strip_prefix("TYPE")?;
        let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|_| is_plain)
    };
    known.map(|(_, number)| *number).or_else(number)
}

/// The word of a type.
#[must_use]
pub fn record_type_word(number: u16) -> String {
    let known = KNOWN.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| format!("TYPE{number}"), |(word, _)| (*word).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_has_a_word_or_its_number() {
        for (text, number) in KNOWN {
            assert_eq!(record_type(text), Some(number));
            assert_eq!(record_type_word(number), text);
            assert_eq!(record_type(&format!("TYPE{number}")), Some(number));
        }
        assert_eq!(record_type("TYPE10"), Some(10));
        assert_eq!(record_type_word(10), "TYPE10");
        for text in ["", "a", "TYPE", "TYPE+1", "TYPE65536", "NULLS", "28"] {
            assert_eq!(record_type(text), None, "{text}");
        }
    }
}
