//! What a `toPorts` entry says beyond ports: `rules`, `serverNames`, TLS.

use std::sync::Arc;

use fqdn::Everything;

use super::cursor::{At, Fields, Known, Report};
use super::http;
use super::item::Context;
use super::names;
use crate::l4::{L7, L7Rules};
use crate::problem::Code;
use crate::tls::TlsContext;
use crate::{Direction, SniPattern};

const RULES: Known = Known {
    object: "`rules`",
    read: &["http", "dns"],
    refused: &[],
};

const TLS: Known = Known {
    object: "a TLS context",
    read: &["secret", "trustedCA", "certificate", "privateKey"],
    refused: &[],
};

const SECRET: Known = Known {
    object: "a secret",
    read: &["namespace", "name"],
    refused: &[],
};

/// Reads the L7 part of an entry and says where it stands. Empty lists are no L7 at all.
pub(super) fn read<'a>(
    fields: &mut Fields<'a>,
    report: &mut Report<'_>,
    context: &Context<'_>,
) -> Option<(At<'a>, Arc<L7>)> {
    let rules = fields.take("rules");
    let rules = rules.and_then(|rules| read_rules(&rules, report, context));
    let names_list = fields.take_list("serverNames", report);
    let terminating = fields.take("terminatingTLS");
    let originating = fields.take("originatingTLS");
    let mut server_names = Vec::new();
    if let Some(list) = &names_list {
        if list.items.is_empty() {
            let message = "`serverNames` must have at least one name; leave it out to allow all";
            report.note(&list.at, Code::InvalidValue, message);
        }
        let items = list.items.iter();
        server_names.extend(items.filter_map(|item| read_server_name(item, report)));
    }
    let mut tls = |at: &Option<At<'_>>| {
        at.as_ref()
            .and_then(|at| read_tls(at, report, context))
            .map(Arc::new)
    };
    let l7 = L7 {
        terminating_tls: tls(&terminating),
        originating_tls: tls(&originating),
        server_names,
        rules: L7Rules::None,
    };
    if let (Some(at), None) = (&terminating, &originating) {
        let message =
            "`terminatingTLS` without `originatingTLS`: what the client sends in TLS goes on \
                       to the server in plain text"
                .to_owned();
        let help = "add `originatingTLS`, unless the server speaks no TLS on this port";
        report.note_with_help(at, (Code::PlainUpstream, message), help);
    }
    let tls_at = terminating.as_ref().or(originating.as_ref());
    let names_at = names_list.as_ref().map(|list| &list.at);
    if let Some((at, found)) = &rules {
        check_together(at, report, (found, names_at, terminating.as_ref()));
        if matches!(found, L7Rules::Dns(_)) && tls_at.is_some() {
            let message = "`dns` rules can't go with `terminatingTLS` or `originatingTLS`";
            report.note(at, Code::Conflict, message);
        }
    }
    let at = rules
        .as_ref()
        .map(|(at, _)| at)
        .or(names_at)
        .or(tls_at)?
        .clone();
    let rules = rules.map_or(L7Rules::None, |(_, rules)| rules);
    check_place(&at, report, (&rules, context));
    Some((at, Arc::new(L7 { rules, ..l7 })))
}

/// Without termination the proxy sees no requests, only the name that the client says first.
fn check_together(
    at: &At<'_>,
    report: &mut Report<'_>,
    (_rules, server_names, terminating): (&L7Rules, Option<&At<'_>>, Option<&At<'_>>),
) {
    if server_names.is_some() && terminating.is_none() {
        let message = "`serverNames` beside L7 rules needs `terminatingTLS`: requests inside TLS \
                       can't be seen otherwise"
            .to_owned();
        let help = "add `terminatingTLS`, or leave out one of `serverNames` and `rules`";
        report.note_with_help(at, (Code::Conflict, message), help);
    }
}

/// L7 can't stand everywhere.
fn check_place(at: &At<'_>, report: &mut Report<'_>, (rules, context): (&L7Rules, &Context<'_>)) {
    let is_dns = matches!(rules, L7Rules::Dns(_));
    match (context.direction, context.on_nodes) {
        (Direction::Ingress, true) => {
            let message = "L7 rules are not supported for the ingress of nodes (`nodeSelector`)";
            report.note(at, Code::Conflict, message);
        }
        (Direction::Egress, true) if !is_dns => {
            let message = "only `dns` rules are supported for the egress of nodes (`nodeSelector`)";
            report.note(at, Code::Conflict, message);
        }
        (Direction::Ingress, false) if is_dns => {
            let message = "`dns` rules are for `egress`, not for `ingress`".to_owned();
            let help = "they judge the questions that the selected workloads ask";
            report.note_with_help(at, (Code::Conflict, message), help);
        }
        (Direction::Ingress | Direction::Egress, _) => {}
    }
}

/// Reads `rules`; an empty list is no L7 at all.
fn read_rules<'a>(
    at: &At<'a>,
    report: &mut Report<'_>,
    context: &Context<'_>,
) -> Option<(At<'a>, L7Rules)> {
    let mut fields = at.fields(report)?;
    let http = fields.take_list("http", report);
    let dns = fields.take_list("dns", report);
    let http = http.filter(|list| !list.items.is_empty());
    let dns = dns.filter(|list| !list.items.is_empty());
    if dns.is_some() && http.is_some() {
        fields.note_conflict(report, "`dns` and `http` can't stand in one entry");
    }
    fields.finish(report, &RULES);
    if let Some(list) = dns {
        let names = names::read_list(&list.items, report, Everything::AnyName);
        return Some((list.at, L7Rules::Dns(names)));
    }
    let list = http?;
    let items = list.items.iter();
    let rules = items.filter_map(|item| http::read(item, report, context.owner));
    let rules = rules.collect();
    Some((list.at, L7Rules::Http(rules)))
}

fn read_server_name(at: &At<'_>, report: &mut Report<'_>) -> Option<SniPattern> {
    let text = at.text(report)?;
    match SniPattern::parse(text) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let message = format!("{text:?} is no server name: {error}");
            report.note(at, Code::InvalidValue, message);
            None
        }
    }
}

fn read_tls(at: &At<'_>, report: &mut Report<'_>, context: &Context<'_>) -> Option<TlsContext> {
    let mut fields = at.fields(report)?;
    let secret = fields.take("secret");
    if secret.is_none() {
        fields.note_missing(report, "no `secret`");
    }
    let mut word = |key| fields.take_word(key, report).map(Into::into);
    let (trusted_ca, certificate, private_key) =
        (word("trustedCA"), word("certificate"), word("privateKey"));
    fields.finish(report, &TLS);
    let (secret_namespace, secret_name) = read_secret(&secret?, report, context.owner.namespace)?;
    Some(TlsContext {
        secret_namespace,
        secret_name,
        trusted_ca,
        certificate,
        private_key,
    })
}

/// The namespace and the name of a secret; the namespace is the policy's unless it says one.
pub(super) fn read_secret(
    at: &At<'_>,
    report: &mut Report<'_>,
    own_namespace: Option<&str>,
) -> Option<(Box<str>, Box<str>)> {
    let mut fields = at.fields(report)?;
    let namespace = fields.take_word("namespace", report).or(own_namespace);
    let name = fields.require_word("name", report);
    if namespace.is_none() {
        let message = "no `namespace`, and a clusterwide policy has none to take it from";
        fields.note_missing(report, message);
    }
    fields.finish(report, &SECRET);
    Some((namespace?.into(), name?.into()))
}
