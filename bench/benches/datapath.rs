//! What a packet costs in the programs, what a change of policy costs in the maps, and what they take
//! of memory. Needs root. README.md says what each line means.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bpf_redirect::packet::{NEXT, REDIRECT, SHOT};
use bpf_redirect::{Hook, Timed};
use bpf_redirect_common::{CT_MAX, ENDPOINTS_MAX, Kind, LEARNED_MAX, Verdict};
use namegate_bench::datapath::{Entry, Guarded, L4, SERVER, entry, framed, open_ingress, out};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ACK: u8 = 0x10;

/// Rounds, of which the median counts: each goes through all paths in turn.
const ROUNDS: usize = 7;
/// Runs of each path in a round.
const RUNS: u32 = 200_000;

/// A way through a program.
struct Path {
    name: &'static str,
    timed: Timed,
    /// They take turns.
    packets: Vec<Vec<u8>>,
    code: i32,
}

fn main() -> Result<()> {
    let mut out = std::io::stdout();
    packets(&mut out)?;
    updates(&mut out)?;
    memory(&mut out)
}

/// Everything that one policy can be asked, then what needs another one or a fuller table.
fn packets(to: &mut impl std::io::Write) -> Result<()> {
    writeln!(to, "packet: ns, to an empty program, to a look-up")?;
    let mut kernel = Guarded::new()?;
    kernel.enforce(&policy(&[(TCP, 80, 16)]))?;
    kernel.ask_upstream(20_000)?;
    table(to, &mut kernel, ordinary()?)?;
    for count in [1_000, 30_000] {
        let name = match count {
            1_000 => "known flow, each of 1,000 in turn",
            _ => "known flow, each of 30,000 in turn",
        };
        let packets = kernel.open_flows(count)?;
        let path = Path {
            packets,
            ..sent(name, out(UDP, 1, 80).bytes(), NEXT)
        };
        table(to, &mut kernel, vec![path])?;
    }
    kernel.datapath.sweep_flows(|_, _| true)?;
    let syn = || out(TCP, 1_000, 8_500).bytes();
    // 8000 to 8999, and 1 to 65534.
    kernel.enforce(&policy(&parts(8_000, 8_999)))?;
    table(
        to,
        &mut kernel,
        vec![sent("new flow, port of a range", syn(), NEXT)],
    )?;
    kernel.enforce(&policy(&parts(1, 65_534)))?;
    let path = sent("new flow, a range of all lengths", syn(), NEXT);
    table(to, &mut kernel, vec![path])?;
    kernel.enforce(&[entry(0, (0, 0, 0), Verdict::Allow), open_ingress()])?;
    table(
        to,
        &mut kernel,
        vec![sent("new flow, no policy", syn(), NEXT)],
    )?;
    kernel.enforce_many(10_000)?;
    let path = sent(
        "new flow, 10,000 entries",
        out(TCP, 1_000, 443).bytes(),
        NEXT,
    );
    table(to, &mut kernel, vec![path])
}

/// DNS goes to the proxy; UDP 80 of everybody and some ports of the server are open.
fn policy(ports: &[L4]) -> Vec<Entry> {
    let mut entries = vec![
        entry(0, (UDP, 53, 16), Verdict::Redirect),
        entry(0, (UDP, 80, 16), Verdict::Allow),
        open_ingress(),
    ];
    let ports = ports.iter();
    entries.extend(ports.map(|l4| entry(SERVER, *l4, Verdict::Allow)));
    entries
}

/// The prefixes that a range of TCP ports is made of.
fn parts(first: u16, last: u16) -> Vec<L4> {
    let mut parts = Vec::new();
    let (mut from, last) = (u32::from(first), u32::from(last));
    while from <= last {
        let free = from.trailing_zeros().min((last - from + 1).ilog2());
        parts.push((TCP, from as u16, 16 - free as u8));
        from += 1 << free;
    }
    parts
}

fn sent(name: &'static str, packet: Vec<u8>, code: i32) -> Path {
    Path {
        name,
        timed: Timed::Hook(Hook::FromEndpoint),
        packets: vec![packet],
        code,
    }
}

fn ordinary() -> Result<Vec<Path>> {
    let known = out(TCP, 1_000, 80).flags(ACK);
    let mut arp = known.bytes();
    let kind = arp.get_mut(12..14).context("a frame")?;
    kind.copy_from_slice(&[0x08, 0x06]);
    let at = |name, timed, packet, code| Path {
        timed,
        ..sent(name, packet, code)
    };
    let to_endpoint = Timed::Hook(Hook::ToEndpoint);
    let answer = out(UDP, 20_000, 53).answer().bytes();
    Ok(vec![
        at("an empty program", Timed::Nothing, known.bytes(), NEXT),
        at("one look-up", Timed::LookUp, known.bytes(), NEXT),
        sent("not judged (ARP)", arp, NEXT),
        sent(
            "query to the proxy, UDP",
            out(UDP, 1_000, 53).bytes(),
            REDIRECT,
        ),
        at(
            "answer of the proxy, delivered",
            Timed::Hook(Hook::NodeEnd),
            framed(Kind::Client, 53)?,
            REDIRECT,
        ),
        at("answer to the proxy, caught", to_endpoint, answer, REDIRECT),
        sent("new flow, allowed", out(TCP, 1_000, 80).bytes(), NEXT),
        sent("new flow, denied", out(TCP, 1_000, 81).bytes(), SHOT),
        sent("known flow, TCP", known.bytes(), NEXT),
        at(
            "its reply",
            to_endpoint,
            known.answer().flags(ACK).bytes(),
            NEXT,
        ),
        sent("known flow, UDP", out(UDP, 1_000, 80).bytes(), NEXT),
    ])
}

