//! Faults of the machine: limits, ports, clock, Landlock, files.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::command::sealway;
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
    a_hop_that_hangs_is_ended_with_the_check hanging_hop();
    a_hop_that_this_user_cannot_ask_is_no_finding forbidden_hop();
    a_wrong_clock_and_old_presets_are_told dates();
}

/// The codes of a check that another program starts.
pub(super) fn codes_under(wrapper: &[&str], path: &str, flags: &[&str]) -> Vec<String> {
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
    let few = mended(&rig, &["ports_few", "ports_few"]).await;
    assert!(few.contains("99 local ports"), "{few}");
    set_kernel_parameter(range, "40000 40099");
    assert_eq!(rig.codes(&rig.toml()).await, [""; 0]);
    for (name, value) in [("tcp_tw_reuse", "0"), ("tcp_timestamps", "0")] {
        set_kernel_parameter(&format!("/proc/sys/net/ipv4/{name}"), value);
        mended(&rig, &["ports_not_reused"]).await;
    }
}

/// The findings have these codes, and the commands that the check prints make the machine healthy.
async fn mended(rig: &Rig, wanted: &[&str]) -> String {
    let (codes, result) = rig.findings(&rig.toml()).await;
    assert_eq!(codes, wanted, "{result:#}");
    for finding in result["findings"].as_array().unwrap() {
        let command = finding["commands"][0].as_str().unwrap();
        let ran = Command::new("sh").args(["-ec", command]).output().unwrap();
        assert!(ran.status.success(), "{command}: {ran:?}");
    }
    assert_eq!(rig.codes(&rig.toml()).await, [""; 0], "{result:#}");
    result.to_string()
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
    // Under strace(1) a look-up may take long on a busy machine.
    let only_clock = &["--ignore", "T10", "--ignore", "T04"][..];
    let free = under("inject=adjtimex,clock_adjtime:retval=5", only_clock);
    assert_eq!(free.await.unwrap(), ["clock_not_synchronised"]);
    let held = under("inject=adjtimex,clock_adjtime:retval=0", only_clock);
    assert_eq!(held.await.unwrap(), [""; 0]);
    let only_landlock = &["--ignore", "T09", "--ignore", "T04"][..];
    let none = under("inject=landlock_create_ruleset:error=ENOSYS", only_landlock);
    assert_eq!(none.await.unwrap(), ["landlock_missing"]);
    let neither = &["--ignore", "T09", "--ignore", "T10", "--ignore", "T04"][..];
    let no_socket = under("inject=socket:error=EMFILE:when=1", neither);
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

/// The configuration with a TLS listener that this program serves.
fn with_hop(rig: &Rig, program: &str) -> String {
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\n";
    let core = "[[listener]]\naddress = \"127.0.0.1:9294\"\nproxy_protocol = { from = [\"127.0.0.1/32\"], identity = true, token_file = \"token\" }\n";
    let tls = "[[listener]]\naddress = \"127.0.0.1:9443\"\ntls = { certificate = \"a.pem\", key = \"a.key\", token_file = \"token\", core = \"127.0.0.1:9294\" }\n[auth]\nclients = [\"127.0.0.0/8\"]\n";
    std::fs::write(rig.path("token"), "0123456789abcdef".repeat(4)).unwrap();
    std::fs::set_permissions(rig.path("token"), PermissionsExt::from_mode(0o600)).unwrap();
    let hop = format!("[hop]\nprogram = \"{program}\"\n");
    rig.toml().replace(listener, &format!("{core}{tls}{hop}"))
}

async fn hop() {
    let rig = Rig::start().await;
    for (program, code) in [
        ("/bin/true", None),
        ("/bin/false", Some("hop_check_failed")),
        ("/nowhere/sealway-hop", Some("hop_check_failed")),
    ] {
        let expected: Vec<_> = code.into_iter().collect();
        let toml = with_hop(&rig, program);
        assert_eq!(rig.codes(&toml).await, expected, "{program}");
    }
}

async fn hanging_hop() {
    let rig = Rig::start().await;
    let program = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/behaviour/check_deep/hanging_hop"
    );
    let began = Instant::now();
    let (codes, result) = rig.findings(&with_hop(&rig, program)).await;
    assert_eq!(codes, ["hop_check_failed"]);
    let cause = result["findings"][0]["cause"].as_str().unwrap();
    assert!(cause.contains("does not end within 3s"), "{cause}");
    assert!(began.elapsed() < Duration::from_secs(20));
    let pid = std::fs::read_to_string(rig.path("sealway.toml.pid")).unwrap();
    let process = format!("/proc/{}", pid.trim());
    assert!(!std::path::Path::new(&process).exists(), "{process}");
}

