//! The options of what is not told, with Cilium's names.

use std::collections::BTreeSet;

use clap::{ArgAction, Args};
use flow::{HeaderLists, Redaction};

/// What is taken out of HTTP messages before they are flows. Without any of these it is passwords in URLs
/// and the values of Authorization, Proxy-Authorization, Cookie, Set-Cookie and X-Api-Key.
#[derive(Args)]
#[command(next_help_heading = "What flows do not tell")]
pub(super) struct RedactOptions {
    /// Take more out of HTTP messages than credentials: what the options below say, without lists the
    /// values of all headers.
    #[arg(long)]
    hubble_redact_enabled: bool,
    /// Query and fragment of URLs.
    #[arg(long, requires = "hubble_redact_enabled")]
    hubble_redact_http_urlquery: bool,
    /// Passwords in URLs.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set,
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    hubble_redact_http_userinfo: bool,
    /// Headers whose values are told, and no others; by commas, repeatable.
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        requires = "hubble_redact_enabled"
    )]
    hubble_redact_http_headers_allow: Vec<String>,
    /// Headers whose values are not told; by commas, repeatable.
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        requires = "hubble_redact_enabled"
    )]
    hubble_redact_http_headers_deny: Vec<String>,
}

impl RedactOptions {
    pub(super) fn redaction(&self) -> Redaction {
        let names = |names: &[String]| -> BTreeSet<String> {
            let names = names.iter().map(|name| name.trim().to_ascii_lowercase());
            names.collect()
        };
        Redaction {
            url_query: self.hubble_redact_http_urlquery,
            user_info: self.hubble_redact_http_userinfo,
            headers: self.hubble_redact_enabled.then(|| HeaderLists {
                allow: names(&self.hubble_redact_http_headers_allow),
                deny: names(&self.hubble_redact_http_headers_deny),
            }),
        }
    }
}
