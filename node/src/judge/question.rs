//! One question about a flow, as tools ask it.

use std::net::IpAddr;

use clap::{Args, ValueEnum};
use fqdn::Name;
use policy::record_type;
use serde::Deserialize;

/// What is asked, in words.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Words {
    /// Who begins: an endpoint, an address, or a word as `host`, `world`, `remote-node`.
    #[arg(long, value_name = "NS/NAME|ADDRESS")]
    pub(crate) from: Option<String>,
    /// Who is reached; a DNS name stands for the addresses that --learn gives it.
    #[arg(long, value_name = "NS/NAME|ADDRESS|NAME")]
    pub(crate) to: Option<String>,
    /// Destination port.
    #[arg(long, value_name = "N")]
    pub(crate) port: Option<u16>,
    /// Protocol [default: tcp; udp with --dns; icmp with --icmp-type].
    #[arg(long, value_enum, ignore_case = true, value_name = "PROTOCOL")]
    pub(crate) proto: Option<Proto>,
    /// Type of ICMP [default: echo request].
    #[arg(long, value_name = "N")]
    pub(crate) icmp_type: Option<u8>,
    /// A name that is asked of the DNS server there [default port: 53].
    #[arg(long, value_name = "NAME", conflicts_with_all = ["http", "sni"])]
    pub(crate) dns: Option<String>,
    /// The type of that question; policy judges the name alone.
    #[arg(long, value_name = "TYPE", requires = "dns")]
    pub(crate) qtype: Option<String>,
    /// A request: 'METHOD PATH [host=H] [Name: value]...' [default port: 80, host: --to if it is a name].
    #[arg(long, value_name = "REQUEST")]
    pub(crate) http: Option<String>,
    /// A server name that a TLS client says [default port: 443].
    #[arg(long, value_name = "NAME")]
    pub(crate) sni: Option<String>,
    /// An address that the endpoint has learned by a name; may stand often.
    #[arg(long, value_name = "NAME=ADDRESS")]
    pub(crate) learn: Vec<String>,
}

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Proto {
    Tcp,
    Udp,
    Sctp,
    Icmp,
    Icmpv6,
}

/// A question, checked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) proto: Proto,
    /// The port, or the type of ICMP.
    pub(crate) port: u16,
    pub(crate) l7: Option<L7Question>,
    pub(crate) learned: Vec<(Name, IpAddr)>,
}

/// What is said through the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum L7Question {
    Dns(Name, u16),
    Http(HttpQuestion),
    Sni(String),
}

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HttpQuestion {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) host: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    /// A server name that is said before, where both are asked about.
    pub(crate) sni: Option<String>,
}

impl Words {
    /// Checks the words.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub(crate) fn question(&self) -> Result<Question, String> {
        let l7 = self.l7()?;
        let proto = self.proto.unwrap_or(match (&l7, self.icmp_type) {
            (Some(L7Question::Dns(..)), _) => Proto::Udp,
            (None, Some(_)) => Proto::Icmp,
            (Some(L7Question::Http(_) | L7Question::Sni(_)) | None, _) => Proto::Tcp,
        });
        let needed = |word: &Option<String>, flag: &str| {
            word.clone().ok_or_else(|| format!("{flag} is needed"))
        };
        let (from, to) = (needed(&self.from, "--from")?, needed(&self.to, "--to")?);
        let proto = of_family(proto, &from, &to);
        Ok(Question {
            port: self.port(proto, l7.as_ref())?,
            proto,
            from,
            to,
            l7,
            learned: self
                .learn
                .iter()
                .map(|text| learned(text))
                .collect::<Result<_, _>>()?,
        })
    }

    fn l7(&self) -> Result<Option<L7Question>, String> {
        Ok(match (&self.dns, &self.http, &self.sni) {
            (Some(name), _, _) => {
                let qtype = self.qtype.as_deref().map_or(Ok(1), qtype)?;
                Some(L7Question::Dns(dns_name(name)?, qtype))
            }
            (None, Some(text), sni) => {
                let mut request = request(text)?;
                request.sni.clone_from(sni);
                let is_name = |to: &&String| to.contains('.') && to.parse::<IpAddr>().is_err();
                let name = self
                    .to
                    .as_ref()
                    .filter(is_name)
                    .filter(|to| !to.contains('/'));
                request.host = request.host.or_else(|| name.cloned());
                Some(L7Question::Http(request))
            }
            (None, None, Some(name)) => Some(L7Question::Sni(name.clone())),
            (None, None, None) => None,
        })
    }

    fn port(&self, proto: Proto, l7: Option<&L7Question>) -> Result<u16, String> {
        let is_icmp = matches!(proto, Proto::Icmp | Proto::Icmpv6);
        if let (true, Some(_)) = (is_icmp, self.port) {
            return Err("ICMP has no ports; --icmp-type gives a type".to_owned());
        }
        if let (false, Some(_)) = (is_icmp, self.icmp_type) {
            return Err("--icmp-type goes with --proto icmp".to_owned());
        }
        let has_carrier = match (l7, proto) {
            (None, _) => true,
            (Some(L7Question::Dns(..) | L7Question::Sni(_)), proto) => {
                matches!(proto, Proto::Tcp | Proto::Udp)
            }
            (Some(L7Question::Http(_)), proto) => proto == Proto::Tcp,
        };
        if !has_carrier {
            return Err("names and server names go over udp or tcp, requests over tcp".to_owned());
        }
        match (proto, self.port, l7) {
            (Proto::Icmp, ..) => Ok(u16::from(self.icmp_type.unwrap_or(8))),
            (Proto::Icmpv6, ..) => Ok(u16::from(self.icmp_type.unwrap_or(128))),
            (_, Some(0), _) => Err("a port is 1 to 65535".to_owned()),
            (_, Some(port), _) => Ok(port),
            (_, None, Some(L7Question::Dns(..))) => Ok(53),
            (_, None, Some(L7Question::Http(_))) => Ok(80),
            (_, None, Some(L7Question::Sni(_))) => Ok(443),
            (_, None, None) => {
                Err("which port? --port N, or --proto icmp, --dns, --http, --sni".to_owned())
            }
        }
    }
}

