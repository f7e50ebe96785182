//! Certificates for TLS that is ended here, and who is trusted where it is begun anew.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use policy::TlsContext;
use rustls::client::Resumption;
pub use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// What all TLS contexts of a set of policies name. Made whole, then only read: connections keep the one
/// that they began with.
#[derive(Debug, Default)]
pub struct TlsSecrets {
    own: HashMap<Arc<TlsContext>, Arc<OwnCertificate>>,
    trusted: HashMap<Arc<TlsContext>, Arc<Trust>>,
}

/// A certificate with its key, for those whose TLS is ended here.
pub struct OwnCertificate {
    certificate: CertificateDer<'static>,
    config: ServerConfig,
}

/// Those whose word is taken for a server's certificate.
pub struct Trust {
    config: ClientConfig,
}

/// Why a secret can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BadSecret {
    /// It holds no certificate.
    #[error("there is no certificate in it (PEM)")]
    NoCertificate,
    /// It holds no private key.
    #[error("there is no private key in it (PEM, not encrypted)")]
    NoKey,
    /// It is no PEM.
    #[error("it can't be read: {0}")]
    Pem(PemError),
    /// Certificate or key are none, or don't belong together.
    #[error("{0}")]
    Tls(rustls::Error),
}

impl From<rustls::Error> for BadSecret {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error)
    }
}

impl TlsSecrets {
    /// Adds what a `terminatingTLS` names.
    pub fn add_own(&mut self, context: &Arc<TlsContext>, certificate: OwnCertificate) {
        self.own.insert(Arc::clone(context), Arc::new(certificate));
    }

    /// Adds what an `originatingTLS` names.
    pub fn add_trust(&mut self, context: &Arc<TlsContext>, trust: Trust) {
        self.trusted.insert(Arc::clone(context), Arc::new(trust));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.own.is_empty() && self.trusted.is_empty()
    }

    pub(crate) fn own(&self, context: &TlsContext) -> Option<&Arc<OwnCertificate>> {
        self.own.get(context)
    }

    pub(crate) fn trust(&self, context: &TlsContext) -> Option<&Arc<Trust>> {
        self.trusted.get(context)
    }
}

impl OwnCertificate {
    /// Reads a certificate, with those between it and its authority, and its key.
    ///
    /// # Errors
    /// If one of them can't be used; whether it is the key says the flag.
    pub fn read(
        certificate: &[u8],
        key: &[u8],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, (SecretPart, BadSecret)> {
        let of = |part| move |error| (part, error);
        let chain = read_certificates(certificate).map_err(of(SecretPart::Certificate))?;
        let first = chain.first().cloned();
        let first = first.ok_or((SecretPart::Certificate, BadSecret::NoCertificate))?;
        ParsedCertificate::try_from(&first)
            .map_err(|error| (SecretPart::Certificate, error.into()))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            let is_missing = matches!(error, PemError::NoItemsFound);
            let why = if is_missing {
                BadSecret::NoKey
            } else {
                BadSecret::Pem(error)
            };
            (SecretPart::Key, why)
        })?;
        let pair = CertifiedKey::from_der(chain, key, provider)
            .map_err(|error| (SecretPart::Key, error.into()))?;
        let config = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| (SecretPart::Key, error.into()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
        // By its defaults there is no early data, and sessions are resumed by what stands in its memory:
        // each certificate has its own, and a session goes on only under its name.
        Ok(Self {
            certificate: first,
            config,
        })
    }

    /// Whether the certificate is one of a server that is called so.
    pub(crate) fn covers(&self, name: &str) -> bool {
        let Ok(name) = ServerName::try_from(name) else {
            return false;
        };
        ParsedCertificate::try_from(&self.certificate)
            .is_ok_and(|own| rustls::client::verify_server_name(&own, &name).is_ok())
    }

    /// How the client is answered who is told of these protocols.
    pub(crate) fn config(&self, alpn: Vec<Vec<u8>>) -> Arc<ServerConfig> {
        let mut config = self.config.clone();
        config.alpn_protocols = alpn;
        Arc::new(config)
    }
}

impl Trust {
    /// Reads the certificates of those who are trusted.
    ///
    /// # Errors
    /// If there are none, or one can't be used.
    pub fn read(authorities: &[u8], provider: &Arc<CryptoProvider>) -> Result<Self, BadSecret> {
        let mut roots = RootCertStore::empty();
        for authority in read_certificates(authorities)? {
            roots.add(authority)?;
        }
        let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // A ticket would tell a server which of its clients are one workload's.
        config.resumption = Resumption::disabled();
        Ok(Self { config })
    }

