//! Heads as they are passed on: the bytes that came, without the lines that end at this hop.

use policy::http::{HeaderEffect, HeaderLine, HttpPermit};

use super::buffer::Buffer;
use super::bytes::items;
use super::framing::Framing;
use super::head::field::{Field, Kind, kind_of};
use super::head::request::{Hop, RequestHead, Te, values};
use super::head::response::ResponseHead;
use super::head::{Span, Version};
use super::step::AltSvc;

/// What of the lines of this hop is passed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passing {
    hop: Hop,
    upgrade: Upgrade,
    encoding: Encoding,
    close: Closing,
    drops_length: bool,
    alt_svc: AltSvc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upgrade {
    Passed,
    /// As a fact about the server (426), not as an offer.
    Told,
    Dropped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Passed,
    Dropped,
}

/// Whether we add that the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// What is said is passed on.
    AsSaid,
    /// It ends, whatever is said.
    Said,
}

impl Passing {
    /// Of a request. An upgrade is passed if all that it may be to is in the list.
    pub(crate) fn of_request(
        (buffer, fields): (&[u8], &[Field]),
        head: &RequestHead,
        upgrades: &[Box<str>],
    ) -> Self {
        let is_listed = |token: &[u8]| is_listed(token, upgrades);
        let mut tokens = values(buffer, fields, Kind::Upgrade)
            .flat_map(items)
            .peekable();
        let passes = head.hop.names_upgrade
            && head.version == Version::Http11
            && tokens.peek().is_some()
            && tokens.all(is_listed);
        Self {
            hop: head.hop,
            upgrade: if passes {
                Upgrade::Passed
            } else {
                Upgrade::Dropped
            },
            encoding: Encoding::Passed,
            close: Closing::AsSaid,
            drops_length: false,
            alt_svc: AltSvc::Passed,
        }
    }

    /// Of a response to a client of a version.
    pub(crate) fn of_response(
        head: &ResponseHead,
        client: Version,
        (close, alt_svc): (Closing, AltSvc),
    ) -> Self {
        let has_body = head.framing == Framing::Chunked;
        let encoding = match client {
            Version::Http11 if has_body || head.status >= 200 && head.status != 204 => {
                Encoding::Passed
            }
            Version::Http11 | Version::Http10 => Encoding::Dropped,
        };
        Self {
            hop: head.hop,
            upgrade: match head.status {
                101 => Upgrade::Passed,
                426 => Upgrade::Told,
                _ => Upgrade::Dropped,
            },
            encoding,
            close,
            drops_length: head.drops_length,
            alt_svc,
        }
    }

    /// Whether the request asks for an upgrade that may be had.
    pub(crate) fn upgrades(&self) -> bool {
        self.upgrade == Upgrade::Passed
    }

    /// Whether the Connection lines can pass as they are: they name nothing that is left out.
    fn keeps_connection(&self) -> bool {
        !self.hop.names_fields
            && (!self.hop.names_te || self.hop.te == Te::Trailers)
            && (!self.hop.names_upgrade || self.upgrade == Upgrade::Passed)
            && (self.close == Closing::AsSaid || self.hop.close)
    }

    /// Whether a line is passed on.
    fn passes(&self, field: &Field) -> bool {
        match field.kind {
            Kind::Connection => self.keeps_connection(),
            Kind::Te => self.hop.te == Te::Trailers,
            Kind::Upgrade => self.upgrade != Upgrade::Dropped,
            Kind::TransferEncoding => self.encoding == Encoding::Passed,
            Kind::ContentLength => !self.drops_length && !field.is_hop,
            Kind::KeepAlive | Kind::ProxyConnection | Kind::Http2Settings => false,
            Kind::AltSvc => self.alt_svc == AltSvc::Passed && !field.is_hop,
            Kind::Host | Kind::Expect | Kind::ContentType | Kind::Other => !field.is_hop,
        }
    }

    /// Whether a line is judged and told: what is passed on and isn't about this hop.
    fn is_end_to_end(&self, field: &Field) -> bool {
        let is_hop = matches!(field.kind, Kind::Connection | Kind::TransferEncoding);
        !is_hop && self.passes(field)
    }

