//! The worker threads of a daemon, seen from outside through /proc.

use crate::daemon::Daemon;

/// How often each worker has slept and was woken (proc_pid_status(5), `voluntary_ctxt_switches`), in the order of their names.
pub fn worker_sleeps(daemon: &Daemon) -> Vec<u64> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let mut workers: Vec<(String, u64)> = tasks
        .filter_map(|task| {
            let path = task.unwrap().path();
            // Another thread may have ended meanwhile.
            let name = std::fs::read_to_string(path.join("comm"))
                .ok()?
                .trim()
                .to_string();
            let status = std::fs::read_to_string(path.join("status")).ok()?;
            let slept = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                .unwrap();
            name.starts_with("worker-")
                .then(|| (name, slept.trim().parse().unwrap()))
        })
        .collect();
    workers.sort();
    workers.into_iter().map(|(_, slept)| slept).collect()
}
