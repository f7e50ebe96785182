//! Public resolvers that speak encrypted DNS, by name and by address: those that come with the program, or a file's.

use std::fs::File;
use std::io::Read;
use std::sync::{Arc, LazyLock};

use fqdn::{Everything, Name, Pattern, PatternSet};
use ipnet::IpNet;

use super::address_or_prefix;

/// Octets of a file.
const OCTETS_MAX: u64 = 1 << 20;
/// Addresses and prefixes of a file: each is four entries of every workload's policy.
const ADDRESSES_MAX: usize = 1_000;

/// Whom encrypted DNS is spoken with.
#[derive(Clone, Debug)]
pub(crate) struct Resolvers {
    /// Their names, and all below these.
    pub(crate) names: Arc<PatternSet<()>>,
    /// The addresses that are theirs alone.
    pub(crate) addresses: Arc<[IpNet]>,
}

impl Resolvers {
    /// Those that are known to the program.
    pub(crate) fn shipped() -> Self {
        static SHIPPED: LazyLock<Resolvers> = LazyLock::new(|| {
            let read = Resolvers::from_text(include_str!("resolvers.txt"));
            // It is read by a test.
            read.unwrap_or_else(|_| Resolvers {
                names: Arc::new(PatternSet::new()),
                addresses: Arc::default(),
            })
        });
        SHIPPED.clone()
    }

    /// Those of a file.
    ///
    /// # Errors
    /// If it can't be read, or a line of it; the text has the file and the line.
    pub(crate) fn read(path: &str) -> Result<Self, String> {
        let mut text = String::new();
        let read =
            File::open(path).and_then(|file| file.take(OCTETS_MAX + 1).read_to_string(&mut text));
        match read {
            Err(error) => return Err(format!("{path}: {error}")),
            Ok(octets) if octets as u64 > OCTETS_MAX => {
                return Err(format!("{path}: it has more than {OCTETS_MAX} octets"));
            }
            Ok(_) => {}
        }
        Self::from_text(&text).map_err(|(line, reason)| format!("{path}:{line}: {reason}"))
    }

    /// A name, an address or a prefix on each line; what follows a `#` is a comment.
    fn from_text(text: &str) -> Result<Self, (usize, String)> {
        let mut names = PatternSet::new();
        let mut addresses = Vec::new();
        for (line, number) in text.lines().zip(1..) {
            let word = line.split('#').next().unwrap_or_default().trim();
            if word.is_empty() {
                continue;
            }
            let wrong = |reason: String| (number, reason);
            match address_or_prefix(word) {
                Some(prefix) if prefix.prefix_len() == 0 => {
                    return Err(wrong(format!("{word} is every address")));
                }
                Some(prefix) => addresses.push(prefix.trunc()),
                None => insert(word, &mut names).map_err(wrong)?,
            }
            if addresses.len() > ADDRESSES_MAX {
                let reason = format!("there are more than {ADDRESSES_MAX} addresses and prefixes");
                return Err(wrong(reason));
            }
        }
        Ok(Self {
            names: Arc::new(names),
            addresses: addresses.into(),
        })
    }
}

/// Adds a name, and all below it.
fn insert(word: &str, names: &mut PatternSet<()>) -> Result<(), String> {
    let wrong = |reason: &dyn std::fmt::Display| {
        format!("{word:?} is no address, no prefix, and no name: {reason}")
    };
    let name = Name::from_text(word).map_err(|error| wrong(&error))?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !word.chars().all(is_plain) {
        return Err(wrong(&"letters, digits, hyphens and dots are in one"));
    }
    // `1.2.3` is a slip, and no name that anybody has.
    let is_number = |label: &[u8]| label.iter().all(u8::is_ascii_digit);
    if name.labels().next_back().is_none_or(is_number) {
        return Err(wrong(&"its last label is no domain's"));
    }
    let below = Pattern::parse(&format!("**.{word}"), Everything::AnyName);
    let below = below.map_err(|error| wrong(&error))?;
    names.insert_exact(&name, ());
    names.insert(&below, ());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(resolvers: &Resolvers, name: &str) -> bool {
        let name = Name::from_text(name).unwrap();
        resolvers.names.first_match(name.as_wire()).is_some()
    }

    #[test]
    fn those_that_are_shipped_are_known_with_all_below_them() {
        let shipped = Resolvers::from_text(include_str!("resolvers.txt")).unwrap();
        for name in [
            "dns.google",
            "8888.dns.google",
            "a.b.dns64.dns.google",
            "one.one.one.one",
            "mozilla.cloudflare-dns.com",
            "DNS.Quad9.net",
            "dns.mullvad.net",
        ] {
            assert!(has(&shipped, name), "{name}");
        }
        for name in ["google", "xdns.google", "one.one.one", "example.com", "."] {
            assert!(!has(&shipped, name), "{name}");
        }
        for address in ["8.8.8.8/32", "2620:fe::fe/128", "45.90.28.0/24"] {
            let address = address.parse().unwrap();
            assert!(shipped.addresses.contains(&address), "{address}");
        }
    }

    #[test]
    fn a_file_is_read_by_lines() {
        let text =
            "# ours\n\n  Doh.Example. # all below\n192.0.2.1\n2001:db8::1/32\n198.51.100.9/24\n";
        let resolvers = Resolvers::from_text(text).unwrap();
        assert!(has(&resolvers, "doh.example") && has(&resolvers, "a.b.doh.example"));
        assert!(!has(&resolvers, "dns.google"));
        let addresses: Vec<String> = resolvers
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            addresses,
            ["192.0.2.1/32", "2001:db8::/32", "198.51.100.0/24"]
        );
        let none = Resolvers::from_text("").unwrap();
        assert!(none.names.is_empty() && none.addresses.is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let many = "192.0.2.1\n".repeat(ADDRESSES_MAX + 1);
        for (text, line, reason) in [
            ("dns.google\nnot a name\n", 2, "no name"),
            ("a..b", 1, "no name"),
            ("*.doh.example", 1, "no name"),
            (".", 1, "last label"),
            ("0.0.0.0/0", 1, "every address"),
            ("10.0.0.0/33", 1, "no prefix"),
            ("1.2.3", 1, "last label"),
            (&many, ADDRESSES_MAX + 1, "more than 1000"),
        ] {
            let (found, error) = Resolvers::from_text(text).unwrap_err();
            assert_eq!(found, line, "{text}: {error}");
            assert!(error.contains(reason), "{text}: {error}");
        }
        let gone = Resolvers::read("/nonexistent/resolvers").unwrap_err();
        assert!(
            gone.starts_with("/nonexistent/resolvers: No such file"),
            "{gone}"
        );
    }
}
