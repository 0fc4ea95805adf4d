//! One measurement, all measurements, and the figures that follow from them.

pub(crate) mod cell;
pub(crate) mod memory;
pub(crate) mod results;
pub(crate) mod statistics;
pub(crate) mod workloads;
