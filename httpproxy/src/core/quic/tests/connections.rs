//! Several connections in one flow.

use super::*;

#[test]
fn another_connection_is_judged_as_the_first() {
    let (mut flow, mut client) = permitted();
    assert_eq!(flow.push(&client.datagram(ACK)), Heard::Pass);
    // A Retry (RFC 9000 §17.2.5): the keys come from the new destination.
    let mut retried = Sealer::new(Version::V1, b"from the Retry");
    let datagram = retried.datagram(&crypto(0, &hello("a.test")));
    assert_eq!(flow.push(&datagram), named("a.test"));
    assert_eq!(flow.push(&short()), Heard::Hold);
    flow.permit();
    assert_eq!(flow.push(&short()), Heard::Pass);
    assert_eq!(flow.push(&datagram), Heard::Pass);
    // Slipped in; with the destination that the server has given.
    for (name, original) in [("evil.test", &b"slipped in"[..]), ("b.test", SERVERS)] {
        let mut slipped = Sealer::new(Version::V2, original);
        let (start, end) = (&hello(name)[..50], &hello(name)[50..]);
        assert_eq!(flow.push(&slipped.datagram(&crypto(0, start))), Heard::Hold);
        assert_eq!(flow.push(&client.datagram(ACK)), Heard::Hold);
        assert_eq!(flow.push(&slipped.datagram(&crypto(50, end))), named(name));
        assert_eq!(flow.push(&short()), Heard::Hold);
        flow.permit();
    }
    assert_eq!(flow.push(&client.datagram(ACK)), Heard::Pass);
}

#[test]
fn of_a_connection_that_is_denied_nothing_goes_on_and_others_do() {
    let (mut flow, mut client) = permitted();
    let mut denied = Sealer::new(Version::V1, b"denied");
    let datagram = denied.datagram(&crypto(0, &hello("evil.test")));
    assert_eq!(flow.push(&datagram), named("evil.test"));
    flow.deny();
    let never = Heard::Drop(BadQuic::Denied);
    assert_eq!(flow.push(&datagram), never);
    assert_eq!(flow.push(&denied.datagram(ACK)), never);
    assert_eq!(flow.push(&short()), Heard::Pass);
    assert_eq!(flow.push(&client.datagram(ACK)), Heard::Pass);

    let mut flow = QuicFlow::default();
    assert_eq!(flow.push(&datagram), named("evil.test"));
    flow.deny();
    assert_eq!(flow.push(&short()), Heard::Drop(BadQuic::NotInitial));
    assert_eq!(flow.push(&datagram), never);
    let mut other = Sealer::new(Version::V1, b"another");
    let other = other.datagram(&crypto(0, &hello("a.test")));
    assert_eq!(flow.push(&other), named("a.test"));
    flow.permit();
    assert_eq!(flow.push(&short()), Heard::Pass);
    assert_eq!(flow.push(&datagram), never);
    for number in 0..QUIC_CONNECTIONS_MAX {
        let mut more = Sealer::new(Version::V1, format!("evil {number:05}").as_bytes());
        let more = more.datagram(&crypto(0, &hello("evil.test")));
        assert_eq!(flow.push(&more), named("evil.test"), "the oldest gives way");
        flow.deny();
    }
    assert_eq!(
        flow.push(&datagram),
        Heard::Drop(BadQuic::Sealed),
        "for ever"
    );
}

#[test]
fn the_oldest_that_may_go_on_gives_way_and_what_it_began_with_begins_nothing_again() {
    let hello = crypto(0, &hello("a.test"));
    let mut flow = QuicFlow::default();
    let id = |number: usize| format!("connection {number:04}").into_bytes();
    for number in 0..QUIC_CONNECTIONS_MAX + QUIC_FORGOTTEN_MAX {
        let datagram = Sealer::new(Version::V1, &id(number)).datagram(&hello);
        assert_eq!(flow.push(&datagram), named("a.test"), "{number}");
        flow.permit();
    }
    let again = Sealer::new(Version::V1, &id(0)).datagram(&hello);
    assert_eq!(flow.push(&again), Heard::Drop(BadQuic::Sealed));
    let more = Sealer::new(Version::V1, b"one more").datagram(&hello);
    let too_many = Heard::Drop(BadQuic::TooManyConnections);
    assert_eq!(flow.push(&more), too_many);

    let mut flow = QuicFlow::default();
    for number in 0..QUIC_CONNECTIONS_MAX {
        let half = crypto(0, &[1, 0, 1]);
        let datagram = Sealer::new(Version::V1, &id(number)).datagram(&half);
        assert_eq!(flow.push(&datagram), Heard::Hold);
    }
    let more = Sealer::new(Version::V1, b"one more").datagram(&hello);
    assert_eq!(flow.push(&more), too_many, "none of them may go on");
}

#[test]
fn one_hello_is_judged_at_a_time() {
    let (mut flow, mut client) = (QuicFlow::default(), client(Version::V1));
    let datagram = client.datagram(&crypto(0, &hello("a.test")));
    assert_eq!(flow.push(&datagram), named("a.test"));
    let mut other = Sealer::new(Version::V1, b"other one");
    let evil = other.datagram(&crypto(0, &hello("evil.test")));
    assert_eq!(flow.push(&evil), Heard::Drop(BadQuic::Unjudged));
    flow.permit();
    assert_eq!(flow.push(&datagram), named("evil.test"));
}

#[test]
fn what_opens_with_two_keys_is_refused() {
    // One that does is hard to make; two connections with the same keys are not.
    let datagram = client(Version::V1).datagram(ACK);
    let initials = initials_of(&datagram).unwrap();
    let mut twins = [ORIGINAL, ORIGINAL].map(Connection::new);
    let opened = open(twins.iter_mut(), &initials[0]);
    assert_eq!(opened, Err(BadQuic::TwoKeys));
    let mut others = [SERVERS, ORIGINAL].map(Connection::new);
    let (index, opened) = open(others.iter_mut(), &initials[0]).unwrap();
    assert_eq!((index, &opened.frames[..5]), (1, ACK));
    let mut none = [SERVERS].map(Connection::new);
    assert_eq!(open(none.iter_mut(), &initials[0]), Err(BadQuic::Sealed));
}
