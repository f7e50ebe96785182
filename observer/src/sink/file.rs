//! A file that is put aside when it is full.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::FileTarget;

/// A file that lines are appended to. After an error it is opened anew, by the next write.
pub(super) struct RotatingFile {
    path: PathBuf,
    octets_max: u64,
    backups_max: Option<usize>,
    compress: bool,
    open: Option<Open>,
    /// The time in the last name that was given: the next one is later, whatever the clock says.
    last_nanos: i128,
}

struct Open {
    file: File,
    octets: u64,
}

impl RotatingFile {
    pub(super) fn open(target: &FileTarget) -> io::Result<Self> {
        let mut file = Self {
            path: target.path.clone(),
            octets_max: target.octets_max,
            backups_max: target.backups_max,
            compress: target.compress,
            open: None,
            last_nanos: 0,
        };
        file.reopen()?;
        Ok(file)
    }

    fn reopen(&mut self) -> io::Result<&mut Open> {
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .create(true)
            .append(true)
            .open(&self.path)?;
        let mut octets = file.metadata()?.len();
        let mut last = [b'\n'];
        if let Some(at) = octets.checked_sub(1) {
            file.read_exact_at(&mut last, at)?;
        }
        if last != [b'\n'] {
            // Half a line of a disk that was full spoils none of ours.
            file.write_all(b"\n")?;
            octets += 1;
        }
        Ok(self.open.insert(Open { file, octets }))
    }

    /// Appends whole lines.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let len = u64::try_from(lines.len()).unwrap_or(u64::MAX);
        let is_full = |open: &Open| open.octets > 0 && open.octets + len > self.octets_max;
        let aside = match self.open.as_ref().is_some_and(is_full) {
            true => Some(self.put_aside()?),
            false => None,
        };
        let open = match &mut self.open {
            Some(open) => open,
            None => self.reopen()?,
        };
        open.octets += len;
        if let Err(error) = open.file.write_all(lines) {
            self.open = None;
            return Err(error);
        }
        if let Some(aside) = aside
            && let Err(error) = self.settle(&aside)
        {
            tracing::warn!("flows that were put aside: {}: {error}", aside.display());
        }
        Ok(())
    }

    /// Renames the file to `name-TIME.ext`.
    fn put_aside(&mut self) -> io::Result<PathBuf> {
        self.open = None;
        let aside = self.free_name()?;
        fs::rename(&self.path, &aside)?;
        Ok(aside)
    }

    /// Compresses what was put aside, and takes the oldest of its kind away.
    fn settle(&self, aside: &Path) -> io::Result<()> {
        if self.compress {
            compress(aside)?;
        }
        self.take_oldest_away()
    }

    /// A name that sorts behind those that are there, and says when: by the file's last change.
    fn free_name(&mut self) -> io::Result<PathBuf> {
        let changed = fs::metadata(&self.path)?.modified()?;
        let since = changed
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let nanos = i128::try_from(since.as_nanos()).unwrap_or_default();
        let mut nanos = nanos.max(self.last_nanos + STAMP_NANOS);
        loop {
            let time = flow::Time::from_unix_nanos(nanos).file_stamp();
            let name = format!("{}-{time}{}", self.stem(), self.extension());
            let aside = self.path.with_file_name(name);
            let is_taken = aside.exists() || gzipped(&aside).exists();
            if !is_taken {
                self.last_nanos = nanos;
                return Ok(aside);
            }
            nanos += STAMP_NANOS;
        }
    }

    fn stem(&self) -> String {
        let stem = self.path.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    }

    fn extension(&self) -> String {
        match self.path.extension() {
            Some(extension) => format!(".{}", extension.to_string_lossy()),
            None => String::new(),
        }
    }

    fn take_oldest_away(&self) -> io::Result<()> {
        let Some(max) = self.backups_max else {
            return Ok(());
        };
        let mut all = self.aside()?;
        all.sort();
        for path in all.iter().take(all.len().saturating_sub(max)) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// The files that were put aside.
    fn aside(&self) -> io::Result<Vec<PathBuf>> {
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let (start, extension) = (format!("{}-", self.stem()), self.extension());
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = name.strip_suffix(".gz").unwrap_or(&name);
            let stamp = name
                .strip_prefix(&start)
                .and_then(|rest| rest.strip_suffix(&extension));
            if stamp.is_some_and(is_stamp) {
                found.push(path);
            }
        }
        Ok(found)
    }
}

/// What the stamps in names tell apart.
const STAMP_NANOS: i128 = 1_000_000;

/// Whether this is what [`flow::Time::file_stamp`] writes.
fn is_stamp(text: &str) -> bool {
    const FORM: &str = "0000-00-00T00-00-00.000";
    let same = |(a, b): (u8, u8)| a == b || (a.is_ascii_digit() && b == b'0');
    text.len() == FORM.len() && text.bytes().zip(FORM.bytes()).all(same)
}

fn gzipped(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

/// Puts a compressed file in the place of one.
fn compress(path: &Path) -> io::Result<()> {
    let draft = gzipped(&path.with_extension("draft"));
    let mut from = File::open(path)?;
    let mut to = GzEncoder::new(File::create(&draft)?, Compression::default());
    io::copy(&mut from, &mut to)?;
    to.finish()?;
    fs::rename(&draft, gzipped(path))?;
    fs::remove_file(path)
}
