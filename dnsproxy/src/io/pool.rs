//! The upstream sockets of one worker: unconnected, on random ports, shared by all endpoints, since
//! source address and mark go out with each datagram.
//!
//! A random member for each batch of queries that was read, which is each query while they come one
//! by one. Against somebody who knows no port of ours the range counts (14.7 bits), against somebody
//! who saw one, the number of members (4 bits); both beside 16 bits of id.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use rustix::event::epoll;
use transport::GateUdp;

use super::host::{Place, Reserved};
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
    retired: Vec<(Kept, PoolMember)>,
    next_id: u64,
    place: Place,
    reserved: Reserved,
    /// The reserved ports that it has made way for.
    seen: Arc<BTreeSet<u16>>,
}

/// One socket.
pub(crate) struct PoolMember {
    /// Its number, never given again.
    pub(crate) id: Member,
    /// The socket.
    pub(crate) socket: GateUdp,
    uses: u32,
    born: Instant,
    /// Datagrams that found its buffer full, as far as they are counted.
    overrun: u32,
}

/// How long a retired member is kept though nobody waits for it; one that is in a listener's way, not at all.
enum Kept {
    Until(Instant),
    WhileWaited,
}

impl Pool {
    /// A full pool in the calling thread's namespace, each member watched by `epoll` under its id.
    pub(super) fn open(
        (place, first_id, reserved): (Place, u64, Reserved),
        now: Instant,
        watch: impl AsFd,
    ) -> io::Result<Self> {
        let mut pool = Self {
            active: Vec::new(),
            retired: Vec::new(),
            next_id: first_id,
            place,
            seen: reserved.load_full(),
            reserved,
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
            let old = std::mem::replace(place, fresh);
            self.retired.push((Kept::Until(now + RETIRED_MIN), old));
        }
        let member = self.active.get_mut(index)?;
        member.uses = member.uses.saturating_add(queries);
        Some(member)
    }

    /// Replaces members whose ports were reserved since the last time. One that can't be replaced stays:
    /// it is tried again.
    pub(crate) fn make_way(&mut self, now: Instant, watch: impl AsFd) {
        let reserved = self.reserved.load_full();
        if self.place == Place::Node || Arc::ptr_eq(&reserved, &self.seen) {
            return;
        }
        for index in 0..self.active.len() {
            let is_in_the_way = |member: &PoolMember| reserved.contains(&member.socket.port());
            if !self.active.get(index).is_some_and(is_in_the_way) {
                continue;
            }
            let Ok(fresh) = self.make(now, &watch) else {
                return;
            };
            if let Some(place) = self.active.get_mut(index) {
                let old = std::mem::replace(place, fresh);
                self.retired.push((Kept::WhileWaited, old));
            }
        }
        for (kept, member) in &mut self.retired {
            if reserved.contains(&member.socket.port()) {
                *kept = Kept::WhileWaited;
            }
        }
        self.seen = reserved;
    }

    /// How many datagrams found a member's buffer full since the last time.
    pub(crate) fn overruns(&mut self) -> u64 {
        let retired = self.retired.iter_mut().map(|(_, member)| member);
        let all = self.active.iter_mut().chain(retired);
        all.map(|member| overrun(&member.socket, &mut member.overrun))
            .sum()
    }

    /// The member with this id.
    pub(crate) fn get(&self, id: Member) -> Option<&PoolMember> {
        let retired = self.retired.iter().map(|(_, member)| member);
        self.active
            .iter()
            .chain(retired)
            .find(|member| member.id == id)
    }

    /// Closes retired members for which nobody waits any more.
    pub(crate) fn close_retired(&mut self, now: Instant, waits: impl Fn(Member) -> bool) {
        self.retired.retain(|(kept, member)| {
            let is_young = match kept {
                Kept::Until(end) => now < *end,
                Kept::WhileWaited => false,
            };
            is_young || waits(member.id)
        });
    }

    fn make(&mut self, now: Instant, watch: impl AsFd) -> io::Result<PoolMember> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        let reserved = self.reserved.load_full();
        for _ in 0..PORT_DRAWS_MAX {
            let port = random_port();
            if self.place == Place::Gate && reserved.contains(&port) {
                continue;
            }
            let socket = match self.place {
                Place::Gate => GateUdp::bind(port, RECEIVE_BUFFER, false),
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
                        overrun: 0,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }
}

/// How many datagrams found a socket's buffer full since `counted`, which follows. Where the kernel doesn't
/// say, none.
pub(super) fn overrun(socket: &GateUdp, counted: &mut u32) -> u64 {
    let all = socket.dropped().unwrap_or(*counted);
    let more = all.wrapping_sub(std::mem::replace(counted, all));
    more.into()
}

/// A port outside the usual ephemeral range of workloads.
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
    use std::os::fd::OwnedFd;

