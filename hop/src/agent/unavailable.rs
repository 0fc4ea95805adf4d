//! Reads from a refusal whether another upstream can answer differently. Never sees the request.

/// The code of a 503 that is about the upstream itself, so that another one can differ. A 503 without a code comes from a
/// balancer in front of it. `reply` begins with the status line.
#[must_use]
pub fn elsewhere(status: u16, reply: &[u8]) -> Option<String> {
    if status != 503 {
        return None;
    }
    let line = reply.split(|byte| *byte == b'\r').next()?;
    let line = String::from_utf8_lossy(line);
    let code = line
        .trim_end()
        .strip_suffix(')')
        .and_then(|line| line.rsplit_once('('));
    match code {
        Some((_, code)) => CODES.contains(&code).then(|| code.to_owned()),
        None => Some("no code".to_owned()),
    }
}

/// Refusals about the upstream, not about the request.
const CODES: [&str; 5] = [
    "draining",
    "tunnel_limit",
    "audit_unavailable",
    "egress_unavailable",
    "egress_ports_exhausted",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_503_about_the_upstream_goes_elsewhere() {
        for (line, wanted) in [
            (
                "HTTP/1.1 503 Service Unavailable (draining)\r\n",
                Some("draining"),
            ),
            (
                "HTTP/1.1 503 Service Unavailable (tunnel_limit) \r\nX: (y)\r\n",
                Some("tunnel_limit"),
            ),
            (
                "HTTP/1.1 503 Service Unavailable (ended_by_operator)\r\n",
                None,
            ),
            ("HTTP/1.1 503 Service Unavailable (Draining)\r\n", None),
            ("HTTP/1.1 503 Service Unavailable\r\n", Some("no code")),
            ("HTTP/1.1 503\r\nX: (draining)\r\n", Some("no code")),
        ] {
            assert_eq!(elsewhere(503, line.as_bytes()).as_deref(), wanted, "{line}");
        }
        for status in [200, 407, 429, 500, 502, 504] {
            let line = format!("HTTP/1.1 {status} X (draining)\r\n");
            assert_eq!(elsewhere(status, line.as_bytes()), None, "{line}");
        }
    }
}
