//! Attacks on what clients share: places for connections, rates and failed credentials.
