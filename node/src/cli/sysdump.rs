//! `namegate sysdump`.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use bpf_redirect::PinnedMaps;
use clap::Args;
use serde_json::{Value, json};

use super::layers::{Settled, Trouble, Whereabouts};
use super::{Which, config, print};
use crate::control::{self, Command};
use crate::doctor::{Patient, examine};
use crate::files::read_folder;
use crate::sysdump::{Archive, Kind};
use crate::{clock, maps};

/// Entries of one map; of more the rest is left out.
pub(crate) const MAP_ROWS_MAX: usize = 20_000;

/// What is read of the machine.
const MACHINE: [&str; 7] = [
    "/etc/os-release",
    "/proc/version",
    "/proc/meminfo",
    "/proc/mounts",
    "/proc/net/dev",
    "/sys/fs/cgroup/cgroup.controllers",
    "/sys/kernel/security/lsm",
];

/// Write one archive with all that is known of a daemon and its node, without secrets.
///
/// It has the answers of status, endpoints, identities, names and metrics, the entries of the maps, what
/// `doctor` finds, the configuration with its origins, policies, endpoint files and versions. It has
/// names and addresses of workloads, and no flows. Keys, passwords in URLs and values of headers are taken out; look
/// into it before you hand it on. What couldn't be had is in errors.txt; it works without a daemon too.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate sysdump
  namegate sysdump --output /var/tmp/node7.tar")]
pub(super) struct Sysdump {
    /// The file, which must not be there yet.
    #[arg(long, value_name = "FILE", default_value = "namegate-sysdump.tar")]
    output: PathBuf,
    /// The configuration of the daemon, as for `run`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the pins are [default: as the configuration says].
    #[arg(long, value_name = "DIR")]
    bpf_dir: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
}

/// The archive, and what couldn't be had for it.
#[derive(Default)]
struct Dump {
    archive: Archive,
    errors: Vec<String>,
}

impl Dump {
    fn add(&mut self, name: &str, part: anyhow::Result<String>) {
        match part {
            Ok(text) => self.archive.add(name, &text, Kind::Other),
            Err(error) => self.errors.push(format!("{name}: {error:#}")),
        }
    }

    /// The YAML of a folder.
    fn add_folder(&mut self, under: &str, dir: &str, kind: Kind) {
        match read_folder(Path::new(dir)) {
            Ok(files) => {
                for (number, file) in files.iter().enumerate() {
                    let name = file.path.file_name().unwrap_or_default().to_string_lossy();
                    self.archive
                        .add(&format!("{under}/{number:03}-{name}"), &file.text, kind);
                }
            }
            Err(error) => self.errors.push(format!("{under}: {error}")),
        }
    }
}

impl Sysdump {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let found = self.which.look(self.config.as_deref())?;
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.output)
            .with_context(|| self.output.display().to_string())?;
        let mut dump = Dump::default();
        let version = format!("namegate {}\n", env!("CARGO_PKG_VERSION"));
        dump.add("version.txt", Ok(version));
        let (settled, faults) = match config::read(self.config.clone(), &[]) {
            Ok(layered) => (layered.settled, Vec::new()),
            Err(Trouble::Usage(error)) => return Err(error.into()),
            Err(Trouble::Config(faults)) => (BTreeMap::new(), faults),
        };
        dump.errors.extend_from_slice(&faults);
        let socket = found.socket.clone();
        self.add_files((&settled, faults), found, &mut dump);
        add_answers(&socket, &mut dump);
        for path in MACHINE {
            let text = std::fs::read_to_string(path).map_err(Into::into);
            dump.add(&format!("machine{path}"), text);
        }
        let errors = dump.errors.join("\n") + "\n";
        dump.archive.add("errors.txt", &errors, Kind::Other);
        file.write_all(&dump.archive.finish())?;
        let missing = dump.errors.len();
        print(&format!(
            "{}: {missing} parts couldn't be had (errors.txt says why)\n",
            self.output.display()
        ))
    }

    /// What the daemon is told, and what it finds there.
    fn add_files(
        &self,
        (settled, faults): (&BTreeMap<String, Settled>, Vec<String>),
        found: Whereabouts,
        dump: &mut Dump,
    ) {
        let all: Vec<Value> = settled
            .iter()
            .map(|(key, one)| json!({ "key": key, "is": one.values, "origin": one.origin.to_string() }))
            .collect();
        dump.add("config.json", Ok(format!("{:#}\n", Value::Array(all))));
        let of = |key: &str| settled.get(key).map_or(&[][..], |one| &one.values);
        for (number, dir) in of("policy_dir").iter().enumerate() {
            dump.add_folder(&format!("policies{number}"), dir, Kind::Policy);
        }
        for dir in of("endpoint_dir") {
            dump.add_folder("endpoints", dir, Kind::Other);
        }
        let bpf_dir = self.bpf_dir.clone().unwrap_or(found.bpf_dir);
        let findings = examine(&Patient {
            settings: faults,
            socket: found.socket,
            bpf_dir: bpf_dir.clone(),
            instance: found.instance,
            policy_dirs: found.policy_dirs,
            endpoint_dir: found.endpoint_dir,
        });
        dump.add(
            "doctor.json",
            serde_json::to_string_pretty(&findings).map_err(Into::into),
        );
        if let Err(error) = add_maps(&bpf_dir, dump) {
            dump.errors.push(format!("maps: {error:#}"));
        }
    }
}

/// What the daemon says.
fn add_answers(socket: &Path, dump: &mut Dump) {
    let ask = |command: &Command| control::call(socket, command);
    let pretty = |answer: Value| format!("{answer:#}\n");
    for (name, command) in [
        ("status.json", Command::Status),
        ("endpoints.json", Command::Endpoints),
        ("identities.json", Command::Identities { number: None }),
        ("names.json", Command::FqdnCache { endpoint: None }),
    ] {
        dump.add(name, ask(&command).map(pretty));
    }
    let metrics = ask(&Command::Metrics).map(|answer| {
        let text = answer.get("metrics").and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    });
    dump.add("metrics.txt", metrics);
}

fn add_maps(dir: &Path, dump: &mut Dump) -> anyhow::Result<()> {
    let pinned = PinnedMaps::open(dir)?;
    let all = pinned.list()?;
    let summaries: Vec<Value> = all.iter().map(maps::summary).collect();
    dump.add(
        "maps/list.json",
        Ok(format!("{:#}\n", Value::Array(summaries))),
    );
    for map in &all {
        let rows = pinned.entries(&map.name, None, clock::boot_ns());
        let text = rows.map(|rows| {
            let rows = rows.iter().take(MAP_ROWS_MAX);
            rows.map(|row| format!("{}\n", maps::json(row))).collect()
        });
        dump.add(
            &format!("maps/{}.jsonl", map.name),
            text.map_err(Into::into),
        );
    }
    Ok(())
}
