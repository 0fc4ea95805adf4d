//! The agent's pages: `/readyz`, `/healthz`, `/metrics`.

use hyper::StatusCode;

use super::serve::Agent;
use crate::admin::Page;

/// The page of this path.
#[must_use]
pub fn page(agent: &Agent, path: &str) -> Option<Page> {
    match path {
        "/healthz" => Some(Page::of("ok\n")),
        "/readyz" => Some(ready(agent)),
        "/metrics" => {
            let expires = agent.upstreams.first();
            let expires = expires.and_then(|upstream| upstream.bundle.borrow().expires);
            Some(Page::of(agent.metrics.render(&agent.upstreams, expires)))
        }
        _ => None,
    }
}

/// Ready while one upstream works: an application must not be restarted because another one does not.
fn ready(agent: &Agent) -> Page {
    let lines = agent.upstreams.iter().map(|upstream| {
        let state = match (upstream.is_up(), upstream.reason()) {
            (true, _) => "up".to_owned(),
            (false, Some(reason)) => format!("down: {reason}"),
            (false, None) => "not tried yet".to_owned(),
        };
        format!("{}: {state}\n", upstream.name)
    });
    let lines: String = lines.collect();
    match (agent.is_ready(), *agent.draining.borrow()) {
        (true, _) => Page::of(format!("ready\n{lines}")),
        (false, true) => Page {
            status: StatusCode::SERVICE_UNAVAILABLE,
            body: format!("draining\n{lines}"),
        },
        (false, false) => Page {
            status: StatusCode::SERVICE_UNAVAILABLE,
            body: format!("no upstream\n{lines}"),
        },
    }
}