    /// How a server is asked that is offered these protocols.
    pub(crate) fn config(&self, alpn: Vec<Vec<u8>>) -> ClientConfig {
        let mut config = self.config.clone();
        config.alpn_protocols = alpn;
        config
    }
}

/// A part of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretPart {
    /// The certificate.
    Certificate,
    /// Its key.
    Key,
}

fn read_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadSecret> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = read.map_err(BadSecret::Pem)?;
    match certificates.is_empty() {
        true => Err(BadSecret::NoCertificate),
        false => Ok(certificates),
    }
}

/// The cryptography that everything here is done with.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnCertificate")
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Authority;

    #[test]
    fn a_certificate_covers_the_names_in_it_and_no_other() {
        let authority = Authority::new();
        let (certificate, key) = authority.issue(&["a.test", "*.b.test"]);
        let own = OwnCertificate::read(&certificate, &key, &provider()).unwrap();
        for name in ["a.test", "A.test", "x.b.test"] {
            assert!(own.covers(name), "{name}");
        }
        for name in [
            "b.test",
            "x.y.b.test",
            "x.a.test",
            "c.test",
            "",
            "10.0.0.1",
            "*.b.test",
        ] {
            assert!(!own.covers(name), "{name}");
        }
    }

    #[test]
    fn a_secret_that_cannot_be_used_says_which_part_and_why() {
        let authority = Authority::new();
        let (certificate, key) = authority.issue(&["a.test"]);
        let (other, _) = authority.issue(&["a.test"]);
        let provider = provider();
        let read = |certificate: &[u8], key: &[u8]| {
            let error = OwnCertificate::read(certificate, key, &provider).unwrap_err();
            (error.0, error.1.to_string())
        };
        let broken = b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        let none = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (certificate, key, part, why) in [
            (
                &b""[..],
                &key[..],
                SecretPart::Certificate,
                "no certificate",
            ),
            (&key, &key, SecretPart::Certificate, "no certificate"),
            (broken, &key, SecretPart::Certificate, "can't be read"),
            (
                none,
                &key,
                SecretPart::Certificate,
                "invalid peer certificate",
            ),
            (&certificate, b"", SecretPart::Key, "no private key"),
            (
                &certificate,
                &certificate,
                SecretPart::Key,
                "no private key",
            ),
            (&other, &key, SecretPart::Key, "KeyMismatch"),
        ] {
            let (found, text) = read(certificate, key);
            assert_eq!(found, part, "{text}");
            assert!(text.contains(why), "{text}");
        }
        assert!(Trust::read(b"", &provider).is_err());
        assert!(Trust::read(&authority.pem(), &provider).is_ok());
    }

    /// A session goes on with the gate, and what a client would say before its end has no place in it; to
    /// the server none is resumed, so there is no early data either.
    #[test]
    fn no_leg_has_early_data() {
        let authority = Authority::new();
        let (certificate, key) = authority.issue(&["a.test"]);
        let own = OwnCertificate::read(&certificate, &key, &provider()).unwrap();
        let trust = Trust::read(&authority.pem(), &provider()).unwrap();
        let server = own.config(Vec::new());
        let mut eager = trust.config(Vec::new());
        (eager.enable_early_data, eager.resumption) = (true, Resumption::in_memory_sessions(4));
        let ours = Arc::new(trust.config(Vec::new()));
        let eager = Arc::new(eager);
        for (config, may_resume) in [(&eager, true), (&ours, false)] {
            for is_again in [false, true] {
                let name = ServerName::try_from("a.test").unwrap();
                let mut client = rustls::ClientConnection::new(Arc::clone(config), name).unwrap();
                assert!(client.early_data().is_none(), "{may_resume} {is_again}");
                let mut server = rustls::ServerConnection::new(Arc::clone(&server)).unwrap();
                for _ in 0..4 {
                    let mut said = Vec::new();
                    while client.wants_write() {
                        client.write_tls(&mut said).unwrap();
                    }
                    server.read_tls(&mut &*said).unwrap();
                    server.process_new_packets().unwrap();
                    said.clear();
                    while server.wants_write() {
                        server.write_tls(&mut said).unwrap();
                    }
                    client.read_tls(&mut &*said).unwrap();
                    client.process_new_packets().unwrap();
                }
                let kind = client.handshake_kind().unwrap();
                let has_resumed = kind == rustls::HandshakeKind::Resumed;
                assert_eq!(has_resumed, may_resume && is_again, "{kind:?}");
            }
        }
    }
}
