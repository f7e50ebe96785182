//! Reading folders of YAML files.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TextFile {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl TextFile {
    /// The file as policies are read from it.
    pub(crate) fn into_source(self) -> policy::Source {
        policy::Source {
            path: self.path.display().to_string(),
            text: self.text,
        }
    }
}

/// Bytes of one file; one over it is refused unread.
pub(crate) const FILE_BYTES_MAX: u64 = 4 << 20;

/// All `*.yaml` and `*.yml` of a folder, by name. Links are followed: a mounted ConfigMap is made of
/// them.
///
/// # Errors
/// If the folder or a file can't be read; the error names it.
pub(crate) fn read_folder(dir: &Path) -> io::Result<Vec<TextFile>> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", dir.display()));
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(named)? {
        let path = entry.map_err(named)?.path();
        let is_yaml = path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml");
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_yaml && !is_hidden {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| read_file(path)).collect()
}

/// One file.
///
/// # Errors
/// If it can't be read, is too large or isn't UTF-8; the error names it.
pub(crate) fn read_file(path: &Path) -> io::Result<TextFile> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let size = fs::metadata(path).map_err(named)?.len();
    if size > FILE_BYTES_MAX {
        return Err(named(io::Error::other(format!(
            "{size} bytes; a file has at most {FILE_BYTES_MAX}"
        ))));
    }
    let text = fs::read_to_string(path).map_err(named)?;
    Ok(TextFile {
        path: path.to_owned(),
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_visible_yaml_is_read_in_the_order_of_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.yml", "c.txt", ".d.yaml", "e.draft"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let texts: Vec<String> = read_folder(dir.path())
            .unwrap()
            .into_iter()
            .map(|file| file.text)
            .collect();
        assert_eq!(texts, ["a.yml", "b.yaml"]);
    }

    #[test]
    fn a_file_over_the_limit_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big.yaml");
        fs::File::create(&path)
            .unwrap()
            .set_len(FILE_BYTES_MAX + 1)
            .unwrap();
        let error = read_folder(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("big.yaml") && error.contains("4194304"),
            "{error}"
        );
    }
}
