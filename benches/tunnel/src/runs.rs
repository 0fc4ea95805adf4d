//! The three runs: comparison, growth, system calls.

pub(crate) mod comparison;
pub(crate) mod growth;
pub(crate) mod stage;
pub(crate) mod syscalls;
