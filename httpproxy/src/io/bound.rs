//! TLS that is not the client's and the server's own affair: which server it is begun to.

use std::sync::Arc;

use policy::TlsRule;

use crate::core::host::Authority;
use crate::tls::{OwnCertificate, TlsSecrets, Trust};

/// The server that the TLS of a connection is about. It stays the same as long as the connection does.
#[derive(Debug)]
pub(super) struct Bound {
    /// What it is called, in lower case: what the client says, else what was learned for its address.
    /// Empty where there is neither and nobody's name is verified.
    pub(super) name: String,
    /// The rule that says so.
    pub(super) rule: TlsRule,
    /// Whose certificate the client is shown. `None`: it speaks without TLS.
    pub(super) own: Option<Arc<OwnCertificate>>,
    /// Who vouches for the server. `None`: it is spoken to without TLS.
    pub(super) trust: Option<Arc<Trust>>,
}

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    Tls,
    Plain,
}

impl Bound {
    /// The first rule that is about a server of one of these names and has what it needs for it.
    pub(super) fn choose(
        rules: &[TlsRule],
        names: &[String],
        (client, secrets): (Client, &TlsSecrets),
    ) -> Option<Self> {
        let is_for = |rule: &&TlsRule| rule.terminating.is_some() == (client == Client::Tls);
        let rules = || rules.iter().filter(is_for);
        let by_name = |name: &String| {
            let mut about = rules().filter(|rule| rule.covers(name));
            about.find_map(|rule| {
                let bound = Self::of(rule, name, secrets)?;
                let own = bound.own.as_ref();
                own.is_none_or(|own| own.covers(name)).then_some(bound)
            })
        };
        if let Some(bound) = names.iter().find_map(by_name) {
            return Some(bound);
        }
        // Without any name there is nothing to verify a server by; to one without TLS it may go.
        let mut nameless = rules().filter(|rule| rule.originating.is_none() && rule.covers(""));
        let rule = nameless.next().filter(|_| names.is_empty())?;
        Self::of(rule, "", secrets)
    }

    /// A rule with its certificates; `None` if one of them is missing.
    fn of(rule: &TlsRule, name: &str, secrets: &TlsSecrets) -> Option<Self> {
        let own = match &rule.terminating {
            Some(context) => Some(Arc::clone(secrets.own(context)?)),
            None => None,
        };
        let trust = match &rule.originating {
            Some(context) => Some(Arc::clone(secrets.trust(context)?)),
            None => None,
        };
        Some(Self {
            name: name.to_owned(),
            rule: rule.clone(),
            own,
            trust,
        })
    }

    /// Whether the client speaks TLS, which is ended here.
    pub(super) fn is_in_tls(&self) -> bool {
        self.own.is_some()
    }

