use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bpf_redirect::{FakeHook, FakeTable};
use bpf_redirect_common::Address;
use dnsproxy::LearnedAddr;
use fqdn::Name;
use policy::{
    Cast, Compiler, L4Protocol, Label, LocalEndpoint, NamedPorts, Options, Source, Workload,
};

use super::*;

mod expiry;
mod lately;
mod load;
mod many;
mod scruples;
mod simulation;

const SERVER: &str = "10.4.0.53:53";
/// Two names with rules of their own, and all others of a zone under one.
const POLICY: &str = "{toFQDNs: [{matchName: x.example}]}, {toFQDNs: [{matchName: y.example}], toPorts: [{ports: [{port: \"443\", protocol: TCP}]}]}, {toFQDNs: [{matchPattern: '*.many.example'}]}";

thread_local! {
    /// Milliseconds since the test began.
    static CLOCK_MS: Cell<u64> = const { Cell::new(0) };
}

#[expect(clippy::disallowed_methods, reason = "where a test's time begins")]
fn clock() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    start + Duration::from_millis(CLOCK_MS.get())
}

fn pass(time: Duration) {
    let millis = u64::try_from(time.as_millis()).unwrap();
    CLOCK_MS.set(CLOCK_MS.get() + millis);
}

/// What the kernel of a test does.
#[derive(Clone, Default)]
struct Kernel {
    /// How many more writes that need room succeed, plus one; 0: all.
    room: Arc<AtomicUsize>,
    /// How long each write takes.
    write_ms: Arc<AtomicUsize>,
    /// Whether it lets no address go.
    keeps: Arc<AtomicUsize>,
}

impl Kernel {
    fn table(&self) -> FakeTable {
        let kernel = self.clone();
        let hook = move |word: &str| {
            pass(Duration::from_millis(kernel.write_ms.load(SeqCst) as u64));
            if !word.starts_with("no ") {
                match kernel.room.load(SeqCst) {
                    0 => {}
                    1 => return Err(TableError::Full("fake")),
                    left => kernel.room.store(left - 1, SeqCst),
                }
            }
            if word == "no address" && kernel.keeps.load(SeqCst) > 0 {
                let source = "it is kept".into();
                return Err(TableError::Kernel {
                    map: "fake",
                    source,
                });
            }
            Ok(())
        };
        FakeTable {
            hook: FakeHook(Some(Box::new(hook))),
            ..FakeTable::default()
        }
    }

    /// From here on so many writes that need room succeed.
    fn leave_room(&self, writes: usize) {
        self.room.store(writes + 1, SeqCst);
    }

    fn has_room(&self) {
        self.room.store(0, SeqCst);
    }
}

struct Scene {
    learner: Learner<FakeTable>,
    kernel: Kernel,
    compiler: Compiler,
    revision: u64,
    /// Identities in use before anything was learned.
    at_start: usize,
}

impl Scene {
    fn new() -> Self {
        let mut scene = Self::empty();
        for id in [1, 2] {
            scene
                .learner
                .adopt(endpoint(id), scene.kernel.table(), &Heritage::default())
                .unwrap();
        }
        scene.at_start = scene.identities();
        scene
    }

    fn empty() -> Self {
        CLOCK_MS.set(0);
        let mut identities = Identities::new();
        let mut compiler = Compiler::new();
        let snapshot = snapshot((1, POLICY), &mut identities, &mut compiler);
        Self {
            learner: Learner::new(snapshot, identities, Lifetimes::default(), clock),
            kernel: Kernel::default(),
            compiler,
            revision: 1,
            at_start: 0,
        }
    }

    /// Puts another policy into force for queries; the endpoints follow by a reload.
    fn swap(&mut self, policy: &str) {
        self.revision += 1;
        let (revision, compiler) = (self.revision, &mut self.compiler);
        let next = self
            .learner
            .with_identities(|identities| snapshot((revision, policy), identities, compiler));
        self.learner.set_snapshot(next);
    }

    fn ask(&self, name: &str, last: &[u8]) -> Result<(), NotInstalled> {
        self.ask_as(1, name, last)
    }

    fn ask_as(&self, id: u32, name: &str, last: &[u8]) -> Result<(), NotInstalled> {
        let answer: Vec<IpAddr> = last.iter().map(|last| ip(*last)).collect();
        self.learn(&lesson(id, name, &answer))
    }

