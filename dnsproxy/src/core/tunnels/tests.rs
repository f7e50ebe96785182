use std::time::Duration;

use fqdn::Name;

use super::*;

/// A clock of its own, and one endpoint unless said.
struct Desk {
    tunnels: Tunnels,
    now: Instant,
    mode: TunnelMode,
}

impl Desk {
    #[expect(clippy::disallowed_methods, reason = "where a test's clock begins")]
    fn new(mode: TunnelMode) -> Self {
        let now = Instant::now();
        Self {
            tunnels: Tunnels::default(),
            now,
            mode,
        }
    }

    fn ask_as(&self, endpoint: u32, name: &str, kept: usize) -> Seen {
        let name = Name::from_text(name).unwrap();
        let asked = (EndpointId::new(endpoint).unwrap(), &name, kept);
        self.tunnels.look_at(asked, self.mode, self.now)
    }

    fn ask(&self, name: &str) -> Seen {
        self.ask_as(1, name, 2)
    }

    /// How many of these are asked until one is suspected.
    fn until(&self, mut names: impl Iterator<Item = String>) -> Option<usize> {
        names.position(|name| self.ask(&name) == Seen::Suspected)
    }
}

fn numbered() -> impl Iterator<Item = String> {
    (0..1_000).map(|n| format!("n{n}.example.com"))
}

#[test]
fn many_names_of_a_minute_are_told_once() {
    let mut desk = Desk::new(TunnelMode::Report);
    // The same names again are none.
    assert_eq!(desk.until(numbered().take(TUNNEL_NAMES_MAX)), None);
    assert_eq!(desk.until(numbered().take(TUNNEL_NAMES_MAX)), None);
    assert_eq!(desk.ask("one-more.example.com"), Seen::Suspected);
    assert_eq!(desk.until(numbered()), None);
    // Another endpoint, another owner, and the owner itself.
    for (endpoint, name) in [(2, "x.example.com"), (1, "x.other.com"), (1, "example.com")] {
        assert_eq!(desk.ask_as(endpoint, name, 2), Seen::Usual);
    }
    desk.now += TUNNEL_WINDOW;
    assert_eq!(desk.until(numbered()), Some(TUNNEL_NAMES_MAX));
}

#[test]
fn many_octets_are_told_and_so_are_random_letters() {
    let desk = Desk::new(TunnelMode::Report);
    let long = "long-words-and-more-words-and-more-words-and-more-words-and-mor";
    let long = |n: usize| {
        format!(
            "{long}.{long}.{long}.{}.example.com",
            "abc".repeat(n % 10 + 1)
        )
    };
    let asked = desk.until((0..1_000).map(long)).unwrap();
    // What stands before the owner, each label with its length.
    let octets = |n: usize| long(n).len() - "example.com".len();
    let until = |n: usize| (0..n).map(octets).sum::<usize>();
    assert!(until(asked) <= TUNNEL_OCTETS_MAX && until(asked + 1) > TUNNEL_OCTETS_MAX);

    let desk = Desk::new(TunnelMode::Report);
    let letters = "abcdefghijklmnopqrstuvwxyz234567";
    let random = |n: usize| {
        let turned = letters
            .chars()
            .cycle()
            .skip(n % 32)
            .step_by(1 + 2 * (n / 32));
        format!("{}.example.com", turned.take(32).collect::<String>())
    };
    assert_eq!(desk.until((0..200).map(random)), Some(RANDOM_NAMES_MIN));
    let desk = Desk::new(TunnelMode::Report);
    assert_eq!(
        desk.until((0..200).map(|n| format!("images-{n}.cdn.example.com"))),
        None
    );
}

/// Names that came at the end of one minute and at the beginning of the next are those of one minute.
#[test]
fn the_minute_slides() {
    let mut desk = Desk::new(TunnelMode::Report);
    // One name a second holds the window open, and it is no more than 60 of them that count.
    for n in 0..600 {
        assert_eq!(desk.ask(&format!("slow{n}.example.com")), Seen::Usual);
        desk.now += Duration::from_secs(1);
    }
    assert_eq!(desk.until(numbered().take(200)), None);
    desk.now += Duration::from_secs(20);
    assert_eq!(desk.until(numbered().take(200)), None, "the same again");
    desk.now += Duration::from_secs(20);
    let more = (0..200).map(|n| format!("m{n}.example.com"));
    let asked = desk.until(more).unwrap();
    assert!((60..=100).contains(&asked), "{asked} with those before");

    let mut desk = Desk::new(TunnelMode::Report);
    let octets = |n: usize| format!("{}.{n}.example.com", "abc".repeat(20));
    let each = octets(0).len() - "example.com".len();
    let half = TUNNEL_OCTETS_MAX / each * 6 / 10;
    let names = || (0..half).map(|n| octets(n % 10));
    assert_eq!(desk.until(names()), None);
    desk.now += TUNNEL_WINDOW;
    assert_eq!(desk.until(names()), None, "the first are gone");
    desk.now += TUNNEL_WINDOW / 2;
    assert!(desk.until(names()).is_some());
}

