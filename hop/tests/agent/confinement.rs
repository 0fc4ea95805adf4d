//! What the agent's process can still read once it runs, and what the command of `exec` can.

use std::fs;
use std::os::unix::fs::symlink;

use crate::node::{Manner, Node};
use crate::program::{Agent, command, echoes};
use crate::zoo::{Authority, write};

/// Landlock is in the kernel of every supported distribution; without it this test fails and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_no_setting_names_cannot_be_read() {
    let authority = Authority::new("CA");
    let node = Node::start(&authority, Manner::Echo).await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // The folder above that of a file stays readable, because others may replace the file's.
    fs::create_dir_all(at("own/tls")).unwrap();
    fs::create_dir(at("other")).unwrap();
    for file in ["own/tls/ca.pem", "own/tls/new.pem", "other/ca.pem"] {
        fs::write(at(file), authority.pem()).unwrap();
    }
    let ca = at("own/tls/ca.pem");
    let upstream = format!("https://alice:s3cret@localhost:{}", node.address.port());
    let keys = [("SEALWAY_AGENT_CA", ca.to_str().unwrap())];
    let mut agent = Agent::start_before(&authority, &upstream, &keys).await;
    agent.logged("Landlock restricts the file system").await;
    agent.logged("the upstream is up").await;
    // It looks the name up, and connects.
    echoes(agent.open("a.example:443").await).await;
    fs::rename(at("own/tls/new.pem"), &ca).unwrap();
    agent
        .logged("certificates, key and authorities read again")
        .await;
    fs::remove_file(&ca).unwrap();
    symlink(at("other/ca.pem"), &ca).unwrap();
    let refused = agent
        .logged("the new files are refused; the old ones stay in force")
        .await;
    let why = refused["error"].as_str().unwrap();
    assert!(why.contains("Permission denied"), "{why}");
    echoes(agent.open("b.example:443").await).await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", agent.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core"));
    let core: Vec<_> = core.unwrap().split_whitespace().skip(4).take(2).collect();
    assert_eq!(core, ["0", "0"], "core files");
    assert_eq!(unrestricted(agent.pid().as_raw()), Vec::<String>::new());
}

/// The names of the threads of a process that have entered no Landlock, which needs NoNewPrivs; the one that writes the log
/// reads nothing.
fn unrestricted(pid: i32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses =
        tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    let outside = statuses.filter(|status| !status.contains("NoNewPrivs:\t1"));
    let names = outside.map(|status| {
        status
            .lines()
            .next()
            .unwrap_or_default()
            .replace("Name:\t", "")
    });
    names
        .filter(|name| name == "agent" || name == "sealway-agent")
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs to run without no_new_privs, by which it knows a restricted thread"
)]
async fn the_command_of_exec_is_not_restricted_and_the_agent_is() {
    let authority = Authority::new("CA");
    let node = Node::start(&authority, Manner::Echo).await;
    let (folder, other) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/var/tmp").unwrap(),
    );
    write(&folder, "ca.pem", &authority.pem());
    write(&other, "file", "its own\n");
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own
        .lines()
        .find(|line| line.starts_with("NoNewPrivs"))
        .unwrap();
    // Waits until each thread of the agent but that of the log is restricted.
    let script = format!(
        "cd {}; cat file; echo x > new; grep NoNewPrivs /proc/self/status; for try in $(seq 200); do \
         grep -L 'NoNewPrivs:.1' /proc/$PPID/task/*/status | xargs -r grep -hE '^Name:.(sealway-)?agent$' || {{ echo all; exit; }}; \
         sleep 0.05; done; exit 3",
        other.path().display()
    );
    let output = command(&folder)
        .env("SEALWAY_AGENT_UPSTREAMS", node.url())
        .args(["exec", "--", "sh", "-c", &script])
        .output();
    let output = support::soon("the command", output).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text} {errors}");
    assert!(
        text.starts_with(&format!("its own\n{own}\n")),
        "{text} {errors}"
    );
    assert!(text.ends_with("all\n"), "{text}");
    assert!(
        errors.contains("Landlock restricts the file system"),
        "{errors}"
    );
}
