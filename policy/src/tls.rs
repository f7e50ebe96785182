//! Certificates that rules name, for TLS that the proxy ends and begins anew.

use std::sync::Arc;

use crate::l4::L7;
use crate::problem::{Code, Problem};
use crate::rule::{Item, Policy, PolicySet};

/// What a `terminatingTLS` or `originatingTLS` names: a secret, and what it calls its parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsContext {
    pub(crate) secret_namespace: Box<str>,
    pub(crate) secret_name: Box<str>,
    pub(crate) trusted_ca: Option<Box<str>>,
    pub(crate) certificate: Option<Box<str>>,
    pub(crate) private_key: Option<Box<str>>,
}

/// Which leg of a connection certificates are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsLeg {
    /// The client's, whose TLS is ended (`terminatingTLS`): a certificate and its key.
    Client,
    /// The server's, to which TLS is begun (`originatingTLS`): who is trusted.
    Server,
}

/// A place in a policy that names a secret.
#[derive(Clone, Copy, Debug)]
pub struct TlsUse<'a> {
    /// For which leg.
    pub leg: TlsLeg,
    /// What it names.
    pub context: &'a Arc<TlsContext>,
    policy: &'a Policy,
    item: &'a Item,
}

impl TlsContext {
    /// The namespace and the name of the secret.
    #[must_use]
    pub fn secret(&self) -> (&str, &str) {
        (&self.secret_namespace, &self.secret_name)
    }

    /// What the certificate is called in it.
    #[must_use]
    pub fn certificate(&self) -> &str {
        self.certificate.as_deref().unwrap_or("tls.crt")
    }

    /// What the private key is called in it.
    #[must_use]
    pub fn private_key(&self) -> &str {
        self.private_key.as_deref().unwrap_or("tls.key")
    }

    /// What the certificates of those who are trusted are called in it.
    #[must_use]
    pub fn trusted_ca(&self) -> &str {
        self.trusted_ca.as_deref().unwrap_or("ca.crt")
    }
}

impl TlsUse<'_> {
    /// A problem of this place: its secret can't be used.
    #[must_use]
    pub fn problem(&self, why: &str) -> Problem {
        let field = match self.leg {
            TlsLeg::Client => "terminatingTLS",
            TlsLeg::Server => "originatingTLS",
        };
        let (namespace, name) = self.context.secret();
        let message = format!(
            "policy {:?} needs secret {namespace}/{name}: {why}",
            self.policy.name
        );
        Problem {
            field: field.to_owned(),
            ..Problem::of_item(self.policy, self.item, Code::Secret, message)
        }
    }
}

impl PolicySet {
    /// All places that name a secret for TLS.
    #[must_use]
    pub fn tls_uses(&self) -> Vec<TlsUse<'_>> {
        let mut uses = Vec::new();
        for (policy, item, l7) in self.l7_parts() {
            uses.extend(l7.tls_contexts().map(|(leg, context)| TlsUse {
                leg,
                context,
                policy,
                item,
            }));
        }
        uses
    }
}

impl L7 {
    fn tls_contexts(&self) -> impl Iterator<Item = (TlsLeg, &Arc<TlsContext>)> {
        let client = self.terminating_tls.as_ref();
        let server = self.originating_tls.as_ref();
        let client = client.map(|context| (TlsLeg::Client, context));
        client
            .into_iter()
            .chain(server.map(|context| (TlsLeg::Server, context)))
    }
}
