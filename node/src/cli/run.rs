//! `namegate run`.

mod dns;
mod export;
mod http;
mod hubble;
mod metrics;
mod redact;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bpf_redirect::HookMode;
use bpf_redirect_common::Aggregation;
use clap::{Args, Parser as _, ValueEnum};

use super::layers::{Settled, Trouble, complete};
use super::{Command, Namegate, Which};
use crate::daemon::Setup;
use crate::exit::{Exit, NO_PERMISSION};
use crate::log::{self, Form, parse_level};
use crate::run::{Options, run};
use dns::DnsOptions;
pub(super) use dns::DnsServersFlag;
use export::ExportOptions;
use hubble::HubbleOptions;
use metrics::MetricsOptions;
use redact::RedactOptions;

/// Where policies are, unless something else is said.
pub(super) const POLICY_DIR: &str = "/etc/namegate/policies";
/// The same of endpoint files.
pub(super) const ENDPOINT_DIR: &str = "/etc/namegate/endpoints";

/// Guard the endpoints of this node, in the foreground.
///
/// Prints `ready` once every endpoint that it knows is attached and its policy in force. Folders are
/// watched; SIGHUP reads them anew. SIGTERM ends the daemon, once HTTP connections and tunnels that are
/// open are over or `--drain-timeout` is, and leaves enforcement in place: what is allowed goes on, DNS
/// waits for the next start. `namegate detach` takes everything away.
#[derive(Args)]
#[command(after_help = "Example:
  namegate run --policy-dir /etc/namegate/policies --endpoint-dir /etc/namegate/endpoints

An endpoint file:
  name: internal-client
  labels: {app: internal-client}
  netns: /run/netns/internal-client      # or interface: veth1a2b, with addresses: and mac:")]
