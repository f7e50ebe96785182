//! What DNS says of the names of policies.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use fqdn::Name;
use fqdn_cache::Lifetimes;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use hickory_resolver::{Resolver, TokioResolver, system_conf};
use policy::{Code, PolicySet, Problem, WholeName, WholeNames, record_type_word};
use tokio::task::JoinSet;

use super::words::bare;

/// Names of one run; of more, the first are asked for, and that is said.
const NAMES_MAX: usize = 10_000;
/// Names that are asked for at the same time.
const AT_ONCE_MAX: usize = 32;
/// Names in a row without an answer; then nobody is there, the rest is not asked for, and that is said.
const UNANSWERED_MAX: usize = 64;
/// How long a server has to answer; it is asked twice.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(2);

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resolvers {
    /// The servers of /etc/resolv.conf.
    System,
    /// Servers by their addresses.
    At(Vec<SocketAddr>),
}

/// The word for the machine's own.
pub(crate) const SYSTEM: &str = "system";

impl FromStr for Resolvers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == SYSTEM {
            return Ok(Self::System);
        }
        let server = |text: &str| {
            let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
            let address = address.or_else(|_| text.parse());
            address.map_err(|_| {
                format!("{text:?} is no address of a server (as 9.9.9.9, 9.9.9.9:53 or [2620:fe::fe]:53)")
            })
        };
        let servers = text.split(',').map(server);
        servers.collect::<Result<_, _>>().map(Self::At)
    }
}

impl Resolvers {
    /// The configuration of a resolver that asks them, and nobody's file of hosts.
    fn config(&self) -> Result<(ResolverConfig, ResolverOpts), NetError> {
        let (config, mut options) = match self {
            Self::System => system_conf::read_system_conf()?,
            Self::At(servers) => {
                let servers = servers.iter().map(name_server).collect();
                let config = ResolverConfig::from_parts(None, Vec::new(), servers);
                (config, ResolverOpts::default())
            }
        };
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = 0;
        options.timeout = ANSWER_WAIT_MAX;
        options.attempts = 1;
        Ok((config, options))
    }
}

fn name_server(server: &SocketAddr) -> NameServerConfig {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = server.port();
        connection
    };
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(at_port);
    NameServerConfig::new(server.ip(), true, connections.into())
}

/// What DNS said of a name, of all types that were asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    /// A type for which it said that the name doesn't exist.
    not_found: bool,
    /// The records of the types.
    records: usize,
    /// What the name is an alias of, in the order of the answers.
    aliases: Vec<Name>,
    /// The shortest life of a record on the way, in seconds.
    ttl_secs: Option<u32>,
    /// A type for which there was no answer, and why.
    failed: Option<(u16, String)>,
}

impl Said {
    fn is_nothing(&self) -> bool {
        self.failed.is_some() && !self.not_found && self.records == 0
    }

    fn take_records(&mut self, records: &[Record], asked: RecordType) {
        for record in records {
            if let RData::CNAME(target) = &record.data {
                let target = Name::from_labels(target.0.iter()).ok();
                self.aliases
                    .extend(target.filter(|name| !self.aliases.contains(name)));
            } else if record.record_type() == asked {
                self.records += 1;
            } else {
                continue;
            }
            let ttl = self
                .ttl_secs
                .map_or(record.ttl, |least| least.min(record.ttl));
            self.ttl_secs = Some(ttl);
        }
    }
}

/// Asks for all whole names of a set, and tells what its author may not know: names that don't exist, that
/// have no address, that lead to others, that change often, and those that nobody knows about.
///
/// # Errors
/// If there is no server to ask.
pub(crate) fn problems(set: &PolicySet, resolvers: &Resolvers) -> anyhow::Result<Vec<Problem>> {
    let (config, options) = resolvers.config().context("no resolver")?;
    let servers: Vec<String> = config.name_servers().iter().map(shown).collect();
    let servers = servers.join(", ");
    let names = set.whole_names();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let asked = runtime.block_on(async {
        let provider = TokioRuntimeProvider::default();
        let resolver = Resolver::builder_with_config(config, provider).with_options(options);
        anyhow::Ok(ask_all(&resolver.build()?, &names).await)
    })?;
    let mut problems = Vec::new();
    for (name, one) in names.iter() {
        let said = asked.get(name).into_iter();
        problems.extend(said.flat_map(|said| judged((name, one), said, (&names, &servers))));
    }
    problems.extend(not_asked(&names, &asked));
    problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    Ok(problems)
}

/// A server as messages name it.
fn shown(server: &NameServerConfig) -> String {
    let port = server.connections.first().map_or(53, |one| one.port);
    match port {
        53 => server.ip.to_string(),
        _ => SocketAddr::new(server.ip, port).to_string(),
    }
}