/// ICMP between addresses of IPv6 is ICMPv6.
fn of_family(proto: Proto, from: &str, to: &str) -> Proto {
    let is_v6 = |text: &str| text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6());
    match proto {
        Proto::Icmp if is_v6(from) || is_v6(to) => Proto::Icmpv6,
        Proto::Tcp | Proto::Udp | Proto::Sctp | Proto::Icmp | Proto::Icmpv6 => proto,
    }
}

fn dns_name(text: &str) -> Result<Name, String> {
    Name::from_text(text).map_err(|error| format!("{text:?}: {error}"))
}

fn qtype(text: &str) -> Result<u16, String> {
    let upper = text.to_ascii_uppercase();
    record_type(&upper)
        .or_else(|| upper.parse().ok())
        .ok_or_else(|| format!("{text:?} is no type of DNS question"))
}

fn learned(text: &str) -> Result<(Name, IpAddr), String> {
    let parts = text.split_once('=');
    let (name, address) =
        parts.ok_or_else(|| format!("--learn {text:?}: NAME=ADDRESS is needed"))?;
    let address = address
        .parse()
        .map_err(|_| format!("--learn: {address:?} is no address"))?;
    Ok((dns_name(name)?, address))
}

/// `METHOD PATH [host=H] [Name: value]...`
fn request(text: &str) -> Result<HttpQuestion, String> {
    let mut words = text.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(format!("--http {text:?}: 'METHOD PATH' is needed"));
    };
    let mut request = HttpQuestion {
        method: method.to_owned(),
        path: path.to_owned(),
        ..HttpQuestion::default()
    };
    for word in words {
        let name = word.strip_suffix(':').filter(|name| !name.is_empty());
        if let Some(host) = word.strip_prefix("host=") {
            request.host = Some(host.to_owned());
        } else if let Some(name) = name {
            request.headers.push((name.to_owned(), String::new()));
        } else if let Some((_, value)) = request.headers.last_mut() {
            if !value.is_empty() {
                value.push(' ');
            }
            value.push_str(word);
        } else {
            return Err(format!(
                "--http: {word:?} is neither host=H nor a header as 'Name: value'"
            ));
        }
    }
    Ok(request)
}

impl Proto {
    /// The IANA number.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
            Self::Icmp => 1,
            Self::Icmpv6 => 58,
        }
    }

    /// Its name.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
            Self::Icmp => "ICMP",
            Self::Icmpv6 => "ICMPv6",
        }
    }

    /// Whether it has types in place of ports.
    pub(crate) const fn is_icmp(self) -> bool {
        match self {
            Self::Icmp | Self::Icmpv6 => true,
            Self::Tcp | Self::Udp | Self::Sctp => false,
        }
    }
}

impl Question {
    /// `80/TCP`, `ICMP type 8`.
    pub(crate) fn service(&self) -> String {
        let (word, port) = (self.proto.word(), self.port);
        match self.proto.is_icmp() {
            true => format!("{word} type {port}"),
            false => format!("{port}/{word}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(from: &str, to: &str) -> Words {
        Words {
            from: Some(from.to_owned()),
            to: Some(to.to_owned()),
            ..Words::default()
        }
    }

    #[test]
    fn a_request_has_a_host_and_headers() {
        let request = request("GET /a?b host=x.io X-A: b c Y: d").unwrap();
        assert_eq!(request.host.as_deref(), Some("x.io"));
        let headers = [("X-A", "b c"), ("Y", "d")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(request.headers, headers);
        assert!(super::request("GET").is_err());
        assert!(super::request("GET / odd").is_err());
    }

    #[test]
    fn what_is_not_given_is_the_usual_port_of_the_question() {
        let mut asked = words("a/b", "c/d");
        assert!(asked.question().unwrap_err().contains("--port"));
        asked.sni = Some("x".to_owned());
        assert_eq!(asked.question().unwrap().service(), "443/TCP");
        asked.http = Some("GET /".to_owned());
        assert_eq!(asked.question().unwrap().service(), "80/TCP");
        asked.to = Some("x.io".to_owned());
        let Some(L7Question::Http(request)) = asked.question().unwrap().l7 else {
            panic!("a request");
        };
        assert_eq!(request.host.as_deref(), Some("x.io"));
        asked.dns = Some("x".to_owned());
        assert_eq!(asked.question().unwrap().service(), "53/UDP");
        let mut ping = words("a/b", "fd00::1");
        ping.proto = Some(Proto::Icmp);
        assert_eq!(ping.question().unwrap().service(), "ICMPv6 type 128");
        ping.port = Some(1);
        assert!(ping.question().is_err());
        assert_eq!(qtype("type65"), Ok(65));
        assert!(qtype("x").is_err());
    }
}
