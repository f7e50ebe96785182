//! The machine's first file system, as the kernel unpacks it: a cpio archive in the form `newc`
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};

/// What the kernel needs to reach the host's files; all else is loaded when it is asked for.
const EARLY: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// A file of the archive.
const FILE: u32 = 0o100_755;
const FOLDER: u32 = 0o040_755;

/// An archive that is being written.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub(super) fn file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.entry(name, FILE, content)
    }

    pub(super) fn folder(&mut self, name: &str) -> Result<()> {
        self.entry(name, FOLDER, b"")
    }

    /// The modules that must be there before the host's files are, each after those that it needs.
    pub(super) fn early_modules(&mut self, modules: &Path) -> Result<()> {
        self.folder("early")?;
        let index = modules.join("modules.dep");
        let index = std::fs::read_to_string(&index)
            .with_context(|| format!("{} can't be read", index.display()))?;
        let mut written = BTreeSet::new();
        for wanted in EARLY {
            let line = line_of(&index, wanted);
            // A module that isn't listed is part of the kernel.
            for path in line.into_iter().flat_map(in_order) {
                if !written.insert(path.to_owned()) {
                    continue;
                }
                let module = std::fs::read(modules.join(path))
                    .with_context(|| format!("module {path} can't be read"))?;
                let name = format!("early/{:02}-{}", written.len(), stem(path));
                self.file(&name, &module)?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, b"")?;
        Ok(self.bytes)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len()).context("a file of 4 GiB")?;
        let name_size = u32::try_from(name.len() + 1).context("a long name")?;
        let (inode, links) = (self.entries, 1);
        // Inode, mode, owner, group, links, time, size, four device numbers, length of the name, sum.
        let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").into_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The line of `modules.dep` about a module: its path, a colon, and those that it needs.
fn line_of<'a>(index: &'a str, module: &str) -> Option<&'a str> {
    let is_it = |line: &&str| {
        let path = line.split(':').next().unwrap_or_default();
        stem(path) == module
    };
    index.lines().find(is_it)
}

/// The paths of a line, those that are needed first: the index has them in the other order.
fn in_order(line: &str) -> impl Iterator<Item = &str> {
    let (own, needed) = line.split_once(':').unwrap_or((line, ""));
    needed.split_whitespace().rev().chain(std::iter::once(own))
}

/// `kernel/fs/9p/9p.ko` is the module `9p`; a packed one ends otherwise.
fn stem(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let name = file.split(".ko").next().unwrap_or(file);
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_the_kernel_reads() {
        let mut archive = Archive::default();
        archive.file("init", b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let head = "070701\
            00000001000081ed0000000000000000000000010000000000000005\
            000000000000000000000000000000000000000500000000init\0";
        assert!(text.starts_with(head), "{text:?}");
        let content = head.len().next_multiple_of(4);
        assert_eq!(text.get(content..content + 8), Some("hello\0\0\0"));
        assert!(text.contains("TRAILER!!!") && text.len().is_multiple_of(4));
    }

    #[test]
    fn modules_come_after_those_that_they_need() {
        let index = "kernel/net/9p/9pnet.ko:\n\
            kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/fscache/fscache.ko kernel/fs/netfs/netfs.ko\n";
        let line = line_of(index, "9p").unwrap();
        let paths: Vec<&str> = in_order(line).collect();
        assert_eq!(
            paths,
            [
                "kernel/fs/netfs/netfs.ko",
                "kernel/fs/fscache/fscache.ko",
                "kernel/net/9p/9pnet.ko",
                "kernel/fs/9p/9p.ko"
            ]
        );
        assert_eq!(line_of(index, "veth"), None);
        assert_eq!(stem("kernel/drivers/virtio/virtio-pci.ko.xz"), "virtio_pci");
    }
}
