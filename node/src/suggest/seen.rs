//! How often and when something was seen, with an example.

use flow::{Time, TimeFormat};

use super::http::without_user;
use super::record::{Message, Party, Record, Transport};

/// The flows that asked for something.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Seen {
    count: u64,
    first: Option<Time>,
    last: Option<Time>,
    /// One of them in words, the first if times are told.
    example: String,
}

impl Seen {
    /// One more flow.
    pub(super) fn note(&mut self, record: &Record) {
        if self.count == 0 {
            self.example = example(record);
        }
        self.count += 1;
        self.span(record.time, record.time);
    }

    /// All flows of both.
    pub(super) fn merge(&mut self, other: &Self) {
        let is_earlier = other.first.is_some() && other.first < self.first;
        if self.count == 0 || is_earlier {
            self.example.clone_from(&other.example);
        }
        self.count += other.count;
        self.span(other.first, other.last);
    }

    /// All flows of all of these.
    pub(super) fn sum<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        let mut sum = Self::default();
        for seen in all {
            sum.merge(seen);
        }
        sum
    }

    fn span(&mut self, first: Option<Time>, last: Option<Time>) {
        self.first = [self.first, first].into_iter().flatten().min();
        self.last = self.last.max(last);
    }

    /// How many, and from when to when.
    pub(super) fn when(&self) -> String {
        let flows = if self.count == 1 { "flow" } else { "flows" };
        let mut text = format!("{} {flows}", self.count);
        if let (Some(first), Some(last)) = (self.first, self.last) {
            text.push_str(", ");
            TimeFormat::Rfc3339.write(first, &mut text);
            if self.count > 1 {
                text.push_str(" to ");
                TimeFormat::Rfc3339.write(last, &mut text);
            }
        }
        text
    }

    /// A comment of one rule.
    pub(super) fn comment(&self) -> String {
        format!("{}, e.g. {}", self.when(), self.example)
    }
}

fn example(record: &Record) -> String {
    let (source, destination) = match record.transport {
        Some(Transport::Ports {
            source,
            destination,
            ..
        }) => (Some(source), Some(destination)),
        Some(Transport::Icmp { .. }) | None => (None, None),
    };
    let source = side(&record.source, source.filter(|port| *port != 0));
    let destination = side(&record.destination, destination);
    let detail = match &record.message {
        Some(Message::DnsQuery { name }) => Some(name.clone()),
        Some(Message::HttpRequest { method, url }) => {
            Some(format!("{method} {}", without_user(url)))
        }
        Some(Message::DnsAnswer { .. } | Message::Other) | None => {
            record.destination_names.first().cloned()
        }
    };
    match detail {
        Some(detail) => format!("{source} -> {destination} ({detail})"),
        None => format!("{source} -> {destination}"),
    }
}

/// A pod by name, all others by address.
fn side(party: &Party, port: Option<u16>) -> String {
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    if !party.pod.is_empty() {
        return format!("{}/{}{port}", party.namespace, party.pod);
    }
    match party.address {
        Some(address) if address.is_ipv6() && !port.is_empty() => format!("[{address}]{port}"),
        Some(address) => format!("{address}{port}"),
        None => format!("?{port}"),
    }
}