    /// Whether a request for this host may go over it: it is the server's name, or one that the
    /// certificate has and one of the same rules is about.
    pub(super) fn is_for(&self, host: &str, rules: &[TlsRule]) -> bool {
        let Ok(authority) = Authority::read(host.as_bytes()) else {
            return false;
        };
        let host = authority.name.strip_suffix('.').unwrap_or(authority.name);
        if host.eq_ignore_ascii_case(&self.name) {
            return true;
        }
        let host = host.to_ascii_lowercase();
        self.own.as_ref().is_some_and(|own| own.covers(&host))
            && rules.iter().any(|rule| rule.covers(&host))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use policy::{Direction, PeerRef};

    use super::*;
    use crate::testing::{Authority, Policies};
    use crate::tls::provider;

    /// The rules of these egress items that are about TLS to 192.0.2.7, port 443.
    fn rules_of(egress: &str) -> Vec<TlsRule> {
        let (snapshot, endpoint) = Policies::new().snapshot_of(egress);
        let server: IpAddr = "192.0.2.7".parse().unwrap();
        let peer = PeerRef::Known(snapshot.identity_of(server));
        snapshot.tls_rules(endpoint, Direction::Egress, (peer, 443))
    }

    fn item(peers: &str, rest: &str) -> String {
        format!("{{{peers}, toPorts: [{{ports: [{{port: '443', protocol: TCP}}], {rest}}}]}}")
    }

    const TO_WORLD: &str = "toEntities: [world]";
    const TO_NET: &str = "toCIDR: [192.0.2.0/24]";
    const ROOTS: &str = "originatingTLS: {secret: {name: roots}}";

    fn ended(secret: &str) -> String {
        format!("terminatingTLS: {{secret: {{name: {secret}}}}}")
    }

    /// A certificate for each secret: its names.
    fn secrets(rules: &[TlsRule], certificates: &[(&str, &[&str])]) -> TlsSecrets {
        let authority = Authority::new();
        let mut secrets = TlsSecrets::default();
        for rule in rules {
            if let Some(context) = &rule.terminating
                && let Some((_, names)) =
                    (certificates.iter()).find(|(secret, _)| *secret == context.secret().1)
            {
                let (certificate, key) = authority.issue(names);
                let own = OwnCertificate::read(&certificate, &key, &provider()).unwrap();
                secrets.add_own(context, own);
            }
            if let Some(context) = &rule.originating {
                let trust = Trust::read(&authority.pem(), &provider()).unwrap();
                secrets.add_trust(context, trust);
            }
        }
        secrets
    }

    #[test]
    fn the_rule_is_chosen_by_the_names_of_its_certificate() {
        let rules = rules_of(&format!(
            "{}, {}",
            item(TO_WORLD, &format!("{}, {ROOTS}", ended("one"))),
            item(
                TO_NET,
                &format!("{}, {ROOTS}, serverNames: ['*.test']", ended("two"))
            ),
        ));
        assert_eq!(rules.len(), 2);
        let one: (&str, &[&str]) = ("one", &["a.test", "*.x.test"]);
        let two: (&str, &[&str]) = ("two", &["b.test", "c.org"]);
        let all = secrets(&rules, &[one, two]);
        let choose = |names: &[&str], secrets: &TlsSecrets| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let bound = Bound::choose(&rules, &names, (Client::Tls, secrets))?;
            let secret = bound
                .rule
                .terminating
                .as_ref()
                .unwrap()
                .secret()
                .1
                .to_owned();
            Some(format!("{secret} {}", bound.name))
        };
        for (names, expected) in [
            (&["a.test"][..], Some("one a.test")),
            (&["y.x.test"], Some("one y.x.test")),
            (&["b.test"], Some("two b.test")),
            (&["c.org"], None), // the certificate has it, the rule has not
            (&["d.test"], None),
            (&["x.test"], None),
            (&[], None), // there would be nothing to verify the server by
            (&["d.test", "b.test", "a.test"], Some("two b.test")), // learned ones
        ] {
            assert_eq!(choose(names, &all).as_deref(), expected, "{names:?}");
        }
        assert_eq!(
            choose(&["a.test"], &TlsSecrets::default()),
            None,
            "no secret, no TLS"
        );
        let half = secrets(&rules, &[two]);
        assert_eq!(choose(&["a.test"], &half), None);
        assert_eq!(choose(&["b.test"], &half).as_deref(), Some("two b.test"));
    }

    #[test]
    fn without_a_name_only_a_plain_server_is_spoken_to() {
        let names = |text: &str| {
            let rules = rules_of(&item(TO_WORLD, text));
            let all = secrets(&rules, &[("one", &["a.test"])]);
            let bound = Bound::choose(&rules, &[], (Client::Tls, &all));
            bound.map(|bound| bound.name)
        };
        assert_eq!(names(&ended("one")).as_deref(), Some(""));
        assert_eq!(names(&format!("{}, {ROOTS}", ended("one"))), None);
        assert_eq!(
            names(&format!("{}, serverNames: [a.test]", ended("one"))),
            None
        );
        assert_eq!(names(ROOTS), None, "its client speaks no TLS");
    }

    #[test]
    fn a_host_is_bound_to_the_name_its_certificate_and_its_rule() {
        let text = format!(
            "{}, {ROOTS}, serverNames: [a.test, b.test, d.test]",
            ended("one")
        );
        let rules = rules_of(&item(TO_WORLD, &text));
        let all = secrets(&rules, &[("one", &["a.test", "b.test", "c.test"])]);
        let bound = Bound::choose(&rules, &["a.test".to_owned()], (Client::Tls, &all)).unwrap();
        assert!(bound.is_in_tls());
        for (host, expected) in [
            ("a.test", true),
            ("A.Test:443", true),
            ("a.test.", true),
            ("b.test", true),
            ("c.test", false), // not the rule's
            ("d.test", false), // not the certificate's
            ("evil.test", false),
            ("192.0.2.7", false),
            ("[2001:db8::1]", false),
            ("a.test.evil.test", false),
            ("", false),
            ("a.test,b.test", false),
        ] {
            assert_eq!(bound.is_for(host, &rules), expected, "{host}");
        }
        assert!(
            !bound.is_for("b.test", &[]),
            "once no rule is left, its own name alone"
        );
        assert!(bound.is_for("a.test", &[]));
        let rules = rules_of(&item(
            TO_WORLD,
            &format!("{ROOTS}, rules: {{http: [{{}}]}}"),
        ));
        let all = secrets(&rules, &[]);
        let bound = Bound::choose(&rules, &["a.test".to_owned()], (Client::Plain, &all)).unwrap();
        assert!(!bound.is_in_tls() && bound.trust.is_some());
        assert!(bound.is_for("a.test:80", &rules) && !bound.is_for("b.test", &rules));
    }
}