/// What was said of each name that was asked for.
async fn ask_all(resolver: &TokioResolver, names: &WholeNames<'_>) -> BTreeMap<Name, Said> {
    let mut waiting = names.iter().take(NAMES_MAX);
    let mut running = JoinSet::new();
    let mut asked = BTreeMap::new();
    let mut unanswered = 0;
    loop {
        while running.len() < AT_ONCE_MAX
            && unanswered < UNANSWERED_MAX
            && let Some((name, one)) = waiting.next()
        {
            running.spawn(ask(resolver.clone(), name.clone(), one.types().to_vec()));
        }
        let Some(done) = running.join_next().await else {
            return asked;
        };
        if let Ok((name, said)) = done {
            unanswered = if said.is_nothing() { unanswered + 1 } else { 0 };
            asked.insert(name, said);
        }
    }
}

async fn ask(resolver: TokioResolver, name: Name, types: Vec<u16>) -> (Name, Said) {
    let mut said = Said::default();
    for number in types {
        let kind = RecordType::from(number);
        // With its final dot: nobody's search list is meant.
        match resolver.lookup(name.to_string(), kind).await {
            Ok(lookup) => said.take_records(lookup.answers(), kind),
            Err(error) if error.is_nx_domain() => said.not_found = true,
            Err(NetError::Dns(DnsError::NoRecordsFound(none)))
                if none.response_code == ResponseCode::NoError => {}
            Err(error) => {
                said.failed.get_or_insert_with(|| (number, reason(&error)));
                if matches!(error, NetError::Timeout) {
                    break; // whoever is silent about one type is so about the other
                }
            }
        }
    }
    (name, said)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "not our enum")]
fn reason(error: &NetError) -> String {
    match error {
        NetError::Dns(DnsError::ResponseCode(code)) => code.to_string(),
        NetError::Dns(DnsError::NoRecordsFound(none)) => none.response_code.to_string(),
        NetError::Timeout => "no answer in time".to_owned(),
        other => other.to_string(),
    }
}

/// Why a name is asked of no server: the resolver says by itself that there is none (RFC 6761 §6.4, RFC 7686 §2).
fn unasked(name: &Name) -> Option<&'static str> {
    match name.labels().next_back()? {
        b"invalid" => {
            Some("names under .invalid never do (RFC 6761), and no server is asked for them")
        }
        b"onion" => {
            Some("names under .onion are not in DNS (RFC 7686), and no server is asked for them")
        }
        _ => None,
    }
}

