//! Faults of the machine: limits, ports, clock, Landlock, files.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;
use support::namespace::{in_own_network, run, set_kernel_parameter};

use super::network::in_network;
use super::rig::{Rig, codes};

in_network! {
    a_low_limit_on_open_files_is_told few_files();
    few_local_ports_and_ports_that_wait_are_told ports();
    a_free_running_clock_and_a_kernel_without_landlock_are_told kernel();
    an_unusable_audit_file_and_a_full_folder_are_told audit();
    an_open_file_and_old_ranges_are_told configuration();
    a_hop_that_refuses_is_told hop();
}

/// The codes of a check that another program starts.
fn codes_under(wrapper: &[&str], path: &str, flags: &[&str]) -> Vec<String> {
    let words = wrapper.join(" ");
    let mut words = words.split(' ');
    let output = Command::new(words.next().unwrap())
        .args(words)
        .arg(support::sealway())
        .args(["check", "--deep", "--json", "--config", path])
        .args(flags)
        .output()
        .unwrap();
    let result: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    codes(&result)
}

async fn few_files() {
    let rig = Rig::start().await;
    let path = rig.write(&rig.toml());
    let ignored = &super::RUN[2..];
    let blocking = move |limit: &'static str| {
        let path = path.clone();
        tokio::task::spawn_blocking(move || codes_under(&["prlimit", limit], &path, ignored))
    };
    assert_eq!(
        blocking("--nofile=300:300").await.unwrap(),
        ["descriptors_few"]
    );
    assert_eq!(blocking("--nofile=4096:4096").await.unwrap(), [""; 0]);
}

async fn ports() {
    let rig = Rig::start().await;
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    set_kernel_parameter(range, "40000 40098");
    let both = ["ports_few", "ports_few"];
    assert_eq!(
        rig.codes(&rig.toml()).await,
        both,
        "99 ports of each family"
    );
    set_kernel_parameter(range, "40000 40099");
    assert_eq!(rig.codes(&rig.toml()).await, [""; 0]);
    for (name, value) in [("tcp_tw_reuse", "0"), ("tcp_timestamps", "0")] {
        set_kernel_parameter(&format!("/proc/sys/net/ipv4/{name}"), value);
        assert_eq!(rig.codes(&rig.toml()).await, ["ports_not_reused"], "{name}");
        set_kernel_parameter(&format!("/proc/sys/net/ipv4/{name}"), "1");
    }
}

async fn kernel() {
    let rig = Rig::start().await;
    let path = rig.write(&rig.toml());
    let under = move |inject: &'static str, ignored: &'static [&'static str]| {
        let path = path.clone();
        tokio::task::spawn_blocking(move || {
            let strace = ["strace", "-f", "-o", "/dev/null", "-e", inject];
            codes_under(&strace, &path, ignored)
        })
    };
    let only_clock = &["--ignore", "T10"][..];
    let free = under("inject=adjtimex,clock_adjtime:retval=5", only_clock);
    assert_eq!(free.await.unwrap(), ["clock_not_synchronised"]);
    let held = under("inject=adjtimex,clock_adjtime:retval=0", only_clock);
    assert_eq!(held.await.unwrap(), [""; 0]);
    let only_landlock = &["--ignore", "T09"][..];
    let none = under("inject=landlock_create_ruleset:error=ENOSYS", only_landlock);
    assert_eq!(none.await.unwrap(), ["landlock_missing"]);
    let no_socket = under("inject=socket:error=EMFILE:when=1", &super::RUN[2..]);
    assert_eq!(no_socket.await.unwrap(), ["egress_not_told"]);
}

async fn audit() {
    let rig = Rig::start().await;
    let folder = rig.path("audit");
    let toml = format!(
        "{}[audit]\nfile = \"{}\"\n",
        rig.toml(),
        folder.join("a.jsonl").display()
    );
    assert_eq!(rig.codes(&toml).await, ["audit_unusable"], "no folder");
    std::fs::create_dir(&folder).unwrap();
    assert_eq!(rig.codes(&toml).await, [""; 0]);
    let shown = folder.to_str().unwrap();
    run(&format!("mount -t tmpfs -o size=200m tmpfs {shown}"));
    assert_eq!(rig.codes(&toml).await, ["audit_space_low"]);
    run(&format!("mount -o remount,size=300m {shown}"));
    assert_eq!(rig.codes(&toml).await, [""; 0]);
    run(&format!("mount -o remount,ro {shown}"));
    assert_eq!(rig.codes(&toml).await, ["audit_unusable"], "read-only");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

async fn configuration() {
    let rig = Rig::start().await;
    let ranges = rig.path("goog.json");
    let text = |day: &str| {
        format!(
            "{{\"creationTime\": \"{day}T00:00:00\", \"prefixes\": [{{\"ipv4Prefix\": \"198.51.100.0/24\"}}, {{\"ipv6Prefix\": \"2001:db8:80::/48\"}}]}}"
        )
    };
    let toml = rig.toml().replace(
        "[limits]",
        &format!("destination_ranges = \"{}\"\n[limits]", ranges.display()),
    );
    std::fs::write(&ranges, text("2026-01-01")).unwrap();
    assert_eq!(rig.codes(&toml).await, ["ranges_old"]);
    let today = time::OffsetDateTime::now_utc().date().to_string();
    std::fs::write(&ranges, text(&today)).unwrap();
    assert_eq!(rig.codes(&toml).await, [""; 0]);
    std::fs::set_permissions(&ranges, PermissionsExt::from_mode(0o666)).unwrap();
    let (codes, result) = rig.findings(&toml).await;
    assert_eq!(codes, ["file_writable_by_others"]);
    let command = result["findings"][0]["commands"][0].as_str().unwrap();
    run(command);
    assert_eq!(rig.codes(&toml).await, [""; 0], "{command}");
}

async fn hop() {
    let rig = Rig::start().await;
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\n";
    let core = "[[listener]]\naddress = \"127.0.0.1:9294\"\nproxy_protocol = { from = [\"127.0.0.1/32\"], identity = true, token_file = \"token\" }\n";
    let tls = "[[listener]]\naddress = \"127.0.0.1:9443\"\ntls = { certificate = \"a.pem\", key = \"a.key\", token_file = \"token\", core = \"127.0.0.1:9294\" }\n[auth]\nclients = [\"127.0.0.0/8\"]\n[hop]\nprogram = \"PROGRAM\"\n";
    std::fs::write(rig.path("token"), "0123456789abcdef".repeat(4)).unwrap();
    std::fs::set_permissions(rig.path("token"), PermissionsExt::from_mode(0o600)).unwrap();
    for (program, code) in [
        ("/bin/true", None),
        ("/bin/false", Some("hop_check_failed")),
        ("/nowhere/sealway-hop", Some("hop_check_failed")),
    ] {
        let with = format!("{core}{}", tls.replace("PROGRAM", program));
        let toml = rig.toml().replace(listener, &with);
        let expected: Vec<_> = code.into_iter().collect();
        assert_eq!(rig.codes(&toml).await, expected, "{program}");
    }
}