    fn learn(&self, lesson: &Lesson) -> Result<(), NotInstalled> {
        self.learner.learn(clock(), lesson).map(|_| ())
    }

    fn look<R>(&self, id: u32, f: impl FnOnce(&Knowledge<FakeTable>) -> R) -> R {
        self.learner.with_knowledge(endpoint(id), f).unwrap()
    }

    /// The identity that the kernel gives an address.
    fn open(&self, last: u8) -> Option<u32> {
        self.open_for(1, ip(last))
    }

    fn open_for(&self, id: u32, ip: IpAddr) -> Option<u32> {
        self.look(id, |knowledge| {
            let held = &knowledge.ledger.table().addresses;
            let held = held.get(&Address::from(ip).octets()).copied();
            assert_eq!(held, knowledge.ledger.identity_of(Address::from(ip)));
            held
        })
    }

    /// The ports to which the kernel lets an address's packets pass; 0 is any.
    fn ports(&self, last: u8) -> Vec<u16> {
        let Some(identity) = self.open(last) else {
            return Vec::new();
        };
        self.look(1, |knowledge| {
            let entries = knowledge.ledger.table().entries.keys();
            let own = entries.filter(|key| key.0 == identity);
            own.map(|key| key.2).collect()
        })
    }

    fn writes(&self) -> usize {
        self.look(1, |knowledge| knowledge.ledger.table().log.len())
    }

    fn maps(&self) -> String {
        self.look(1, |knowledge| {
            let table = knowledge.ledger.table();
            format!("{:?} {:?}", table.addresses, table.entries)
        })
    }

    fn names_of(&self, last: u8) -> usize {
        self.look(1, |knowledge| knowledge.cache.names_of(ip(last)).count())
    }

    fn identities(&self) -> usize {
        self.learner
            .with_identities(|identities| identities.local_count())
    }
}

fn endpoint(id: u32) -> EndpointId {
    EndpointId::new(id).unwrap()
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, last])
}

fn snapshot(
    (revision, fqdns): (u64, &str),
    identities: &mut Identities,
    compiler: &mut Compiler,
) -> Snapshot {
    let egress = format!("{}, {fqdns}", ask("10.4.0.53/32", "{matchPattern: '*'}"));
    compiled((revision, &egress), identities, compiler)
}

/// A rule that lets names be asked of servers.
fn ask(servers: &str, names: &str) -> String {
    format!(
        "{{toCIDR: [{servers}], toPorts: [{{ports: [{{port: \"53\", protocol: ANY}}], rules: {{dns: [{names}]}}}}]}}"
    )
}

/// The same with all of the policy's rules.
fn compiled(
    (revision, egress): (u64, &str),
    identities: &mut Identities,
    compiler: &mut Compiler,
) -> Snapshot {
    let loaded = read(egress);
    let input = (&loaded.set, &cast(), Options::default());
    compiler.build(revision, input, identities).unwrap()
}

/// The policy with these rules.
fn read(egress: &str) -> policy::Loaded {
    let text = format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p}}\nspec: {{endpointSelector: {{matchLabels: {{app: a}}}}, egress: [{egress}]}}\n"
    );
    let path = "p.yaml".to_owned();
    let loaded = policy::load(&[Source { path, text }]);
    assert!(!loaded.has_errors(), "{:#?}", loaded.problems);
    loaded
}

/// The two endpoints that the policy selects.
fn cast() -> Cast {
    let endpoints = [1, 2].map(|id| LocalEndpoint {
        id: endpoint(id),
        workload: Workload {
            namespace: "default".to_owned(),
            name: format!("a{id}"),
            labels: [Label::from_key("app", "a")].into_iter().collect(),
            ports: NamedPorts::new(),
            owner: None,
        },
        audit: false,
        is_redirectable: true,
        addresses: vec![IpAddr::from([10, 2, 0, u8::try_from(id).unwrap()])],
    });
    Cast {
        endpoints: endpoints.into(),
        ..Cast::default()
    }
}

fn lesson(id: u32, name: &str, addresses: &[IpAddr]) -> Lesson {
    Lesson {
        endpoint: endpoint(id),
        server: SERVER.parse().unwrap(),
        protocol: L4Protocol::Udp,
        name: Name::from_text(name).unwrap(),
        aliases: Vec::new(),
        addresses: addresses
            .iter()
            .map(|ip| LearnedAddr {
                ip: *ip,
                ttl_secs: 30,
                chain_len: 0,
                is_hint: false,
            })
            .collect(),
    }
}

