//! `namegate policy fmt`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstream::AutoStream;
use clap::Args;
use policy::Source;

use super::{print, shown};
use crate::exit::{Exit, USAGE};
use crate::files::TextFile;
use crate::judge::read::all_files;

/// Write policy files in the usual form: keys in their order, blocks, no needless quotes.
///
/// Comments stay with what they are above or beside, and what a file says never changes. One file is
/// printed; several need --write or --check. A file that is no YAML, or that has anchors, tags,
/// directives or a key twice, is refused, and nothing is written.
///
/// Exit code 0 if done, 1 if a file is refused or --check finds one to format, 2 if something can't be
/// read.
#[derive(Args)]
#[command(after_help = "Examples:
  namegate policy fmt policy.yaml
  namegate policy fmt --write policies/
  kubectl get cnp -o yaml | namegate policy fmt
  namegate policy fmt --check policies/")]
pub(in crate::cli) struct Fmt {
    /// Files, folders, or - for standard input.
    #[arg(default_value = "-", value_name = "FILE|DIR|-")]
    paths: Vec<PathBuf>,
    /// Print the names of the files that would change; exit code 1 if there are any.
    #[arg(long, conflicts_with = "write")]
    check: bool,
    /// Rewrite the files that change, and print their names.
    #[arg(long)]
    write: bool,
}

/// A file and its form.
struct Formatted {
    file: TextFile,
    text: String,
}

impl Formatted {
    fn changes(&self) -> bool {
        self.file.text != self.text
    }

    fn name(&self) -> String {
        format!("{}\n", self.file.path.display())
    }
}

impl Fmt {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if self.write && self.paths.iter().any(|path| path == Path::new("-")) {
            return Err(Exit::with(USAGE, "--write needs files, not standard input"));
        }
        let files = all_files(&self.paths).map_err(|error| Exit::with(USAGE, error))?;
        let to_print = !self.write && !self.check;
        if to_print && files.len() > 1 {
            let message = format!("{} files: use --write or --check", files.len());
            return Err(Exit::with(USAGE, message));
        }
        let count = files.len();
        let all = format_all(files)?;
        let changed = || all.iter().filter(|one| one.changes());
        let mut code = ExitCode::SUCCESS;
        if all.len() < count {
            code = ExitCode::FAILURE;
        } else if self.write {
            for one in changed() {
                rewrite(&one.file.path, &one.text)
                    .map_err(|error| anyhow::anyhow!("{}: {error}", one.file.path.display()))?;
            }
        }
        if to_print {
            all.iter().try_for_each(|one| print(&one.text).map(drop))?;
        } else if self.check || code == ExitCode::SUCCESS {
            print(&changed().map(Formatted::name).collect::<String>())?;
        }
        if self.check && changed().next().is_some() {
            code = ExitCode::FAILURE;
        }
        Ok(code)
    }
}

/// Formats what can be, and tells of the rest.
fn format_all(files: Vec<TextFile>) -> io::Result<Vec<Formatted>> {
    let mut all = Vec::new();
    for file in files {
        let source = Source {
            path: file.path.display().to_string(),
            text: file.text,
        };
        match policy::format(&source) {
            Ok(text) => all.push(Formatted {
                file: TextFile {
                    path: file.path,
                    text: source.text,
                },
                text,
            }),
            Err(problem) => {
                let mut stderr = io::stderr().lock();
                let choice = AutoStream::choice(&stderr);
                stderr.write_all(shown(&problem, choice).as_bytes())?;
            }
        }
    }
    Ok(all)
}

/// Puts a text in the place of a file's, whole or not at all. Mode and owner stay; where the path is a
/// link, what it leads to is rewritten.
fn rewrite(path: &Path, text: &str) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let before = fs::metadata(&path)?;
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    let mut draft = tempfile::NamedTempFile::new_in(folder)?;
    draft.write_all(text.as_bytes())?;
    let after = draft.as_file().metadata()?;
    if (before.uid(), before.gid()) != (after.uid(), after.gid()) {
        fchown(draft.as_file(), Some(before.uid()), Some(before.gid()))?;
    }
    draft.as_file().set_permissions(before.permissions())?;
    draft.as_file().sync_all()?;
    draft.persist(&path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const UGLY: &str = "kind: 'List'\napiVersion: v1\nitems: []\n";
    const TIDY: &str = "apiVersion: v1\nkind: List\nitems: []\n";

    /// Runs it on a folder with these files; the code and the files afterwards.
    fn run(flag: &str, files: &[(&str, &str)]) -> (String, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let fmt = Fmt {
            paths: vec![dir.path().to_owned()],
            check: flag == "--check",
            write: flag == "--write",
        };
        let code = match fmt.run() {
            Ok(code) => format!("{code:?}"),
            Err(error) => format!("{:?}", Exit::code_of(&error)),
        };
        let read = |(name, _): &(&str, &str)| fs::read_to_string(dir.path().join(name)).unwrap();
        (code, files.iter().map(read).collect())
    }

    #[track_caller]
    fn check(flag: &str, files: &[(&str, &str)], (code, after): (u8, &[&str])) {
        let (got, texts) = run(flag, files);
        assert_eq!(got, format!("{:?}", ExitCode::from(code)), "{flag}");
        assert_eq!(texts, after, "{flag}");
    }

    #[test]
    fn only_write_writes_and_only_if_all_can_be_formatted() {
        let both = [("a.yaml", UGLY), ("b.yaml", TIDY)];
        check("--check", &both, (1, &[UGLY, TIDY]));
        check("--write", &both, (0, &[TIDY, TIDY]));
        check("", &both, (USAGE, &[UGLY, TIDY]));
        check("", &[("a.yaml", UGLY)], (0, &[UGLY]));
        check("--check", &[("b.yaml", TIDY)], (0, &[TIDY]));
        let broken = [("a.yaml", UGLY), ("b.yaml", "a: [\n")];
        for flag in ["--check", "--write"] {
            check(flag, &broken, (1, &[UGLY, "a: [\n"]));
        }
        check("", &[("b.yaml", "a: [\n")], (1, &["a: [\n"]));
    }

    #[test]
    fn a_rewritten_file_keeps_its_mode_and_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("a.yaml"), dir.path().join("link.yaml"));
        fs::write(&file, UGLY).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&file, &link).unwrap();
        rewrite(&link, TIDY).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), TIDY);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