    /// The lines that are judged and told.
    pub(crate) fn lines<'b>(
        &self,
        buffer: &'b [u8],
        fields: &[Field],
    ) -> impl Iterator<Item = HeaderLine<'b>> {
        let lines = fields.iter().filter(|field| self.is_end_to_end(field));
        lines.map(|field| (field.name.text(buffer), field.value.of(buffer)))
    }

    /// Writes the lines that pass, as they came, but for those that `drops` names.
    fn write_lines(
        &self,
        (buffer, fields): (&[u8], &[Field]),
        drops: impl Fn(&[u8]) -> bool,
        out: &mut Buffer,
    ) {
        let mut run: Option<Span> = None;
        for field in fields {
            if !self.passes(field) || drops(field.name.of(buffer)) {
                continue;
            }
            run = Some(match run {
                Some(run) if run.end() == field.line.start() => {
                    Span::new(run.start(), field.line.end())
                }
                _ => {
                    out.put(run.unwrap_or_default().of(buffer));
                    field.line
                }
            });
        }
        out.put(run.unwrap_or_default().of(buffer));
    }

    /// Writes what stands for lines of this hop that could not pass as they are.
    fn write_hop(&self, out: &mut Buffer) {
        if self.hop.te == Te::Mixed {
            out.put(b"TE: trailers\r\n");
        }
        if self.keeps_connection() {
            return;
        }
        let says = [
            (self.hop.close || self.close == Closing::Said, "close"),
            (
                self.hop.keep_alive && self.close == Closing::AsSaid,
                "keep-alive",
            ),
            (self.hop.names_te && self.hop.te != Te::None, "TE"),
            (
                self.hop.names_upgrade && self.upgrade == Upgrade::Passed,
                "Upgrade",
            ),
        ];
        let tokens = says
            .iter()
            .filter(|(is_said, _)| *is_said)
            .map(|(_, token)| *token);
        let tokens: Vec<&str> = tokens.collect();
        if !tokens.is_empty() {
            out.put(format!("Connection: {}\r\n", tokens.join(", ")).as_bytes());
        }
    }
}

/// Whether a token of an Upgrade is among those that may be had.
pub(crate) fn is_listed(token: &[u8], upgrades: &[Box<str>]) -> bool {
    let mut listed = upgrades.iter().map(|listed| listed.as_bytes());
    listed.any(|listed| token.eq_ignore_ascii_case(listed))
}

/// Writes the head of a request that may go. Method and target come out of the permit; `authority` is
/// the target of a tunnel.
#[expect(clippy::needless_pass_by_value, reason = "one permit, one request")]
pub(crate) fn write_request(
    permit: HttpPermit<'_>,
    (buffer, fields): (&[u8], &[Field]),
    (head, passing): (&RequestHead, &Passing),
    out: &mut Buffer,
) {
    let target = permit
        .target()
        .map_or_else(|| head.target.of(buffer), str::as_bytes);
    for part in [permit.method().as_bytes(), b" ", target, b" "] {
        out.put(part);
    }
    out.put(head.version.text().as_bytes());
    out.put(b"\r\n");
    let edit = Edit::of(permit.effects());
    passing.write_lines((buffer, fields), |name| edit.drops(name), out);
    passing.write_hop(out);
    for (name, value) in edit.added {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            out.put(part);
        }
    }
    out.put(b"\r\n");
}

/// Fields as they are after the effects of a verdict.
pub(crate) fn edited<'l>(
    lines: &[HeaderLine<'l>],
    effects: &[HeaderEffect<'l>],
) -> Vec<HeaderLine<'l>> {
    let edit = Edit::of(effects);
    let kept = lines
        .iter()
        .filter(|(name, _)| !edit.drops(name.as_bytes()));
    kept.chain(&edit.added).copied().collect()
}

/// What the effects of a verdict come to.
struct Edit<'e> {
    dropped: Vec<&'e str>,
    added: Vec<HeaderLine<'e>>,
}

impl<'e> Edit<'e> {
    fn of(effects: &[HeaderEffect<'e>]) -> Self {
        let mut edit = Self {
            dropped: Vec::new(),
            added: Vec::new(),
        };
        for effect in effects {
            match effect {
                HeaderEffect::Add { name, value } => edit.add(name, value),
                HeaderEffect::Delete { name } => edit.drop(name),
                HeaderEffect::Replace { name, value } => {
                    edit.drop(name);
                    edit.add(name, value);
                }
            }
        }
        edit
    }

    /// Never what frames or routes the message: policy refuses such rules.
    fn add(&mut self, name: &'e str, value: &'e [u8]) {
        if is_editable(name) {
            self.added.push((name, value));
        }
    }

    fn drop(&mut self, name: &'e str) {
        if is_editable(name) {
            self.added
                .retain(|(other, _)| !other.eq_ignore_ascii_case(name));
            self.dropped.push(name);
        }
    }

    fn drops(&self, name: &[u8]) -> bool {
        self.dropped
            .iter()
            .any(|dropped| name.eq_ignore_ascii_case(dropped.as_bytes()))
    }
}

fn is_editable(name: &str) -> bool {
    matches!(
        kind_of(name.as_bytes()),
        Kind::Other | Kind::ContentType | Kind::AltSvc
    )
}

/// Writes the head of a response.
pub(crate) fn write_response(
    (buffer, fields): (&[u8], &[Field]),
    (head, passing): (&ResponseHead, &Passing),
    out: &mut Buffer,
) {
    out.put(head.start.of(buffer));
    out.put(b"\r\n");
    passing.write_lines((buffer, fields), |_| false, out);
    passing.write_hop(out);
    out.put(b"\r\n");
}
