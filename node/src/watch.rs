//! Folders that change.

use std::path::Path;
use std::sync::mpsc::Sender;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::run::Wake;

/// Watches folders for as long as it lives.
pub(crate) struct FolderWatch {
    _watcher: RecommendedWatcher,
}

impl FolderWatch {
    /// Wakes the daemon when something in a folder changes. Folders, not files: a ConfigMap swaps a
    /// link beside them. Of the deep one all folders in it are watched too.
    ///
    /// # Errors
    /// If a folder can't be watched.
    pub(crate) fn start(
        dirs: &[&Path],
        deep: Option<&Path>,
        wake: Sender<Wake>,
    ) -> notify::Result<Self> {
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                let is_change = match event {
                    Ok(event) => !matches!(event.kind, EventKind::Access(_)),
                    // Events were lost: look at everything.
                    Err(_) => true,
                };
                if is_change {
                    // The daemon is ending if nobody listens.
                    let _ = wake.send(Wake::FilesChanged);
                }
            })?;
        for dir in dirs {
            watcher.watch(dir, RecursiveMode::NonRecursive)?;
        }
        if let Some(dir) = deep {
            watcher.watch(dir, RecursiveMode::Recursive)?;
        }
        Ok(Self { _watcher: watcher })
    }
}
