//! Where flows are told to beside those who watch: a file, a collector and the journal that options name, and
//! any number of files that a YAML file names, which may change while the daemon runs. The form of that one
//! is that of Cilium's dynamic exporters.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use arc_swap::ArcSwap;
use flow::{FieldMask, Filter, FlowFilter, Time};
use observer::{Aggregate, Export, FileTarget, FlowSink, Target};
use serde::Deserialize;
use serde_json::Value;

use crate::cli::parse_duration;
use crate::clock;

/// Files at once; a set with more is refused. Each has a thread and a queue.
pub(crate) const EXPORTERS_MAX: usize = 32;
/// Octets of the YAML file; a larger one is refused.
const CONFIG_OCTETS_MAX: u64 = 1 << 20;
/// How long flows may be counted before they are told; a longer interval is refused.
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Megabytes of a file, and files that are kept, where none are given.
pub(crate) const FILE_MB: u32 = 10;
pub(crate) const BACKUPS: usize = 5;
pub(crate) const OCTETS_PER_MB: u64 = 1_000_000;

/// A way out for flows, with its name.
#[derive(Clone, Debug)]
pub(crate) struct Exporter {
    pub(crate) name: String,
    pub(crate) sink: Arc<FlowSink>,
}

/// All of them, as the thread of flows, the metrics and who tells what the agent did see them.
pub(crate) type SharedExporters = Arc<ArcSwap<Vec<Exporter>>>;

/// The names of those that options name.
const OF_OPTIONS: [&str; 3] = [FILE, COLLECTOR, JOURNAL];
const FILE: &str = "options";
const COLLECTOR: &str = "otlp";
const JOURNAL: &str = "journald";

/// The name of one that options name.
fn name_of(export: &Export) -> &'static str {
    match export.to {
        Target::File(_) => FILE,
        Target::Collector(_) => COLLECTOR,
        Target::Journal(_) => JOURNAL,
    }
}

/// All ways out for flows.
pub(crate) struct Exporters {
    node_name: Arc<str>,
    shared: SharedExporters,
    /// Where further ones are named, and what was read there last.
    config: Option<PathBuf>,
    text: Option<String>,
    /// The file as it was when it was read; none where it may be another by now and look the same.
    stamp: Option<Stamp>,
    entries: Vec<Entry>,
    /// Why the file as it is can't be used; then those of the last good one go on.
    pub(crate) fault: Option<String>,
}

/// The YAML file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Config {
    flow_logs: Vec<Entry>,
}

/// One file of flows.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    name: String,
    file_path: PathBuf,
    #[serde(default)]
    field_mask: Vec<String>,
    #[serde(default)]
    include_filters: Vec<Value>,
    #[serde(default)]
    exclude_filters: Vec<Value>,
    #[serde(default = "file_mb")]
    file_max_size_mb: u32,
    #[serde(default = "backups")]
    file_max_backups: usize,
    #[serde(default)]
    file_compress: bool,
    #[serde(default)]
    end: Option<String>,
    #[serde(default)]
    field_aggregate: Vec<String>,
    #[serde(default)]
    aggregation_interval: Option<String>,
}

fn file_mb() -> u32 {
    FILE_MB
}

fn backups() -> usize {
    BACKUPS
}

impl Entry {
    fn export(&self) -> Result<Export> {
        let filters = |values: &[Value]| -> Result<Vec<FlowFilter>> {
            let read = values
                .iter()
                .map(|value| FlowFilter::from_json(&value.to_string()));
            Ok(read.collect::<Result<_, _>>()?)
        };
        let allow = filters(&self.include_filters).context("includeFilters")?;
        let deny = filters(&self.exclude_filters).context("excludeFilters")?;
        ensure!(self.file_max_size_mb > 0, "fileMaxSizeMb: at least 1");
        let end = self.end.as_deref().map(|text| {
            Time::from_rfc3339(text)
                .with_context(|| format!("end: {text:?} is not a time (RFC 3339)"))
        });
        let aggregate = self.aggregate()?;
        // Without a mask of its own one flow tells what is equal in all that it stands for.
        let (fields, counts) = match &aggregate {
            Some(_) if self.field_mask.is_empty() => (&self.field_aggregate, Some("aggregate")),
            Some(_) => (&self.field_mask, Some("aggregate")),
            None => (&self.field_mask, None),
        };
        let paths = fields.iter().map(String::as_str).chain(counts);
        Ok(Export {
            to: Target::File(FileTarget {
                path: self.file_path.clone(),
                octets_max: u64::from(self.file_max_size_mb) * OCTETS_PER_MB,
                backups_max: Some(self.file_max_backups),
                compress: self.file_compress,
                agent_events: true,
            }),
            filter: Filter::new(&allow, &deny)?,
            mask: FieldMask::new(paths).context("fieldMask")?,
            end: end.transpose()?,
            aggregate,
        })
    }

