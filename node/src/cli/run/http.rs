//! How the HTTP proxy treats connections: names as Cilium has them, where it has the option.

use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};
use httpproxy::{AltSvc, Connect, Ech, Paths, Settings};

use super::parse_duration;
use crate::upstream::UpstreamSource;

#[derive(Args)]
#[command(next_help_heading = "HTTP")]
pub(super) struct Http {
    /// When the connection to the server is opened.
    #[arg(long, value_enum, default_value = "eager")]
    http_connect: When,
    /// Whose address the servers of HTTP and TLS see.
    #[arg(long, value_enum, default_value = "auto")]
    http_upstream_source: UpstreamSource,
    /// Judge and forward paths in normal form. If not: as they were sent.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set,
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    http_normalize_path: bool,
    /// What becomes of TLS that is judged by its server name, and whose ClientHello has an encrypted one too.
    #[arg(long, value_enum, default_value = "allow-outer", value_name = "HOW")]
    tls_ech: EchMode,
    /// What becomes of Alt-Svc in responses, by which servers lead clients to QUIC.
    #[arg(long, value_enum, default_value = "pass", value_name = "HOW")]
    http_alt_svc: AltSvcMode,
    /// What an allowed request may upgrade its connection to; several by commas, none by ''.
    #[arg(long, value_name = "LIST", default_value = "websocket", value_parser = parse_upgrades)]
    http_upgrades: Upgrades,
    /// The body of a 403.
    #[arg(long, value_name = "TEXT", default_value = "Access denied", value_parser = parse_body)]
    http_403_msg: String,
    /// How long a server may take for the head of a response, then 504; 0: as long as it likes.
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_duration)]
    http_request_timeout: Duration,
    /// How long a body may rest, then both sides are closed.
    #[arg(long, value_name = "TIME", default_value = "300s", value_parser = parse_positive)]
    http_stream_idle_timeout: Duration,
    /// How long a server may take to accept a connection.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_positive)]
    proxy_connect_timeout: Duration,
    /// How long a connection may rest between two requests.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_positive)]
    proxy_idle_timeout: Duration,
    /// Connections at a time, of all endpoints; one more is reset.
    #[arg(long, value_name = "COUNT", default_value_t = Settings::default().connections)]
    proxy_max_connections: usize,
    /// The same of one endpoint.
    #[arg(long, value_name = "COUNT", default_value_t = Settings::default().connections_per_endpoint)]
    proxy_max_connections_per_endpoint: usize,
    /// How long what is open may go on after SIGTERM: responses, tunnels. New connections are served
    /// meanwhile; a second signal ends it at once.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub(super) drain_timeout: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum When {
    /// When the client connects: where the server can't be reached, the client sees it at once.
    Eager,
    /// With the first request or server name that policy allows; if that fails, 503.
    Lazy,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EchMode {
    /// The name in clear is judged, as of all others. It may be a provider's, for many names that are hidden.
    AllowOuter,
    /// Reset. Browsers send such an extension to every server, for show, and are refused then.
    Refuse,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AltSvcMode {
    /// It passes, as all of a response does.
    Pass,
    /// It is left out: no client tries QUIC for it where that is refused.
    Strip,
}

/// Tokens, in lower case.
#[derive(Clone, Debug)]
struct Upgrades(Vec<Box<str>>);

impl Http {
    /// Whose address servers see.
    pub(super) const fn source(&self) -> UpstreamSource {
        self.http_upstream_source
    }

    pub(super) fn settings(&self) -> Settings {
        Settings {
            denied_text: format!("{}\r\n", self.http_403_msg).into(),
            upgrades: self.http_upgrades.0.clone(),
            paths: match self.http_normalize_path {
                true => Paths::Normalised,
                false => Paths::Raw,
            },
            ech: match self.tls_ech {
                EchMode::AllowOuter => Ech::Outer,
                EchMode::Refuse => Ech::Refused,
            },
            alt_svc: match self.http_alt_svc {
                AltSvcMode::Pass => AltSvc::Passed,
                AltSvcMode::Strip => AltSvc::Dropped,
            },
            connect: match self.http_connect {
                When::Eager => Connect::Eager,
                When::Lazy => Connect::Lazy,
            },
            connect_wait: self.proxy_connect_timeout,
            connections: self.proxy_max_connections,
            connections_per_endpoint: self.proxy_max_connections_per_endpoint,
            keepalive_idle: self.proxy_idle_timeout,
            stream_idle: self.http_stream_idle_timeout,
            response_wait: Some(self.http_request_timeout).filter(|wait| !wait.is_zero()),
            ..Settings::default()
        }
    }
}

fn parse_upgrades(text: &str) -> Result<Upgrades, String> {
    let tokens = text
        .split(',')
        .map(str::trim)
        .filter(|token| !token.is_empty());
    let upgrades = tokens.map(|token| {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-./_+".contains(&byte);
        match token.to_ascii_lowercase() {
            token if token == "h2c" => Err("h2c would let requests pass unjudged".to_owned()),
            token if token.bytes().all(is_fit) => Ok(token.into()),
            _ => Err(format!("{token:?} is no protocol of an Upgrade header")),
        }
    });
    upgrades.collect::<Result<_, _>>().map(Upgrades)
}

/// Without the line end that is put behind it.
fn parse_body(text: &str) -> Result<String, String> {
    const OCTETS_MAX: usize = 4_096;
    match text.len() {
        0..=OCTETS_MAX => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
        _ => Err(format!("longer than {OCTETS_MAX} octets")),
    }
}

fn parse_positive(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("must be more than 0".to_owned()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        http: Http,
    }

    fn settings(args: &[&str]) -> Result<Settings, String> {
        let line = Line::try_parse_from([&["run"], args].concat());
        line.map(|line| line.http.settings())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn without_options_it_is_the_default() {
        let (ours, default) = (settings(&[]).unwrap(), Settings::default());
        assert_eq!(format!("{ours:?}"), format!("{default:?}"));
    }

    #[test]
    fn each_option_sets_what_it_says() {
        let settings = settings(&[
            "--http-connect=lazy",
            "--http-normalize-path=false",
            "--tls-ech=refuse",
            "--http-alt-svc=strip",
            "--http-upgrades=WebSocket, foo/2",
            "--http-403-msg=No.\n",
            "--http-request-timeout=1h",
            "--http-stream-idle-timeout=7s",
            "--proxy-connect-timeout=500ms",
            "--proxy-idle-timeout=5s",
            "--proxy-max-connections=9",
            "--proxy-max-connections-per-endpoint=3",
        ])
        .unwrap();
        assert_eq!(settings.connect, Connect::Lazy);
        assert_eq!(settings.paths, Paths::Raw);
        assert_eq!(
            (settings.ech, settings.alt_svc),
            (Ech::Refused, AltSvc::Dropped)
        );
        assert_eq!(settings.upgrades, ["websocket".into(), "foo/2".into()]);
        assert_eq!(&*settings.denied_text, "No.\r\n");
        assert_eq!(settings.response_wait, Some(Duration::from_secs(3_600)));
        assert_eq!(settings.stream_idle, Duration::from_secs(7));
        assert_eq!(settings.connect_wait, Duration::from_millis(500));
        assert_eq!(settings.keepalive_idle, Duration::from_secs(5));
        assert_eq!(
            (settings.connections, settings.connections_per_endpoint),
            (9, 3)
        );
        assert!(self::settings(&["--http-normalize-path"]).unwrap().paths == Paths::Normalised);
        assert!(
            self::settings(&["--http-upgrades="])
                .unwrap()
                .upgrades
                .is_empty()
        );
    }

    #[test]
    fn what_can_not_be_meant_is_refused() {
        for (arg, why) in [
            ("--http-upgrades=h2c", "unjudged"),
            ("--http-upgrades=websocket,a b", "no protocol"),
            ("--proxy-connect-timeout=0s", "more than 0"),
            ("--proxy-connect-timeout=2", "is not a time"),
            ("--proxy-idle-timeout=0", "more than 0"),
            ("--http-normalize-path=maybe", "invalid value"),
            ("--proxy-max-connections=-1", "invalid"),
        ] {
            let error = settings(&[arg]).unwrap_err();
            assert!(error.contains(why), "{arg}: {error}");
        }
    }
}
