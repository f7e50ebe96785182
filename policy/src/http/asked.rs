//! One request before a list of rules.

use std::borrow::Cow;
use std::net::SocketAddr;

use super::headers::Edited;
use super::index::Search;
use super::programs::Word;
use super::rules::{HttpRules, HttpVerdict, Request, Rule};

/// A request before a list.
pub(super) struct Asked<'q, 'a> {
    list: &'a HttpRules,
    request: &'q Request<'a>,
    /// Absent too where no rule names one.
    host: Option<Host<'a>>,
}

impl<'q, 'a> Asked<'q, 'a> {
    pub(super) fn new(list: &'a HttpRules, request: &'q Request<'a>) -> Self {
        let host = request.host.filter(|_| list.has_hosts);
        Self {
            list,
            request,
            host: host.map(|host| Host::new(host, request.port)),
        }
    }

    /// The first rule that matches, if one does in every reading.
    pub(super) fn rule(&self) -> Option<usize> {
        let Some(path) = self.request.path else {
            return self.first_of(None);
        };
        let mut first = None;
        for reading in path.readings() {
            let rule = self.first_of(Some(reading))?;
            first.get_or_insert(rule);
        }
        first
    }

    fn first_of(&self, reading: Option<&str>) -> Option<usize> {
        let mut search = First {
            asked: self,
            best: usize::MAX,
        };
        search.consider(&self.list.pathless);
        if let Some(reading) = reading {
            self.list.paths.search(reading, &mut search);
        }
        (search.best < usize::MAX).then_some(search.best)
    }

    /// The same for a list with actions: all rules that match are run.
    pub(super) fn run(&self) -> Option<HttpVerdict<'a>> {
        let readings: Vec<Vec<usize>> = match self.request.path {
            None => vec![self.all_of(None)],
            Some(path) => path
                .readings()
                .map(|text| self.all_of(Some(text)))
                .collect(),
        };
        let mut candidates = readings.concat();
        candidates.sort_unstable();
        candidates.dedup();
        let mut edited = Edited {
            lines: self.request.headers.to_vec(),
            effects: Vec::new(),
            notes: Vec::new(),
        };
        candidates.retain(|index| {
            let rule = self.list.rules.get(*index);
            let rule = rule.filter(|rule| rule.headers.matches(&edited.lines));
            rule.inspect(|rule| rule.headers.run(&mut edited)).is_some()
        });
        // In order: the first of a reading is the lowest.
        let first_of = |found: &Vec<usize>| {
            let matched = |index: &&usize| candidates.binary_search(index).is_ok();
            found.iter().filter(matched).min().copied()
        };
        let firsts = readings.iter().map(first_of).collect::<Option<Vec<_>>>()?;
        Some(HttpVerdict::Allowed {
            rule: *firsts.first()?,
            effects: edited.effects,
            notes: edited.notes,
        })
    }

    fn all_of(&self, reading: Option<&str>) -> Vec<usize> {
        let mut search = All {
            asked: self,
            found: Vec::new(),
        };
        search.consider(&self.list.pathless);
        if let Some(reading) = reading {
            self.list.paths.search(reading, &mut search);
        }
        search.found
    }

    /// Whether a rule matches, but for its path and headers.
    fn is_met(&self, rule: &Rule) -> bool {
        // A tunnel is given only to who says so: a rule about methods that means CONNECT too.
        let is_method = match &rule.method {
            None => !self.request.is_tunnel(),
            Some(word) => word.matches(self.request.method),
        };
        // To a name it leads wherever the proxy behind it finds that: only a rule with hosts gives it.
        let is_known = !self.request.is_tunnel()
            || rule.host.is_some()
            || (self.request.host).is_some_and(|host| host.parse::<SocketAddr>().is_ok());
        is_method
            && is_known
            && match (&rule.host, &self.host) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(word), Some(host)) => host.matches(word),
            }
    }
}

/// Looks for the first rule that matches.
struct First<'s, 'q, 'a> {
    asked: &'s Asked<'q, 'a>,
    best: usize,
}

impl First<'_, '_, '_> {
    fn consider(&mut self, indices: &[usize]) {
        let list = self.asked.list;
        for index in indices.iter().take_while(|index| **index < self.best) {
            let Some(rule) = list.rules.get(*index) else {
                continue;
            };
            if self.asked.is_met(rule) && rule.headers.matches(self.asked.request.headers) {
                self.best = *index;
                return;
            }
        }
    }
}

impl Search for First<'_, '_, '_> {
    fn wants(&self, number: usize) -> bool {
        let indices = self.asked.list.by_path.get(number);
        let first = indices.and_then(|indices| indices.first());
        first.is_some_and(|first| *first < self.best)
    }

    fn found(&mut self, number: usize) {
        if let Some(indices) = self.asked.list.by_path.get(number) {
            self.consider(indices);
        }
    }
}

/// Looks for all rules that match but perhaps for their headers.
struct All<'s, 'q, 'a> {
    asked: &'s Asked<'q, 'a>,
    found: Vec<usize>,
}

impl All<'_, '_, '_> {
    fn consider(&mut self, indices: &[usize]) {
        let list = self.asked.list;
        let is_met = |index: &&usize| {
            list.rules
                .get(**index)
                .is_some_and(|rule| self.asked.is_met(rule))
        };
        self.found.extend(indices.iter().filter(is_met));
    }
}

impl Search for All<'_, '_, '_> {
    fn wants(&self, _: usize) -> bool {
        true
    }

    fn found(&mut self, number: usize) {
        if let Some(indices) = self.asked.list.by_path.get(number) {
            self.consider(indices);
        }
    }
}

/// The ways in which a host may be written in a rule.
struct Host<'a> {
    sent: &'a str,
    lower: Cow<'a, str>,
    /// The length of the name without the connection's own port.
    bare: Option<usize>,
}

impl<'a> Host<'a> {
    fn new(sent: &'a str, port: u16) -> Self {
        let lower = match sent.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(sent.to_ascii_lowercase()),
            false => Cow::Borrowed(sent),
        };
        let parts = sent.rsplit_once(':');
        let is_own = |digits: &str| {
            digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse() == Ok(port)
        };
        let bare = parts.filter(|(_, digits)| is_own(digits));
        Self {
            sent,
            lower,
            bare: bare.map(|(name, _)| name.len()),
        }
    }

    fn matches(&self, word: &Word) -> bool {
        let has_capitals = matches!(self.lower, Cow::Owned(_));
        let bare = self.bare.and_then(|length| self.lower.get(..length));
        word.matches(self.sent)
            || (has_capitals && word.matches(&self.lower))
            || bare.is_some_and(|bare| word.matches(bare))
    }
}
