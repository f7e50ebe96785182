//! The options of those who get flows without asking: with Cilium's names, where Cilium has them.

use std::path::PathBuf;

use clap::Args;
use flow::{FieldMask, Filter, FlowFilter};
use observer::{Collector, Export, FileTarget, Target};

use crate::exit::{Exit, USAGE};
use crate::exporters::{BACKUPS, FILE_MB, OCTETS_PER_MB};

/// The socket of systemd's journal.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Which flows are written to a file or sent on, and when the file is put aside.
#[derive(Args)]
#[command(next_help_heading = "Flows to a file, a collector of logs, the journal")]
pub(super) struct ExportOptions {
    /// Append flows, and what the daemon did, to a file, as JSON lines like those of Hubble's exporter; `stdout` for
    /// standard output.
    #[arg(long, value_name = "FILE", visible_alias = "flow-log")]
    hubble_export_file_path: Option<PathBuf>,
    /// Megabytes at which the file is put aside, under a name with the time.
    #[arg(long, value_name = "MB", default_value_t = FILE_MB, value_parser = clap::value_parser!(u32).range(1..))]
    hubble_export_file_max_size_mb: u32,
    /// Files that are kept of those that were put aside.
    #[arg(long, value_name = "FILES", default_value_t = BACKUPS)]
    hubble_export_file_max_backups: usize,
    /// Compress those.
    #[arg(long)]
    hubble_export_file_compress: bool,
    /// Send flows as log records to a collector of OpenTelemetry's, by OTLP over gRPC: http://127.0.0.1:4317.
    #[arg(long, value_name = "URL")]
    hubble_export_otlp_endpoint: Option<String>,
    /// Who vouches for a collector at https://… (PEM).
    #[arg(long, value_name = "FILE", requires = "hubble_export_otlp_endpoint")]
    hubble_export_otlp_ca_file: Option<PathBuf>,
    /// Send flows to systemd's journal, as entries with fields; another socket than its own by =SOCKET.
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true, default_missing_value = JOURNAL)]
    hubble_export_journald: Option<PathBuf>,
    /// To all of these only these flows: flow filters as JSON, with blanks between them; repeatable.
    #[arg(long, value_name = "JSON")]
    hubble_export_allowlist: Vec<String>,
    /// Not these: flow filters as JSON, with blanks between them; repeatable.
    #[arg(long, value_name = "JSON")]
    hubble_export_denylist: Vec<String>,
    /// Only these fields of each: time,verdict,source.pod_name …
    #[arg(long, value_name = "PATHS", value_delimiter = ',')]
    hubble_export_fieldmask: Vec<String>,
    /// Append flows, and what the daemon did, to the files that a YAML file names, each with filters and fields of its own; it is
    /// read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub(super) hubble_flowlogs_config_path: Option<PathBuf>,
}

impl ExportOptions {
    /// Who gets which flows.
    ///
    /// # Errors
    /// A filter, a path or a collector that can't be used.
    pub(super) fn exports(self) -> anyhow::Result<Vec<Export>> {
        let filters = |flag: &str, texts: &[String]| {
            let read = texts.iter().map(|text| FlowFilter::all_from_json(text));
            let filters: Result<Vec<_>, _> = read.collect();
            let filters = filters.map_err(|error| Exit::with(USAGE, format!("--{flag}: {error}")));
            filters.map(|filters| filters.concat())
        };
        let allow = filters("hubble-export-allowlist", &self.hubble_export_allowlist)?;
        let deny = filters("hubble-export-denylist", &self.hubble_export_denylist)?;
        let filter = Filter::new(&allow, &deny).map_err(|error| Exit::with(USAGE, error))?;
        let paths = self.hubble_export_fieldmask.iter().map(String::as_str);
        let mask = FieldMask::new(paths)
            .map_err(|error| Exit::with(USAGE, format!("--hubble-export-fieldmask: {error}")))?;
        let export = |to| Export {
            to,
            filter: filter.clone(),
            mask: mask.clone(),
            end: None,
            aggregate: None,
        };
        Ok(self.targets()?.into_iter().map(export).collect())
    }

    fn targets(self) -> anyhow::Result<Vec<Target>> {
        let file = self.hubble_export_file_path.map(|path| {
            Target::File(FileTarget {
                path,
                octets_max: u64::from(self.hubble_export_file_max_size_mb) * OCTETS_PER_MB,
                backups_max: Some(self.hubble_export_file_max_backups),
                compress: self.hubble_export_file_compress,
                agent_events: true,
            })
        });
        let authority = self.hubble_export_otlp_ca_file.as_deref();
        let collector = self.hubble_export_otlp_endpoint.map(|address| {
            Collector::new(&address, authority)
                .map(Target::Collector)
                .map_err(|error| {
                    Exit::with(USAGE, format!("--hubble-export-otlp-endpoint: {error}"))
                })
        });
        let journal = self.hubble_export_journald.map(Target::Journal);
        Ok(file
            .into_iter()
            .chain(collector.transpose()?)
            .chain(journal)
            .collect())
    }
}
