//! The options of a file of flows, with Cilium's names.

use std::path::PathBuf;

use clap::Args;
use flow::{FieldMask, Filter, FlowFilter};
use observer::Export;

use crate::exit::{Exit, USAGE};
use crate::exporters::{BACKUPS, FILE_MB, OCTETS_PER_MB};

/// Which flows are written to a file, and when it is put aside.
#[derive(Args)]
#[command(next_help_heading = "Flows to a file")]
pub(super) struct ExportOptions {
    /// Append flows to a file, as JSON lines like those of Hubble's exporter.
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
    /// Only these flows: a flow filter as JSON; repeatable.
    #[arg(long, value_name = "JSON")]
    hubble_export_allowlist: Vec<String>,
    /// Not these: a flow filter as JSON; repeatable.
    #[arg(long, value_name = "JSON")]
    hubble_export_denylist: Vec<String>,
    /// Only these fields of each: time,verdict,source.pod_name …
    #[arg(long, value_name = "PATHS", value_delimiter = ',')]
    hubble_export_fieldmask: Vec<String>,
    /// Append flows to the files that a YAML file names, each with filters and fields of its own; it is
    /// read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub(super) hubble_flowlogs_config_path: Option<PathBuf>,
}

impl ExportOptions {
    /// What is written, if something is.
    ///
    /// # Errors
    /// A filter or a path that can't be used.
    pub(super) fn export(self) -> anyhow::Result<Option<Export>> {
        let Some(path) = self.hubble_export_file_path else {
            return Ok(None);
        };
        let filters = |flag: &str, texts: &[String]| {
            let read = texts.iter().map(|text| FlowFilter::from_json(text));
            let filters: Result<Vec<_>, _> = read.collect();
            filters.map_err(|error| Exit::with(USAGE, format!("--{flag}: {error}")))
        };
        let allow = filters("hubble-export-allowlist", &self.hubble_export_allowlist)?;
        let deny = filters("hubble-export-denylist", &self.hubble_export_denylist)?;
        let filter = Filter::new(&allow, &deny).map_err(|error| Exit::with(USAGE, error))?;
        let paths = self.hubble_export_fieldmask.iter().map(String::as_str);
        let mask = FieldMask::new(paths)
            .map_err(|error| Exit::with(USAGE, format!("--hubble-export-fieldmask: {error}")))?;
        Ok(Some(Export {
            path,
            octets_max: u64::from(self.hubble_export_file_max_size_mb) * OCTETS_PER_MB,
            backups_max: Some(self.hubble_export_file_max_backups),
            compress: self.hubble_export_file_compress,
            filter,
            mask,
            end: None,
        }))
    }
}
