//! What a command did and what it was denied, gathered from its flows. No clock, no files.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use dnsproxy::Remark;
use flow::{Event, Flow, L4, MessageKind, Verdict};

use crate::datapath::Carriage;
use crate::suggest::{Evidence, Line, Names, Scope};
use crate::traffic::{Traffic, by_packet, is_told};

/// Different things of which each is counted by itself; further ones are counted together.
pub(super) const DENIED_MAX: usize = 1_000;

/// The account of one command.
#[derive(Default)]
pub(super) struct Account {
    /// Whether what is denied passes, and is only told.
    is_audit: bool,
    /// What is put behind a name that has too few dots, by which libc asks again.
    search: Vec<String>,
    pub(super) traffic: Traffic,
    pub(super) denied: BTreeMap<Denied, u64>,
    /// Denials of further ones.
    pub(super) left_out: u64,
    /// What a policy has to allow; only where somebody wants one.
    evidence: Option<Evidence>,
    /// How what it may reach is reached.
    pub(super) carriage: Carriage,
}

/// Something that policy denied.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Denied {
    /// A name: it was asked for, or said to a server.
    Name(Arc<str>),
    /// A request to a name that is allowed.
    Request {
        /// GET, POST …
        method: Arc<str>,
        /// The address of what was asked for.
        url: Arc<str>,
    },
    /// An address, to which no name was asked for that is allowed.
    Address {
        /// Whose.
        ip: IpAddr,
        /// Protocol and port.
        how: String,
    },
    /// A packet that can't be judged.
    Packet(String),
}

impl Account {
    /// An empty one. `resolv_conf` is the one that the command has.
    pub(super) fn new(is_audit: bool, learns: bool, resolv_conf: &str) -> Self {
        let mut search = Vec::new();
        for line in resolv_conf.lines() {
            let mut words = line.split_whitespace();
            if matches!(words.next(), Some("search" | "domain")) {
                search = words
                    .map(|domain| domain.trim_matches('.').to_lowercase())
                    .collect();
            }
        }
        Self {
            is_audit,
            search,
            evidence: learns.then(|| Evidence::new(Scope::default())),
            carriage: Carriage::ByProxy,
            ..Self::default()
        }
    }

    /// The same where traffic goes by another way.
    pub(super) fn with_carriage(self, carriage: Carriage) -> Self {
        Self { carriage, ..self }
    }

    /// Takes a flow in.
    pub(super) fn take(&mut self, flow: &Flow) {
        self.traffic.add(flow);
        // What is asked for of a name is not narrowed: the next run asks for other paths.
        let is_http = matches!(flow.event, Event::Http(_));
        if let Some(evidence) = self.evidence.as_mut().filter(|_| !is_http) {
            let mut line = String::new();
            flow.write_json(&mut line);
            if let Ok(Line::Flow(record)) = Line::parse(&line) {
                evidence.add(&record);
            }
        }
        let Some(denied) = self.denial(flow) else {
            return;
        };
        if self.denied.len() >= DENIED_MAX && !self.denied.contains_key(&denied) {
            self.left_out += 1;
        } else {
            *self.denied.entry(denied).or_default() += 1;
        }
    }

    /// What a flow says was denied, or would have been.
    fn denial(&self, flow: &Flow) -> Option<Denied> {
        let is_unruled = flow.verdict == Verdict::Redirected && flow.egress_allowed_by.is_empty();
        let is_denied = match flow.verdict {
            Verdict::Dropped | Verdict::Audit => true,
            Verdict::Redirected => self.is_audit && is_unruled,
            Verdict::Unknown
            | Verdict::Forwarded
            | Verdict::Error
            | Verdict::Traced
            | Verdict::Translated => false,
        };
        if !is_denied || flow.is_reply == Some(true) {
            return None;
        }
        match &flow.event {
            // Answered here for another reason than policy.
            Event::Dns(_) if flow.policy_log.iter().any(|word| is_local(word)) => None,
            Event::Dns(dns) if dns.kind == MessageKind::Request => {
                Some(Denied::Name(bare(&dns.query).into()))
            }
            Event::Http(http) if http.kind == MessageKind::Request => {
                let said = flow.policy_log.iter().find_map(|word| name_in(word));
                Some(said.unwrap_or_else(|| Denied::Request {
                    method: Arc::clone(&http.method),
                    url: Arc::clone(&http.url),
                }))
            }
            Event::PolicyVerdict { .. } => to_address(flow),
            Event::Drop { reason } => {
                if let Some(named) = flow.policy_log.iter().find_map(|word| name_in(word)) {
                    return Some(named);
                }
                match is_told(*reason) {
                    true if flow.policy_log.is_empty() => None,
                    true => to_address(flow),
                    false => Some(Denied::Packet(
                        reason.text().unwrap_or("unknown").to_owned(),
                    )),
                }
            }
            Event::Dns(_)
            | Event::Http(_)
            | Event::Trace { .. }
            | Event::OtherL7 { .. }
            | Event::Other { .. } => None,
        }
    }

    /// What was denied and is no echo of something else: libc asks for a name once more with each domain
    /// of a search list behind it.
    pub(super) fn told(&self) -> Vec<(&Denied, u64)> {
        let all = self.denied.iter();
        let told = all.filter(|(denied, _)| !self.is_echo(denied));
        told.map(|(denied, count)| (denied, *count)).collect()
    }

