//! What happens, what the core makes of it, and what the model says of that.

use std::net::SocketAddr;

use dnsproxy::limits::{
    OUTSTANDING_PER_ENDPOINT_MAX, REJECTED_PER_EXCHANGE_MAX, TCP_UPSTREAM_WAIT_MAX,
    UDP_PLAIN_OCTETS, UDP_UPSTREAM_WAIT_MAX,
};
use dnsproxy::{
    Action, Arrived, Ending, Exchange, Fault, Heard, Key, Learn, Learned, Member, Origin, Outcome,
    Reply, Upstream, Via, gate_query,
};

use super::super::*;
use super::life::{Dice, Event, Life, millis, now_ms};
use super::model::{Known, Message, NAMES, Open, POLICIES, SERVERS};
use super::wire::{self, Says};

/// Octets that a client with EDNS takes.
const SIZE: u16 = 1232;

/// A query that a client asked.
struct Asked {
    origin: Origin,
    query: Vec<u8>,
    name: usize,
    member: Member,
    may_ask: bool,
}

/// The learner as the proxy sees it.
struct Host<'a>(&'a Learner<FakeTable>);

impl Learn for Host<'_> {
    type Installed = Installed;

    fn learn(&self, now: Instant, lesson: Lesson) -> Result<Installed, NotInstalled> {
        self.0.learn(now, &lesson)
    }
}

impl Life {
    /// A client asks: something new, or the same again.
    pub(super) fn ask(&mut self) {
        let (origin, query, name) = match self.last_query.clone() {
            Some(last) if !self.dice.one_in(self.stubborn) => last,
            _ => self.new_query(),
        };
        self.last_query = Some((origin, query.clone(), name));
        let may_ask = {
            let server = SERVERS
                .iter()
                .position(|one| *one == origin.server.to_string());
            POLICIES[self.model.policy].may_ask(name, server.unwrap())
        };
        let member = Member(match origin.protocol {
            L4Protocol::Tcp => u64::from(origin.endpoint.get()),
            L4Protocol::Udp | L4Protocol::Sctp => 10 + self.dice.roll(2),
        });
        let (mut dice, ids) = (Dice(self.dice.0), self.ids);
        let asked = self.step(|pending, learner, step| {
            let gated = gate_query(&query, origin.protocol).unwrap();
            let exchange = Exchange::open(origin, gated, step);
            let server = (origin.server, origin.protocol);
            let verdict = learner.snapshot().judge_dns(
                origin.endpoint,
                server.0,
                server.1,
                exchange.question(),
            );
            match exchange.judge(verdict, step) {
                Action::Drop => panic!("a denial is answered"),
                Action::Reply(reply) => Err(reply),
                // Few ids: they are used again, and run out.
                Action::Forward(forward) => forward.send(
                    pending,
                    Via {
                        member,
                        draw: &mut || dice.roll(ids) as u16,
                    },
                    step,
                ),
            }
        });
        self.dice = dice;
        let query = Asked {
            origin,
            query,
            name,
            member,
            may_ask,
        };
        match asked {
            Err(reply) => self.refused(&query, reply),
            Ok(upstream) => self.sent(query, upstream),
        }
    }

    /// The proxy answered itself: policy says no, or there is no place.
    fn refused(&mut self, asked: &Asked, reply: Reply) {
        let origin = asked.origin;
        self.assert_own_answer(reply, (origin, &asked.query));
        let how = match (asked.may_ask, wire::rcode(&self.out)) {
            (false, wire::NX_DOMAIN | wire::NO_ERROR) => Ending::Denied,
            (true, wire::SERV_FAIL) => {
                let open = self.model.open.iter();
                let own = open
                    .clone()
                    .filter(|one| one.origin.endpoint == origin.endpoint);
                let is_full =
                    own.count() + self.held_of(origin) >= OUTSTANDING_PER_ENDPOINT_MAX as usize;
                let may_lack_ids = open.clone().any(|one| one.key.member == asked.member);
                assert!(is_full || may_lack_ids, "there was room");
                Ending::ServFail
            }
            _ => panic!("{} was answered {:?}", NAMES[asked.name], self.out),
        };
        self.model.ended.push(how);
    }