pub(super) struct Run {
    /// The configuration: a YAML file whose keys are these flags, with `_` for `-` [default:
    /// /etc/namegate/config.yaml, if it is there]. Drop-ins beside it, config.d/*.yaml, come after it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of policy files (*.yaml); repeatable.
    #[arg(long, value_name = "DIR", default_value = POLICY_DIR)]
    policy_dir: Vec<PathBuf>,
    /// Folder of endpoint files (*.yaml).
    #[arg(long, value_name = "DIR", default_value = ENDPOINT_DIR)]
    endpoint_dir: PathBuf,
    /// Folder of the secrets that policies name: of TLS contexts DIR/NAMESPACE/NAME/tls.crt, tls.key,
    /// ca.crt; of `headerMatches` the only file of DIR/NAMESPACE/NAME. Keys and values must be readable by
    /// their owner alone. It is watched too.
    #[arg(long, value_name = "DIR")]
    tls_secrets: Option<PathBuf>,
    /// Where the numbers of label sets are kept [default: /var/lib/namegate].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where programs, maps and links are pinned: in a BPF file system, which is mounted over the folder
    /// that this one is in if that is empty [default: /sys/fs/bpf/namegate].
    #[arg(long, value_name = "DIR")]
    bpf_dir: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
    /// By which means programs are attached.
    #[arg(long, value_enum, default_value = "auto")]
    hooks: Hooks,
    #[command(flatten)]
    dns: DnsOptions,
    #[command(flatten)]
    http: http::Http,
    /// Which endpoints are closed to what no rule allows.
    #[arg(long, value_enum, default_value = "default")]
    enforcement_mode: EnforcementMode,
    /// Judge and tell, block nothing: denials are flows with the verdict AUDIT.
    #[arg(long)]
    audit: bool,
    /// Whether TLS and HTTP to addresses that only toFQDNs allow must be to a name that it allows. A policy
    /// says otherwise for itself by the annotation namegate.io/name-binding.
    #[arg(long, value_enum, default_value = "off", value_name = "HOW")]
    name_binding: NameBinding,
    /// What becomes of datagrams (QUIC) of a workload to a peer's port where the rules for TCP judge server
    /// names or requests.
    #[arg(long, value_enum, default_value = "refuse")]
    quic: QuicMode,
    /// How much is told of packets that pass, beside the verdict on each new flow.
    #[arg(long, value_enum, default_value = "medium")]
    monitor_aggregation: MonitorAggregation,
    #[command(flatten)]
    hubble: HubbleOptions,
    #[command(flatten)]
    metrics: MetricsOptions,
    #[command(flatten)]
    export: ExportOptions,
    #[command(flatten)]
    redact: RedactOptions,
    /// Take everything away at the end, within two seconds, instead of leaving enforcement in place.
    #[arg(long)]
    detach_on_exit: bool,
    /// What is logged to standard error: error, warn, info, debug, trace, off, or a filter. `namegate log-level`
    /// changes it.
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = parse_level, visible_alias = "log-level")]
    log: String,
    /// The form of what is logged.
    #[arg(long, value_enum, default_value = "auto", value_name = "FORM")]
    log_format: LogFormat,
    /// What all of these say, and where it is from.
    #[arg(skip)]
    settled: BTreeMap<String, Settled>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// The journal's where standard error is the journal's, text on a terminal, else JSON.
    Auto,
    /// Lines for people.
    Text,
    /// Lines of JSON.
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Hooks {
    /// tcx where the kernel has it (6.6), else clsact.
    Auto,
    /// tcx links.
    Tcx,
    /// Filters of the clsact qdisc.
    Clsact,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum EnforcementMode {
    /// Each in the directions that some rule is about.
    Default,
    /// All, in both directions.
    Always,
    /// None; nothing is redirected either.
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum NameBinding {
    /// Nobody looks: such flows pass in the kernel.
    Off,
    /// Such flows go through the proxy; another name, or none, passes and is told.
    Audit,
    /// The same, and another name, or none, is refused.
    Enforce,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum QuicMode {
    /// Refused by ICMP, so that clients turn to TCP at once.
    Refuse,
    /// Where server names alone are judged, the one in QUIC's first datagrams is judged as in TLS over TCP, and
    /// what can't be read is dropped; where requests are judged, and at ranges of ports: refused.
    Sni,
    /// Judged by address and port alone.
    Allow,
}

/// Cilium's names; what it doesn't have is `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MonitorAggregation {
    /// Every packet, where it comes in and where it leaves.
    #[value(alias = "disabled")]
    None,
    /// Every packet, where it leaves.
    #[value(alias = "lowest")]
    Low,
    /// The first packet of each direction, TCP's first SYN, FIN and RST, and one packet in 5 seconds.
    Medium,
    /// The same without the one in 5 seconds.
    #[value(alias = "max")]
    Maximum,
    /// Nothing.
    Off,
}

impl From<MonitorAggregation> for Aggregation {
    fn from(level: MonitorAggregation) -> Self {
        match level {
            MonitorAggregation::None => Self::None,
            MonitorAggregation::Low => Self::Low,
            MonitorAggregation::Medium => Self::Medium,
            MonitorAggregation::Maximum => Self::Maximum,
            MonitorAggregation::Off => Self::Off,
        }
    }
}

impl From<NameBinding> for policy::NameBinding {
    fn from(how: NameBinding) -> Self {
        match how {
            NameBinding::Off => Self::Off,
            NameBinding::Audit => Self::Audit,
            NameBinding::Enforce => Self::Enforce,
        }
    }
}

impl From<QuicMode> for policy::Quic {
    fn from(mode: QuicMode) -> Self {
        match mode {
            QuicMode::Refuse => Self::Refuse,
            QuicMode::Sni => Self::Sni,
            QuicMode::Allow => Self::Allow,
        }
    }
}

impl From<EnforcementMode> for policy::Mode {
    fn from(mode: EnforcementMode) -> Self {
        match mode {
            EnforcementMode::Default => Self::Default,
            EnforcementMode::Always => Self::Always,
            EnforcementMode::Never => Self::Never,
        }
    }
}

/// A number with its unit: ms, s, m, h, d.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let wrong = || format!("{text:?} is not a time: write 500ms, 90s, 5m, 24h or 2d");
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if number == 0 => 0,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(millis)
        .map(Duration::from_millis)
        .ok_or_else(wrong)
}

impl Run {
    /// With where its values are from.
    pub(super) fn settled(self, settled: BTreeMap<String, Settled>) -> Self {
        Self { settled, ..self }
    }

    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        log::start(&self.log, self.log_format.form())?;
        if !rustix::process::geteuid().is_root() {
            return Err(Exit::with(
                NO_PERMISSION,
                "namegate run needs root: it loads BPF programs and makes a network namespace",
            ));
        }
        crate::power::give_up()?;
        run(self.options()?)?;
        Ok(ExitCode::SUCCESS)
    }

    fn options(self) -> anyhow::Result<Options> {
        let instance = self.which.instance.clone();
        let socket = self.which.own_socket();
        let (cluster, flows_max) = (self.hubble.cluster(), self.hubble.flows_max());
        let redaction = self.redact.redaction();
        let flow_logs = self.export.hubble_flowlogs_config_path.clone();
        let exports = self.export.exports()?;
        let cilium_metrics = self.metrics.metrics_cilium_names;
        let metrics = self.metrics.choices()?;
        Ok(Options {
            policy_dirs: self.policy_dir,
            endpoint_dir: self.endpoint_dir,
            tls_secrets: self.tls_secrets,
            dns_servers: self.dns.servers(),
            state_dir: self.state_dir.unwrap_or_else(|| instance.state_dir()),
            observing: self.hubble.observing(&socket, self.metrics.metrics_addr),
            socket,
            detach_on_exit: self.detach_on_exit,
            drain: self.http.drain_timeout,
            manager: super::manager::manager(),
            settled: values(self.settled),
            log: self.log,
            again,
            setup: Setup {
                cluster,
                pins: Some(self.bpf_dir.unwrap_or_else(|| instance.bpf_dir())),
                hook_mode: match self.hooks {
                    Hooks::Auto => None,
                    Hooks::Tcx => Some(HookMode::Tcx),
                    Hooks::Clsact => Some(HookMode::Clsact),
                },
                exports,
                flow_logs,
                metrics,
                cilium_metrics,
                http: self.http.settings(),
                redaction,
                flows_max,
                aggregation: self.monitor_aggregation.into(),
                enforcement: policy::Options {
                    mode: self.enforcement_mode.into(),
                    audit: self.audit,
                    name_binding: self.name_binding.into(),
                    quic: self.quic.into(),
                    ..policy::Options::default()
                },
                lifetimes: self.dns.lifetimes(),
                install_wait: self.dns.install_wait(),
                scruples: self.dns.scruples(),
                dns_refresh: self.dns.refresh(),
                dns: self.dns.settings(self.audit),
                encrypted_resolvers: self.dns.encrypted_resolvers(),
                outside: None,
                dns_source: self.dns.source(),
                http_source: self.http.source(),
                carriage: crate::datapath::Carriage::Direct,
                instance,
            },
        })
    }
}

