//! Attacks on the admin listener: strangers must not keep probes, metrics or the status page from an answer.