    fn aggregate(&self) -> Result<Option<Aggregate>> {
        let interval = self.aggregation_interval.as_deref().map(parse_duration);
        let interval = interval.transpose().map_err(anyhow::Error::msg);
        let interval = interval.context("aggregationInterval")?.unwrap_or_default();
        if self.field_aggregate.is_empty() && interval.is_zero() {
            return Ok(None);
        }
        ensure!(
            !self.field_aggregate.is_empty() && !interval.is_zero(),
            "fieldAggregate and aggregationInterval: one says nothing without the other"
        );
        ensure!(
            interval <= INTERVAL_MAX,
            "aggregationInterval: at most {INTERVAL_MAX:?}"
        );
        let paths = self.field_aggregate.iter().map(String::as_str);
        let fields = FieldMask::new(paths).context("fieldAggregate")?;
        Ok(Some(Aggregate { fields, interval }))
    }
}

/// Reads the entries of a YAML file; none of them is used if one can't be.
fn read(text: &str, taken: Option<&Path>) -> Result<Vec<(Entry, Export)>> {
    let config: Config = serde_yaml::from_str(text)?;
    let entries = config.flow_logs;
    let max = EXPORTERS_MAX;
    ensure!(
        entries.len() <= max,
        "{} files of flows, and {max} are enough",
        entries.len()
    );
    let mut names = BTreeSet::from(OF_OPTIONS);
    let mut paths: BTreeSet<&Path> = taken.into_iter().collect();
    for entry in &entries {
        let name = &entry.name;
        ensure!(!name.is_empty(), "flowLogs: a name is empty");
        ensure!(
            names.insert(name.as_str()),
            "flowLogs: {name:?} is there twice"
        );
        let path = entry.file_path.as_path();
        ensure!(
            path.is_absolute() || path == Path::new(FileTarget::OUTPUT),
            "{name}: filePath: {} is not absolute",
            path.display()
        );
        ensure!(
            paths.insert(path),
            "{name}: filePath: {} is there twice",
            path.display()
        );
    }
    let with_export = |entry: &Entry| {
        let export = entry.export().with_context(|| entry.name.clone())?;
        Ok((entry.clone(), export))
    };
    entries.iter().map(with_export).collect()
}

impl Exporters {
    /// Opens those of the options, and the files of a YAML file.
    ///
    /// # Errors
    /// If one can't be used.
    pub(crate) fn start(
        of_options: Vec<Export>,
        config: Option<PathBuf>,
        node_name: Arc<str>,
    ) -> Result<Self> {
        let mut all = Self {
            node_name,
            shared: Arc::default(),
            config,
            text: None,
            stamp: None,
            entries: Vec::new(),
            fault: None,
        };
        let opened = of_options
            .into_iter()
            .map(|export| all.open(name_of(&export), export));
        let opened = opened.collect::<Result<Vec<_>>>()?;
        all.shared.store(Arc::new(opened));
        if let Some(path) = all.config.clone() {
            let text = read_text(&path)?;
            all.take(&text)
                .with_context(|| path.display().to_string())?;
            all.text = Some(text);
        }
        Ok(all)
    }

    /// All, whatever they are at the moment.
    pub(crate) fn shared(&self) -> SharedExporters {
        Arc::clone(&self.shared)
    }

    fn open(&self, name: &str, export: Export) -> Result<Exporter> {
        let place = export.to.place();
        let now = || clock::time_of_day(clock::now());
        let sink = FlowSink::start(export, Arc::clone(&self.node_name), now);
        Ok(Exporter {
            name: name.to_owned(),
            sink: Arc::new(sink.with_context(|| format!("flows for {place}"))?),
        })
    }

