//! Why a packet was dropped, by Cilium's numbers.

mod table;

/// The reason of a drop: a number that the kernel, the flow event and the metric share. Numbers
/// without a name can be told too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DropReason(u8);

impl DropReason {
    /// Nothing is wrong, or nobody said what.
    pub const UNKNOWN: Self = Self(0);
    /// The source address is not the endpoint's own.
    pub const INVALID_SOURCE_IP: Self = Self(132);
    /// Nothing allows it.
    pub const POLICY_DENIED: Self = Self(133);
    /// The packet can't be parsed.
    pub const INVALID_PACKET_DROPPED: Self = Self(134);
    /// A deny rule forbids it.
    pub const POLICY_DENY: Self = Self(181);

    /// The reason with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The name in JSON, in flags and in metrics; none for numbers that the enum doesn't have.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        self.row()
            .map(|(_, name, _)| *name)
            .filter(|name| !name.is_empty())
    }

    /// The text that is printed as the type of a drop event.
    #[must_use]
    pub fn text(self) -> Option<&'static str> {
        self.row().map(|(_, _, text)| *text)
    }

    /// The reason of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let named = |row: &&(u8, &str, &str)| !name.is_empty() && row.1 == name;
        table::REASONS
            .iter()
            .find(named)
            .map(|(number, _, _)| Self(*number))
    }

    fn row(self) -> Option<&'static (u8, &'static str, &'static str)> {
        let at = table::REASONS
            .binary_search_by_key(&self.0, |(number, _, _)| *number)
            .ok()?;
        table::REASONS.get(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_so_that_it_can_be_searched() {
        assert!(table::REASONS.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn names_come_back() {
        for (number, name, text) in table::REASONS {
            let reason = DropReason::from_number(*number);
            assert_eq!(reason.text(), Some(*text));
            if !name.is_empty() {
                assert_eq!(DropReason::from_name(name), Some(reason));
            }
        }
        assert_eq!(DropReason::from_name(""), None);
        assert_eq!(DropReason::from_number(240).text(), None);
        assert_eq!(DropReason::from_number(2).name(), None);
    }
}
