//! TLS whose name may be a front for one that is hidden (`encrypted_client_hello`).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may die"
)]

use std::io::{ErrorKind, Read, Write};
use std::sync::{Arc, Mutex};

use namegate_tests::{Daemon, Web, observed};

const PORT: u16 = 9_443;

/// A list of octets with its length in two octets before it.
fn long(octets: &[u8]) -> Vec<u8> {
    [
        &u16::try_from(octets.len()).unwrap().to_be_bytes()[..],
        octets,
    ]
    .concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &long(content)].concat()
}

/// A ClientHello that names a server (RFC 8446 §4.1.2), in one record.
fn hello(name: &str, has_ech: bool) -> Vec<u8> {
    let name = [&[0][..], &long(name.as_bytes())].concat();
    let mut extensions = extension(0, &long(&name));
    if has_ech {
        // An outer one: suite, configuration, key and payload (RFC 9849 §5), as GREASE has them too.
        let ech = [&[0, 0, 1, 0, 1, 7][..], &long(&[9; 32]), &long(&[5; 144])].concat();
        extensions.extend(extension(0xfe0d, &ech));
    }
    let random = [3; 32];
    let body = [
        &[3, 3][..],
        &random,
        &[0, 0, 2, 0x13, 1, 1, 0],
        &long(&extensions),
    ]
    .concat();
    let message = [&[1, 0][..], &long(&body)].concat();
    [&[0x16, 3, 1][..], &long(&message)].concat()
}

/// A server that says how much it was told, and all of that.
fn record(web: &Web) -> Arc<Mutex<Vec<u8>>> {
    let told = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&told);
    web.serve(PORT, move |stream| {
        let mut room = [0; 2_048];
        let count = stream.read(&mut room).unwrap_or(0);
        to.lock().unwrap().extend(&room[..count]);
        let _ = stream.write_all(b"heard");
    })
    .unwrap();
    told
}

fn named() -> String {
    format!("{{toPorts: [{{ports: [{{port: '{PORT}', protocol: TCP}}], serverNames: [ok.test]}}]}}")
}

fn refused(daemon: &Daemon<'_>) -> u64 {
    let status = daemon.status().unwrap();
    status["http"]["http_refused_total"]["server-name-may-be-hidden"]
        .as_u64()
        .unwrap_or(0)
}

#[test]
fn the_name_in_clear_is_judged_unless_the_option_refuses_what_may_hide_another() {
    let web = Web::new().unwrap();
    let told = record(&web);
    for refuses in [false, true] {
        let mode = if refuses { "refuse" } else { "allow-outer" };
        let option = format!("--tls-ech={mode}");
        let daemon = web.egress_with(&named(), &[&option]).unwrap();
        for has_ech in [false, true] {
            told.lock().unwrap().clear();
            let said = hello("ok.test", has_ech);
            let heard = web.say(PORT, (&said, b""));
            if refuses && has_ech {
                assert_eq!(heard.unwrap_err().kind(), ErrorKind::ConnectionReset);
                assert!(told.lock().unwrap().is_empty(), "nothing of it");
            } else {
                assert_eq!(heard.unwrap(), b"heard", "{mode} {has_ech}");
                assert_eq!(*told.lock().unwrap(), said, "{mode}: as it came");
            }
        }
        // A name that no rule has is refused for itself where none is hidden.
        let other = web.say(PORT, (&hello("evil.test", false), b""));
        assert_eq!(other.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(refused(&daemon), u64::from(refuses));
        let flows = observed(&daemon, &["--verdict", "DROPPED", "-o", "json"]).unwrap();
        let word = "\"server-name-may-be-hidden: ok.test\"";
        assert_eq!(flows.contains(word), refuses, "{flows}");
    }
}
