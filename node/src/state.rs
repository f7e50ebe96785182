//! What must outlive the daemon: the numbers of label sets, and what was learned.
//!
//! A file is two lines of JSON: a seal that says how long the second one is and what its sum is, and what
//! is kept.

mod writer;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use policy::Identities;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

pub(crate) use writer::Writer;

use crate::lately::Lately;
use crate::remembered::Remembered;

/// The state folder.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    /// Files that could not be used, and why.
    refused: RefCell<Vec<String>>,
    /// Locked while this lives: two daemons with one name would take each other's pins away.
    _lock: File,
}

/// `identities.json`.
#[derive(Serialize, Deserialize)]
struct IdentityFile {
    version: u32,
    /// Sorted label text to number.
    identities: BTreeMap<String, u32>,
}

const IDENTITIES: &str = "identities.json";
const LEARNED: &str = "learned.json";
const VERSION: u32 = 1;
/// Octets of a state file; a longer one is none of ours and is refused.
const FILE_OCTETS_MAX: u64 = 64 << 20;

/// The first line of a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    octets: usize,
    /// Of the second line (CRC-32, as in gzip).
    crc32: u32,
}

impl StateDir {
    /// The folder, made if it isn't there, and locked.
    ///
    /// # Errors
    /// If it can't be made, or another daemon has it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let lock = File::open(path)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                refused: RefCell::default(),
                _lock: lock,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(io::Error::other(
                "another daemon uses it; give this one an --instance of its own",
            )),
            Err(error) => Err(error.into()),
        }
    }

    /// The numbers of the last run. A file that can't be used is set aside and said; the numbers then
    /// start anew.
    pub(crate) fn identities(&self) -> Identities {
        let parse = |bytes: &[u8]| {
            let file: IdentityFile =
                serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
            if file.version != VERSION {
                return Err(format!("version {} instead of {VERSION}", file.version));
            }
            Identities::restore(file.identities).map_err(|error| error.to_string())
        };
        self.read(IDENTITIES, parse).unwrap_or_default()
    }

    /// What the last run had learned, as with [`StateDir::identities`].
    pub(crate) fn remembered(&self) -> Remembered {
        self.read(LEARNED, Remembered::parse).unwrap_or_default()
    }

    /// What a file says; one that can't be used is set aside and said.
    fn read<T>(&self, name: &str, parse: impl Fn(&[u8]) -> Result<T, String>) -> Option<T> {
        let path = self.path.join(name);
        let refused = match read_bounded(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => error.to_string(),
            Ok(bytes) => match unseal(&bytes).and_then(&parse) {
                Ok(read) => return Some(read),
                Err(error) => error,
            },
        };
        let aside = self.path.join(format!("{name}.refused"));
        let _ = std::fs::rename(&path, &aside);
        tracing::error!(file = %path.display(), aside = %aside.display(), "what the last run left can't be used: {refused}");
        self.refused.borrow_mut().push(format!("{name}: {refused}"));
        None
    }

    /// What could not be used of what the last run left.
    pub(crate) fn refused(&self) -> Vec<String> {
        self.refused.borrow().clone()
    }

    /// Keeps the numbers: written aside, synced, renamed.
    ///
    /// # Errors
    /// If the disk says no; the old file stays then.
    pub(crate) fn keep(&self, identities: &BTreeMap<String, u32>) -> io::Result<()> {
        let file = IdentityFile {
            version: VERSION,
            identities: identities.clone(),
        };
        self.write(IDENTITIES, &serde_json::to_vec_pretty(&file)?)
    }

    /// Who keeps what was learned, likewise; what was noted of it `lately` isn't needed then.
    ///
    /// # Errors
    /// If its thread can't be made.
    pub(crate) fn writer(&self, lately: Option<Arc<Lately>>) -> io::Result<Writer> {
        let dir = self.path.clone();
        Writer::start(move |remembered| {
            write(&dir, LEARNED, &serde_json::to_vec(remembered)?)?;
            if let Some(lately) = &lately {
                lately.written();
            }
            Ok(())
        })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        write(&self.path, name, bytes)
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_OCTETS_MAX + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_OCTETS_MAX {
        return Err(io::Error::other("too long"));
    }
    Ok(bytes)
}

/// What is kept, if it is all there and as it was written.
fn unseal(bytes: &[u8]) -> Result<&[u8], String> {
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let (Some(seal), Some(kept)) = (lines.next(), lines.next()) else {
        return Err("no seal".to_owned());
    };
    let seal: Seal = serde_json::from_slice(seal).map_err(|error| format!("the seal: {error}"))?;
    if seal.octets != kept.len() {
        return Err(format!("{} octets instead of {}", kept.len(), seal.octets));
    }
    if seal.crc32 != crc32fast::hash(kept) {
        return Err("another sum than was written".to_owned());
    }
    Ok(kept)
}

/// Seals what is to be kept and writes it aside, synced, renamed.
fn write(dir: &Path, name: &str, kept: &[u8]) -> io::Result<()> {
    let seal = serde_json::to_vec(&Seal {
        octets: kept.len(),
        crc32: crc32fast::hash(kept),
    })?;
    let mut draft = tempfile::NamedTempFile::new_in(dir)?;
    for part in [&seal, &b"\n"[..], kept] {
        draft.write_all(part)?;
    }
    draft.as_file().sync_all()?;
    draft.persist(dir.join(name)).map_err(|error| error.error)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_one_daemons() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap();
        assert!(
            StateDir::open(dir.path())
                .unwrap_err()
                .to_string()
                .contains("--instance")
        );
        drop(first);
        StateDir::open(dir.path()).unwrap();
    }

    #[test]
    fn numbers_survive_and_a_torn_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("state")).unwrap();
        let mut identities = state.identities();
        let mut labels = policy::Labels::default();
        labels.insert(policy::Label::new("k8s", "app", "a"));
        let number = identities.label_identity(&labels).unwrap();
        state.keep(&identities.dump()).unwrap();
        let mut again = state.identities();
        assert_eq!(again.label_identity(&labels).unwrap(), number);

        assert!(state.refused().is_empty());

        let path = dir.path().join("state/identities.json");
        let aside = dir.path().join("state/identities.json.refused");
        let whole = std::fs::read(&path).unwrap();
        let flipped = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        };
        let mut wrong = (0..whole.len()).map(flipped).collect::<Vec<_>>();
        wrong.extend((0..whole.len()).map(|len| whole[..len].to_vec()));
        wrong.push([&whole[..], b" "].concat());
        wrong.push(vec![b' '; FILE_OCTETS_MAX as usize + 1]);
        let count = wrong.len();
        for bytes in wrong {
            std::fs::write(&path, &bytes).unwrap();
            assert!(state.identities().dump().is_empty());
            assert!(!path.exists());
            assert_eq!(std::fs::read(&aside).unwrap(), bytes);
        }
        assert_eq!(state.refused().len(), count);
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(state.identities().dump(), again.dump());
    }
}
