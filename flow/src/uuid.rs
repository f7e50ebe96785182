//! The id of an event.

use std::fmt;
use std::str::FromStr;

/// A UUID; ours are random, version 4.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Uuid(u128);

impl Uuid {
    /// The version 4 UUID made from 16 random bytes, which the caller draws.
    #[must_use]
    pub const fn from_random(bytes: [u8; 16]) -> Self {
        let bits = u128::from_be_bytes(bytes);
        let version = (bits & !(0xf << 76)) | (4 << 76);
        Self((version & !(0b11 << 62)) | (0b10 << 62))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0;
        let part = |shift: u32, mask: u128| (bits >> shift) & mask;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            part(96, 0xffff_ffff),
            part(80, 0xffff),
            part(64, 0xffff),
            part(48, 0xffff),
            part(0, 0xffff_ffff_ffff)
        )
    }
}

/// The text is not 36 characters of the form 8-4-4-4-12 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a UUID")]
pub struct BadUuid;

impl FromStr for Uuid {
    type Err = BadUuid;

    fn from_str(text: &str) -> Result<Self, BadUuid> {
        let mut bits = 0u128;
        let mut parts = text.split('-');
        for digits in [8usize, 4, 4, 4, 12] {
            let part = parts
                .next()
                .filter(|part| part.len() == digits)
                .ok_or(BadUuid)?;
            if !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(BadUuid);
            }
            let value = u128::from_str_radix(part, 16).map_err(|_| BadUuid)?;
            bits = (bits << (4 * digits)) | value;
        }
        if parts.next().is_some() {
            return Err(BadUuid);
        }
        Ok(Self(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_become_version_4() {
        assert_eq!(
            Uuid::from_random([0xff; 16]).to_string(),
            "ffffffff-ffff-4fff-bfff-ffffffffffff"
        );
        assert_eq!(
            Uuid::from_random([0; 16]).to_string(),
            "00000000-0000-4000-8000-000000000000"
        );
    }

    #[test]
    fn text_comes_back_and_bad_text_does_not() {
        let text = "01234567-89ab-4cde-8f01-23456789abcd";
        assert_eq!(text.parse::<Uuid>().unwrap().to_string(), text);
        for bad in [
            "",
            "0123",
            "01234567-89ab-4cde-8f01-23456789abcg",
            "+1234567-89ab-4cde-8f01-23456789abcd",
            "01234567-89ab-4cde-8f01-23456789abcd-",
        ] {
            assert_eq!(bad.parse::<Uuid>(), Err(BadUuid), "{bad}");
        }
    }
}
