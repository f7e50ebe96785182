//! Where our program stands among others of the same hook, and how it comes to the front again.

#![expect(clippy::unwrap_used, reason = "a test may die")]

mod common;
mod somebody;

use aya::programs::links::FdLink;
use aya::programs::tc::{NlOptions, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use bpf_redirect::{Datapath, Hook, HookMode, Seat, Standing, remove_filters};
use common::need_root;
use somebody::{in_front, somebody_elses};
use transport::{Filter, NetNs, Netlink, Veth};

/// Runs in a namespace that has an interface `vx`, with its number.
fn on_interface(run: impl FnOnce(&Netlink, u32) + Send) {
    need_root();
    let (node, workload) = (NetNs::create().unwrap(), NetNs::create().unwrap());
    node.run(|| {
        let netlink = Netlink::open().unwrap();
        netlink
            .add_veth(&Veth {
                name: "vx",
                peer: "eth0",
                peer_ns: &workload,
                peer_mac: None,
                peer_index: None,
                mtu: 1_500,
                arp: true,
            })
            .unwrap();
        let index = netlink.link("vx").unwrap().index;
        run(&netlink, index);
    })
    .unwrap();
}

#[test]
fn a_program_that_came_in_front_is_seen_and_passed() {
    if HookMode::probe().unwrap() == HookMode::Clsact {
        eprintln!("NOT RUN: this kernel has no tcx; the test of filters stands for this one");
        return;
    }
    on_interface(|_, index| {
        let mut datapath = Datapath::load(99, HookMode::Tcx, None).unwrap();
        let hook = Hook::FromEndpoint;
        assert_eq!(datapath.standing(hook, "vx").unwrap(), Standing::Gone);
        let ours = datapath.attach(hook, ("vx", index)).unwrap();
        assert_eq!(datapath.standing(hook, "vx").unwrap(), Standing::First);
        let mut foreign = somebody_elses("somebody");
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        let theirs = in_front(&mut foreign, "vx", first);
        assert_eq!(
            datapath.standing(hook, "vx").unwrap(),
            Standing::Behind(vec!["somebody".to_owned()])
        );
        let ours = datapath.attach_in_front(hook, ("vx", index), ours).unwrap();
        assert_eq!(datapath.standing(hook, "vx").unwrap(), Standing::First);
        let (_, chain) = SchedClassifier::query_tcx("vx", TcAttachType::Ingress).unwrap();
        let names: Vec<_> = chain.iter().filter_map(|one| one.name_as_str()).collect();
        assert_eq!(names, ["ng_from_ep", "somebody"], "theirs stays, once each");
        drop(FdLink::try_from(theirs).unwrap());
        ours.detach().unwrap();
        assert_eq!(datapath.standing(hook, "vx").unwrap(), Standing::Gone);
        assert_eq!(datapath.standing(hook, "gone").unwrap(), Standing::Unknown);
    });
}

/// What is attached by a thread is there when it is fetched, and gone where nobody fetches it.
#[test]
fn what_was_attached_ahead_is_fetched_or_taken_off() {
    if HookMode::probe().unwrap() == HookMode::Clsact {
        eprintln!("NOT RUN: filters, which this kernel has alone, are never attached ahead");
        return;
    }
    on_interface(|_, index| {
        let mut datapath = Datapath::load(99, HookMode::Tcx, None).unwrap();
        let (from, to) = (Hook::FromEndpoint, Hook::ToEndpoint);
        let both = [(from, ("vx", index)), (to, ("vx", index))];
        datapath.attach_ahead(&both, || Ok(()));
        let ours = datapath.attach(from, ("vx", index)).unwrap();
        assert_eq!(datapath.standing(from, "vx").unwrap(), Standing::First);
        datapath.give_up(index);
        assert_eq!(datapath.standing(to, "vx").unwrap(), Standing::Gone);
        assert_eq!(datapath.standing(from, "vx").unwrap(), Standing::First);
        // What the thread could not do is told to who wants it; where it could not try, it is tried then.
        datapath.attach_ahead(&[(to, ("gone", 9_999))], || Ok(()));
        assert!(datapath.attach(to, ("gone", 9_999)).is_err());
        datapath.attach_ahead(&[(to, ("vx", index))], || {
            Err(std::io::ErrorKind::Other.into())
        });
        let theirs = datapath.attach(to, ("vx", index)).unwrap();
        assert_eq!(datapath.standing(to, "vx").unwrap(), Standing::First);
        drop((ours, theirs));
        datapath.attach_ahead(&both, || Ok(()));
        drop(datapath);
        let (_, chain) = SchedClassifier::query_tcx("vx", TcAttachType::Egress).unwrap();
        assert!(chain.is_empty(), "it ends with the datapath");
    });
}

#[test]
fn a_filter_that_came_in_front_is_seen_and_passed() {
    on_interface(|netlink, index| {
        let seats = || -> Vec<Seat> {
            let filters = netlink.filters(index).unwrap().into_iter();
            let seat = |filter: Filter| Seat {
                ingress: filter.ingress,
                program: filter.program.unwrap(),
                id: filter.program_id.unwrap(),
            };
            filters.map(seat).collect()
        };
        let names = || -> Vec<String> { seats().into_iter().map(|one| one.program).collect() };
        let mut datapath = Datapath::load(99, HookMode::Clsact, None).unwrap();
        let hook = Hook::FromEndpoint;
        let standing = |datapath: &mut Datapath| datapath.standing_among(hook, &seats()).unwrap();
        assert_eq!(standing(&mut datapath), Standing::Gone);
        let ours = datapath.attach(hook, ("vx", index)).unwrap();
        let _other = datapath.attach(Hook::ToEndpoint, ("vx", index)).unwrap();
        assert_eq!(standing(&mut datapath), Standing::First);
        let mut foreign = somebody_elses("somebody");
        let newest = TcAttachOptions::Netlink(NlOptions {
            priority: 1,
            ..NlOptions::default()
        });
        let _theirs = in_front(&mut foreign, "vx", newest);
        assert_eq!(
            standing(&mut datapath),
            Standing::Behind(vec!["somebody".to_owned()])
        );
        let ours = datapath.attach_in_front(hook, ("vx", index), ours).unwrap();
        assert_eq!(standing(&mut datapath), Standing::First);
        assert_eq!(
            names(),
            ["ng_from_ep", "somebody", "ng_to_ep"],
            "theirs stays, once each, and nothing holds the hook closed"
        );
        ours.detach().unwrap();
        assert_eq!(standing(&mut datapath), Standing::Gone);
        remove_filters("vx");
        assert_eq!(names(), ["somebody"], "only ours go");
    });
}
