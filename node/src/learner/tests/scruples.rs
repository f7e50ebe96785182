//! What no answer opens.

use dnsproxy::Lesson;
use ipnet::IpNet;

use super::*;

/// Goes on with other scruples, as at a reload.
fn change(scene: &Scene, change: impl FnOnce(&mut Scruples)) {
    let mut terms = scene.learner.terms.load().as_ref().clone();
    change(&mut terms.scruples);
    scene.learner.set_terms(terms);
}

#[test]
fn what_changes_holds_for_the_next_answer_and_for_what_was_learned_with_the_next_revision() {
    let mut scene = Scene::new();
    let learn = |address: &str| {
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(scene.learn(&lesson(1, "x.example", &[address])), Ok(()));
        scene.open_for(1, address).is_some()
    };
    assert!(learn("10.0.0.1"));
    change(&scene, |own| own.refuses_private = true);
    assert!(!learn("10.0.0.2"));
    let first = "10.0.0.1".parse().unwrap();
    assert!(scene.open_for(1, first).is_some());
    scene.swap(POLICY);
    scene.learner.reload(endpoint(1)).unwrap();
    assert!(scene.open_for(1, first).is_none());
    change(&scene, |own| own.refuses_private = false);
    scene.swap(POLICY);
    scene.learner.reload(endpoint(1)).unwrap();
    assert!(
        scene.open_for(1, first).is_some(),
        "its name still stands for it"
    );
}

/// A name may have pointed at it before it was anybody's.
#[test]
fn an_address_that_becomes_a_workloads_closes() {
    let mut scene = Scene::new();
    let address: IpAddr = "10.0.0.9".parse().unwrap();
    assert_eq!(scene.learn(&lesson(1, "x.example", &[address])), Ok(()));
    assert!(scene.open_for(1, address).is_some());
    let compiler = &mut scene.compiler;
    let next = scene.learner.with_identities(|identities| {
        let mut cast = cast();
        let mut third = cast.endpoints.last().unwrap().clone();
        third.id = endpoint(3);
        third.addresses = vec![address];
        cast.endpoints.push(third);
        let egress = format!("{}, {POLICY}", ask("10.4.0.53/32", "{matchPattern: '*'}"));
        let loaded = read(&egress);
        let input = (&loaded.set, &cast, Options::default());
        compiler.build(2, input, identities).unwrap()
    });
    scene.learner.set_snapshot(next);
    scene.learner.reload(endpoint(1)).unwrap();
    assert!(scene.open_for(1, address).is_none());
    assert_eq!(scene.learn(&lesson(1, "x.example", &[address])), Ok(()));
    assert!(scene.open_for(1, address).is_none());
}

#[test]
fn a_translated_address_is_closed_by_a_rule_that_denies_what_it_stands_for() {
    let mut scene = Scene::new();
    let path = "p.yaml".to_owned();
    let text = format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p}}\nspec: {{endpointSelector: {{matchLabels: {{app: a}}}}, egress: [{}, {POLICY}], egressDeny: [{{toCIDR: [192.0.2.0/24]}}]}}\n",
        ask("10.4.0.53/32", "{matchPattern: '*'}")
    );
    let loaded = policy::load(&[Source { path, text }]);
    assert!(!loaded.has_errors(), "{:#?}", loaded.problems);
    let compiler = &mut scene.compiler;
    let next = scene.learner.with_identities(|identities| {
        let input = (&loaded.set, &cast(), Options::default());
        compiler.build(2, input, identities).unwrap()
    });
    scene.learner.set_snapshot(next);
    for (address, is_open) in [
        ("64:ff9b::192.0.2.1", false),
        ("64:ff9b::198.51.100.1", true),
    ] {
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(scene.learn(&lesson(1, "x.example", &[address])), Ok(()));
        assert_eq!(scene.open_for(1, address).is_some(), is_open, "{address}");
    }
}

#[test]
fn neither_untrusted_servers_nor_unlearnable_addresses_open_anything() {
    let scene = Scene::new();
    let writes = scene.writes();
    let mut untrusted = lesson(1, "x.example", &[ip(1)]);
    untrusted.server = "203.0.113.53:53".parse().unwrap();
    assert_eq!(scene.learn(&untrusted), Ok(()));
    let classes = ["127.0.0.1", "169.254.169.254", "::1", "::ffff:198.51.100.1"];
    let unlearnable = classes.map(|text| text.parse::<IpAddr>().unwrap());
    assert_eq!(scene.learn(&lesson(1, "x.example", &unlearnable)), Ok(()));
    assert_eq!(scene.writes(), writes);
    let known = scene.look(1, |knowledge| knowledge.cache.address_count());
    assert_eq!(known, 0);
    let counts = &scene.learner.counts;
    assert_eq!(counts.untrusted_server.load(SeqCst), 1);
    assert_eq!(counts.unlearned.load(SeqCst), 4);
}

