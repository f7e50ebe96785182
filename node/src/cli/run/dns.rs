//! The options of `namegate run` about DNS.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use dnsproxy::{Case, DenyResponse, Encrypted, Https, OnTimeout, Settings, TunnelMode};
use fqdn_cache::Lifetimes;
use ipnet::{IpNet, Ipv6Net};

use super::parse_duration;
use crate::learner::{INSTALL_WAIT_MAX, Scruples, parse_cluster, parse_nat64};
use crate::presets::{DnsServers, Resolvers, parse_server};
use crate::upstream::UpstreamSource;

/// Over TCP a server has so much longer: a connection is made first.
const TCP_EXTRA: Duration = Duration::from_secs(5);

/// Who is asked for names where no rule says it.
#[derive(Args, Clone)]
pub(in crate::cli) struct DnsServersFlag {
    /// Whom a workload may ask for every name, at port 53, if its rules have `toFQDNs` and no DNS rule: `kube-dns`
    /// (k8s-app=kube-dns in kube-system), addresses and prefixes with commas between, or `none`.
    #[arg(
        long,
        value_name = "SERVERS",
        default_value = "kube-dns",
        alias = "fqdn-policy-dns-lookup-ips"
    )]
    pub(in crate::cli) dns_servers: DnsServers,
}

/// What `namegate run` may be told about DNS.
#[derive(Args)]
pub(super) struct DnsOptions {
    /// A name's addresses stay open at least so long, whatever its TTL says [e.g. 0s, 90s, 5m, 24h].
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    dns_ttl_floor: Duration,
    /// A name's addresses stay open at most so long, whatever its TTL says.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    dns_ttl_ceiling: Duration,
    /// And so much longer: programs connect a little late.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    dns_ttl_grace: Duration,
    /// How a denied query is answered.
    #[arg(
        long,
        value_enum,
        default_value = "auto",
        alias = "tofqdns-dns-reject-response-code"
    )]
    dns_deny_response: DenyWord,
    /// How long a server has to answer; then the client gets SERVFAIL. Over TCP it is 5 s more. 0s: the
    /// client gets nothing, after the usual time.
    #[arg(long, value_name = "TIME", default_value = "4500ms", value_parser = parse_duration)]
    dns_upstream_timeout: Duration,
    /// Whose address the servers of names see.
    #[arg(long, value_enum, default_value = "auto")]
    dns_upstream_source: UpstreamSource,
    /// How long an answer waits for the datapath; then the client gets SERVFAIL. At most 4s.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "100ms",
        value_parser = parse_install_wait,
        alias = "tofqdns-proxy-response-max-delay"
    )]
    dns_install_wait: Duration,
    /// Take an answer only if its question has the case of the query's: some servers fold it.
    #[arg(long)]
    dns_strict_case: bool,
    /// Make each query anew: name in small letters, type, and the flags RD, CD and DO. Whatever else a workload
    /// writes into it (case, other flags, EDNS options, cookies, signatures) does not leave the node.
    #[arg(long)]
    dns_scrub: bool,
    /// Answer questions for AAAA records that there are none, of every name that may be asked.
    #[arg(long)]
    dns_no_aaaa: bool,
    /// What becomes of HTTPS and SVCB records, which bring the key to hide the name of a TLS connection (ECH).
    #[arg(long, value_enum, default_value = "pass", value_name = "HOW")]
    dns_https: HttpsWord,
    /// What becomes of names, ports and known addresses of encrypted DNS, which nobody can judge.
    #[arg(long, value_enum, default_value = "allow", value_name = "HOW")]
    encrypted_dns: EncryptedWord,
    /// A file of resolvers that speak encrypted DNS, in place of those that this program knows: a name (with all
    /// below it), an address or a prefix on each line, and comments behind `#`. SIGHUP reads it again.
    #[arg(long, value_name = "FILE", value_parser = Resolvers::read)]
    encrypted_dns_resolvers: Option<Resolvers>,
    /// What is done where the names of a minute under one pattern look like data: many, long or random ones, or
    /// many that don't exist.
    #[arg(long, value_enum, default_value = "report", value_name = "HOW")]
    dns_tunnels: TunnelWord,
    /// Whether an answer opens private addresses (10/8, 172.16/12, 192.168/16, 100.64/10, fc00::/7).
    #[arg(long, value_enum, default_value = "learn")]
    dns_learn_private: LearnWord,
    /// Prefixes of this cluster's pods and services, with commas between: no name opens an address in them. Addresses
    /// of known workloads and services are so without it.
    #[arg(long, value_name = "PREFIXES", value_delimiter = ',', value_parser = parse_cluster)]
    cluster_cidr: Vec<IpNet>,
    /// What becomes of an answer with an address that none may open: it passes and the address stays closed, or
    /// the client gets SERVFAIL.
    #[arg(long, value_enum, default_value = "pass")]
    dns_rebind: RebindWord,
    /// A prefix by which a translator of this network makes IPv4 addresses into IPv6 (RFC 6052), beside 64:ff9b::/96
    /// and 64:ff9b:1::/48: what it leads to is judged as IPv4 too. May be given again.
    #[arg(long, value_name = "PREFIX", value_parser = parse_nat64)]
    nat64_prefix: Vec<Ipv6Net>,
    /// Ask again, in a workload's name, for what it is connected to and what a `matchName` of `toFQDNs` names,
    /// before it ends: a program that looks a name up once can connect again later.
    #[arg(long)]
    dns_refresh: bool,
    #[command(flatten)]
    servers: DnsServersFlag,
    /// The only DNS servers whose answers open addresses, by the address that a workload asks: addresses and
    /// prefixes with commas between [default: those that a DNS rule names by the value of a label, as host or
    /// kube-apiserver, or by a prefix of at least /24 (IPv6 /64)].
    #[arg(long, value_name = "SERVERS", value_delimiter = ',', value_parser = parse_server)]
    dns_trusted_servers: Option<Vec<IpNet>>,
    /// An answer opens its addresses also for the `toFQDNs` that name what its CNAMEs lead to, not only for those
    /// that name what was asked.
    #[arg(long)]
    dns_cname_match: bool,
}

