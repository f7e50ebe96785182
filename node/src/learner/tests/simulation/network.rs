//! What becomes of a query that was sent on: answers, and what others make of it.

use dnsproxy::{Key, Member};

use super::super::*;
use super::life::{Event, Life, now_ms};
use super::model::{Message, SERVERS};
use super::wire::{self, Answer, Says};

/// The octet of an address that only a forger names.
const FORGED: u8 = 66;
const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

impl Life {
    /// What the network does with a query: the server's answers, and what others send.
    pub(super) fn carry(&mut self, key: Key, sent: &[u8]) {
        let origin = self.model.at(key).unwrap().origin;
        let message = |bytes, says| Message {
            key,
            server: origin.server,
            local: origin.client.ip(),
            endpoint: origin.endpoint,
            bytes,
            says,
        };
        let (bytes, says) = self.answer(sent);
        let answer = message(bytes, says);
        if self.dice.one_in(3) {
            self.forge(&answer, sent);
        }
        if self.dice.one_in(30) {
            let quoted = Message {
                bytes: sent.to_vec(),
                ..answer.clone()
            };
            let at = now_ms() + self.dice.roll(100);
            self.schedule(at, Event::Undelivered(quoted));
        }
        let copies = self.dice.of(&[0, 1, 1, 1, 1, 1, 1, 2, 3]);
        for _ in 0..copies {
            let delay = match self.dice.roll(10) {
                0 => 4_000 + self.dice.roll(6_000),
                1 | 2 => self.dice.roll(1_000),
                _ => self.dice.roll(60),
            };
            self.schedule(now_ms() + delay, Event::Arrive(answer.clone()));
        }
    }

    fn answer(&mut self, sent: &[u8]) -> (Vec<u8>, Says) {
        let ttl = self.dice.of(&[0, 1, 30, 61, 300, 2_147_483_647]);
        let last = 1 + self.dice.roll(5) as u8;
        let ip = |last| [198, 51, 100, last];
        let answer = Answer::to(sent, wire::NO_ERROR);
        let one = Says::Addresses(vec![(last, ttl)]);
        let (answer, says) = match self.dice.roll(16) {
            0 => (answer, Says::Nothing),
            1 => (
                Answer::to(sent, wire::NX_DOMAIN).address(ip(last), ttl),
                Says::Nothing,
            ),
            2 => (Answer::header(sent, wire::REFUSED), Says::Header),
            3 => (answer.odd_address(), Says::Unreadable),
            4 => (
                answer
                    .address_of("other.example", (ip(FORGED), ttl))
                    .address(ip(last), ttl),
                one,
            ),
            5 => (answer.address(ip(last), ttl).truncated(), one),
            6 => (
                answer
                    .alias("cdn.example", 20)
                    .address_of("cdn.example", (ip(last), ttl)),
                Says::Addresses(vec![(last, ttl.min(20))]),
            ),
            7 => (
                answer
                    .address(LOOPBACK, ttl)
                    .address(ip(last), ttl)
                    .address(ip(last), 30),
                Says::Addresses(vec![(last, ttl.min(30))]),
            ),
            8 => {
                // More than a client without EDNS takes.
                let many: Vec<(u8, u32)> = (10..45).map(|last| (last, ttl)).collect();
                let answer = many.iter().fold(answer, |answer, (last, ttl)| {
                    answer.address(ip(*last), *ttl)
                });
                (answer, Says::Addresses(many))
            }
            _ => {
                let next = 1 + last % 5;
                (
                    answer.address(ip(last), ttl).address(ip(next), 60),
                    Says::Addresses(vec![(last, ttl), (next, 60)]),
                )
            }
        };
        let mut bytes = answer.0;
        if says != Says::Header && self.dice.one_in(8) {
            bytes[12..16].make_ascii_lowercase(); // some servers fold the case
        }
        (bytes, says)
    }

    /// Somebody who can't see the query guesses at its answer.
    fn forge(&mut self, answer: &Message, sent: &[u8]) {
        let guesses = self.dice.of(&[1, 2, 3, 9, 12]);
        let forged = Answer::to(sent, wire::NO_ERROR)
            .address([198, 51, 100, FORGED], 300)
            .0;
        for _ in 0..guesses {
            let mut forged = Message {
                bytes: forged.clone(),
                says: Says::Addresses(vec![(FORGED, 300)]),
                ..answer.clone()
            };
            match self.dice.roll(8) {
                0 => forged.server.set_port(5353),
                1 => forged.server.set_ip([10, 4, 0, 54].into()),
                2 => forged.local = [10, 2, 0, 9].into(),
                3 => forged.endpoint = endpoint(3 - forged.endpoint.get()),
                4 => forged.key.member = Member(99),
                5 => forged.bytes[13] ^= 1,   // another name
                6 => forged.bytes[2] &= 0x7f, // a query
                _ => forged.server = SERVERS[2].parse().unwrap(),
            }
            let at = now_ms() + self.dice.roll(80);
            self.schedule(at, Event::Arrive(forged));
        }
    }
}
