use super::super::load::Loaded;
use super::*;

fn named(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

fn load(
    scene: &Scene,
    name: &str,
    addresses: &[(&str, u32)],
) -> Result<Option<Loaded>, NotInstalled> {
    let addresses = addresses.iter();
    let addresses: Vec<_> = addresses
        .map(|(ip, ttl)| (ip.parse().unwrap(), *ttl))
        .collect();
    scene.learner.load(endpoint(1), (&named(name), &addresses))
}

fn change(scene: &Scene, change: impl FnOnce(&mut Terms)) {
    let mut terms = scene.learner.terms.load().as_ref().clone();
    change(&mut terms);
    scene.learner.set_terms(terms);
}

#[test]
fn what_is_loaded_opens_by_its_rule_and_ends_as_an_answer_whoever_is_trusted() {
    let scene = Scene::new();
    change(&scene, |terms| {
        terms.scruples.trusted_servers = Some(Vec::new())
    });
    let loaded = load(
        &scene,
        "y.example",
        &[("198.51.100.1", 0), ("198.51.100.2", 3_600)],
    );
    let opened = Loaded {
        opened: 2,
        ..Loaded::default()
    };
    assert_eq!(loaded, Ok(Some(opened)));
    assert_eq!((scene.ports(1), scene.ports(2)), (vec![443], vec![443]));
    assert_eq!(scene.open_for(2, ip(1)), None, "another's");
    let name = named("y.example");
    scene.look(1, |knowledge| {
        let lifetimes = Lifetimes::default();
        for (last, ttl_secs) in [(1, 0), (2, 3_600)] {
            let end = knowledge.cache.expiry(&name, ip(last));
            assert_eq!(end, Some(lifetimes.expiry(clock(), ttl_secs)), "{ttl_secs}");
        }
        assert_eq!(knowledge.cache.given_by(&name), None);
    });
}

#[test]
fn what_no_rule_names_is_not_learned() {
    let scene = Scene::new();
    let writes = scene.writes();
    assert_eq!(load(&scene, "z.example", &[("198.51.100.1", 60)]), Ok(None));
    let known = scene.look(1, |knowledge| knowledge.cache.address_count());
    assert_eq!((scene.writes(), known), (writes, 0));
    let name = named("x.example");
    let gone = scene.learner.load(endpoint(9), (&name, &[]));
    assert_eq!(gone, Err(NotInstalled::EndpointGone));
}

#[test]
fn addresses_that_no_name_opens_stay_closed_and_are_told() {
    let scene = Scene::new();
    let addresses = [
        ("127.0.0.1", 60),
        ("198.51.100.1", 60),
        ("169.254.169.254", 60),
    ];
    let loaded = load(&scene, "x.example", &addresses).unwrap().unwrap();
    let refused = [("127.0.0.1", "loopback"), ("169.254.169.254", "metadata")];
    let refused = refused.map(|(text, class)| (text.parse::<IpAddr>().unwrap(), class));
    assert_eq!((loaded.opened, &loaded.refused[..]), (1, &refused[..]));
    for (address, _) in refused {
        assert_eq!(scene.open_for(1, address), None, "{address}");
    }
    assert_eq!(scene.learner.counts.unlearned.load(SeqCst), 2);

    change(&scene, |terms| terms.scruples.withholds = true);
    let addresses = [("127.0.0.1", 60), ("198.51.100.2", 60)];
    assert_eq!(
        load(&scene, "x.example", &addresses),
        Err(NotInstalled::Rebinding)
    );
    assert_eq!(scene.open(2), None, "withheld");
}

#[test]
fn a_name_for_which_the_kernel_has_no_room_is_refused_whole() {
    let scene = Scene::new();
    scene.kernel.leave_room(1);
    let addresses = [("198.51.100.1", 60), ("198.51.100.2", 60)];
    assert_eq!(
        load(&scene, "x.example", &addresses),
        Err(NotInstalled::MapFull)
    );
    assert_eq!((scene.open(1), scene.open(2)), (None, None));
    scene.kernel.has_room();
    assert_eq!(
        load(&scene, "x.example", &addresses)
            .unwrap()
            .unwrap()
            .opened,
        2
    );
}