#[test]
fn what_the_options_forbid_stays_closed_or_is_withheld() {
    let all = ["10.0.0.1", "100.64.0.1", "198.51.100.1"];
    let learned = |scruples: Scruples, addresses: &[&str]| {
        let scene = Scene::new();
        change(&scene, |own| *own = scruples);
        let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        let outcome = scene.learn(&lesson(1, "x.example", &addresses));
        let open = addresses
            .iter()
            .filter(|ip| scene.open_for(1, **ip).is_some());
        (outcome, open.count())
    };
    let private = Scruples {
        refuses_private: true,
        ..Scruples::default()
    };
    assert_eq!(learned(Scruples::default(), &all), (Ok(()), 3));
    assert_eq!(learned(private.clone(), &all), (Ok(()), 1));
    let strict = Scruples {
        withholds: true,
        ..private.clone()
    };
    assert_eq!(
        learned(strict.clone(), &all),
        (Err(NotInstalled::Rebinding), 0)
    );
    assert_eq!(learned(strict, &all[2..]), (Ok(()), 1));
    // What a translator makes into IPv4 is judged as that.
    let translated = [
        "64:ff9b::10.0.0.1",
        "2002:a00:1::",
        "2001:db8:64::169.254.169.254",
    ];
    let own = Scruples {
        nat64: vec!["2001:db8:64::/96".parse().unwrap()],
        ..private
    };
    assert_eq!(learned(Scruples::default(), &translated), (Ok(()), 3));
    assert_eq!(learned(own, &translated), (Ok(()), 0));
    // What is a cluster's, also behind a translator.
    let cluster = Scruples {
        cluster: vec!["10.0.0.0/24".parse().unwrap()],
        ..Scruples::default()
    };
    assert_eq!(
        learned(cluster, &["10.0.0.1", "64:ff9b::10.0.0.1", "10.0.1.1"]),
        (Ok(()), 1)
    );
}

#[test]
fn if_servers_are_said_they_alone_teach() {
    let named = lesson(1, "x.example", &[ip(1)]);
    let learned = |trusted: &[&str], lesson: &Lesson| {
        let scene = Scene::new();
        let trusted = trusted.iter().map(|text| text.parse().unwrap());
        change(&scene, |own| own.trusted_servers = Some(trusted.collect()));
        assert_eq!(scene.learn(lesson), Ok(()));
        let untrusted = scene.learner.counts.untrusted_server.load(SeqCst);
        (scene.open_for(1, ip(1)).is_some(), untrusted)
    };
    let own = IpNet::from(named.server.ip()).to_string();
    assert_eq!(learned(&[&own], &named), (true, 0));
    assert_eq!(learned(&["203.0.113.99/32", &own], &named), (true, 0));
    // A rule names it closely, and that is not enough.
    assert_eq!(learned(&["203.0.113.99/32"], &named), (false, 1));
    // And who is trusted without a DNS rule teaches nobody.
    let mut stranger = lesson(1, "x.example", &[ip(1)]);
    stranger.server = "203.0.113.53:53".parse().unwrap();
    assert_eq!(learned(&["203.0.113.53/32"], &stranger), (false, 1));
}

#[test]
fn the_names_of_a_chain_open_its_addresses_where_that_is_wanted() {
    let asked = |learns_aliases: bool, aliases: &[&str]| {
        let scene = Scene::new();
        change(&scene, |own| own.learns_aliases = learns_aliases);
        let aliases = aliases.iter().map(|text| Name::from_text(text).unwrap());
        let mut lesson = lesson(1, "www.unnamed.example", &[ip(1)]);
        lesson.aliases = aliases.collect();
        lesson.addresses[0].chain_len = u8::try_from(lesson.aliases.len()).unwrap();
        assert_eq!(scene.learn(&lesson), Ok(()));
        let names = scene.look(1, |knowledge| knowledge.cache.name_count());
        (scene.open_for(1, ip(1)).is_some(), names)
    };
    let chain = ["edge.unnamed.example", "x.example"];
    assert_eq!(
        asked(true, &chain),
        (true, 2),
        "what no rule names is not kept"
    );
    assert_eq!(asked(false, &chain), (false, 1));
    assert_eq!(asked(true, &chain[..1]), (false, 1));
    // Only the chain of a server that teaches counts.
    let scene = Scene::new();
    change(&scene, |own| own.learns_aliases = true);
    let mut lesson = lesson(1, "www.unnamed.example", &[ip(1)]);
    lesson.aliases = vec![Name::from_text("x.example").unwrap()];
    lesson.addresses[0].chain_len = 1;
    lesson.server = "203.0.113.53:53".parse().unwrap();
    assert_eq!(scene.learn(&lesson), Ok(()));
    assert!(scene.open_for(1, ip(1)).is_none());
}

/// An answer may have records before an alias, and behind it: the alias speaks for what it leads to alone.
#[test]
fn an_alias_opens_what_the_chain_leads_to_through_it_and_nothing_else() {
    let scene = Scene::new();
    change(&scene, |own| own.learns_aliases = true);
    let mut lesson = lesson(1, "www.unnamed.example", &[ip(1), ip(2), ip(3), ip(4)]);
    let aliases = ["edge.unnamed.example", "x.example", "last.unnamed.example"];
    lesson.aliases = aliases.map(|text| Name::from_text(text).unwrap()).into();
    for (learned, chain_len) in lesson.addresses.iter_mut().zip([2, 0, 3, 1]) {
        learned.chain_len = chain_len;
    }
    // One that may not be learned stands between the others, and shifts nothing.
    lesson.addresses[1].ip = "127.0.0.1".parse().unwrap();
    assert_eq!(scene.learn(&lesson), Ok(()));
    let open = [1, 2, 3, 4].map(|last| scene.open(last).is_some());
    assert_eq!(open, [true, false, true, false]);
}