#[test]
fn a_slow_kernel_is_late_and_its_writes_stand() {
    let scene = Scene::new();
    scene.kernel.write_ms.store(60, SeqCst);
    assert_eq!(scene.ask("x.example", &[1]), Err(NotInstalled::Late));
    assert!(scene.open(1).is_some());
    let writes = scene.writes();
    assert_eq!(scene.ask("x.example", &[1]), Ok(()));
    assert_eq!(scene.writes(), writes, "they stand");
    scene.kernel.write_ms.store(50, SeqCst);
    assert_eq!(scene.ask("y.example", &[2]), Ok(()), "just in time");
    let held = scene.learner.counts.hold.to_json();
    let answers = |up_to_us: u64| {
        let mut buckets = held.as_array().unwrap().iter();
        let bucket = buckets.find(|one| one["up_to_us"] == up_to_us);
        bucket.unwrap()["answers"].as_u64().unwrap()
    };
    let counts = [10, 100_000, 1_000_000].map(answers);
    assert_eq!(counts, [1, 1, 1], "{held}");
}

#[test]
fn an_answer_that_waited_too_long_before_is_late() {
    let scene = Scene::new();
    let began = clock();
    pass(INSTALL_WAIT + Duration::from_millis(1));
    let late = scene
        .learner
        .learn(began, &lesson(1, "x.example", &[ip(1)]));
    assert_eq!(late.err(), Some(NotInstalled::Late));
}

#[test]
fn a_lock_that_is_held_too_long_is_late_and_never_early() {
    let scene = Scene::new();
    let held = scene.learner.knowledge(endpoint(1)).unwrap();
    let guard = held.lock();
    assert_eq!(scene.ask("x.example", &[1]), Err(NotInstalled::Late));
    assert_eq!(scene.ask_as(2, "x.example", &[1]), Ok(()), "another's lock");
    drop(guard);
    assert_eq!(scene.open(1), None);
    assert_eq!(scene.ask("x.example", &[1]), Ok(()));
    assert!(scene.open(1).is_some());
}

#[test]
fn a_second_equal_answer_waits_for_the_first_ones_writes() {
    let scene = Scene::new();
    let held = scene.learner.knowledge(endpoint(1)).unwrap();
    std::thread::scope(|threads| {
        let guard = held.lock();
        let answers = [(); 2].map(|()| threads.spawn(|| scene.ask("x.example", &[1])));
        // Whenever the lock comes free within the limit, both find the address open.
        std::thread::sleep(Duration::from_millis(5));
        drop(guard);
        for answer in answers {
            assert_eq!(answer.join().unwrap(), Ok(()));
        }
    });
    assert!(scene.open(1).is_some());
    assert_eq!(scene.writes(), 3, "the policy, an entry, an address");
}

#[test]
fn a_full_map_leaves_nothing_half_written_and_is_tried_again() {
    for room in 0..4 {
        let scene = Scene::new();
        scene.ask("x.example", &[9]).unwrap();
        let (maps, identities) = (scene.maps(), scene.identities());
        scene.kernel.leave_room(room);
        // An entry and three addresses: four writes.
        let answer = scene.ask("y.example", &[1, 2, 3]);
        assert_eq!(answer, Err(NotInstalled::MapFull), "{room}");
        assert_eq!(scene.maps(), maps, "{room}");
        assert_eq!((scene.names_of(1), scene.identities()), (0, identities));
        scene.kernel.has_room();
        assert_eq!(scene.ask("y.example", &[1, 2, 3]), Ok(()));
        assert!([1, 2, 3].iter().all(|last| scene.ports(*last) == [443]));
    }
}

#[test]
fn an_address_that_a_full_map_closed_is_not_taken_for_open() {
    let scene = Scene::new();
    scene.ask("x.example", &[1]).unwrap();
    // Two entries and the first address; then neither another nor the old identity of the first.
    scene.kernel.leave_room(3);
    let answer = scene.ask("y.example", &[1, 2]);
    assert_eq!(answer, Err(NotInstalled::MapFull));
    assert_eq!(scene.open(1), None, "closed is the safe side");
    assert_eq!(
        scene.ask("x.example", &[1]),
        Err(NotInstalled::MapFull),
        "the cache knows it, the kernel does not"
    );
    scene.kernel.has_room();
    assert_eq!(scene.ask("x.example", &[1]), Ok(()));
    assert_eq!(scene.ports(1), [0]);
    let writes = scene.writes();
    scene.ask("x.example", &[1]).unwrap();
    assert_eq!(scene.writes(), writes);
}

