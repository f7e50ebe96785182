//! What a connection may hold, and what becomes of what it held.

use super::*;
use crate::limits::TCP_CONNECTIONS_PER_ENDPOINT_MAX;
use crate::testing::{QNAME, TXT};

/// As long as nothing comes: enough for what would come.
const MOMENT: Duration = Duration::from_millis(300);

fn comes_nothing(stream: &mut std::net::TcpStream) -> bool {
    stream.set_read_timeout(Some(MOMENT)).unwrap();
    let read = stream.read(&mut [0]);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn denied(id: u16) -> Draft {
    Draft::query(id, "denied.com", A)
}

fn answer(id: u16) -> Draft {
    Draft::answer(id, "good.com", A)
}

/// The id of the next query that a server reads.
fn next_of(server: &mut std::net::TcpStream) -> u16 {
    id_of(&read_frame(server))
}

/// Answers the next query without an address.
fn answer_next(server: &mut std::net::TcpStream) {
    let id = next_of(server);
    server.write_all(&frames([answer(id)])).unwrap();
}

/// The id and the code of the next answer that a client reads.
fn told(client: &mut std::net::TcpStream) -> (u16, u8) {
    let answer = read_frame(client);
    (id_of(&answer), answer[3] & 0x0f)
}

/// Waits until so much is counted.
fn wait_for(stage: &Stage, (family, word): (&str, &str), count: u64) {
    let began = Instant::now();
    while stage.count(family, word) < count {
        assert!(began.elapsed() < PATIENCE, "{family} {word} below {count}");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(stage.count(family, word), count, "{family} {word}");
}

#[test]
fn an_answer_that_is_withheld_holds_up_none_of_its_neighbours() {
    let stage = Stage::new();
    let mut client = stage.connect();
    client.write_all(&frames((0..3).map(query))).unwrap();
    let (mut server, _) = stage.upstream.accept().unwrap();
    let asked: Vec<u16> = (0..3).map(|_| next_of(&mut server)).collect();
    // The last one first, then one that can't be installed, then the first.
    let answers = [(2, "192.0.2.3"), (1, LATE), (0, "192.0.2.1")];
    let answers = answers.map(|(place, ip)| answer(asked[place]).address(60, ip));
    server.write_all(&frames(answers)).unwrap();
    let got = [(); 3].map(|()| told(&mut client));
    assert_eq!(got, [(2, 0), (1, 2), (0, 0)]);
    assert_eq!(stage.count("dns_faults_total", "install-timeout"), 1);
    client.write_all(&frames([query(9)])).unwrap();
    answer_next(&mut server);
    assert_eq!(told(&mut client), (9, 0), "both connections go on");
    stage.end();
}

#[test]
fn a_denied_frame_is_answered_among_others_and_the_connection_lives() {
    let stage = Stage::new();
    let mut client = stage.connect();
    let all = frames([query(1), denied(2), query(3)]);
    client.write_all(&all).unwrap();
    assert_eq!(told(&mut client), (2, 3), "at once");
    let (mut server, _) = stage.upstream.accept().unwrap();
    for id in [1, 3] {
        answer_next(&mut server);
        assert_eq!(told(&mut client), (id, 0));
    }
    stage.end();
}

#[test]
fn who_resets_its_connection_is_gone_and_nothing_is_learned() {
    let stage = Stage::new();
    let mut client = stage.connect();
    client.write_all(&frames((0..3).map(query))).unwrap();
    let (mut server, _) = stage.upstream.accept().unwrap();
    let asked: Vec<u16> = (0..3).map(|_| next_of(&mut server)).collect();
    // A close that waits for nothing is a reset.
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    drop(client);
    assert!(is_closed(&mut server), "the connection upstream ends too");
    wait_for(&stage, ("dns_exchanges_total", "client-gone"), 3);
    let answers = asked
        .into_iter()
        .map(|id| answer(id).address(60, "192.0.2.1"));
    let _ = server.write_all(&frames(answers));
    let mut next = stage.connect();
    next.write_all(&frames([query(7)])).unwrap();
    let (mut server, _) = stage.upstream.accept().unwrap();
    answer_next(&mut server);
    assert_eq!(told(&mut next), (7, 0));
    assert!(stage.proxy.host.waits.lock().unwrap().is_empty());
    stage.end();
}

/// Answers everything with some fifty thousand octets; gives how many that were.
fn serve_much(mut server: std::net::TcpStream) -> usize {
    let mut served = 0;
    let text = [&[255][..], &[b'x'; 255]].concat().repeat(200);
    let mut length = [0; 2];
    while server.read_exact(&mut length).is_ok() {
        let mut asked = vec![0; usize::from(u16::from_be_bytes(length))];
        server.read_exact(&mut asked).unwrap();
        let answer = Draft::answer(id_of(&asked), "good.com", TXT);
        let answer = frames([answer.record(&QNAME, TXT, 60, &text)]);
        if server.write_all(&answer).is_err() {
            break;
        }
        served += answer.len();
    }
    served
}

/// What the kernel keeps at both ends of both connections, and our quarter of a mebioctet.
const BUFFERED_OCTETS_MAX: usize = 12 << 20;

#[test]
fn who_does_not_read_is_closed() {
    let stage = Stage::new();
    let mut client = stage.connect();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    let ask = |id| frames([Draft::query(id, "good.com", TXT)]);
    client.write_all(&ask(0)).unwrap();
    let (server, _) = stage.upstream.accept().unwrap();
    let serving = std::thread::spawn(|| serve_much(server));
    // More than all buffers of the kernel hold.
    for id in (1..=u16::MAX).cycle() {
        if client.write_all(&ask(id)).is_err() {
            break;
        }
    }
    let served = serving.join().unwrap();
    wait_for(&stage, ("dns_quirks_total", "reader-slow"), 1);
    assert!(served < BUFFERED_OCTETS_MAX, "{served}");
    stage.end();
}

#[test]
fn whoever_asks_nothing_for_thirty_seconds_is_closed_and_no_sooner() {
    let stage = Stage::new();
    let mut client = stage.connect();
    // Once it is answered it is taken in.
    client.write_all(&frames([denied(1)])).unwrap();
    assert_eq!(told(&mut client), (1, 3));
    stage.pass(29_999);
    assert!(comes_nothing(&mut client));
    // What is denied is asked all the same.
    client.write_all(&frames([denied(2)])).unwrap();
    assert_eq!(told(&mut client), (2, 3));
    stage.pass(29_999);
    assert!(comes_nothing(&mut client));
    // While something is outstanding nobody is idle.
    client.write_all(&frames([query(3)])).unwrap();
    let (mut server, _) = stage.upstream.accept().unwrap();
    let id = next_of(&mut server);
    stage.pass(9_000);
    server.write_all(&frames([answer(id)])).unwrap();
    assert_eq!(told(&mut client), (3, 0));
    stage.pass(29_999);
    assert!(comes_nothing(&mut client));
    stage.pass(1);
    assert!(is_closed(&mut client));
    assert!(is_closed(&mut server));
    stage.end();
}

#[test]
fn a_frame_has_five_seconds_and_no_more() {
    let stage = Stage::new();
    let mut client = stage.connect();
    let whole = frames([denied(2)]);
    let (first, last) = whole.split_at(whole.len() - 1);
    client.write_all(first).unwrap();
    assert!(comes_nothing(&mut client));
    stage.pass(4_999);
    assert!(comes_nothing(&mut client));
    client.write_all(last).unwrap();
    assert_eq!(told(&mut client), (2, 3));
    client.write_all(first).unwrap();
    assert!(comes_nothing(&mut client));
    stage.pass(5_000);
    assert!(is_closed(&mut client));
    assert_eq!(stage.count("dns_quirks_total", "frame-slow"), 1);
    stage.end();
}

#[test]
fn malformed_frames_close_only_in_a_row() {
    let stage = Stage::new();
    let mut client = stage.connect();
    let malformed = |id| query(id).with(4, 2);
    for id in 0..10 {
        let all = frames([malformed(id), malformed(id), denied(id)]);
        client.write_all(&all).unwrap();
        let got = [(); 3].map(|()| told(&mut client));
        assert_eq!(got, [(id, 1), (id, 1), (id, 3)]);
    }
    assert_eq!(stage.count("dns_quirks_total", "frames-malformed"), 0);
    client.write_all(&frames((0..3).map(malformed))).unwrap();
    for id in 0..3 {
        assert_eq!(told(&mut client), (id, 1));
    }
    assert!(is_closed(&mut client));
    assert_eq!(stage.count("dns_quirks_total", "frames-malformed"), 1);
    stage.end();
}

#[test]
fn sixty_four_wait_upstream_on_one_connection_and_the_rest_with_the_client() {
    const COUNT: u16 = 200;
    let stage = Stage::new();
    let mut client = stage.connect();
    client.write_all(&frames((0..COUNT).map(query))).unwrap();
    let (mut server, _) = stage.upstream.accept().unwrap();
    let mut asked: Vec<u16> = (0..TCP_OUTSTANDING_MAX)
        .map(|_| next_of(&mut server))
        .collect();
    assert!(comes_nothing(&mut server), "no more than those");
    for turn in 0..COUNT {
        let answer = answer(asked.remove(0));
        server.write_all(&frames([answer])).unwrap();
        assert_eq!(told(&mut client), (turn, 0));
        if usize::from(turn) + TCP_OUTSTANDING_MAX < usize::from(COUNT) {
            asked.push(next_of(&mut server));
        }
    }
    stage.upstream.set_nonblocking(true).unwrap();
    assert!(stage.upstream.accept().is_err(), "one connection for all");
    stage.end();
}

#[test]
fn an_endpoint_has_so_many_connections_and_the_oldest_idle_one_makes_room() {
    let stage = Stage::new();
    let open = |_| {
        let mut client = stage.connect();
        client.write_all(&frames([query(1)])).unwrap();
        let (mut server, _) = stage.upstream.accept().unwrap();
        let asked = next_of(&mut server);
        (client, server, asked)
    };
    let mut busy: Vec<_> = (0..TCP_CONNECTIONS_PER_ENDPOINT_MAX).map(open).collect();
    assert!(is_closed(&mut stage.connect()), "all are busy");
    assert_eq!(stage.count("dns_quirks_total", "connection-refused"), 1);
    // Two become idle, the second one first.
    for place in [1, 0] {
        let (client, server, asked) = &mut busy[place];
        server.write_all(&frames([answer(*asked)])).unwrap();
        assert_eq!(told(client), (1, 0));
        assert!(comes_nothing(client));
        stage.pass(1);
    }
    let mut next = stage.connect();
    next.write_all(&frames([denied(2)])).unwrap();
    assert_eq!(told(&mut next), (2, 3), "it is served");
    assert!(is_closed(&mut busy[1].0), "the oldest idle one made room");
    assert_eq!(stage.count("dns_quirks_total", "connection-replaced"), 1);
    assert!(comes_nothing(&mut busy[0].0), "the other one stays");
    stage.end();
}
