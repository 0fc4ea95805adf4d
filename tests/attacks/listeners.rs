//! Attacks on the listening sockets from another process of the same machine.
