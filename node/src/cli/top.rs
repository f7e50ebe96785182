//! `namegate top`.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use clap::{Args, ValueEnum};
use flow::Line;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{Which, print};
use crate::clock;
use crate::control::{self, Command, stream};
use crate::top::{View, as_json};
use crate::traffic::Traffic;

/// Watch live who talks to which names: allowed and denied per second, latency, the slowest and the noisiest
/// names.
///
/// Begins with the flows that the daemon has. Where standard output is no terminal, and with --once or
/// -o json, one table of those is printed and that is all. Ctrl-C ends it. A terminal that is slow loses
/// flows, and is told how many.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate top
  namegate top --once | head
  namegate top -o json | jq '.names | sort_by(-.latency_p99_us)[:5]'")]
pub(super) struct Top {
    #[command(flatten)]
    which: Which,
    /// Print one table of the flows that are there, and end.
    #[arg(long)]
    once: bool,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Form of the output; json is printed once.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Form,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Turns without anything after which a pair or a name is forgotten.
const IDLE_TURNS: u32 = 300;
/// Lines that wait to be counted; then the daemon waits, and tells what was lost.
const LINES_MAX: usize = 4_096;
/// Columns where nobody says how many there are.
const WIDTH: usize = 120;

impl Top {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if self.once || self.output == Form::Json || !io::stdout().is_terminal() {
            return self.print_once();
        }
        self.watch()?;
        Ok(ExitCode::SUCCESS)
    }

    fn flows(
        &self,
        follow: bool,
    ) -> anyhow::Result<impl Iterator<Item = io::Result<String>> + use<>> {
        let all = control::Observe {
            follow,
            // With `follow`, no number means only what comes.
            number: if follow { u64::MAX } else { 0 },
            ..control::Observe::default()
        };
        stream(&self.which.socket()?, &Command::Observe(all))
    }

    fn print_once(&self) -> anyhow::Result<ExitCode> {
        let mut seen = Seen::default();
        for line in self.flows(false)? {
            seen.take(&line?)?;
        }
        if self.output == Form::Json {
            return print(&format!("{:#}\n", as_json(&seen.traffic, seen.lost)));
        }
        let view = View {
            width: WIDTH,
            height: None,
            interval: None,
            color: false,
        };
        let lines = view.lines(&seen.traffic, seen.lost);
        print(&format!("{}\n", lines.join("\n")))
    }

    fn watch(&self) -> anyhow::Result<()> {
        let ended = Arc::<AtomicBool>::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&ended))?;
        }
        let lines = self.flows(true)?;
        let (sender, receiver) = sync_channel(LINES_MAX);
        std::thread::spawn(move || {
            for line in lines {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let screen = Screen::begin()?;
        let watched = self.look(&receiver, &ended);
        drop(screen);
        watched
    }

    /// Draws until a signal comes or the daemon goes.
    fn look(&self, lines: &Receiver<io::Result<String>>, ended: &AtomicBool) -> anyhow::Result<()> {
        /// How soon a signal is heeded.
        const STEP: Duration = Duration::from_millis(100);
        let interval = Duration::from_secs(self.interval);
        let mut seen = Seen::default();
        let mut drawn = clock::now();
        draw(&seen, interval)?;
        while !ended.load(Ordering::Relaxed) {
            let now = clock::now();
            let left = interval.saturating_sub(now.saturating_duration_since(drawn));
            if left.is_zero() {
                seen.traffic.turn(IDLE_TURNS);
                draw(&seen, now.saturating_duration_since(drawn))?;
                drawn = now;
                continue;
            }
            match lines.recv_timeout(left.min(STEP)) {
                Ok(line) => seen.take(&line?)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the daemon is gone"),
            }
        }
        Ok(())
    }
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    traffic: Traffic,
    lost: u64,
}

impl Seen {
    fn take(&mut self, line: &str) -> anyhow::Result<()> {
        match Line::parse(line) {
            Ok(Line::Flow(flow)) => {
                self.traffic.add(&flow);
            }
            Ok(Line::LostEvents { lost, .. }) => self.lost += lost.count,
            Err(error) => anyhow::bail!("the daemon says {line}: {error}"),
        }
        Ok(())
    }
}

fn draw(seen: &Seen, interval: Duration) -> io::Result<()> {
    /// To the upper left corner; to the end of the line and of the screen.
    const HOME: &str = "\u{1b}[H";
    const REST_OF_LINE: &str = "\u{1b}[K\r\n";
    const REST: &str = "\u{1b}[J";
    let size = rustix::termios::tcgetwinsize(io::stdout());
    let (width, height) = match size {
        Ok(size) if size.ws_col > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (WIDTH, 40),
    };
    let view = View {
        width,
        // The last line's end would move the screen.
        height: Some(usize::saturating_sub(height, 1)),
        interval: Some(interval),
        color: AutoStream::choice(&io::stdout()) != ColorChoice::Never,
    };
    let lines = view.lines(&seen.traffic, seen.lost);
    let mut out = io::stdout().lock();
    write!(
        out,
        "{HOME}{}{REST_OF_LINE}{REST}",
        lines.join(REST_OF_LINE)
    )?;
    out.flush()
}

/// The terminal's other screen, until it is dropped.
struct Screen;

impl Screen {
    fn begin() -> io::Result<Self> {
        let mut out = io::stdout().lock();
        out.write_all(b"\x1b[?1049h\x1b[?25l")?;
        out.flush()?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout().lock();
        // A terminal that is gone needs nothing put right.
        let _ = out.write_all(b"\x1b[?25h\x1b[?1049l");
        let _ = out.flush();
    }
}
