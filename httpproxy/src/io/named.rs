//! A connection that is bound to names. It may be anything, and what it is decides whether it says a name:
//! nothing that the client says goes on before that is known, and nobody waits for it.

use std::io;

use policy::{Bound, NameBinding, RuleId, TlsPermit};
use transport::Follows;

use super::access::Opaque;
use super::connection::{Connection, End, Server};
use super::detect::{First, Spoken};
use super::host::Host;
use super::stream::Stream;
use super::tally::Count;
use crate::core::sniff::{Sniffed, sniff_anything};
use crate::limits::{HELLO_WAIT_MAX, START_LINE_OCTETS_MAX, TUNNEL_OCTETS_MAX};
use crate::told::{Named, News, Refusal, Said};

/// What the server says before it is known what the client speaks: it passes at once.
#[derive(Default)]
struct Early {
    /// What the client has not taken yet.
    waiting: Vec<u8>,
    has_said: bool,
    is_over: bool,
    /// It begins an HTTP/2 connection, which the engine for that has to see. Its client speaks too.
    is_http2: bool,
}

impl Early {
    /// Whether there is room for more of it.
    fn hears(&self) -> bool {
        self.waiting.is_empty() && !self.is_over && !self.is_http2
    }

    async fn hear(&mut self, server: &Server) -> io::Result<()> {
        if !self.has_said && server.begins_http2().await? {
            self.is_http2 = true;
            return Ok(());
        }
        let Some(server) = server.stream.as_ref().map(Stream::socket) else {
            return Ok(());
        };
        self.waiting.reserve_exact(TUNNEL_OCTETS_MAX);
        match server.try_read_buf(&mut self.waiting) {
            Ok(0) => self.is_over = true,
            Ok(_) => self.has_said = true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Hands on what the client takes, and the end after all of it.
    fn pass(&mut self, client: &mut Stream) -> io::Result<()> {
        match client.try_write(&self.waiting, Follows::Unknown) {
            Ok(count) => _ = self.waiting.drain(..count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if self.waiting.is_empty() {
            self.waiting = Vec::new(); // an idle connection holds no room for octets
            if self.is_over {
                client.try_shutdown();
            }
        }
        Ok(())
    }
}

impl<H: Host> Connection<H> {
    /// Finds out what is spoken.
    pub(super) async fn listen(&mut self, first: &mut First) -> Result<Spoken, End> {
        // Its server may speak first, so that it is called at once.
        if self.call().is_err() {
            return Err(self.unreachable());
        }
        let mut early = Early::default();
        let mut spoken = None;
        let begin = self.proxy.host.now();
        let mut last = begin;
        loop {
            if self.server.is_up
                && early.waiting.is_empty()
                && let Some(spoken) = spoken
            {
                return self.heard_of(spoken, &early);
            }
            let now = self.proxy.host.now();
            let begun = first.since.filter(|_| spoken.is_none());
            let deadline = match (self.server.is_up, begun) {
                (false, _) => begin + self.proxy.settings.connect_wait,
                (true, Some(since)) => since + HELLO_WAIT_MAX,
                (true, None) => last + self.proxy.settings.tunnel_idle,
            };
            if now >= deadline {
                match (self.server.is_up, begun) {
                    (false, _) => return Err(self.unreachable()),
                    (true, None) => return Err(End::Reset),
                    (true, Some(_)) => spoken = Some(self.unfit(Refusal::Silent)?),
                }
                continue;
            }
            let reads = spoken.is_none() && first.has_room();
            let writes = !early.waiting.is_empty();
            tokio::select! {
                () = self.client.ready(reads, writes) => {
                    if reads {
                        if first.read(&mut self.client, now).is_err() {
                            return Err(self.gone());
                        }
                        spoken = self.known(first)?;
                    }
                    if writes && early.pass(&mut self.client).is_err() {
                        return Err(End::Reset);
                    }
                }
                () = self.server.moves(early.hears()) => {
                    if !self.server.is_up {
                        if self.server.settle().is_err() {
                            return Err(self.unreachable());
                        }
                        continue;
                    }
                    last = now;
                    let heard = early.hear(&self.server).await;
                    if heard.is_err() || early.pass(&mut self.client).is_err() {
                        return Err(End::Reset);
                    }
                }
                _ = self.changes.changed() => {
                    if self.is_free_now()? {
                        spoken = Some(Spoken::Opaque);
                    }
                }
                () = tokio::time::sleep(deadline - now) => {}
                () = self.stop.cancelled() => return Err(End::Closed),
            }
        }
    }

    /// Whether the policy that is in force now asks for no name any more.
    fn is_free_now(&mut self) -> Result<bool, End> {
        self.look_again();
        match self.access.opaque() {
            Opaque::Bound(..) => Ok(false),
            Opaque::Allowed => Ok(true),
            Opaque::Denied => {
                self.proxy.counters.count(Count::Cut);
                Err(End::Reset)
            }
        }
    }

    /// What the client's octets are that came so far.
    fn known(&mut self, first: &mut First) -> Result<Option<Spoken>, End> {
        let mut sniffed = sniff_anything(&first.octets, &mut first.looked);
        // Whatever is written in so long a line, it may become a request.
        if sniffed == Sniffed::NeedMore && first.octets.len() > START_LINE_OCTETS_MAX {
            sniffed = Sniffed::Http1;
        }
        match first.spoken_as(sniffed) {
            Ok(Some(spoken)) => Ok(Some(spoken)),
            Ok(None) if first.is_over && sniffed == Sniffed::Tls => {
                self.unfit(Refusal::BadHello).map(Some)
            }
            // What is not complete now will never be.
            Ok(None) if first.is_over => Ok(Some(self.tell_opaque())),
            Ok(None) => Ok(None),
            Err(Refusal::Protocol) if sniffed == Sniffed::Other => Ok(Some(self.tell_opaque())),
            Err(_) => self.unfit(Refusal::BadHello).map(Some),
        }
    }

    /// What becomes of it, with what the server has said meanwhile.
    fn heard_of(&self, spoken: Spoken, early: &Early) -> Result<Spoken, End> {
        match spoken {
            // A request's answer would follow on what was no answer.
            Spoken::Http1 | Spoken::Http2 if early.has_said => self.unfit(Refusal::ServerFirst),
            Spoken::Http1 | Spoken::Http2 | Spoken::Tls(_) | Spoken::Opaque => Ok(spoken),
        }
    }

    /// What can't be judged by a name is refused, or passes where nothing is.
    pub(super) fn unfit(&self, refusal: Refusal) -> Result<Spoken, End> {
        match self.access.opaque() {
            Opaque::Bound(rule, mode @ NameBinding::Audit) => {
                self.tell_bound(rule, mode, Said::Unfit(refusal));
                Ok(Spoken::Opaque)
            }
            Opaque::Allowed => Ok(Spoken::Opaque),
            Opaque::Bound(..) | Opaque::Denied => Err(End::Refused(refusal)),
        }
    }

    fn tell_opaque(&self) -> Spoken {
        if let Opaque::Bound(rule, mode) = self.access.opaque() {
            self.tell_bound(rule, mode, Said::Nothing);
        }
        Spoken::Opaque
    }

    /// Tells of TLS that goes on, where it is bound to names.
    pub(super) fn tell_named(&self, permit: &TlsPermit, name: Option<&str>) {
        if let Some(Bound { mode, fits }) = permit.bound() {
            let name = name.map(str::to_owned);
            self.tell_bound(permit.rule(), mode, Said::Server { name, fits });
        }
    }

    /// TLS to a server that is none of the names.
    pub(super) fn not_bound(&self, name: Option<&str>) -> End {
        self.proxy.counters.refusal(Refusal::ServerName);
        let said = Said::Server {
            name: name.map(str::to_owned),
            fits: false,
        };
        self.tell_bound(RuleId::NONE, NameBinding::Enforce, said);
        End::Reset
    }

    fn tell_bound(&self, rule: RuleId, mode: NameBinding, said: Said) {
        self.proxy.counters.bound(&said);
        self.proxy.host.tell(News::Named(Box::new(Named {
            at: self.proxy.host.now(),
            redirected: self.redirected,
            rule,
            mode,
            said,
        })));
    }
}