    /// The proxy sent it on.
    fn sent(&mut self, asked: Asked, upstream: Upstream) {
        let Asked {
            origin,
            query,
            name,
            may_ask,
            ..
        } = asked;
        // Law 2: what is denied goes nowhere.
        assert!(may_ask, "{} went upstream", NAMES[name]);
        let key = upstream.key;
        let to = (
            upstream.endpoint,
            upstream.server,
            upstream.protocol,
            upstream.client,
        );
        assert_eq!(
            to,
            (
                origin.endpoint,
                origin.server,
                origin.protocol,
                origin.client
            )
        );
        assert!(self.model.at(key).is_none(), "{key:?} is in use");
        assert_eq!(
            wire::with_id(&query, key.id),
            self.out,
            "one query, as it came"
        );
        let sent = self.out.clone();
        let wait = match origin.protocol {
            L4Protocol::Tcp => TCP_UPSTREAM_WAIT_MAX,
            L4Protocol::Udp | L4Protocol::Sctp => UDP_UPSTREAM_WAIT_MAX,
        };
        let takes = match wire::has_opt(&query) {
            true => SIZE,
            false => UDP_PLAIN_OCTETS,
        };
        self.model.send(Open {
            key,
            origin,
            query,
            name,
            deadline_ms: now_ms() + millis(wait),
            rejected: 0,
            takes: takes.into(),
        });
        self.say(|| format!("sent as {key:?}"));
        match self.dice.one_in(60) {
            true => self.fail_send(key),
            false => self.carry(key, &sent),
        }
    }

    fn held_of(&self, origin: Origin) -> usize {
        if origin.endpoint == endpoint(1) {
            self.held.len()
        } else {
            0
        }
    }

    fn new_query(&mut self) -> (Origin, Vec<u8>, usize) {
        let id = self.dice.of(&[1u32, 2]);
        let protocol = self
            .dice
            .of(&[L4Protocol::Udp, L4Protocol::Udp, L4Protocol::Tcp]);
        let port = match protocol {
            L4Protocol::Tcp => 50_000,
            L4Protocol::Udp | L4Protocol::Sctp => self.dice.of(&[40_000, 40_001]),
        };
        let server = self.dice.of(&[0, 0, 0, 0, 0, 0, 1, 2]);
        let name = self.dice.of(&[0, 0, 0, 1, 1, 2, 3, 3, 4, 5, 6, 7, 8]);
        let origin = Origin {
            endpoint: endpoint(id),
            client: SocketAddr::from(([10, 2, 0, id as u8], port)),
            server: SERVERS[server].parse().unwrap(),
            protocol,
        };
        let mut text = NAMES[name].to_owned();
        if self.dice.one_in(4) {
            text = text.to_uppercase();
        }
        let size = self.dice.of(&[None, Some(SIZE)]);
        let query = wire::query(self.dice.roll(3) as u16, &text, size);
        (origin, query, name)
    }

    /// What the socket can't send is answered at once.
    fn fail_send(&mut self, key: Key) {
        let reply =
            self.step(|pending, _, step| pending.take(key).unwrap().fail(Fault::SendFailed, step));
        let open = self.model.end(key, Ending::ServFail);
        self.assert_servfail(reply, &open);
    }

    pub(super) fn arrive(&mut self, message: &Message) {
        let now = now_ms();
        self.set_weather();
        let arrived = Arrived {
            member: message.key.member,
            server: message.server,
            local: Some(message.local),
            endpoint: Some(message.endpoint),
            bytes: &message.bytes,
        };
        let reply = self.step(
            |pending, learner, step| match pending.hear(&arrived, step) {
                Heard::Ignored(_) => None,
                Heard::Reply(reply) => Some(reply),
                Heard::Lesson(untaught) => {
                    let learned = untaught.learn(step.now, &Host(learner));
                    step.now = clock();
                    match learned {
                        Learned::Taught(taught) => Some(taught.release(step)),
                        Learned::Withheld(withheld) => withheld.answer(step),
                    }
                }
            },
        );
        self.is_written |= reply.is_some();
        let open = self.model.at(message.key).cloned();
        match open {
            Some(open) if !message.is_response() => assert!(reply.is_none(), "{open:?}"),
            Some(open) if open.is_answered_by(message, now) => {
                self.answered(&open, (message, now), reply)
            }
            Some(open) => self.guessed(&open, reply),
            None => assert!(reply.is_none(), "an answer to nothing"),
        }
        self.scene.kernel.write_ms.store(0, SeqCst);
    }

    /// How the kernel is at this moment.
    fn set_weather(&mut self) {
        let write_ms = self.dice.of(&[0, 0, 0, 0, 0, 0, 1, 20, 60, 120]);
        self.scene.kernel.write_ms.store(write_ms, SeqCst);
        // A policy that the map refuses is another matter, with tests of its own.
        if self.reloads == 0 && self.dice.one_in(6) {
            self.scene.kernel.leave_room(self.dice.roll(4) as usize);
            self.is_full = true;
        } else if self.dice.one_in(3) {
            self.scene.kernel.has_room();
            self.is_full = false;
        }
    }

