//! `sealway-agent exec -- CMD…`: runs a command whose clients use the agent. Signals go to the command, its exit status
//! comes back. The command does not inherit the agent's secrets.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sealway::policy::presets::Preset;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::run::Running;
use super::settings::UPSTREAMS;

/// Runs the command as soon as an upstream works, and stops the agent after it. `started` runs when the command has started.
///
/// # Errors
/// Why the command could not be started.
pub async fn exec(
    running: Running,
    command: &[OsString],
    max: Duration,
    started: impl FnOnce(),
) -> Result<u8, String> {
    // Before the command starts, so that no signal is lost.
    let mut signals = signals().map_err(|error| error.to_string())?;
    tokio::select! {
        is_ready = running.ready(max) => if !is_ready {
            tracing::warn!("no upstream works yet; the command starts nevertheless, and its requests get 503 until one does");
        },
        Some(number) = signals.recv() => return Ok(of_signal(number)),
    }
    let Some((program, arguments)) = command.split_first() else {
        return Err("no command".to_owned());
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env_remove(UPSTREAMS)
        .envs(variables(&running.name, |name| env::var_os(name)))
        .spawn()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    started();
    let status = wait(&mut child, &mut signals).await;
    running.stop().await;
    status.map(of_status).map_err(|error| error.to_string())
}

/// Passes signals on until the command ends.
async fn wait(child: &mut Child, signals: &mut mpsc::Receiver<i32>) -> io::Result<ExitStatus> {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    loop {
        tokio::select! {
            biased;
            status = child.wait() => return status,
            Some(number) = signals.recv() => {
                // The command may have ended meanwhile; it is not reaped, so the number is still its own.
                if let (Some(pid), Ok(signal)) = (pid, Signal::try_from(number)) {
                    let _ended = kill(Pid::from_raw(pid), signal);
                }
            }
        }
    }
}

/// The signals for the command. A terminal sends its own to the command too.
fn signals() -> io::Result<mpsc::Receiver<i32>> {
    let mut passed = vec![
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
    ];
    let of_terminals = [
        SignalKind::interrupt(),
        SignalKind::quit(),
        SignalKind::window_change(),
    ];
    passed.extend(of_terminals);
    let is_terminal = io::stdin().is_terminal();
    let (sender, receiver) = mpsc::channel(SIGNALS_MAX);
    for kind in passed {
        let mut signal = signal(kind)?;
        let sender = sender.clone();
        let is_sent_twice = is_terminal && of_terminals.contains(&kind);
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                if !is_sent_twice {
                    // Full only if the command is not waited for any more.
                    let _full = sender.try_send(kind.as_raw_value());
                }
            }
        });
    }
    Ok(receiver)
}

/// The exit status as a shell reports it.
fn of_status(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(1),
        (None, Some(number)) => of_signal(number),
        (None, None) => 1,
    }
}

fn of_signal(number: i32) -> u8 {
    u8::try_from(128 + number).unwrap_or(1)
}

/// The variables that make clients use the agent. `variable` returns the present value.
fn variables(
    address: &str,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Vec<(&'static str, OsString)> {
    let url = format!("http://{address}");
    let mut set: Vec<(_, OsString)> = PROXIES
        .iter()
        .map(|name| (*name, url.clone().into()))
        .collect();
    // Node.js 24 and later read HTTPS_PROXY only with this.
    set.push(("NODE_USE_ENV_PROXY", "1".into()));
    let options = variable(JAVA).unwrap_or_default();
    set.push((JAVA, java(&options, address)));
    for name in ["NO_PROXY", "no_proxy"] {
        let given = variable(name).unwrap_or_default();
        set.push((name, direct(&given.to_string_lossy()).into()));
    }
    set
}

/// The options of the JVM with those of the proxy; an address in brackets is without them there.
fn java(options: &OsStr, address: &str) -> OsString {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let host = host.trim_matches(['[', ']']);
    let mut all = options.to_owned();
    if !all.is_empty() {
        all.push(" ");
    }
    all.push(format!("-Dhttps.proxyHost={host} -Dhttps.proxyPort={port}"));
    all
}

/// `NO_PROXY` without what would send a provider's requests around the proxy, and with loopback.
fn direct(given: &str) -> String {
    let hosts: Vec<String> = Preset::all().flat_map(Preset::example).collect();
    let is_kept = |entry: &&str| {
        let name = entry
            .split(':')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        let name = name.trim_start_matches("*.").trim_start_matches('.');
        let covers = |host: &String| {
            let rest = host.strip_suffix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        !name.is_empty() && name != "*" && !hosts.iter().any(covers)
    };
    let own = ["localhost", "127.0.0.1", "::1"];
    let kept = given.split([',', ' ']).filter(is_kept);
    let kept = kept.filter(|entry| !own.contains(entry));
    own.into_iter().chain(kept).collect::<Vec<_>>().join(",")
}

/// gRPC reads `grpc_proxy` and the lower-case ones only, curl and others either.
const PROXIES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "GRPC_PROXY", "grpc_proxy"];
const JAVA: &str = "JAVA_TOOL_OPTIONS";
const SIGNALS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_keeps_what_is_no_provider() {
        for (given, wanted) in [
            ("", ""),
            ("*", ""),
            ("googleapis.com", ""),
            (".googleapis.com,db.internal", ",db.internal"),
            ("*.googleapis.com 10.0.0.0/8", ",10.0.0.0/8"),
            ("com", ""),
            ("GenerativeLanguage.GoogleAPIs.com:443", ""),
            ("apis.com", ",apis.com"),
            ("x.googleapis.com", ",x.googleapis.com"),
            ("localhost,::1,a", ",a"),
        ] {
            let own = "localhost,127.0.0.1,::1";
            assert_eq!(direct(given), format!("{own}{wanted}"), "{given}");
        }
    }

    #[test]
    fn the_jvm_keeps_its_options() {
        let found = java(OsStr::new("-Xmx1g"), "[::1]:9293");
        assert_eq!(found, "-Xmx1g -Dhttps.proxyHost=::1 -Dhttps.proxyPort=9293");
        assert_eq!(
            java(OsStr::new(""), "127.0.0.1:1"),
            "-Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=1"
        );
    }
}
