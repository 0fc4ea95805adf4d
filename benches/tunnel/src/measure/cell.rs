//! One measurement: a proxy, a workload, and its cost. The harness reads the proxy's CPU time while
//! the proxy is at rest: after the tunnels are open, and after the work.

use std::io;
use std::time::Duration;

use crate::agents::Agents;
use crate::host::process::{self, Used};
use crate::peers::proxies::Proxy;
use crate::protocol::load::{Report, Task};

/// What a task cost the proxy.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) used: Used,
    pub(crate) report: Report,
}

/// Runs the task through the proxy, and again if the machine was too busy.
pub(crate) fn measure(agents: &mut Agents, proxy: &Proxy, task: Task) -> io::Result<Cost> {
    let mut cost = measure_once(agents, proxy, task)?;
    for _ in 0..AGAIN_MAX {
        if !task.is_disturbed(&cost.report) {
            return Ok(cost);
        }
        cost = measure_once(agents, proxy, task)?;
    }
    if task.is_disturbed(&cost.report) {
        let Report { units, reads, .. } = cost.report;
        eprintln!(
            "DISTURBED: {units} chunks came in {reads} reads: the machine is busy with something else"
        );
    }
    Ok(cost)
}

fn measure_once(agents: &mut Agents, proxy: &Proxy, task: Task) -> io::Result<Cost> {
    agents.prepare(&proxy.route, task)?;
    let before = process::used_at_rest(&proxy.family, REST)?;
    let report = agents.go()?;
    let after = process::used_at_rest(&proxy.family, REST)?;
    if report.units == 0 {
        return Err(io::Error::other("no unit of work was done in time"));
    }
    Ok(Cost {
        used: after.since(before),
        report,
    })
}

const AGAIN_MAX: usize = 2;
/// The ends of the last tunnels take no longer; a proxy may have timers that never let it rest.
const REST: Duration = Duration::from_millis(200);
