//! The files and the tables that a run writes.

pub(crate) mod chart;
pub(crate) mod comparison;
pub(crate) mod document;
pub(crate) mod table;