/// What an author should know of what was said of a name by these servers.
fn judged(
    (name, one): (&Name, &WholeName<'_>),
    said: &Said,
    (names, servers): (&WholeNames<'_>, &str),
) -> Vec<Problem> {
    let text = bare(name);
    let mut problems = Vec::new();
    let mut tell = |code, message, help: &str| problems.push(one.problem((code, message), help));
    if said.not_found {
        let (message, help) = match unasked(name) {
            Some(why) => (
                format!("{text} does not exist: {why}"),
                "no program can resolve it, and none needs a rule for it",
            ),
            None => (
                format!("{text} does not exist, says DNS ({servers})"),
                "look at its spelling; a name that is known elsewhere alone is asked for there: \
                 --resolve=SERVER",
            ),
        };
        tell(Code::NameNotFound, message, help);
        return problems;
    }
    if let Some((number, reason)) = &said.failed {
        let kind = record_type_word(*number);
        let message = format!("{kind} records of {text} can't be had ({servers}): {reason}");
        let help = "who asks for it meets the same, or waits";
        tell(Code::NameUnanswered, message, help);
    } else if one.opens() && said.records == 0 {
        let message = format!("{text} has no address in DNS ({servers}): nothing opens");
        tell(
            Code::NameWithoutAddress,
            message,
            "is a name below it meant?",
        );
    }
    if let Some(target) = said.aliases.iter().find(|name| !names.may_be_asked(name)) {
        let target = bare(target);
        let message = format!("{text} is an alias of {target}, which no DNS rule lets be asked");
        let help = "the server's answer brings both, and opens the name; a resolver in the workload that \
                    follows aliases itself needs a DNS rule for the other one";
        tell(Code::AliasNotAskable, message, help);
    }
    let floor = Lifetimes::default().floor.as_secs();
    if let Some(ttl) = said.ttl_secs.filter(|ttl| u64::from(*ttl) < floor)
        && one.opens()
        && said.records > 0
    {
        let message =
            format!("{text} is promised for {ttl} s, and stays open for at least {floor} s");
        tell(
            Code::TtlBelowFloor,
            message,
            "the least is --dns-ttl-floor of `namegate run`",
        );
    }
    problems
}

/// A problem that says why names were not asked for, if there are such.
fn not_asked(names: &WholeNames<'_>, asked: &BTreeMap<Name, Said>) -> Option<Problem> {
    let left = names.iter().len().saturating_sub(asked.len());
    let (_, first) = names.iter().find(|(name, _)| !asked.contains_key(name))?;
    let why = match asked.len() < NAMES_MAX {
        true => format!("{UNANSWERED_MAX} in a row were not answered"),
        false => format!("at most {NAMES_MAX} are, in one run"),
    };
    let message = format!("{left} names were not asked for: {why}");
    let help = "--resolve=SERVER asks another server";
    Some(first.problem((Code::NameUnanswered, message), help))
}

#[cfg(test)]
mod tests {
    use policy::Source;

    use super::*;

    const POLICY: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p}
spec:
  endpointSelector: {}
  egress:
  - toEndpoints: [{matchLabels: {app: dns}}]
    toPorts:
    - ports: [{port: '53', protocol: ANY}]
      rules: {dns: [{matchPattern: '*.a.io'}, {matchName: asked.io}]}
  - toFQDNs: [{matchName: www.a.io}]
";

    fn set(text: &str) -> PolicySet {
        let source = Source {
            path: "p.yaml".to_owned(),
            text: text.to_owned(),
        };
        let loaded = policy::load(&[source]);
        assert!(!loaded.has_errors(), "{:?}", loaded.problems);
        loaded.set
    }

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    #[test]
    fn what_dns_says_is_judged() {
        let set = set(POLICY);
        let names = set.whole_names();
        let found = |records, aliases: &[&str], ttl| Said {
            records,
            aliases: aliases.iter().copied().map(name).collect(),
            ttl_secs: Some(ttl),
            ..Said::default()
        };
        let missing = || Said {
            not_found: true,
            ..Said::default()
        };
        let failed = |records| Said {
            records,
            ttl_secs: (records > 0).then_some(300),
            failed: Some((28, "Server Failure".to_owned())),
            ..Said::default()
        };
        for (of, said, expected) in [
            ("www.a.io", found(2, &[], 60), vec![]),
            ("www.a.io", found(2, &[], 59), vec![Code::TtlBelowFloor]),
            ("www.a.io", found(1, &["b.a.io", "asked.io"], 60), vec![]),
            (
                "www.a.io",
                found(1, &["b.a.io", "a.io"], 60),
                vec![Code::AliasNotAskable],
            ),
            ("www.a.io", missing(), vec![Code::NameNotFound]),
            ("www.a.io", Said::default(), vec![Code::NameWithoutAddress]),
            ("www.a.io", failed(0), vec![Code::NameUnanswered]),
            ("www.a.io", failed(1), vec![Code::NameUnanswered]),
            // Nothing is opened for a DNS rule: it may be asked for what it has.
            ("asked.io", Said::default(), vec![]),
            ("asked.io", found(1, &[], 5), vec![]),
            ("asked.io", missing(), vec![Code::NameNotFound]),
        ] {
            let of = name(of);
            let one = names.iter().find(|(name, _)| **name == of).unwrap();
            let problems = judged(one, &said, (&names, "192.0.2.1"));
            let codes: Vec<Code> = problems.iter().map(|one| one.code).collect();
            assert_eq!(codes, expected, "{of} {said:?}");
        }
    }

    #[test]
    fn a_server_that_was_not_asked_is_not_blamed() {
        for (text, asked) in [
            ("www.a.io", true),
            ("invalid.a.io", true),
            ("www.invalid", false),
            ("a.b.onion", false),
        ] {
            let set = set(&POLICY.replace("www.a.io", text));
            let names = set.whole_names();
            let of = name(text);
            let one = names.iter().find(|(name, _)| **name == of).unwrap();
            let missing = Said {
                not_found: true,
                ..Said::default()
            };
            let problems = judged(one, &missing, (&names, "192.0.2.1"));
            assert_eq!(problems.len(), 1, "{text}");
            let message = &problems[0].message;
            assert_eq!(message.contains("192.0.2.1"), asked, "{message}");
        }
    }

    #[test]
    fn names_that_were_not_asked_for_are_told() {
        let many = |count| {
            let names: String = (0..count)
                .map(|at| format!("{{matchName: n{at}.io}}, "))
                .collect();
            set(&POLICY.replace("{matchName: www.a.io}", &names))
        };
        let told = |set: &PolicySet, answered: usize| {
            let names = set.whole_names();
            let asked = names.iter().take(answered);
            let asked = asked
                .map(|(name, _)| (name.clone(), Said::default()))
                .collect();
            not_asked(&names, &asked).map(|problem| problem.message)
        };
        let few = many(UNANSWERED_MAX + 4);
        assert_eq!(told(&few, UNANSWERED_MAX + 5), None);
        let message = told(&few, UNANSWERED_MAX).unwrap();
        assert!(
            message.starts_with("5 names were not asked for: 64 in a row"),
            "{message}"
        );
        let message = told(&many(NAMES_MAX), NAMES_MAX).unwrap();
        assert!(
            message.starts_with("1 names were not asked for: at most 10000"),
            "{message}"
        );
    }

    #[test]
    fn servers_are_read() {
        for (text, shown_as) in [
            ("9.9.9.9", "9.9.9.9"),
            ("9.9.9.9:5353,2620:fe::fe", "9.9.9.9:5353, 2620:fe::fe"),
            ("[::1]:54", "[::1]:54"),
        ] {
            let resolvers: Resolvers = text.parse().unwrap();
            let (config, _) = resolvers.config().unwrap();
            let servers: Vec<String> = config.name_servers().iter().map(shown).collect();
            assert_eq!(servers.join(", "), shown_as);
        }
        assert_eq!(SYSTEM.parse(), Ok(Resolvers::System));
        for text in ["", "dns.example", "9.9.9.9,", "::1:x"] {
            assert!(text.parse::<Resolvers>().is_err(), "{text}");
        }
    }
}
