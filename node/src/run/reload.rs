//! What of the configuration changes while the daemon runs.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Options, Service};

/// Keys of the configuration that change while the daemon runs; what else changes waits for the next start.
pub(crate) const RELOADED: [&str; 28] = [
    "audit",
    "cluster_cidr",
    "detach_on_exit",
    "dns_cname_match",
    "dns_deny_response",
    "dns_https",
    "dns_install_wait",
    "dns_learn_private",
    "dns_no_aaaa",
    "dns_rebind",
    "dns_refresh",
    "dns_scrub",
    "dns_servers",
    "dns_strict_case",
    "dns_trusted_servers",
    "dns_ttl_ceiling",
    "dns_ttl_floor",
    "dns_ttl_grace",
    "dns_tunnels",
    "dns_upstream_timeout",
    "drain_timeout",
    "encrypted_dns",
    "encrypted_dns_resolvers",
    "enforcement_mode",
    "log",
    "name_binding",
    "nat64_prefix",
    "quic",
];

impl Service {
    /// Reads the configuration too.
    pub(super) fn reload(&mut self) {
        if let Ok(now) = sd_notify::NotifyState::monotonic_usec_now() {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Reloading, now]);
        }
        match (self.options.again)() {
            Err(faults) => {
                for fault in &faults {
                    tracing::error!("the configuration stays as it is: {fault}");
                }
                self.config_problems = faults;
            }
            Ok(options) => {
                self.config_problems = Vec::new();
                self.take(options);
            }
        }
        self.reload_files();
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }

    /// Takes of these options what can change.
    fn take(&mut self, options: Options) {
        let started = &self.options.settled;
        let differs = |(key, values): &(&String, &Vec<String>)| started.get(*key) != Some(values);
        let changed = options.settled.iter().filter(differs);
        let waits = changed.filter(|(key, _)| !RELOADED.contains(&key.as_str()));
        self.config_waits = waits.map(|(key, _)| key.clone()).collect();
        if !self.config_waits.is_empty() {
            let keys = self.config_waits.join(", ");
            tracing::warn!("changed, and waits for the next start: {keys}");
        }
        self.options.detach_on_exit = options.detach_on_exit;
        self.options.drain = options.drain;
        // What a command said stays until the configuration says something else.
        if self.options.log != options.log {
            self.options.log.clone_from(&options.log);
            self.set_log_level(options.log.clone());
        }
        if self.options.dns_servers != options.dns_servers {
            match options.loader() {
                Ok(loader) => {
                    self.loader = loader;
                    self.options.dns_servers = options.dns_servers;
                }
                Err(error) => self.config_problems.push(format!("dns_servers: {error:#}")),
            }
        }
        // The policy that one of them stands for is read with the files.
        let own = &mut self.options.setup;
        own.dns = options.setup.dns.clone();
        own.encrypted_resolvers = Arc::clone(&options.setup.encrypted_resolvers);
        own.scruples.clone_from(&options.setup.scruples);
        self.daemon.take(options.setup);
    }

    pub(super) fn set_log_level(&mut self, level: String) -> Value {
        match crate::log::set(&level) {
            Ok(()) => {
                tracing::info!(level, "another log level");
                self.log_level = level;
                json!({ "log_level": self.log_level })
            }
            Err(error) => json!({ "error": error }),
        }
    }
}