/// Times paths beside the two yardsticks and writes a line for each.
fn table(to: &mut impl std::io::Write, kernel: &mut Guarded, paths: Vec<Path>) -> Result<()> {
    let yardsticks = ordinary()?.into_iter().take(2);
    let is_first = paths.len() > 1;
    let paths: Vec<Path> = match is_first {
        true => paths,
        false => yardsticks.chain(paths).collect(),
    };
    let mut times: Vec<Vec<f64>> = paths.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (path, times) in paths.iter().zip(&mut times) {
            times.push(run(kernel, path)?);
        }
    }
    let medians: Vec<f64> = times.into_iter().map(median).collect();
    let [nothing, look_up, ..] = medians.as_slice() else {
        return Ok(());
    };
    for (index, (path, time)) in paths.iter().zip(&medians).enumerate() {
        if is_first || index > 1 {
            let (to_nothing, to_look_up) = (time / nothing, time / look_up);
            let name = path.name;
            writeln!(to, "{name:40} {time:6.0} {to_nothing:6.1} {to_look_up:6.1}")?;
        }
    }
    Ok(())
}

/// Nanoseconds of one run.
fn run(kernel: &mut Guarded, path: &Path) -> Result<f64> {
    let turns = path.packets.len() as u32;
    let mut total = 0.0;
    for packet in &path.packets {
        let repeat = (RUNS / turns).max(1);
        let (code, time) = kernel.datapath.time_packet(path.timed, packet, repeat)?;
        ensure!(code == path.code, "{}: {code}", path.name);
        total += time.as_nanos() as f64;
    }
    Ok(total / f64::from(turns))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// What it takes until a change is in force.
fn updates(to: &mut impl std::io::Write) -> Result<()> {
    writeln!(to, "update: µs")?;
    let mut kernel = Guarded::new()?;
    for count in [1, 100, 10_000] {
        let time = timed(|| kernel.enforce_many(count), 15)?;
        writeln!(to, "a policy of {count} entries {time:25.0}")?;
    }
    kernel.enforce(&[open_ingress()])?;
    for count in [1, 1_000, 100_000] {
        kernel.learn_up_to(count)?;
        let learn = timed(|| kernel.learn(), 1_000)?;
        let unlearn = timed(|| kernel.unlearn(), 1_000)?;
        writeln!(to, "one address more than {count} {learn:22.1}")?;
        writeln!(to, "and away with it {unlearn:34.1}")?;
    }
    for (name, at_once) in [("one by one", false), ("at once", true)] {
        let mut turn = u32::from(at_once);
        let restore = || {
            turn += 2;
            kernel.restore((100_000, turn), at_once)
        };
        let time = timed(restore, 5)?;
        writeln!(to, "100,000 addresses restored, {name} {time:16.0}")?;
    }
    Ok(())
}

/// The median of some calls, in microseconds.
#[expect(
    clippy::disallowed_methods,
    reason = "an Instant can be had in no other way"
)]
fn timed(mut what: impl FnMut() -> Result<()>, calls: usize) -> Result<f64> {
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let start = Instant::now();
        what()?;
        times.push(micros(start.elapsed()));
    }
    Ok(median(times))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// What the kernel says that the maps take.
fn memory(to: &mut impl std::io::Write) -> Result<()> {
    writeln!(to, "memory: KiB")?;
    let mut kernel = Guarded::new()?;
    for count in [1, 100, 1_000, 10_000] {
        kernel.enforce_many(count)?;
        let size = map_kib(&[("map_type:", 1), ("key_size:", 8), ("value_size:", 8)])?;
        writeln!(to, "policy of {count} entries {size:27.0}")?;
    }
    kernel.enforce(&policy(&[]))?;
    let learned = [("max_entries:", LEARNED_MAX)];
    let empty = map_kib(&learned)?;
    kernel.learn_up_to(100_000)?;
    let full = map_kib(&learned)?;
    writeln!(to, "learned addresses: none {empty:26.0}")?;
    writeln!(to, "1,000 of them {:36.1}", (full - empty) / 100.0)?;
    let flows = [("max_entries:", CT_MAX)];
    let empty = map_kib(&flows)?;
    kernel.open_flows(30_000)?;
    let full = map_kib(&flows)?;
    writeln!(to, "flows: none {empty:38.0}")?;
    writeln!(to, "1,000 of them {:36.1}", (full - empty) / 30.0)?;
    Ok(())
}

/// The memory of the map of ours of which these things are so.
fn map_kib(of: &[(&str, usize)]) -> Result<f64> {
    for entry in std::fs::read_dir("/proc/self/fdinfo")? {
        // The folder's own descriptor is gone by now.
        let Ok(text) = std::fs::read_to_string(entry?.path()) else {
            continue;
        };
        let field = |name: &str| -> Option<usize> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        // The list of cgroups has keys and values as a policy's map.
        let is_list = field("max_entries:") == Some(ENDPOINTS_MAX);
        if !is_list && of.iter().all(|(name, value)| field(name) == Some(*value)) {
            return Ok(field("memlock:").context("no memlock")? as f64 / 1_024.0);
        }
    }
    anyhow::bail!("no map is so: {of:?}")
}
