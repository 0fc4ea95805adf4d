//! The proxies that are compared: which exist, their configurations, their processes.

pub(crate) mod catalogue;
pub(crate) mod configurations;
pub(crate) mod daemon;
pub(crate) mod proxies;
pub(crate) mod setting;
