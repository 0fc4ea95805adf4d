//! The memory of a running process, read through proc_pid_mem(5). Only root of its user namespace may.

use std::io::{Read, Seek, SeekFrom};

/// Every mapping that the process can write to, which is what gcore(1) writes and more: it leaves out
/// what madvise(2) excludes.
pub fn memory_of(pid: u32) -> Vec<Vec<u8>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut memory =
        std::fs::File::open(format!("/proc/{pid}/mem")).expect("read the memory of a process");
    let mut regions = Vec::new();
    for line in maps.lines().filter(|line| {
        line.split(' ')
            .nth(1)
            .is_some_and(|mode| mode.starts_with("rw"))
    }) {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (start, end) = (
            u64::from_str_radix(start, 16).unwrap(),
            u64::from_str_radix(end, 16).unwrap(),
        );
        let mut region = vec![0; usize::try_from(end - start).unwrap()];
        memory.seek(SeekFrom::Start(start)).unwrap();
        memory
            .read_exact(&mut region)
            .unwrap_or_else(|error| panic!("{line}: {error}"));
        regions.push(region);
    }
    regions
}

/// Whether one of the mappings has these bytes.
pub fn holds(memory: &[Vec<u8>], wanted: &[u8]) -> bool {
    memory
        .iter()
        .any(|region| memchr::memmem::find(region, wanted).is_some())
}