#[test]
fn what_a_window_holds_is_bounded_and_ends_with_its_minute() {
    let mut desk = Desk::new(TunnelMode::Report);
    for round in 0..20 {
        for n in 0..1_000 {
            desk.ask(&format!("r{round}n{n}.example.com"));
            desk.now += Duration::from_millis(20);
        }
        let watched = desk.tunnels.watched.lock().unwrap();
        let mut windows = watched.by_endpoint.values().flat_map(HashMap::values);
        let window = windows.next().unwrap();
        assert!(window.names.len() <= TUNNEL_NAMES_MAX + 1);
        assert!(windows.next().is_none());
    }
}

#[test]
fn names_that_do_not_exist_are_told_when_they_are_most() {
    let absent = |desk: &Desk, names: &mut dyn Iterator<Item = String>| {
        for name in names {
            let name = Name::from_text(&name).unwrap();
            let endpoint = EndpointId::new(1).unwrap();
            desk.tunnels.note_absent(endpoint, &name, 2);
        }
    };
    let mut desk = Desk::new(TunnelMode::Report);
    assert_eq!(desk.until(numbered().take(100)), None);
    // Half of them, each once however often it is answered.
    for _ in 0..3 {
        absent(&desk, &mut numbered().take(50));
    }
    assert_eq!(desk.ask("n0.example.com"), Seen::Usual);
    absent(&desk, &mut numbered().skip(50).take(1));
    assert_eq!(desk.ask("n0.example.com"), Seen::Suspected);

    // Too few names say nothing, nor do those of a minute ago, nor those that nobody asked.
    desk = Desk::new(TunnelMode::Report);
    assert_eq!(desk.until(numbered().take(ABSENT_NAMES_MIN)), None);
    absent(&desk, &mut numbered());
    assert_eq!(desk.ask("n0.example.com"), Seen::Usual);
    desk.now += TUNNEL_WINDOW - SLICE;
    assert_eq!(desk.ask("n0.example.com"), Seen::Usual);
    desk.now += SLICE;
    let existing = (0..60).map(|n| format!("e{n}.example.com"));
    assert_eq!(desk.until(existing), None);
}

#[test]
fn what_is_enforced_closes_new_names_for_ten_minutes() {
    let mut desk = Desk::new(TunnelMode::Enforce);
    assert_eq!(desk.until(numbered()), Some(TUNNEL_NAMES_MAX));
    assert_eq!(desk.ask("n7.example.com"), Seen::Usual);
    assert_eq!(desk.ask("new.example.com"), Seen::Closed);
    desk.now += TUNNEL_CLOSED - Duration::from_millis(1);
    assert_eq!(desk.ask("new.example.com"), Seen::Closed);
    assert_eq!(desk.ask_as(2, "new.example.com", 2), Seen::Usual);
    desk.now += Duration::from_millis(1);
    assert_eq!(desk.ask("new.example.com"), Seen::Usual);
    desk.mode = TunnelMode::Off;
    assert_eq!(desk.until(numbered()), None);
}

#[test]
fn so_much_is_watched_of_one_endpoint_and_no_more() {
    let mut desk = Desk::new(TunnelMode::Report);
    for n in 0..TUNNEL_WATCHED_PER_ENDPOINT_MAX {
        assert_eq!(desk.ask(&format!("x.n{n}.com")), Seen::Usual);
    }
    assert_eq!(desk.ask("x.more.com"), Seen::Unwatched);
    desk.mode = TunnelMode::Enforce;
    assert_eq!(
        desk.ask("x.more.com"),
        Seen::Closed,
        "no way round the watch"
    );
    assert_eq!(desk.ask("y.n1.com"), Seen::Usual);
    assert_eq!(desk.ask_as(2, "x.more.com", 2), Seen::Usual, "another's");
    desk.now += TUNNEL_WINDOW;
    assert_eq!(desk.ask("x.more.com"), Seen::Usual);
}

#[test]
fn where_all_is_watched_whoever_has_most_gives_one_up() {
    let desk = Desk::new(TunnelMode::Enforce);
    let full = u32::try_from(TUNNEL_WATCHED_MAX / TUNNEL_WATCHED_PER_ENDPOINT_MAX).unwrap();
    for endpoint in 1..=full {
        for n in 0..TUNNEL_WATCHED_PER_ENDPOINT_MAX {
            let name = format!("x.n{n}.com");
            assert_eq!(desk.ask_as(endpoint, &name, 2), Seen::Usual);
        }
    }
    for n in 0..20 {
        let name = format!("x.n{n}.com");
        assert_eq!(desk.ask_as(full + 1, &name, 2), Seen::Usual);
    }
    let watched = desk.tunnels.watched.lock().unwrap();
    let count = watched.by_endpoint.values().map(HashMap::len);
    assert_eq!(count.sum::<usize>(), TUNNEL_WATCHED_MAX);
    assert_eq!(watched.count, TUNNEL_WATCHED_MAX);
}
