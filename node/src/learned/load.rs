//! Names that are made known before anybody asks for them.

use std::net::IpAddr;

use fqdn::Name;
use serde_json::{Value, json};

use super::wanted;
use crate::control::KnownName;
use crate::daemon::Daemon;

/// Refusals that one answer tells one by one; of the rest, how many there are.
const REFUSED_TOLD_MAX: usize = 100;

const NO_RULE: &str = "no toFQDNs rule names it";

/// What became of the names of a request.
#[derive(Default)]
struct Report {
    opened: usize,
    evicted: usize,
    refused: usize,
    told: Vec<Value>,
}

/// Makes names known to one endpoint, `NAMESPACE/NAME`, to those that they name, or to all.
pub(crate) fn load(daemon: &Daemon, endpoint: Option<&str>, names: &[KnownName]) -> Value {
    if let Err(error) = wanted(daemon, endpoint) {
        return json!({ "error": error });
    }
    let mut report = Report::default();
    for known in names {
        report.load(daemon, endpoint.or(known.endpoint.as_deref()), known);
    }
    json!({
        "opened": report.opened,
        "evicted": report.evicted,
        "refused": report.refused,
        "refusals": report.told,
    })
}

impl Report {
    fn load(&mut self, daemon: &Daemon, endpoint: Option<&str>, known: &KnownName) {
        let name = match Name::from_text(&known.name) {
            Ok(name) => name,
            Err(error) => return self.refuse((endpoint, known), None, &error.to_string()),
        };
        let wanted = match wanted(daemon, endpoint) {
            Ok(wanted) => wanted,
            Err(error) => return self.refuse((endpoint, known), None, &error),
        };
        let mut is_named = false;
        for (id, endpoint) in wanted {
            let whose = (Some(&*endpoint), known);
            match daemon.learner.load(id, (&name, &known.addresses)) {
                Ok(None) => continue,
                Ok(Some(loaded)) => {
                    self.opened += loaded.opened;
                    self.evicted += loaded.evicted;
                    for (ip, class) in loaded.refused {
                        self.refuse(whose, Some(ip), class);
                    }
                }
                Err(error) => self.refuse(whose, None, &error.to_string()),
            }
            is_named = true;
        }
        if !is_named {
            self.refuse((endpoint, known), None, NO_RULE);
        }
    }

    fn refuse(
        &mut self,
        (endpoint, known): (Option<&str>, &KnownName),
        address: Option<IpAddr>,
        reason: &str,
    ) {
        self.refused += 1;
        if self.told.len() < REFUSED_TOLD_MAX {
            self.told.push(json!({
                "endpoint": endpoint,
                "name": known.name,
                "address": address,
                "reason": reason,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_up_to_the_bound_and_all_counted() {
        let known = KnownName {
            endpoint: None,
            name: "a.io.".to_owned(),
            addresses: Vec::new(),
        };
        let mut report = Report::default();
        for _ in 0..=REFUSED_TOLD_MAX {
            report.refuse((Some("d/x"), &known), None, NO_RULE);
        }
        let counted = (report.refused, report.told.len());
        assert_eq!(counted, (REFUSED_TOLD_MAX + 1, REFUSED_TOLD_MAX));
    }
}