    use arc_swap::ArcSwap;

    use super::*;

    #[test]
    fn ports_are_of_the_two_private_ranges_and_worth_fourteen_bits() {
        let ports: BTreeSet<u16> = (0..200_000).map(|_| random_port()).collect();
        assert!(
            ports
                .iter()
                .all(|port| matches!(port, 10_000..=32_767 | 61_000..=65_535))
        );
        // 27,304 ports: 14.7 bits; 200,000 draws miss one in 1,500 of them.
        assert!(ports.len() > 27_000, "{}", ports.len());
    }

    /// A pool in a gate of its own, with what watches it.
    fn in_a_gate<T: Send>(reserved: &Reserved, test: impl FnOnce(Pool, OwnedFd) -> T + Send) -> T {
        let gate = transport::NetNs::create().expect("a network namespace needs CAP_SYS_ADMIN");
        let test = || {
            let watch = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
            let place = (Place::Gate, 3, Arc::clone(reserved));
            let pool = Pool::open(place, start(), &watch).unwrap();
            test(pool, watch)
        };
        gate.run(test).unwrap()
    }

    #[expect(clippy::disallowed_methods, reason = "where a test's time begins")]
    fn start() -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(Instant::now)
    }

    fn ports(pool: &Pool) -> BTreeSet<u16> {
        pool.active.iter().map(|one| one.socket.port()).collect()
    }

    #[test]
    fn a_port_that_rules_name_later_is_given_up_when_its_queries_are_over() {
        let reserved = Reserved::default();
        in_a_gate(&reserved, |mut pool, watch| {
            let before = ports(&pool);
            assert_eq!(before.len(), POOL_MEMBERS);
            let wanted: BTreeSet<u16> = before.iter().copied().take(2).collect();
            let busy = pool
                .active
                .iter()
                .find(|one| wanted.contains(&one.socket.port()));
            let (busy, busy_port) = busy.map(|one| (one.id, one.socket.port())).unwrap();
            reserved.store(Arc::new(wanted.clone()));
            let listen = |port: u16| GateUdp::bind(port, RECEIVE_BUFFER, true);
            assert!(wanted.iter().all(|port| listen(*port).is_err()));
            pool.make_way(start(), &watch);
            assert_eq!(ports(&pool).len(), POOL_MEMBERS);
            assert!(ports(&pool).is_disjoint(&wanted));
            pool.close_retired(start(), |member| member == busy);
            for port in &wanted {
                assert_eq!(listen(*port).is_ok(), *port != busy_port, "{port}");
            }
            pool.close_retired(start(), |_| false);
            assert!(listen(busy_port).is_ok());
        });
    }

    #[test]
    fn no_member_gets_a_reserved_port() {
        let all = (10_000..=32_767).chain(61_000..=65_535);
        // All ports but some hundreds: a draw without a look would hit.
        let reserved: BTreeSet<u16> = all.filter(|port| port % 4 != 0).collect();
        let reserved = Arc::new(ArcSwap::from_pointee(reserved));
        in_a_gate(&reserved, |pool, _| {
            assert!(ports(&pool).iter().all(|port| port % 4 == 0));
        });
    }

    #[test]
    fn what_finds_a_members_buffer_full_is_counted_once() {
        in_a_gate(&Reserved::default(), |mut pool, _| {
            assert_eq!(pool.overruns(), 0);
            let mut ip = std::process::Command::new("ip");
            let up = ip.args(["link", "set", "lo", "up"]).status();
            assert!(up.unwrap().success());
            let to = SocketAddr::from(([127, 0, 0, 1], pool.active[0].socket.port()));
            #[expect(clippy::disallowed_methods, reason = "a flood")]
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            for _ in 0..200 {
                socket.send_to(&[0; 60_000], to).unwrap();
            }
            let lost = pool.overruns();
            assert!((50..=150).contains(&lost), "{lost} of 200");
            assert_eq!(pool.overruns(), 0);
        });
    }

    #[test]
    fn a_port_that_was_seen_leaves_four_bits() {
        assert_eq!(POOL_MEMBERS.ilog2(), 4);
    }
}
