//! How the story is told: short, and coloured where somebody looks.

use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use flow::{Cursor, Direction, Filter, FilterFlags, Flow, Printer};
use observer::SharedRing;

use super::Options;
use super::steps::{Shown, Step};

/// Writes to standard output.
pub(super) struct Voice {
    options: Options,
    /// What was in force in the step before.
    known: Vec<&'static str>,
}

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const CYAN: &str = "\x1b[36m";
const RESET: &str = "\x1b[0m";
/// How long the last flows of a step may take to arrive.
const FLOWS_WAIT: Duration = Duration::from_millis(300);

impl Voice {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            known: Vec::new(),
        }
    }

    pub(super) fn say_opening(&mut self) -> Result<()> {
        self.say(BOLD, "Namegate: a shop's pods on a node of their own")?;
        self.say(
            "",
            "internal-client calls productpage, which calls details and reviews, which call ratings;\n\
             coredns knows the names; ifconfig.me and cnn.com are outside. Real packets, real programs,\n\
             nothing of this machine's network is touched.",
        )
    }

    pub(super) fn say_step(&mut self, step: &Step) -> Result<()> {
        self.say(BOLD, &format!("\n{}  {}", step.number, step.title))?;
        for policy in step.policies {
            if self.known.contains(policy) {
                let name = policy
                    .split_once("{name: ")
                    .and_then(|(_, rest)| rest.split_once('}'));
                self.say_note(&format!(
                    "{} as before",
                    name.map_or("the policy", |(name, _)| name)
                ))?;
                continue;
            }
            let spec = policy
                .split_once("spec:\n")
                .map_or(*policy, |(_, spec)| spec);
            for line in spec.lines().filter(|line| *line != "---") {
                self.say(CYAN, &format!("   {line}"))?;
            }
        }
        self.known = step.policies.to_vec();
        Ok(())
    }

    pub(super) fn say_command(&mut self, pod: &str, command: &str) -> Result<()> {
        self.say(BOLD, &format!("   {pod}$ {command}"))
    }

    pub(super) fn say_result(&mut self, text: &str) -> Result<()> {
        text.lines()
            .try_for_each(|line| self.say("", &format!("   {line}")))
    }

    pub(super) fn say_note(&mut self, text: &str) -> Result<()> {
        self.say(DIM, &format!("   ({text})"))
    }

    /// The flows of a step, as `hubble observe` prints them.
    pub(super) fn say_flows(
        &mut self,
        ring: &SharedRing,
        since: Cursor,
        shown: Shown,
    ) -> Result<()> {
        let mut flags = FilterFlags::default();
        for (flag, value) in shown.filters {
            flags.allow(flag, value)?;
        }
        let (allow, deny) = flags.filters();
        let filter = Filter::new(&allow, &deny)?;
        let flows: Vec<Arc<Flow>> = collect(ring, since)
            .into_iter()
            // Of a flow between two pods both ends tell; the one who sends is enough here.
            .filter(|flow| flow.traffic_direction != Direction::Ingress && filter.matches(flow))
            .collect();
        let compact = Printer {
            color: self.options.color,
            ..Printer::default()
        };
        for flow in flows.iter().take(shown.at_most) {
            let mut line = String::from("   ");
            compact.write(flow, &mut line);
            self.say("", &line)?;
        }
        if flows.len() > shown.at_most {
            self.say_note(&format!("and {} more", flows.len() - shown.at_most))?;
        }
        Ok(())
    }

    pub(super) fn pause(&mut self) -> Result<()> {
        if self.options.step {
            self.say(DIM, "   Enter goes on")?;
            io::stdin().lock().read_line(&mut String::new())?;
        }
        Ok(())
    }

    pub(super) fn say_kept(&mut self) -> Result<()> {
        self.say(BOLD, "\nThe stage stays. Things to try:")?;
        for (program, arguments) in [
            ("dig", "@10.0.0.10 ifconfig.me"),
            ("dig", "@10.0.0.10 cnn.com"),
            ("curl", "-m 2 http://198.51.100.44/"),
        ] {
            let missing = if is_installed(program) {
                ""
            } else {
                "   (not installed here)"
            };
            self.say(
                "",
                &format!(
                    "   ip netns exec namegate-demo-internal-client {program} {arguments}{missing}"
                ),
            )?;
        }
        self.say("", "   namegate demo --clean          takes it away")
    }

    pub(super) fn say_closing(&mut self) -> Result<()> {
        self.say(
            BOLD,
            "\nThat was it; nothing is left behind. Next: `namegate run --help`, README.md",
        )
    }

    fn say(&mut self, style: &str, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        if self.options.color && !style.is_empty() {
            writeln!(out, "{style}{text}{RESET}")?;
        } else {
            writeln!(out, "{text}")?;
        }
        Ok(out.flush()?)
    }
}

/// What came behind a cursor, once nothing more comes for a moment.
fn collect(ring: &SharedRing, since: Cursor) -> Vec<Arc<Flow>> {
    let mut cursor = since;
    let mut flows = Vec::new();
    loop {
        let batch = ring.wait_from(cursor, FLOWS_WAIT);
        if batch.flows.is_empty() {
            return flows;
        }
        cursor = batch.cursor;
        flows.extend(batch.flows);
    }
}

/// Whether a program is found where a shell would look.
fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
