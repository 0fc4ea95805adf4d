//! Attacks by way of upstream connections: ports, descriptors and the addresses of this host.
