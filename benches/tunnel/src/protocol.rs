//! What crosses between the processes of a run.

pub(crate) mod hello;
pub(crate) mod load;
pub(crate) mod order;
