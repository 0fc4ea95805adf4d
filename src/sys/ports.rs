//! What the kernel has of local ports, as its settings say (ip(7), tcp(7)). Changes nothing.

/// How many ports the kernel has for connections from one address to one other (ip(7), `ip_local_port_range`). What
/// cannot be read is taken for the kernel's default.
#[must_use]
pub fn ephemeral() -> usize {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = range.split_whitespace().filter_map(|end| end.parse::<usize>().ok());
    match (ends.next(), ends.next()) {
        (Some(first), Some(last)) if first <= last => last - first + 1,
        _ => EPHEMERAL_PORTS,
    }
}

/// 32,768 to 60,999.
const EPHEMERAL_PORTS: usize = 28_232;
