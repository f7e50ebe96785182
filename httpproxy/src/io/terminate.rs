//! TLS that ends here: the server's first, with what its client offers, then the client's, with what the
//! server chose.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConnection, ServerConnection, SignatureScheme};
use tokio::time::timeout;
use transport::Follows;

use super::access::Opaque;
use super::bound::{Bound, Client};
use super::connection::{Connection, End};
use super::detect::{First, Spoken};
use super::host::Host;
use super::http1::Trusted;
use crate::core::client_hello::ClientHello;
use crate::limits::TLS_WAIT_MAX;
use crate::tls::Trust;
use crate::told::Refusal;

/// What is served where requests are judged (RFC 7301 §6, RFC 9113 §3.2).
const HTTP1: &[u8] = b"http/1.1";
pub(super) const HTTP2: &[u8] = b"h2";

/// Why a client's TLS does not begin, as TLS says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alert {
    UnrecognizedName = 112,
    NoApplicationProtocol = 120,
}

/// Why the server is not spoken to: the word, and what TLS says.
type NotServed = (Refusal, String);

impl<H: Host> Connection<H> {
    /// The rule that ends a client's TLS, or begins TLS for it, and the server that this is about.
    pub(super) fn choose(&self, client: Client, said: Option<&str>) -> Option<Bound> {
        let names = match said {
            Some(name) => vec![name.to_owned()],
            None => self.proxy.host.names(&self.redirected),
        };
        let secrets = self.access.secrets();
        Bound::choose(self.access.tls_rules(), &names, (client, secrets))
    }

    /// Ends the client's TLS, begins the server's, and goes on with what is in it.
    pub(super) async fn terminate(
        &mut self,
        (first, hello): (First, &ClientHello),
        bound: Bound,
    ) -> End {
        let bound = self.bind(bound);
        let offered = self.served(&hello.alpn);
        if offered.is_empty() && !hello.alpn.is_empty() {
            return self.alert(Alert::NoApplicationProtocol);
        }
        if bound.trust.is_some()
            && let Err(end) = self.reach().await
        {
            return end;
        }
        let served = match &bound.trust {
            Some(trust) => self.begin_with_server(trust, &bound.name, offered).await,
            // It can't be asked. HTTP/2 without TLS is for those who know that their server has it: so
            // only for a client that has nothing else.
            None => Ok(preferred(&offered)),
        };
        let (alpn, trusted) = match served {
            Ok(alpn) => (alpn, Trusted::Yes),
            Err(why) => {
                self.tell_not_served(why, hello.server_name.clone());
                (vec![HTTP1.to_vec(), HTTP2.to_vec()], Trusted::No)
            }
        };
        let Some(own) = &bound.own else {
            return End::Reset;
        };
        match ServerConnection::new(own.config(alpn)) {
            Ok(session) => {
                let begun = self.client.begin_tls(session.into(), &first.octets);
                if let Err(error) = in_time(begun).await {
                    self.remark = Some(error.to_string());
                    return End::Alerted(Refusal::ClientTls);
                }
            }
            Err(error) => {
                self.remark = Some(error.to_string());
                return End::Refused(Refusal::ClientTls);
            }
        }
        let mut first = First::default();
        if trusted == Trusted::No {
            return match self.client.alpn() == Some(HTTP2) {
                true => Box::pin(self.http2(first, trusted)).await,
                false => self.http1(first, trusted).await,
            };
        }
        match self.detect(&mut first).await {
            Ok(spoken) => self.speak(spoken, first).await,
            Err(end) => end,
        }
    }

    /// Begins TLS to the server for a client that speaks HTTP without it: what the client speaks is what
    /// the server is offered.
    pub(super) async fn begin(&mut self, spoken: Spoken, first: First) -> End {
        if let Err(end) = self.reach().await {
            return end;
        }
        let is_http2 = matches!(spoken, Spoken::Http2);
        let bound = self.choose(Client::Plain, None);
        let bound = bound.map(|bound| self.bind(bound));
        let served = match bound
            .as_ref()
            .and_then(|bound| Some((bound.trust.as_ref()?, bound)))
        {
            Some((trust, bound)) => {
                let offered = if is_http2 { HTTP2 } else { HTTP1 };
                let begun = self.begin_with_server(trust, &bound.name, vec![offered.to_vec()]);
                match begun.await {
                    // A server that knows nothing of the choice speaks HTTP/1.
                    Ok(chosen) if is_http2 && chosen != [HTTP2] => {
                        Err((Refusal::ServerTls, "it has no HTTP/2".to_owned()))
                    }
                    begun => begun,
                }
            }
            None => {
                self.remark = Some("no name was learned for its address".to_owned());
                return End::Refused(Refusal::ServerCertificate);
            }
        };
        let trusted = match served {
            Ok(_) => Trusted::Yes,
            Err(why) => {
                self.tell_not_served(why, None);
                Trusted::No
            }
        };
        match is_http2 {
            true => Box::pin(self.http2(first, trusted)).await,
            false => self.http1(first, trusted).await,
        }
    }

