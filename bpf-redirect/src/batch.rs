//! Many entries of a map in one system call (`BPF_MAP_LOOKUP_BATCH` and its like, Linux 5.6), which aya
//! lacks.
#![expect(unsafe_code, reason = "the system calls")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::Pod;
use aya::maps::{HashMap, IterableMap, MapData};

/// Entries of one call; more are written by several.
pub(crate) const BATCH_MAX: usize = 4_096;

/// The commands' numbers (linux/bpf.h).
const LOOKUP_BATCH: libc::c_long = 24;
const UPDATE_BATCH: libc::c_long = 26;
const DELETE_BATCH: libc::c_long = 27;

/// Their part of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

/// Writes entries of a hash in their order; `false` if the kernel took not all of them, or none: it lacks
/// the call, or the map is full. What it took is not asked for: whoever then writes them one by one
/// writes the first ones once more, and gets the kernel's answer for the first that it refuses.
pub(crate) fn write_all<K: Pod, V: Pod>(
    map: &HashMap<MapData, K, V>,
    keys: &[K],
    values: &[V],
) -> bool {
    let mut parts = keys.chunks(BATCH_MAX).zip(values.chunks(BATCH_MAX));
    keys.len() == values.len()
        && parts.all(|(keys, values)| {
            let mut attributes = Attributes {
                keys: keys.as_ptr() as u64,
                values: values.as_ptr() as u64,
                count: u32::try_from(keys.len()).unwrap_or(0),
                ..Attributes::default()
            };
            // SAFETY: the kernel reads `count` keys and values, of the sizes that the map has, which
            // are those of `K` and `V`; both slices have so many and live on. It writes `count` back.
            let done = unsafe { call(UPDATE_BATCH, map, &mut attributes) };
            done.is_ok() && usize::try_from(attributes.count) == Ok(keys.len())
        })
}

/// Shows all entries of a hash. One that comes or goes meanwhile may be shown or not.
pub(crate) fn read_all<K: Pod, V: Pod>(
    map: &HashMap<MapData, K, V>,
    mut each: impl FnMut(&K, &V),
) -> io::Result<()> {
    let mut keys: Vec<K> = Vec::with_capacity(BATCH_MAX);
    let mut values: Vec<V> = Vec::with_capacity(BATCH_MAX);
    // Where the kernel goes on: for a hash, the number of a bucket.
    let (mut place, mut next) = (0_u32, 0_u32);
    let mut is_first = true;
    loop {
        let mut attributes = Attributes {
            in_batch: if is_first { 0 } else { &raw mut place as u64 },
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: u32::try_from(BATCH_MAX).unwrap_or(0),
            ..Attributes::default()
        };
        // SAFETY: both have room for `count` entries of the sizes that the map has, which are those of `K`
        // and `V`; all that is pointed at lives until the call returns.
        let done = unsafe { call(LOOKUP_BATCH, map, &mut attributes) };
        let is_last = match done {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let count = usize::try_from(attributes.count).map_or(0, |count| count.min(BATCH_MAX));
        // SAFETY: so many were written, and any octets are a `K` or a `V`.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        keys.iter()
            .zip(&values)
            .for_each(|(key, value)| each(key, value));
        if is_last {
            return Ok(());
        }
        (place, is_first) = (next, false);
    }
}

/// Deletes entries of a hash; one that is gone already is fine.
pub(crate) fn delete_all<K: Pod, V: Pod>(
    map: &HashMap<MapData, K, V>,
    mut keys: &[K],
) -> io::Result<()> {
    while !keys.is_empty() {
        let part = keys.get(..BATCH_MAX).unwrap_or(keys);
        let mut attributes = Attributes {
            keys: part.as_ptr() as u64,
            count: u32::try_from(part.len()).unwrap_or(0),
            ..Attributes::default()
        };
        // SAFETY: the kernel reads `count` keys of the size that the map has, which is that of `K`; the
        // slice has so many and lives on.
        let done = unsafe { call(DELETE_BATCH, map, &mut attributes) };
        let deleted = usize::try_from(attributes.count).map_or(0, |count| count.min(part.len()));
        let passed = match done {
            Ok(()) => part.len(),
            // The one that it ended at.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => deleted + 1,
            Err(error) => return Err(error),
        };
        keys = keys.get(passed..).unwrap_or_default();
    }
    Ok(())
}

/// # Safety
/// What the attributes point at is there, and large enough for the command.
unsafe fn call<K: Pod, V: Pod>(
    command: libc::c_long,
    map: &HashMap<MapData, K, V>,
    attributes: &mut Attributes,
) -> io::Result<()> {
    let fd = IterableMap::<K, V>::map(map).fd().as_fd().as_raw_fd();
    attributes.map_fd = u32::try_from(fd).map_err(io::Error::other)?;
    let size = size_of::<Attributes>();
    // SAFETY: the caller's promise; the attributes have the size that is said.
    let code = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size) };
    match code {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bpf_redirect_common as common;

    use super::*;
    use crate::{Datapath, HookMode};

    type Table = HashMap<MapData, [u8; 44], [u8; 24]>;

    fn key(number: u32) -> [u8; 44] {
        let mut key = [0; 44];
        key[..4].copy_from_slice(&number.to_ne_bytes());
        key
    }

    fn read(table: &Table) -> BTreeMap<[u8; 44], u8> {
        let mut found = BTreeMap::new();
        read_all(table, |key, value| {
            assert_eq!(found.insert(*key, value[0]), None, "once");
        })
        .unwrap();
        found
    }

    #[test]
    fn more_than_one_batch_is_read_and_deleted_and_what_is_gone_is_fine() {
        let datapath = Datapath::load(99, HookMode::Tcx, None).unwrap();
        let table: Table = datapath.open(common::CT).unwrap();
        assert!(read(&table).is_empty());
        let count = u32::try_from(BATCH_MAX).unwrap() * 2 + 7;
        let keys: Vec<_> = (0..count).map(key).collect();
        assert!(write_all(&table, &keys, &vec![[3; 24]; keys.len()]));
        let all = read(&table);
        assert_eq!(all.len(), keys.len());
        assert!(all.values().all(|first| *first == 3));
        // Of each batch the first, one in the middle, and the last of all are gone.
        for gone in [0, 70, 4_096, 5_000, count - 1] {
            delete_all(&table, &[key(gone)]).unwrap();
        }
        let (over, kept) = keys.split_at(5_500);
        delete_all(&table, over).unwrap();
        let left: Vec<_> = read(&table).into_keys().collect();
        assert_eq!(left.len(), kept.len() - 1);
        delete_all(&table, &keys).unwrap();
        assert!(read(&table).is_empty());
    }
}