    /// Reads the YAML file again, if it is another or has changed. What can't be used is said, and the last
    /// good set goes on.
    pub(crate) fn look_again(&mut self) {
        let Some(path) = self.config.clone() else {
            return;
        };
        let stamp = Stamp::of(&path);
        if stamp.is_some() && stamp == self.stamp {
            return;
        }
        self.stamp = stamp.filter(|stamp| stamp.is_settled(clock::wall()));
        let text = read_text(&path);
        if text
            .as_ref()
            .is_ok_and(|text| Some(text) == self.text.as_ref())
        {
            return;
        }
        let taken = text.and_then(|text| {
            self.text = Some(text.clone());
            self.take(&text)
        });
        let fault = taken
            .err()
            .map(|error| format!("{}: {error:#}", path.display()));
        if fault != self.fault {
            match &fault {
                Some(fault) => tracing::error!("files of flows stay as they are: {fault}"),
                None => tracing::info!(
                    files = self.shared.load().len(),
                    "files of flows are others"
                ),
            }
        }
        self.fault = fault;
    }

    /// Puts another set in the place of the one there is. Files that stay the same go on; whose entry is
    /// gone writes what waits, and ends.
    fn take(&mut self, text: &str) -> Result<()> {
        let old = self.shared.load_full();
        let is_of_options = |one: &&Exporter| OF_OPTIONS.contains(&one.name.as_str());
        let mut new: Vec<Exporter> = old.iter().filter(is_of_options).cloned().collect();
        let taken = new.iter().find(|one| one.name == FILE);
        let taken = taken.map(|one| PathBuf::from(one.sink.place()));
        let wanted = read(text, taken.as_deref())?;
        for (entry, export) in &wanted {
            let is_same = self.entries.contains(entry);
            let there = old.iter().find(|one| is_same && one.name == entry.name);
            new.push(match there {
                Some(there) => there.clone(),
                None => self.open(&entry.name, export.clone())?,
            });
        }
        self.entries = wanted.into_iter().map(|(entry, _)| entry).collect();
        self.shared.store(Arc::new(new));
        Ok(())
    }

    /// Writes what waits, once nobody tells any more.
    pub(crate) fn stop(self) {
        let all = self.shared.swap(Arc::default());
        drop(self.shared);
        let all = Arc::try_unwrap(all).unwrap_or_default();
        for sink in all.into_iter().filter_map(|one| Arc::into_inner(one.sink)) {
            sink.stop();
        }
    }
}

/// What tells a file that changed from one that did not.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Stamp {
    /// The file system's number, and the file's.
    file: (u64, u64),
    octets: u64,
    changed: SystemTime,
}

impl Stamp {
    /// How long after a change another one may look the same: file systems count time in steps.
    const STEP: Duration = Duration::from_secs(2);

    fn of(path: &Path) -> Option<Self> {
        let data = fs::metadata(path).ok()?;
        Some(Self {
            file: (data.dev(), data.ino()),
            octets: data.len(),
            changed: data.modified().ok()?,
        })
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let age = now.duration_since(self.changed);
        age.is_ok_and(|age| age > Self::STEP)
    }
}

