//! Tests that change the machine's network or mount something: each runs again, alone, as root of namespaces of its own, where only `lo` is, so that
//! nothing leaves the machine and nobody else sees the change. Needs unshare(1), ip(8) and ss(8); without them the test fails.

#![allow(dead_code)] // each test binary uses its own part

use std::future::Future;
use std::process::Command;

/// Runs `body` in a network namespace of its own. `test` is the name of the calling test.
pub fn in_own_network(test: &str, body: impl Future<Output = ()>) {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == test) {
        run("ip link set lo up");
        return runtime().block_on(body);
    }
    let executable = std::env::current_exe().expect("this executable");
    let mut again = Command::new("unshare");
    again.args(["--user", "--map-root-user", "--net", "--mount", "--"]).arg(executable);
    again.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(INSIDE, test);
    let output = again.output().expect("run unshare(1) of util-linux");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let passed = output.status.success() && stdout.contains("1 passed");
    assert!(passed, "inside a network namespace of its own, {}:\n{stdout}\n{stderr}", output.status);
}

/// Runs a command, which must succeed; gives what it printed.
pub fn run(command: &str) -> String {
    let mut words = command.split(' ');
    let program = words.next().expect("a program");
    let output = Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Sets a kernel parameter of the namespace.
pub fn set_kernel_parameter(path: &str, value: &str) {
    std::fs::write(path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

const INSIDE: &str = "INSIDE_NETWORK_NAMESPACE";
