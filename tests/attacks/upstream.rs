//! Attacks through upstreams: addresses that lead back to this machine, ports of the egress address
//! that the kernel keeps, descriptors that one tunnel uses.

mod given_up;
mod own_addresses;
mod racing;
