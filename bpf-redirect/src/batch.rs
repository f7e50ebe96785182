//! Many entries of a map in one system call (`BPF_MAP_UPDATE_BATCH`, Linux 5.6), which aya lacks.
#![expect(unsafe_code, reason = "the system call")]

use std::os::fd::{AsFd, AsRawFd};

use aya::Pod;
use aya::maps::{HashMap, IterableMap, MapData};

/// Entries of one call; more are written by several.
pub(crate) const BATCH_MAX: usize = 4_096;

/// The command's number (linux/bpf.h).
const UPDATE_BATCH: libc::c_long = 26;

/// The command's part of `union bpf_attr`.
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
    let fd = IterableMap::<K, V>::map(map).fd().as_fd().as_raw_fd();
    let Ok(map_fd) = u32::try_from(fd) else {
        return false;
    };
    let mut parts = keys.chunks(BATCH_MAX).zip(values.chunks(BATCH_MAX));
    keys.len() == values.len()
        && parts.all(|(keys, values)| {
            let mut attributes = Attributes {
                keys: keys.as_ptr() as u64,
                values: values.as_ptr() as u64,
                count: u32::try_from(keys.len()).unwrap_or(0),
                map_fd,
                ..Attributes::default()
            };
            let size = size_of::<Attributes>();
            // SAFETY: the kernel reads `count` keys and values, of the sizes that the map has, which
            // are those of `K` and `V`; both slices have so many and live on. It writes `count` back.
            let code =
                unsafe { libc::syscall(libc::SYS_bpf, UPDATE_BATCH, &raw mut attributes, size) };
            code == 0 && usize::try_from(attributes.count) == Ok(keys.len())
        })
}
