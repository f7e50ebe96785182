//! What must outlive the daemon: the numbers of label sets, and what was learned.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use policy::Identities;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::remembered::Remembered;

/// The state folder.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
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
        let refused = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => error.to_string(),
            Ok(bytes) => match parse(&bytes) {
                Ok(read) => return Some(read),
                Err(error) => error,
            },
        };
        let aside = self.path.join(format!("{name}.refused"));
        let _ = std::fs::rename(&path, &aside);
        tracing::error!(file = %path.display(), aside = %aside.display(), "what the last run left can't be used: {refused}");
        None
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

    /// Keeps what was learned, likewise.
    ///
    /// # Errors
    /// If the disk says no; the old file stays then.
    pub(crate) fn remember(&self, remembered: &Remembered) -> io::Result<()> {
        self.write(LEARNED, &serde_json::to_vec(remembered)?)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut draft = tempfile::NamedTempFile::new_in(&self.path)?;
        draft.write_all(bytes)?;
        draft.as_file().sync_all()?;
        draft
            .persist(self.path.join(name))
            .map_err(|error| error.error)?;
        File::open(&self.path)?.sync_all()
    }
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

        let path = dir.path().join("state/identities.json");
        std::fs::write(&path, "{\"version\": 1, \"identities\": {").unwrap();
        assert!(state.identities().dump().is_empty());
        assert!(!path.exists() && dir.path().join("state/identities.json.refused").exists());
    }
}