/// Whether a class of addresses is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LearnWord {
    /// As any other: names of the inside have them.
    Learn,
    /// They stay closed, whatever name they have.
    Never,
}

/// What becomes of an answer with an address that may not be learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RebindWord {
    /// It passes; the address stays closed.
    Pass,
    /// The client gets SERVFAIL.
    Servfail,
}

/// Cilium's words too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DenyWord {
    /// NXDOMAIN, or no data where names below may be asked: stalls no resolver.
    Auto,
    /// REFUSED: musl waits 5 s for it, and search lists end there.
    Refused,
    /// NXDOMAIN always.
    #[value(name = "nxdomain", alias = "nameError")]
    NxDomain,
    /// No error and no data always: musl's search lists end there.
    #[value(name = "nodata", alias = "noData")]
    NoData,
    /// Nothing: every resolver waits for seconds.
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum HttpsWord {
    /// They pass.
    Pass,
    /// They pass without that key. A resolver of the workload's that checks signatures takes them no more.
    NoEch,
    /// Questions for them are answered that there are none: TLS shows its names, and nothing is altered.
    #[value(name = "nodata")]
    NoData,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EncryptedWord {
    /// Judged by policy alone.
    Allow,
    /// The same, and flows with the names of known resolvers, canary names, port 853 and, at port 443, known
    /// resolvers' addresses say so.
    Report,
    /// Those names don't exist, and those ports are denied.
    Block,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TunnelWord {
    /// Nobody looks.
    Off,
    /// Told, once in a minute.
    Report,
    /// The same, and names that were not asked before are denied for ten minutes.
    Enforce,
}

fn parse_install_wait(text: &str) -> Result<Duration, String> {
    let wait = parse_duration(text)?;
    if wait > INSTALL_WAIT_MAX {
        return Err(format!(
            "longer than {} s: resolvers don't wait for it",
            INSTALL_WAIT_MAX.as_secs()
        ));
    }
    Ok(wait)
}

impl DnsOptions {
    /// How long an answer waits for the datapath.
    pub(super) fn install_wait(&self) -> Duration {
        self.dns_install_wait
    }

    /// How long a learned address is open.
    pub(super) fn lifetimes(&self) -> Lifetimes {
        Lifetimes {
            floor: self.dns_ttl_floor,
            ceiling: self.dns_ttl_ceiling,
            grace: self.dns_ttl_grace,
        }
    }

    /// Which addresses no answer opens.
    pub(super) fn scruples(&self) -> Scruples {
        Scruples {
            refuses_private: self.dns_learn_private == LearnWord::Never,
            withholds: self.dns_rebind == RebindWord::Servfail,
            cluster: self.cluster_cidr.clone(),
            nat64: self.nat64_prefix.clone(),
            trusted_servers: self.dns_trusted_servers.clone(),
            learns_aliases: self.dns_cname_match,
        }
    }

    /// Who is asked where no rule says it.
    pub(super) fn servers(&self) -> DnsServers {
        self.servers.dns_servers.clone()
    }

    /// Whose address the servers of names see.
    pub(super) const fn source(&self) -> UpstreamSource {
        self.dns_upstream_source
    }

    /// Whether names that are in use are asked for again.
    pub(super) const fn refresh(&self) -> bool {
        self.dns_refresh
    }

    fn resolvers(&self) -> Resolvers {
        let resolvers = self.encrypted_dns_resolvers.clone();
        resolvers.unwrap_or_else(Resolvers::shipped)
    }

    /// The addresses of resolvers that speak encrypted DNS.
    pub(super) fn encrypted_resolvers(&self) -> Arc<[IpNet]> {
        self.resolvers().addresses
    }

    /// What the proxy is told; where everything is only audited it blocks nothing.
    pub(super) fn settings(&self, audit: bool) -> Settings {
        let usual = Settings::default();
        let (udp_wait, tcp_wait, on_timeout) = if self.dns_upstream_timeout.is_zero() {
            (usual.udp_wait, usual.tcp_wait, OnTimeout::Silence)
        } else {
            let wait = self.dns_upstream_timeout;
            (wait, wait.saturating_add(TCP_EXTRA), OnTimeout::ServFail)
        };
        Settings {
            deny_response: match self.dns_deny_response {
                DenyWord::Auto => DenyResponse::Auto,
                DenyWord::Refused => DenyResponse::Refused,
                DenyWord::NxDomain => DenyResponse::NxDomain,
                DenyWord::NoData => DenyResponse::NoData,
                DenyWord::Drop => DenyResponse::Drop,
            },
            udp_wait,
            tcp_wait,
            on_timeout,
            case: match self.dns_strict_case {
                true => Case::Strict,
                false => Case::Any,
            },
            scrub: self.dns_scrub,
            no_aaaa: self.dns_no_aaaa,
            https: match self.dns_https {
                HttpsWord::Pass => Https::Pass,
                HttpsWord::NoEch => Https::NoEch,
                HttpsWord::NoData => Https::NoData,
            },
            encrypted: match self.encrypted_dns {
                EncryptedWord::Allow => Encrypted::Allow,
                EncryptedWord::Block if !audit => Encrypted::Block,
                EncryptedWord::Report | EncryptedWord::Block => Encrypted::Report,
            },
            resolvers: self.resolvers().names,
            tunnels: match self.dns_tunnels {
                TunnelWord::Off => TunnelMode::Off,
                TunnelWord::Enforce if !audit => TunnelMode::Enforce,
                TunnelWord::Report | TunnelWord::Enforce => TunnelMode::Report,
            },
            ..usual
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::INSTALL_WAIT;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        dns: DnsOptions,
    }

    fn options(words: &[&str]) -> Result<DnsOptions, clap::Error> {
        let line = ["run"].iter().chain(words);
        Line::try_parse_from(line).map(|line| line.dns)
    }

    fn read(words: &[&str]) -> Result<Settings, clap::Error> {
        options(words).map(|dns| dns.settings(false))
    }

    #[test]
    fn an_answer_waits_for_the_datapath_as_long_as_is_said_and_no_longer_than_resolvers_do() {
        let wait = |words: &[&str]| options(words).map(|dns| dns.install_wait());
        assert_eq!(wait(&[]).unwrap(), INSTALL_WAIT);
        for option in ["--dns-install-wait", "--tofqdns-proxy-response-max-delay"] {
            assert_eq!(wait(&[option, "1s"]).unwrap(), Duration::from_secs(1));
            assert_eq!(wait(&[option, "4s"]).unwrap(), INSTALL_WAIT_MAX);
            let refused = wait(&[option, "4001ms"]).unwrap_err().to_string();
            assert!(refused.contains("longer than 4 s"), "{refused}");
        }
    }

    #[test]
    fn scruples_are_as_they_are_said() {
        let scruples = |words: &[&str]| options(words).map(|dns| dns.scruples());
        assert_eq!(scruples(&[]).unwrap(), Scruples::default());
        let words = [
            "--dns-learn-private=never",
            "--dns-rebind=servfail",
            "--nat64-prefix=2001:db8:64::/96",
            "--nat64-prefix=2001:db8:65::/48",
        ];
        let all = scruples(&words).unwrap();
        assert!(all.refuses_private && all.withholds && !all.learns_aliases);
        assert!(scruples(&["--dns-cname-match"]).unwrap().learns_aliases);
        assert_eq!(all.nat64.len(), 2);
        assert!(scruples(&["--nat64-prefix=2001:db8::/50"]).is_err());
        let cluster = scruples(&["--cluster-cidr=10.128.0.0/14,fd00:10::/108,10.96.0.1"]).unwrap();
        assert_eq!(cluster.cluster.len(), 3);
        for wrong in ["0.0.0.0/0", "::/0", "pods", "10.128.0.0/33", ""] {
            let error = scruples(&["--cluster-cidr", wrong]).unwrap_err();
            assert!(error.to_string().contains("--cluster-cidr"), "{error}");
        }
        let trusted = scruples(&["--dns-trusted-servers=9.9.9.9,2001:db8::/64"]).unwrap();
        let trusted = trusted.trusted_servers.unwrap();
        assert_eq!(
            trusted.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["9.9.9.9/32", "2001:db8::/64"]
        );
        for wrong in ["0.0.0.0/0", "dns.example", "9.9.9.9,"] {
            let error = scruples(&["--dns-trusted-servers", wrong]).unwrap_err();
            assert!(
                error.to_string().contains("--dns-trusted-servers"),
                "{error}"
            );
        }
    }

    #[test]
    fn names_live_as_long_as_is_said() {
        let lived = |words: &[&str]| options(words).map(|dns| dns.lifetimes());
        let of = |[floor, ceiling, grace]: [u64; 3]| Lifetimes {
            floor: Duration::from_secs(floor),
            ceiling: Duration::from_secs(ceiling),
            grace: Duration::from_secs(grace),
        };
        assert_eq!(lived(&[]).unwrap(), of([60, 24 * 3_600, 30]));
        let words = [
            "--dns-ttl-floor=5s",
            "--dns-ttl-ceiling=1h",
            "--dns-ttl-grace=0s",
        ];
        assert_eq!(lived(&words).unwrap(), of([5, 3_600, 0]));
    }

    #[test]
    fn a_denial_is_said_in_our_words_and_in_ciliums() {
        let rows = [
            ("auto", DenyResponse::Auto),
            ("refused", DenyResponse::Refused),
            ("nxdomain", DenyResponse::NxDomain),
            ("nameError", DenyResponse::NxDomain),
            ("nodata", DenyResponse::NoData),
            ("noData", DenyResponse::NoData),
            ("drop", DenyResponse::Drop),
        ];
        for option in ["--dns-deny-response", "--tofqdns-dns-reject-response-code"] {
            for (word, expected) in rows {
                assert_eq!(read(&[option, word]).unwrap().deny_response, expected);
            }
            assert!(read(&[option, "servfail"]).is_err());
        }
        assert_eq!(read(&[]).unwrap().deny_response, DenyResponse::Auto);
    }

    #[test]
    fn ways_round_are_closed_by_option() {
        let usual = read(&[]).unwrap();
        assert!(!usual.scrub && !usual.no_aaaa);
        assert_eq!(usual.encrypted, Encrypted::Allow);
        assert_eq!(usual.tunnels, TunnelMode::Report);
        let set = read(&["--dns-scrub", "--dns-no-aaaa"]).unwrap();
        assert!(set.scrub && set.no_aaaa);
        let https = |word| read(&["--dns-https", word]).map(|set| set.https);
        assert_eq!(usual.https, Https::Pass);
        assert_eq!(https("pass").unwrap(), Https::Pass);
        assert_eq!(https("no-ech").unwrap(), Https::NoEch);
        assert_eq!(https("nodata").unwrap(), Https::NoData);
        assert!(https("drop").is_err());
        let set = read(&["--encrypted-dns", "block", "--dns-tunnels", "enforce"]).unwrap();
        assert_eq!(set.encrypted, Encrypted::Block);
        assert_eq!(set.tunnels, TunnelMode::Enforce);
        let words = ["--encrypted-dns", "block", "--dns-tunnels", "enforce"];
        let audited = options(&words).unwrap().settings(true);
        assert_eq!(audited.encrypted, Encrypted::Report);
        assert_eq!(audited.tunnels, TunnelMode::Report);
        let set = read(&["--encrypted-dns", "report", "--dns-tunnels", "off"]).unwrap();
        assert_eq!(set.encrypted, Encrypted::Report);
        assert_eq!(set.tunnels, TunnelMode::Off);
    }

    #[test]
    fn a_timeout_of_nothing_is_silence_after_the_usual_time() {
        let usual = Settings::default();
        let set = read(&["--dns-upstream-timeout", "0s"]).unwrap();
        assert_eq!(set.on_timeout, OnTimeout::Silence);
        assert_eq!(
            (set.udp_wait, set.tcp_wait),
            (usual.udp_wait, usual.tcp_wait)
        );
        let set = read(&["--dns-upstream-timeout", "1s"]).unwrap();
        assert_eq!(set.on_timeout, OnTimeout::ServFail);
        assert_eq!((set.udp_wait.as_secs(), set.tcp_wait.as_secs()), (1, 6));
        let set = read(&[]).unwrap();
        assert_eq!(
            (set.udp_wait, set.tcp_wait),
            (usual.udp_wait, usual.tcp_wait)
        );
    }
}