#[test]
fn an_endpoint_that_goes_takes_all_identities_along() {
    let scene = Scene::new();
    scene.ask("x.example", &[1, 2]).unwrap();
    scene.ask("y.example", &[2, 3]).unwrap();
    scene.ask_as(2, "x.example", &[1]).unwrap();
    assert_eq!(scene.identities(), scene.at_start + 3);
    scene.learner.remove(endpoint(1));
    assert_eq!(scene.identities(), scene.at_start + 1, "the other's");
    assert_eq!(
        scene.ask("x.example", &[1]),
        Err(NotInstalled::EndpointGone)
    );
    scene.learner.remove(endpoint(2));
    assert_eq!(scene.identities(), scene.at_start);
    scene.learner.reload(endpoint(1)).unwrap();
}

#[test]
fn whoever_waited_for_an_endpoint_that_went_writes_nothing() {
    let scene = Scene::new();
    let held = scene.learner.knowledge(endpoint(1)).unwrap();
    std::thread::scope(|threads| {
        let mut guard = held.lock();
        let answer = threads.spawn(|| scene.ask("x.example", &[1]));
        while Arc::strong_count(&held) < 3 {
            std::thread::yield_now(); // it has found the endpoint, and waits
        }
        scene.learner.endpoints.remove(&endpoint(1));
        assert!(guard.end().is_empty());
        drop(guard);
        assert_eq!(answer.join().unwrap(), Err(NotInstalled::EndpointGone));
    });
    let gone = held.lock();
    assert!(gone.ledger.table().addresses.is_empty());
    assert_eq!(gone.ledger.table().log.last().unwrap(), "no policy");
    assert_eq!(scene.identities(), scene.at_start);
}

#[test]
fn an_endpoint_that_comes_again_starts_with_nothing() {
    let scene = Scene::new();
    scene.ask("x.example", &[1]).unwrap();
    scene
        .learner
        .adopt(endpoint(1), scene.kernel.table(), &Heritage::default())
        .unwrap();
    assert_eq!((scene.names_of(1), scene.open(1)), (0, None));
    assert_eq!(scene.identities(), scene.at_start);
}

#[test]
fn a_second_endpoint_gets_entries_of_its_own() {
    let scene = Scene::new();
    scene.ask("y.example", &[1]).unwrap();
    assert_eq!(scene.open_for(2, ip(1)), None, "it never asked");
    scene.ask_as(2, "y.example", &[1]).unwrap();
    let identity = scene.open_for(2, ip(1)).unwrap();
    assert_eq!(scene.open(1), Some(identity), "one number for one set");
    let has_entry = |knowledge: &Knowledge<FakeTable>| {
        let mut entries = knowledge.ledger.table().entries.keys();
        entries.any(|key| key.0 == identity && key.2 == 443)
    };
    assert!(scene.look(2, has_entry));
    scene.learner.remove(endpoint(1));
    assert!(scene.look(2, has_entry));
}

#[test]
fn a_refresh_writes_nothing() {
    let scene = Scene::new();
    scene.ask("x.example", &[1, 2]).unwrap();
    let writes = scene.writes();
    let read = |counter: &AtomicU64| counter.load(SeqCst);
    for _ in 0..3 {
        scene.ask("x.example", &[2, 1]).unwrap();
    }
    assert_eq!(scene.writes(), writes);
    let counts = &scene.learner.counts;
    assert_eq!((read(&counts.installed), read(&counts.refreshed)), (1, 3));
}

#[test]
fn a_second_name_replaces_the_identity_in_one_write_and_keeps_the_first_ones_permission() {
    let scene = Scene::new();
    scene.ask("x.example", &[1]).unwrap();
    let first = scene.open(1).unwrap();
    let writes = scene.writes();
    scene.ask("y.example", &[1]).unwrap();
    let second = scene.open(1).unwrap();
    assert_ne!(first, second);
    let log = scene.look(1, |knowledge| {
        knowledge.ledger.table().log[writes..].to_vec()
    });
    let entry = format!("entry {second}");
    let expected = [
        entry.clone(),
        entry,
        format!("address {second}"),
        format!("no entry {first}"),
    ];
    assert_eq!(log, expected, "both entries, one overwrite, never closed");
    assert_eq!(scene.ports(1), [0, 443]);
    assert_eq!(scene.identities(), scene.at_start + 1);
}

