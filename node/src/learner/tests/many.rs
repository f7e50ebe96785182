//! More addresses than there is room for, and as many as there may be.

use super::*;

#[test]
fn an_answer_with_too_many_addresses_is_refused() {
    let scene = Scene::new();
    let over = fqdn_cache::limits::ADDRESSES_PER_NAME_MAX + 1;
    let answer: Vec<IpAddr> = many(over);
    let refused = scene.learn(&lesson(1, "x.example", &answer));
    assert_eq!(refused, Err(NotInstalled::TooMany));
}

/// A name whose answers bring ever other addresses is withheld rather than one that was answered just now
/// be closed.
#[test]
fn what_was_answered_within_its_floor_stays_open_though_a_bound_is_reached() {
    const MAX: usize = fqdn_cache::limits::ADDRESSES_PER_NAME_MAX;
    let scene = Scene::new();
    let all = many(MAX + 8);
    let (full, more) = all.split_at(MAX);
    for answer in full.chunks(1_000) {
        scene.learn(&lesson(1, "x.example", answer)).unwrap();
    }
    let is_open = |ip: &IpAddr| scene.open_for(1, *ip).is_some();
    pass(Duration::from_secs(59));
    let refused = scene.learn(&lesson(1, "x.example", more));
    assert_eq!(refused, Err(NotInstalled::TooMany));
    assert!(full.iter().all(is_open) && !more.iter().any(is_open));
    scene.learn(&lesson(1, "x.example", &full[..8])).unwrap();
    pass(Duration::from_secs(1));
    scene.learn(&lesson(1, "x.example", more)).unwrap();
    assert!(more.iter().all(is_open) && full[..8].iter().all(is_open));
    let closed = full.iter().filter(|ip| !is_open(ip)).count();
    assert_eq!(
        closed, 8,
        "as many as came, and none that was answered again"
    );
    assert_eq!(scene.learner.counts.evicted.load(SeqCst), 8);
}

#[test]
fn ten_thousand_addresses_under_one_selector_cost_one_identity() {
    let scene = Scene::new();
    scene.ask("a.many.example", &[1]).unwrap();
    let entries = scene.look(1, |knowledge| knowledge.ledger.table().entries.len());
    for (index, answer) in many(10_000).chunks(100).enumerate() {
        let name = format!("n{index}.many.example");
        scene.learn(&lesson(1, &name, answer)).unwrap();
    }
    let after = scene.look(1, |knowledge| {
        let table = knowledge.ledger.table();
        (table.entries.len(), table.addresses.len())
    });
    assert_eq!(after, (entries, 10_001));
    assert_eq!(scene.identities(), scene.at_start + 1);
    scene.learner.remove(endpoint(1));
    assert_eq!(scene.identities(), scene.at_start);
}

#[test]
fn without_a_number_left_an_answer_opens_nothing_and_what_is_open_stays() {
    let scene = Scene::new();
    scene.ask("x.example", &[1]).unwrap();
    let before = scene.maps();
    let leave = |room| {
        scene
            .learner
            .with_identities(|identities| identities.leave_room(room));
    };
    leave(0);
    // Of two addresses one has a number that is in use.
    let mut answer = lesson(1, "y.example", &[ip(1), ip(2)]);
    assert_eq!(scene.learn(&answer), Err(NotInstalled::MapFull));
    assert_eq!(scene.maps(), before, "nothing half written");
    assert_eq!(scene.names_of(1), 1);
    assert_eq!(scene.identities(), scene.at_start + 1);
    // One number is one too few: the first gets it and gives it back.
    leave(1);
    assert_eq!(scene.learn(&answer), Err(NotInstalled::MapFull));
    assert_eq!(scene.maps(), before);
    assert_eq!(scene.identities(), scene.at_start + 1);
    assert_eq!(scene.ask("x.example", &[1, 3]), Ok(()), "no new set");
    answer.addresses.pop();
    assert_eq!(scene.learn(&answer), Ok(()));
    assert_eq!(scene.ports(1), [0, 443]);
    scene.learner.remove(endpoint(1));
    assert_eq!(scene.identities(), scene.at_start);
}
