//! Policies that options stand for.

use dnsproxy::Encrypted;
use policy::Source;

/// The name that problems and rules have in place of a file's.
const ENCRYPTED_DNS_FILE: &str = "--encrypted-dns";

/// What `--encrypted-dns` says as a policy; what is only reported is audited.
pub(crate) fn of(encrypted: Encrypted) -> Option<Source> {
    let audit = match encrypted {
        Encrypted::Allow => return None,
        Encrypted::Report => "true",
        Encrypted::Block => "false",
    };
    Some(Source {
        path: ENCRYPTED_DNS_FILE.to_owned(),
        text: include_str!("presets/encrypted-dns.yaml").replace("AUDIT", audit),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_is_a_policy_that_is_in_force() {
        assert!(of(Encrypted::Allow).is_none());
        for (how, audits) in [(Encrypted::Report, true), (Encrypted::Block, false)] {
            let source = of(how).unwrap();
            assert_eq!(source.text.contains("audit: \"true\""), audits);
            let loaded = policy::load(&[source]);
            assert!(loaded.problems.is_empty(), "{:#?}", loaded.problems);
            assert_eq!(loaded.set.iter().count(), 1);
            assert!(loaded.set.lacking(crate::run::ENFORCED).is_empty());
        }
    }
}
