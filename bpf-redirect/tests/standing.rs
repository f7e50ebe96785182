//! Where our program stands among others of the same hook, and how it comes to the front again.

#![expect(clippy::unwrap_used, reason = "a test may die")]

mod common;
mod somebody;

use aya::programs::links::FdLink;
use aya::programs::{SchedClassifier, TcAttachType};
use bpf_redirect::{Datapath, Hook, HookMode, Standing};
use common::need_root;
use somebody::{in_front, somebody_elses};
use transport::{NetNs, Netlink, Veth};

#[test]
fn a_program_that_came_in_front_is_seen_and_passed() {
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
        let mut datapath = Datapath::load(99, HookMode::Tcx, None).unwrap();
        let hook = Hook::FromEndpoint;
        assert_eq!(datapath.standing(hook, "vx").unwrap(), Standing::Gone);
        let ours = datapath.attach(hook, ("vx", index)).unwrap();
        assert_eq!(datapath.standing(hook, "vx").unwrap(), Standing::First);
        let mut foreign = somebody_elses("somebody");
        let theirs = in_front(&mut foreign, "vx");
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
    })
    .unwrap();
}