/// A user that may not read the key, and a service that may not execute the hop's program.
async fn forbidden_hop() {
    let rig = Rig::start().await;
    let path = rig.write(&with_hop(&rig, "/bin/false"));
    std::fs::write(rig.path("a.key"), "").unwrap();
    let key = rig.path("a.key").display().to_string();
    for (file, call) in [(key.as_str(), "openat"), ("/bin/false", "execve")] {
        let inject = format!("inject={call}:error=EACCES");
        let (file, path) = (file.to_owned(), path.clone());
        let check = move || {
            let strace = [
                "strace",
                "-f",
                "-o",
                "/dev/null",
                "-P",
                &file,
                "-e",
                &inject,
            ];
            codes_under(&strace, &path, &super::RUN[2..])
        };
        let codes = tokio::task::spawn_blocking(check).await.unwrap();
        assert_eq!(codes, [""; 0], "{call}");
    }
}

/// A run as root created the audit file in the folder of the service's user.
#[tokio::test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs root of a user namespace with other users"
)]
async fn an_audit_file_of_another_user_than_its_folder_is_told_and_the_command_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let (audit, path) = (folder.path().join("audit"), folder.path().join("a.toml"));
    std::fs::create_dir(&audit).unwrap();
    let file = audit.join("a.jsonl");
    let toml = "[policy]\npresets = []\n[egress]\naddresses = [\"127.0.0.1\"]\n[audit]\nfile = ";
    std::fs::write(&path, format!("{toml}\"{}\"\n", file.display())).unwrap();
    let mut flags = vec![
        "check",
        "--deep",
        "--json",
        "--config",
        path.to_str().unwrap(),
    ];
    let others = ["T01", "T02", "T03", "T07", "T08", "T09", "T10"];
    flags.extend(others.iter().flat_map(|check| ["--ignore", check]));
    let found = async || {
        let ended = sealway(&flags).await;
        let result: Value = serde_json::from_str(&ended.stdout).unwrap();
        (codes(&result), result)
    };
    chown(&audit, Some(4321), None).expect("run this test as root");
    assert_eq!(found().await.0, [""; 0], "no file yet");
    std::fs::write(&file, "").unwrap();
    let (codes, result) = found().await;
    assert_eq!(codes, ["audit_owner_differs"], "{result:#}");
    let command = result["findings"][0]["commands"][0].as_str().unwrap();
    run(command);
    assert_eq!(file.metadata().unwrap().uid(), 4321);
    assert_eq!(found().await.0, [""; 0]);
    // A folder of root: a daemon of root writes there, and logrotate may have given the file away.
    chown(&audit, Some(0), None).unwrap();
    assert_eq!(found().await.0, [""; 0]);
}

/// The clock is the program's own: a library that is loaded before the C library answers clock_gettime(2).
async fn dates() {
    let rig = Rig::start().await;
    let library = rig.path("clock.so").display().to_string();
    let source = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/behaviour/check_deep/clock.c"
    );
    run(&format!("cc -shared -fPIC -o {library} {source}"));
    let gemini = rig.toml().replace("presets = []", "presets = [\"gemini\"]");
    let _https = rig.host.listen("[::]:443".parse().unwrap());
    let path = rig.write(&gemini);
    for (seconds, codes) in [
        ("0", &["clock_wrong"][..]),
        // 2027-06-30 and 2027-07-01; the names of gemini were read in the middle of 2026.
        ("1814313600", &[]),
        ("1814400000", &["presets_old"]),
        // 2059-12-31 and 2060-01-01.
        ("2840054400", &["presets_old"]),
        ("2840140800", &["clock_wrong", "presets_old"]),
    ] {
        let (preload, time) = (
            format!("LD_PRELOAD={library}"),
            format!("FALSE_TIME={seconds}"),
        );
        let path = path.clone();
        let check = move || {
            let held = "inject=adjtimex,clock_adjtime:retval=0";
            let strace = [
                "strace",
                "-f",
                "-o",
                "/dev/null",
                "-E",
                &preload,
                "-E",
                &time,
                "-e",
                held,
            ];
            codes_under(&strace, &path, &["--ignore", "T10", "--ignore", "T04"])
        };
        let found = tokio::task::spawn_blocking(check).await.unwrap();
        assert_eq!(found, codes, "{seconds}");
    }
}
