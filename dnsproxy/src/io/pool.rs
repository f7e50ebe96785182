//! The upstream sockets of one worker: unconnected, on random ports, shared by all endpoints, since
//! source address and mark go out with each datagram.
//!
//! A random member for each batch of queries that was read, which is each query while they come one
//! by one. Against somebody who knows no port of ours the range counts (14.7 bits), against somebody
//! who saw one, the number of members (4 bits); both beside 16 bits of id.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rand::RngExt;
use rustix::event::epoll;
use transport::GateUdp;

use super::host::Place;
use crate::Member;
use crate::limits::{POOL_AGE_MAX, POOL_MEMBERS, POOL_USES_MAX};

/// Receive buffer of a member: answers of one batch and more.
const RECEIVE_BUFFER: i32 = 4 << 20;
/// Draws for a port that is free; then the member can't be made.
const PORT_DRAWS_MAX: usize = 64;
/// How long a retired member is kept at least: an answer may be on its way.
const RETIRED_MIN: Duration = Duration::from_secs(5);

/// On the node, whose ports are others' too, the kernel chooses one of its ephemeral range.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

/// The members.
pub(crate) struct Pool {
    active: Vec<PoolMember>,
    /// Replaced members whose queries may still be answered.
    retired: Vec<PoolMember>,
    next_id: u64,
    place: Place,
}

/// One socket.
pub(crate) struct PoolMember {
    /// Its number, never given again.
    pub(crate) id: Member,
    /// The socket.
    pub(crate) socket: GateUdp,
    uses: u32,
    born: Instant,
}

impl Pool {
    /// A full pool in the calling thread's namespace, each member watched by `epoll` under its id.
    pub(super) fn open(
        (place, first_id): (Place, u64),
        now: Instant,
        watch: impl AsFd,
    ) -> io::Result<Self> {
        let mut pool = Self {
            active: Vec::new(),
            retired: Vec::new(),
            next_id: first_id,
            place,
        };
        for _ in 0..POOL_MEMBERS {
            let member = pool.make(now, &watch)?;
            pool.active.push(member);
        }
        Ok(pool)
    }

    /// A random member for `queries` more queries; a used-up one is replaced first. A member that
    /// can't be replaced is used on: late is better than never.
    pub(crate) fn choose(
        &mut self,
        queries: u32,
        now: Instant,
        watch: impl AsFd,
    ) -> Option<&PoolMember> {
        let index = rand::rng().random_range(0..self.active.len().max(1));
        let used_up = self.active.get(index).is_some_and(|member| {
            member.uses >= POOL_USES_MAX
                || now.saturating_duration_since(member.born) >= POOL_AGE_MAX
        });
        if used_up && let Ok(fresh) = self.make(now, watch) {
            let place = self.active.get_mut(index)?;
            let mut old = std::mem::replace(place, fresh);
            old.born = now;
            self.retired.push(old);
        }
        let member = self.active.get_mut(index)?;
        member.uses = member.uses.saturating_add(queries);
        Some(member)
    }

    /// The member with this id.
    pub(crate) fn get(&self, id: Member) -> Option<&PoolMember> {
        self.active
            .iter()
            .chain(&self.retired)
            .find(|member| member.id == id)
    }

    /// Closes retired members for which nobody waits any more.
    pub(crate) fn close_retired(&mut self, now: Instant, waits: impl Fn(Member) -> bool) {
        self.retired.retain(|member| {
            now.saturating_duration_since(member.born) < RETIRED_MIN || waits(member.id)
        });
    }

    fn make(&mut self, now: Instant, watch: impl AsFd) -> io::Result<PoolMember> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..PORT_DRAWS_MAX {
            let socket = match self.place {
                Place::Gate => GateUdp::bind(random_port(), RECEIVE_BUFFER, false),
                Place::Node => GateUdp::bind_on_node(ANYWHERE, RECEIVE_BUFFER),
            };
            match socket {
                Ok(socket) => {
                    socket.keep_errors()?;
                    let id = Member(self.next_id);
                    self.next_id += 1;
                    let data = epoll::EventData::new_u64(id.0);
                    epoll::add(watch, socket.as_fd(), data, epoll::EventFlags::IN)?;
                    return Ok(PoolMember {
                        id,
                        socket,
                        uses: 0,
                        born: now,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }
}

/// A port outside the usual ephemeral range of workloads, and never one that a listener has.
fn random_port() -> u16 {
    const LOW: u16 = 32_768 - 10_000;
    const HIGH: u16 = 65_535 - 61_000 + 1;
    let place = rand::rng().random_range(0..LOW + HIGH);
    if place < LOW {
        10_000 + place
    } else {
        61_000 + (place - LOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_of_the_two_private_ranges_and_worth_fourteen_bits() {
        let ports: std::collections::BTreeSet<u16> = (0..200_000).map(|_| random_port()).collect();
        assert!(
            ports
                .iter()
                .all(|port| matches!(port, 10_000..=32_767 | 61_000..=65_535))
        );
        // 27,304 ports: 14.7 bits; 200,000 draws miss one in 1,500 of them.
        assert!(ports.len() > 27_000, "{}", ports.len());
    }

    #[test]
    fn a_port_that_was_seen_leaves_four_bits() {
        assert_eq!(POOL_MEMBERS.ilog2(), 4);
    }
}