impl LogFormat {
    fn form(self) -> Form {
        let stream = std::env::var_os("JOURNAL_STREAM").unwrap_or_default();
        match self {
            Self::Json => Form::Json,
            Self::Auto if log::is_journal(&stream.to_string_lossy()) => Form::Journal,
            Self::Auto if !std::io::IsTerminal::is_terminal(&std::io::stderr()) => Form::Json,
            Self::Auto | Self::Text => Form::Text,
        }
    }
}

/// The values alone.
fn values(settled: BTreeMap<String, Settled>) -> BTreeMap<String, Vec<String>> {
    let values = settled.into_iter().map(|(key, one)| (key, one.values));
    values.collect()
}

/// What this program would be started with now.
///
/// # Errors
/// What is wrong with the configuration, a line for each fault.
fn again() -> Result<Options, Vec<String>> {
    let args: Vec<OsString> = std::env::args_os().collect();
    let layered =
        complete(&args, &|name| std::env::var_os(name)).map_err(|trouble| match trouble {
            Trouble::Usage(error) => vec![error.to_string()],
            Trouble::Config(faults) => faults,
        })?;
    let whole = Namegate::try_parse_from(&layered.args).map_err(|error| vec![error.to_string()])?;
    let Command::Run(run) = whole.command else {
        return Err(vec!["this is another command".to_owned()]);
    };
    run.settled(layered.settled)
        .options()
        .map_err(|error| vec![format!("{error:#}")])
}