    fn is_echo(&self, denied: &Denied) -> bool {
        let Denied::Name(name) = denied else {
            return false;
        };
        let shorter = self.search.iter().filter_map(|domain| {
            let stem = name.strip_suffix(domain.as_str())?;
            stem.strip_suffix('.').filter(|stem| !stem.is_empty())
        });
        let mut shorter = shorter.filter(|stem| stem.contains('.'));
        shorter.any(|stem| {
            let stem: Arc<str> = stem.into();
            self.denied.contains_key(&Denied::Name(Arc::clone(&stem)))
                || self.traffic.names.contains_key(&stem)
        })
    }

    /// Whether something was denied.
    pub(super) fn has_denials(&self) -> bool {
        !self.denied.is_empty() || self.left_out > 0
    }

    /// The policies that allow what was done.
    pub(super) fn learned(&self) -> String {
        let evidence = self.evidence.as_ref();
        let documents = evidence.map(|evidence| evidence.suggest(Names::Exact));
        documents.unwrap_or_default().join("---\n")
    }
}

fn to_address(flow: &Flow) -> Option<Denied> {
    let how = match flow.l4 {
        None => "IP".to_owned(),
        l4 => {
            let port = l4
                .and_then(L4::ports)
                .map_or(0, |(_, destination)| destination);
            by_packet(l4, port).to_string()
        }
    };
    Some(Denied::Address {
        ip: flow.ip?.destination,
        how,
    })
}

/// The name in a proxy's remark on why it refused: `sni-not-allowed: NAME`.
fn name_in(remark: &str) -> Option<Denied> {
    let (word, name) = remark.split_once(": ")?;
    let is_about_a_name = word.ends_with("-not-allowed") || word.starts_with("server-name");
    // Of a host the port may follow, and of any a remark.
    let name = name.split([' ', ':']).next().unwrap_or_default();
    (is_about_a_name && !name.is_empty()).then(|| Denied::Name(bare(name).into()))
}

fn is_local(remark: &str) -> bool {
    let local = [Remark::NoAaaa, Remark::Canary, Remark::Discovery];
    local.iter().any(|one| one.word() == remark)
}

fn bare(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flow::{Dns, DropReason, Ip, RecordType};

    fn asked(name: &str, verdict: Verdict) -> Flow {
        let dns = Dns::request(format!("{name}.").into(), RecordType::from_name("A"));
        Flow {
            is_reply: Some(false),
            ..Flow::new(Event::Dns(dns), verdict)
        }
    }

    fn packet(event: Event, verdict: Verdict) -> Flow {
        Flow {
            ip: Some(Ip::new([169, 254, 1, 2].into(), [192, 0, 2, 7].into())),
            l4: Some(L4::Tcp {
                source_port: 4_000,
                destination_port: 443,
                flags: None,
            }),
            ..Flow::new(event, verdict)
        }
    }

    fn judged(verdict: Verdict) -> Flow {
        let event = Event::PolicyVerdict {
            match_type: 0,
            drop_reason: None,
        };
        packet(event, verdict)
    }

    fn names(account: &Account) -> Vec<String> {
        let told = account.told().into_iter();
        told.map(|(denied, count)| format!("{count} {denied:?}"))
            .collect()
    }

    #[test]
    fn each_denial_is_told_once_with_its_count() {
        let mut account = Account::new(false, false, "");
        let reason = DropReason::POLICY_DENIED;
        let drop = || packet(Event::Drop { reason }, Verdict::Dropped);
        let refused = Flow {
            policy_log: vec!["sni-not-allowed: Evil.test".into()],
            ..drop()
        };
        for flow in [
            asked("evil.test", Verdict::Dropped),
            asked("good.test", Verdict::Forwarded),
            judged(Verdict::Dropped),
            drop(),
            judged(Verdict::Redirected),
            refused,
            Flow {
                policy_log: vec!["no-aaaa".into()],
                ..asked("six.test", Verdict::Dropped)
            },
        ] {
            account.take(&flow);
        }
        assert_eq!(
            names(&account),
            [
                "2 Name(\"evil.test\")",
                "1 Address { ip: 192.0.2.7, how: \"443/TCP\" }"
            ]
        );
    }

    #[test]
    fn in_an_audit_what_no_rule_allows_is_told() {
        let mut account = Account::new(true, false, "");
        account.take(&judged(Verdict::Redirected));
        account.take(&asked("evil.test", Verdict::Audit));
        assert_eq!(account.told().len(), 2);
    }

    #[test]
    fn what_a_search_list_makes_of_a_name_is_no_name_of_the_command() {
        let mut account = Account::new(false, false, "search corp.example lan\n");
        for name in [
            "evil.test",
            "evil.test.corp.example",
            "evil.test.lan",
            "a.lan",
        ] {
            account.take(&asked(name, Verdict::Dropped));
        }
        assert_eq!(
            names(&account),
            ["1 Name(\"a.lan\")", "1 Name(\"evil.test\")"]
        );
    }

    #[test]
    fn beyond_the_bound_denials_are_only_counted() {
        let mut account = Account::new(false, false, "");
        for number in 0..DENIED_MAX + 5 {
            account.take(&asked(&format!("n{number}.test"), Verdict::Dropped));
        }
        assert_eq!((account.denied.len(), account.left_out), (DENIED_MAX, 5));
        assert!(account.has_denials());
    }
}
