//! What must outlive the daemon: the numbers of label sets.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use policy::Identities;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

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
        let path = self.path.join(IDENTITIES);
        let refused = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Identities::new(),
            Err(error) => error.to_string(),
            Ok(bytes) => match serde_json::from_slice::<IdentityFile>(&bytes) {
                Err(error) => error.to_string(),
                Ok(file) if file.version != VERSION => {
                    format!("version {} instead of {VERSION}", file.version)
                }
                Ok(file) => match Identities::restore(file.identities) {
                    Ok(identities) => return identities,
                    Err(error) => error.to_string(),
                },
            },
        };
        let aside = self.path.join(format!("{IDENTITIES}.refused"));
        let _ = std::fs::rename(&path, &aside);
        tracing::error!(file = %path.display(), aside = %aside.display(), "identities of the last run can't be used: {refused}");
        Identities::new()
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
        let mut draft = tempfile::NamedTempFile::new_in(&self.path)?;
        draft.write_all(&serde_json::to_vec_pretty(&file)?)?;
        draft.as_file().sync_all()?;
        draft
            .persist(self.path.join(IDENTITIES))
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