    /// The answer has come: it is released, or the client is told that it isn't.
    fn answered(
        &mut self,
        open: &Open,
        (message, heard_ms): (&Message, u64),
        reply: Option<Reply>,
    ) {
        let endpoint = open.origin.endpoint;
        let Says::Addresses(addresses) = &message.says else {
            let how = if message.says == Says::Unreadable {
                Ending::ServFail
            } else {
                Ending::Answered
            };
            self.model.end(open.key, how);
            let reply = reply.expect("an answer");
            return match message.says {
                Says::Nothing => self.assert_released(reply, open, message),
                Says::Header => {
                    self.assert_own_answer(reply, (open.origin, &open.query));
                    assert_eq!(wire::rcode(&self.out), wire::REFUSED);
                }
                Says::Unreadable | Says::Addresses(_) => self.assert_servfail(reply, open),
            };
        };
        if self.model.known(endpoint).is_gone {
            self.model.end(open.key, Ending::EndpointGone);
            assert!(reply.is_none(), "nobody is there");
            return;
        }
        let reply = reply.expect("an answer");
        self.model.known(endpoint).policy = self.model.policy;
        let waited = now_ms() - heard_ms;
        let is_trusted = open.origin.server == SERVERS[0].parse().unwrap();
        let taught: &[(u8, u32)] = if is_trusted { addresses } else { &[] };
        if wire::rcode(&self.out) == wire::SERV_FAIL {
            self.model.end(open.key, Ending::ServFail);
            self.assert_servfail(reply, open);
            let is_late = waited > millis(INSTALL_WAIT);
            assert!(is_late || self.is_full, "nothing was in the way");
            // The writes of one that is late stand, unless it met a full map too: the maps tell.
            if is_late && self.seems_written(endpoint, open.name, taught) {
                self.model
                    .known(endpoint)
                    .learn(open.name, taught, heard_ms);
            }
            return;
        }
        self.model.end(open.key, Ending::Answered);
        assert!(waited <= millis(INSTALL_WAIT), "held for {waited} ms");
        self.assert_released(reply, open, message);
        // Law 1: what is released works.
        if let Some(port) = POLICIES[self.model.policy].port_of(open.name) {
            let held = self.held_by_kernel(endpoint);
            for (last, _) in taught {
                let is_open = held.get(last).is_some_and(|ports| ports.contains(&port));
                assert!(
                    is_open,
                    "{} was released before {last} was open: {held:?}",
                    NAMES[open.name]
                );
                self.seen.opened += 1;
            }
        }
        self.model
            .known(endpoint)
            .learn(open.name, taught, heard_ms);
    }

    /// Whether the cache has all of an answer that was late.
    fn seems_written(&self, endpoint: EndpointId, name: usize, taught: &[(u8, u32)]) -> bool {
        let name = Name::from_text(NAMES[name]).unwrap();
        self.scene.look(endpoint.get(), |knowledge| {
            let mut taught = taught.iter();
            !self.is_full
                || taught.all(|(last, _)| knowledge.cache.expiry(&name, ip(*last)).is_some())
        })
    }

    /// It was no answer; of ten the client hears that somebody guesses.
    fn guessed(&mut self, open: &Open, reply: Option<Reply>) {
        self.seen.ignored += 1;
        let mut all = self.model.open.iter_mut();
        let open_now = all.find(|one| one.key == open.key).unwrap();
        open_now.rejected += 1;
        if open_now.rejected < REJECTED_PER_EXCHANGE_MAX {
            assert!(
                reply.is_none(),
                "{open:?} was answered by what is no answer: {:?}",
                self.out
            );
            return;
        }
        self.model.end(open.key, Ending::ServFail);
        self.assert_servfail(reply.expect("an answer"), open);
    }

    pub(super) fn undelivered(&mut self, message: &Message) {
        let arrived = Arrived {
            member: message.key.member,
            server: message.server,
            local: None,
            endpoint: None,
            bytes: &message.bytes,
        };
        let reply = self.step(|pending, _, step| pending.hear_error(&arrived, step));
        let open = self.model.at(message.key).cloned();
        let is_of = |open: &Open| {
            open.origin.server == message.server
                && wire::question(&open.query) == wire::question(&message.bytes)
        };
        match open.filter(is_of) {
            Some(open) => {
                self.model.end(open.key, Ending::ServFail);
                self.assert_servfail(reply.expect("an answer"), &open);
            }
            None => assert!(reply.is_none()),
        }
    }

