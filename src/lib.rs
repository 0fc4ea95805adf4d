//! Sealway.