    fn bind(&mut self, bound: Bound) -> Arc<Bound> {
        let bound = Arc::new(bound);
        self.bound = Some(Arc::clone(&bound));
        self.look_again();
        bound
    }

    /// Which of the protocols that a client offers it may have.
    fn served(&self, offered: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let is_open = self.access.opaque() == Opaque::Allowed && !self.access.has_request_rules();
        let offered = offered.iter();
        let served = offered.filter(|alpn| is_open || *alpn == HTTP1 || *alpn == HTTP2);
        served.cloned().collect()
    }

    /// Begins TLS with the server, and says which protocol it chose.
    async fn begin_with_server(
        &mut self,
        trust: &Trust,
        name: &str,
        offered: Vec<Vec<u8>>,
    ) -> Result<Vec<Vec<u8>>, NotServed> {
        let failed = |error: String| (Refusal::ServerTls, error);
        let asked = Arc::new(Asked::default());
        let mut config = trust.config(offered);
        config.client_auth_cert_resolver = Arc::clone(&asked) as Arc<dyn ResolvesClientCert>;
        let server = ServerName::try_from(name.to_owned()).map_err(|e| failed(e.to_string()))?;
        let session = ClientConnection::new(Arc::new(config), server);
        let session = session.map_err(|error| failed(error.to_string()))?;
        let Some(stream) = &mut self.server.stream else {
            return Err(failed("there is no connection".to_owned()));
        };
        let begun = in_time(stream.begin_tls(session.into(), &[])).await;
        if asked.0.load(Ordering::Relaxed) {
            let why = "a certificate of the client can't be passed on: allow the server by \
                       `serverNames`, without `terminatingTLS`";
            return Err((Refusal::ClientCertificate, why.to_owned()));
        }
        match begun {
            Ok(()) => {
                let chosen = stream.alpn().map(<[u8]>::to_vec);
                Ok(chosen.into_iter().collect())
            }
            Err(error) => {
                let inner: Option<&rustls::Error> =
                    error.get_ref().and_then(|inner| inner.downcast_ref());
                let refusal = match inner {
                    Some(rustls::Error::InvalidCertificate(_)) => Refusal::ServerCertificate,
                    Some(_) | None => Refusal::ServerTls,
                };
                Err((refusal, error.to_string()))
            }
        }
    }

    fn tell_not_served(&self, (refusal, remark): NotServed, server_name: Option<String>) {
        self.refuse((refusal, server_name, Some(remark)));
    }

    /// Refuses TLS before it began.
    pub(super) fn alert(&mut self, alert: Alert) -> End {
        const FATAL: u8 = 2;
        // A record of an alert (RFC 8446 §5.1, §6), as it is before there are keys.
        let record = [21, 3, 3, 0, 2, FATAL, alert as u8];
        let _ = self.client.try_write(&record, Follows::More);
        self.client.try_shutdown();
        End::Alerted(match alert {
            Alert::UnrecognizedName => Refusal::NoCertificate,
            Alert::NoApplicationProtocol => Refusal::Alpn,
        })
    }
}

/// HTTP/1 if it is offered, else HTTP/2.
fn preferred(offered: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut ours = [HTTP1, HTTP2].into_iter();
    let found = ours.find(|ours| offered.iter().any(|alpn| alpn == ours));
    found.map(<[u8]>::to_vec).into_iter().collect()
}

/// Whether a server has asked for a client's certificate.
#[derive(Debug, Default)]
struct Asked(AtomicBool);

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

async fn in_time(handshake: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    match timeout(TLS_WAIT_MAX, handshake).await {
        Ok(done) => done,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