    /// Law 4: whoever waited long enough is answered now.
    pub(super) fn time_out(&mut self) {
        let now = clock();
        while let Some(held) = self.pending.expire(now) {
            let origin = held.origin();
            let reply = self
                .step(|_, _, step| held.time_out(step))
                .expect("an answer");
            let mut overdue = self.model.open.iter();
            let open = overdue.find(|open| {
                let asked = (wire::id(&open.query), wire::question(&open.query));
                open.origin == origin
                    && open.deadline_ms <= now_ms()
                    && asked == (wire::id(&self.out), wire::question(&self.out))
            });
            let open = open
                .expect("nobody is answered before the time is over")
                .clone();
            self.model.end(open.key, Ending::Timeout);
            self.assert_servfail(reply, &open);
        }
        let overdue = self
            .model
            .open
            .iter()
            .find(|open| open.deadline_ms <= now_ms());
        assert!(overdue.is_none(), "never answered: {overdue:?}");
    }

    pub(super) fn close(&mut self, id: u32) {
        let member = Member(u64::from(id));
        while let Some(held) = self.pending.take_from(member) {
            held.end(clock(), Outcome::ClientGone);
        }
        self.end_all(|open| open.key.member == member, Ending::ClientGone);
    }

    fn end_all(&mut self, which: impl Fn(&Open) -> bool, how: Ending) {
        let keys: Vec<Key> = self
            .model
            .open
            .iter()
            .filter(|open| which(open))
            .map(|open| open.key)
            .collect();
        for key in keys {
            self.model.end(key, how);
        }
    }

    pub(super) fn remove(&mut self, id: u32) {
        self.scene.learner.remove(endpoint(id));
        let known = self.model.known(endpoint(id));
        known.is_gone = true;
        known.ends.clear();
        if self.dice.one_in(2) {
            for held in self.pending.take_of(endpoint(id)) {
                held.end(clock(), Outcome::EndpointGone);
            }
            self.end_all(
                |open| open.origin.endpoint == endpoint(id),
                Ending::EndpointGone,
            );
        }
    }

    pub(super) fn adopt(&mut self, id: u32) {
        self.scene.kernel.has_room();
        self.is_full = false;
        let table = self.scene.kernel.table();
        self.scene
            .learner
            .adopt(endpoint(id), table, &Heritage::default())
            .unwrap();
        let policy = self.model.policy;
        *self.model.known(endpoint(id)) = Known {
            policy,
            ..Default::default()
        };
    }

    pub(super) fn swap(&mut self) {
        self.scene.kernel.has_room();
        self.is_full = false;
        self.model.policy = 1 - self.model.policy;
        self.scene.revision += 1;
        let (revision, compiler) = (self.scene.revision, &mut self.scene.compiler);
        let policy = &self.policies[self.model.policy].set;
        let next = self.scene.learner.with_identities(|identities| {
            let input = (policy, &cast(), Options::default());
            compiler.build(revision, input, identities).unwrap()
        });
        self.scene.learner.set_snapshot(next);
        for id in [1, 2] {
            let at = now_ms() + self.dice.roll(1_000);
            self.schedule(at, Event::Reload(id));
            self.reloads += 1;
        }
    }

    pub(super) fn reload(&mut self, id: u32) {
        self.reloads -= 1;
        self.scene.learner.reload(endpoint(id)).unwrap();
        self.model.known(endpoint(id)).policy = self.model.policy;
    }

    /// Law 3: what has ended closes.
    pub(super) fn expire(&mut self) {
        let mut now;
        loop {
            now = now_ms();
            let next = self.scene.learner.expire(clock());
            if next.is_none_or(|next| next > clock()) {
                break;
            }
        }
        for known in self.model.known.iter_mut().filter(|known| !known.is_gone) {
            known.ends.retain(|_, end| *end > now);
            known.policy = self.model.policy;
        }
    }

    fn assert_released(&self, reply: Reply, open: &Open, message: &Message) {
        assert_eq!(reply.origin, open.origin);
        let is_udp = open.origin.protocol == L4Protocol::Udp;
        if is_udp && message.bytes.len() > open.takes {
            assert!(
                wire::is_cut(&self.out) && wire::answers(&self.out) == 0,
                "{:?}",
                self.out
            );
            assert_eq!(wire::question(&self.out), wire::question(&open.query));
            return;
        }
        let as_it_came = wire::with_id(&message.bytes, wire::id(&open.query));
        assert_eq!(self.out, as_it_came);
    }

    fn assert_own_answer(&self, reply: Reply, (origin, query): (Origin, &[u8])) {
        assert_eq!(reply.origin, origin);
        assert_eq!(wire::id(&self.out), wire::id(query));
        assert_eq!(wire::question(&self.out), wire::question(query));
        assert_eq!(wire::answers(&self.out), 0);
    }

    fn assert_servfail(&self, reply: Reply, open: &Open) {
        self.assert_own_answer(reply, (open.origin, &open.query));
        assert_eq!(wire::rcode(&self.out), wire::SERV_FAIL);
    }
}