#[test]
fn a_reload_follows_selectors_that_come_and_go() {
    let mut scene = Scene::new();
    scene.ask("z.example", &[1]).unwrap();
    scene.ask("x.example", &[2]).unwrap();
    assert_eq!(scene.open(1), None, "no rule names it");
    scene.swap("{toFQDNs: [{matchName: z.example}]}");
    scene.learner.reload(endpoint(1)).unwrap();
    assert!(scene.open(1).is_some());
    assert_eq!(scene.open(2), None);
    assert_eq!(scene.identities(), scene.at_start + 1);
    scene.swap(POLICY);
    scene.learner.reload(endpoint(1)).unwrap();
    assert_eq!(scene.open(1), None);
    assert!(scene.open(2).is_some());
    assert_eq!(scene.identities(), scene.at_start + 1);
}

/// Between a swap and the endpoint's own reload an answer is judged by the new policy; what is
/// "already there" is there under the old one.
#[test]
fn an_answer_between_a_swap_and_the_reload_is_open_under_the_new_policy() {
    let mut scene = Scene::new();
    scene.ask("z.example", &[1]).unwrap();
    scene.ask("y.example", &[2]).unwrap();
    scene.swap("{toFQDNs: [{matchName: z.example}]}, {toFQDNs: [{matchName: y.example}], toPorts: [{ports: [{port: \"8443\", protocol: TCP}]}]}");
    scene.ask("z.example", &[1]).unwrap();
    assert_eq!(scene.ports(1), [0]);
    // The set of labels is as it was, and so is the number; its entries are others.
    scene.ask("y.example", &[3]).unwrap();
    assert_eq!((scene.ports(2), scene.ports(3)), (vec![8443], vec![8443]));
    let writes = scene.writes();
    scene.learner.reload(endpoint(1)).unwrap();
    assert_eq!(scene.writes(), writes, "nothing is left to do");
}

#[test]
fn a_policy_that_the_map_refuses_withholds_answers_until_it_is_taken() {
    let mut scene = Scene::new();
    scene.ask("x.example", &[1]).unwrap();
    let maps = scene.maps();
    scene.swap("{toFQDNs: [{matchName: x.example}, {matchName: z.example}]}");
    scene.kernel.leave_room(0);
    assert!(scene.learner.reload(endpoint(1)).is_err());
    scene.kernel.has_room();
    assert_eq!(scene.ask("z.example", &[1]), Err(NotInstalled::MapFull));
    assert_eq!(scene.maps(), maps, "the old policy holds");
    scene.learner.reload(endpoint(1)).unwrap();
    assert_eq!(scene.ask("z.example", &[1]), Ok(()));
    assert_eq!(scene.identities(), scene.at_start + 1);
}

#[test]
fn an_address_that_a_reload_could_not_move_is_open_before_its_next_answer() {
    let mut scene = Scene::new();
    scene.ask("x.example", &[1, 2]).unwrap();
    scene.ask("z.example", &[1, 2]).unwrap();
    scene.swap("{toFQDNs: [{matchName: x.example}]}, {toFQDNs: [{matchName: z.example}], toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]}");
    // The policy, two entries, one address.
    scene.kernel.leave_room(4);
    scene.learner.reload(endpoint(1)).unwrap();
    assert_eq!((scene.ports(1), scene.open(2)), (vec![0, 80], None));
    assert_eq!(scene.ask("x.example", &[1]), Ok(()));
    assert_eq!(scene.ask("x.example", &[2]), Err(NotInstalled::MapFull));
    scene.kernel.has_room();
    assert_eq!(scene.ask("z.example", &[2]), Ok(()));
    assert_eq!(scene.ports(2), [0, 80]);
    scene.learner.remove(endpoint(1));
    assert_eq!(scene.identities(), scene.at_start);
}

fn many(count: usize) -> Vec<IpAddr> {
    let numbers = 0x2d00_0001..;
    let numbers = numbers.take(count);
    numbers
        .map(|number: u32| IpAddr::from(number.to_be_bytes()))
        .collect()
}
