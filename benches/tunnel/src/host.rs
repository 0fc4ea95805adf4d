//! The machine: its processes, its network namespaces, its description.

pub(crate) mod machine;
pub(crate) mod network;
pub(crate) mod process;
