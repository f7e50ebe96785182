//! Files of a tool: policies and endpoints by paths, files or folders.

use std::io::Read;
use std::path::{Path, PathBuf};

use policy::{Cast, Loaded, Problem, Source};

use crate::endpoints::file;
use crate::files::{FILE_BYTES_MAX, TextFile, read_file, read_folder};
use crate::presets::DnsServers;

/// The files of a path; `-` is standard input.
///
/// # Errors
/// If it can't be read.
pub(crate) fn files(path: &Path) -> std::io::Result<Vec<TextFile>> {
    if path == Path::new("-") {
        let mut text = String::new();
        let stdin = std::io::stdin().lock();
        stdin.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        return Ok(vec![TextFile {
            path: "-".into(),
            text,
        }]);
    }
    if path.is_dir() {
        read_folder(path)
    } else {
        Ok(vec![read_file(path)?])
    }
}

/// The files of many paths.
///
/// # Errors
/// If one can't be read.
pub(crate) fn all_files(paths: &[PathBuf]) -> Result<Vec<TextFile>, String> {
    let mut all = Vec::new();
    for path in paths {
        all.extend(files(path).map_err(|error| error.to_string())?);
    }
    Ok(all)
}

/// Policies of files, for workloads that ask these servers where no rule says which.
///
/// # Errors
/// If a policy has an error; all of them are told.
pub(crate) fn policies(files: Vec<TextFile>, servers: &DnsServers) -> Result<Loaded, String> {
    let sources: Vec<Source> = files.into_iter().map(TextFile::into_source).collect();
    let mut loader = servers.loader().map_err(|problems| told(problems.iter()))?;
    let loaded = loader.load(&sources);
    if loaded.has_errors() {
        let errors = loaded.problems.iter().filter(|problem| problem.is_error());
        return Err(told(errors));
    }
    Ok(loaded)
}

/// Endpoints of files.
///
/// # Errors
/// If a document can't be used.
pub(crate) fn endpoints(files: &[TextFile]) -> Result<Cast, String> {
    file::describe(files).map_err(|errors| errors.join("\n"))
}

/// Problems as text.
pub(crate) fn told<'a>(problems: impl Iterator<Item = &'a Problem>) -> String {
    let lines: Vec<String> = problems.map(ToString::to_string).collect();
    lines.join("\n")
}