fn read_text(path: &Path) -> Result<String> {
    let failed = || path.display().to_string();
    let mut text = String::new();
    let file = fs::File::open(path).with_context(failed)?;
    let mut file = file.take(CONFIG_OCTETS_MAX + 1);
    file.read_to_string(&mut text).with_context(failed)?;
    let is_too_large = u64::try_from(text.len()).unwrap_or(u64::MAX) > CONFIG_OCTETS_MAX;
    ensure!(
        !is_too_large,
        "{}: more than {CONFIG_OCTETS_MAX} octets",
        path.display()
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exporters(config: &Path) -> Result<Exporters> {
        Exporters::start(Vec::new(), Some(config.to_owned()), "node".into())
    }

    fn names(all: &Exporters) -> Vec<String> {
        all.shared
            .load()
            .iter()
            .map(|one| one.name.clone())
            .collect()
    }

    #[test]
    fn a_set_changes_and_what_stays_the_same_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("flowlogs.yaml");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let entry = |name: &str, more: &str| {
            format!("- {{name: {name}, filePath: {}{more}}}\n", path(name))
        };
        let write = |entries: &[String]| {
            fs::write(&config, format!("flowLogs:\n{}", entries.concat())).unwrap();
        };
        write(&[entry("a", ""), entry("b", ", fieldMask: [time, verdict]")]);
        let mut all = exporters(&config).unwrap();
        assert_eq!(names(&all), ["a", "b"]);
        let a = Arc::clone(&all.shared.load()[0].sink);
        write(&[
            entry("a", ""),
            entry(
                "c",
                ", includeFilters: [{verdict: [DROPPED]}], end: 2026-01-01T00:00:00Z",
            ),
        ]);
        all.look_again();
        assert_eq!(
            (names(&all), &all.fault),
            (vec!["a".to_owned(), "c".to_owned()], &None)
        );
        assert!(Arc::ptr_eq(&a, &all.shared.load()[0].sink));
        // A bad one changes nothing, and is told.
        write(&[entry("a", ""), entry("a", "")]);
        all.look_again();
        assert_eq!(names(&all), ["a", "c"]);
        let fault = all.fault.clone().unwrap();
        assert!(fault.contains("\"a\" is there twice"), "{fault}");
        write(&[entry("a", ", fileMaxBackups: 7")]);
        all.look_again();
        assert_eq!((names(&all), &all.fault), (vec!["a".to_owned()], &None));
        assert!(!Arc::ptr_eq(&a, &all.shared.load()[0].sink));
        drop(a);
        all.stop();
    }

    #[test]
    fn a_file_is_read_again_only_when_it_is_another_or_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (config, target) = (path("flowlogs.yaml"), path("flows").display().to_string());
        let entry = |name: char| format!("flowLogs: [{{name: {name}, filePath: {target}}}]\n");
        let long_ago = clock::wall() - Duration::from_secs(60);
        let write = |name: char, at: SystemTime| {
            fs::write(&config, entry(name)).unwrap();
            let file = fs::File::options().append(true).open(&config).unwrap();
            file.set_modified(at).unwrap();
        };
        write('a', long_ago);
        let mut all = exporters(&config).unwrap();
        all.look_again();
        // Nothing says that this is another text, so it is not read.
        write('b', long_ago);
        all.look_again();
        assert_eq!(names(&all), ["a"]);
        write('b', long_ago + Duration::from_secs(1));
        all.look_again();
        assert_eq!(names(&all), ["b"]);
        // Another file of the same time and length, as a ConfigMap's link leads to it.
        fs::rename(&config, path("old.yaml")).unwrap();
        write('c', long_ago + Duration::from_secs(1));
        all.look_again();
        assert_eq!(names(&all), ["c"]);
        // What has just changed may change again without looking so.
        let now = clock::wall();
        for name in ['d', 'e'] {
            write(name, now);
            all.look_again();
            assert_eq!(names(&all), [name.to_string()]);
        }
        all.stop();
    }

    #[test]
    fn what_can_not_be_used_is_named() {
        let many = (0..=EXPORTERS_MAX).map(|n| format!("- {{name: n{n}, filePath: /x/{n}}}\n"));
        let many = many.collect::<String>();
        for (entries, said) in [
            ("- {name: a, filePath: /x, nope: 1}", "nope"),
            ("- {name: a}", "filePath"),
            ("- {name: a, filePath: x}", "is not absolute"),
            ("- {name: '', filePath: /x}", "a name is empty"),
            ("- {name: options, filePath: /x}", "is there twice"),
            (
                "- {name: a, filePath: /x}\n- {name: b, filePath: /x}",
                "/x is there twice",
            ),
            ("- {name: a, filePath: /x, fieldMask: [nope]}", "fieldMask"),
            (
                "- {name: a, filePath: /x, includeFilters: [{nope: 1}]}",
                "includeFilters",
            ),
            ("- {name: a, filePath: /x, end: tomorrow}", "is not a time"),
            ("- {name: a, filePath: /x, fileMaxSizeMb: 0}", "at least 1"),
            (
                "- {name: a, filePath: /x, fieldAggregate: [nope], aggregationInterval: 1s}",
                "fieldAggregate",
            ),
            (
                "- {name: a, filePath: /x, fieldAggregate: [verdict]}",
                "without the other",
            ),
            (
                "- {name: a, filePath: /x, aggregationInterval: 10s}",
                "without the other",
            ),
            (
                "- {name: a, filePath: /x, fieldAggregate: [verdict], aggregationInterval: soon}",
                "is not a time",
            ),
            (
                "- {name: a, filePath: /x, fieldAggregate: [verdict], aggregationInterval: 25h}",
                "at most",
            ),
            (many.as_str(), "32 are enough"),
        ] {
            let error = read(&format!("flowLogs:\n{entries}\n"), None).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(said), "{entries}: {error}");
        }
        let error = read(
            "flowLogs:\n- {name: a, filePath: /x}\n",
            Some(Path::new("/x")),
        );
        assert!(error.unwrap_err().to_string().contains("there twice"));
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("large.yaml");
        let octets = usize::try_from(CONFIG_OCTETS_MAX).unwrap() + 1;
        fs::write(&config, "#".repeat(octets)).unwrap();
        let error = exporters(&config).err().unwrap().to_string();
        assert!(error.contains("more than 1048576 octets"), "{error}");
    }
}
