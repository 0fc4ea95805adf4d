//! The printed commands run as they are printed, by a shell, and solve what they are for: the doctor runs again behind them
//! and finds nothing. Words in capitals are replaced, as the finding says. Commands of providers are run by refusals.rs, and
//! those of a firewall by network.rs.

use std::process::Stdio;

use support::HOST;
use support::config::Config;
use support::daemon::Daemon;
use support::users::{start_with_users, user};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::fake::Fake;
use super::proxies::{certificate, listener};
use super::run::{Doctor, tunnel};
use crate::zoo::{Authority, Wanted, write};
use sealway_hop::doctor::verdict::Verdict;

fn well(proxy: &str, fake: &Fake) -> Doctor {
    Doctor::new(proxy, fake)
        .key("GEMINI_API_KEY", "well")
        .with(&["--quick"])
}

/// The commands of the only finding, one a line, with the words replaced that the finding explains.
async fn commands_of(doctor: &Doctor, code: &str, words: &[(&str, &str)]) -> String {
    let report = doctor.run().await.json();
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1, "{report}");
    assert_eq!(findings[0]["code"], code, "{report}");
    let commands = findings[0]["commands"].as_array().unwrap().iter();
    let commands: Vec<_> = commands.map(|one| one.as_str().unwrap()).collect();
    let commands = commands.join("\n");
    let explained = findings[0]["placeholders"].as_object().unwrap();
    let replaced: Vec<_> = words.iter().map(|(word, _)| *word).collect();
    for word in explained.keys() {
        assert!(replaced.contains(&word.as_str()), "{word}: {commands}");
    }
    words.iter().fold(commands, |commands, (word, value)| {
        assert!(explained.contains_key(*word), "{word}: {explained:?}");
        commands.replace(word, value)
    })
}

/// Runs the commands in the doctor's shell, and the doctor behind them.
async fn solved(doctor: &Doctor, code: &str, words: &[(&str, &str)]) {
    let commands = commands_of(doctor, code, words).await;
    assert!(!commands.is_empty(), "{code}");
    let codes = doctor.clone().behind("sh", &commands).codes().await;
    assert_eq!(codes, [""; 0], "{code}: {commands}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_for_variables_solve_what_they_are_for() {
    let fake = Fake::start().await;
    let (_daemon, proxy) = tunnel(&fake).await;
    let other = "http://other.example:1";
    for (name, value, code) in [
        ("https_proxy", other, "proxy_cases_differ"),
        ("NO_PROXY", "10.0.0.1,.googleapis.com", "no_proxy_matches"),
        ("no_proxy", "*", "no_proxy_matches"),
        ("grpc_proxy", other, "grpc_proxy_differs"),
        ("no_grpc_proxy", "*, x.example", "no_grpc_proxy_matches"),
        ("JAVA_TOOL_OPTIONS", "-Xmx1g", "java_ignores_variables"),
        ("NODE_ENV", "production", "node_fetch_ignores_variables"),
    ] {
        solved(&well(&proxy, &fake).env(name, value), code, &[]).await;
    }
    let named = well(other, &fake).with(&["--proxy", &proxy]);
    solved(&named, "proxy_variable_differs", &[]).await;
    let named = named.env("HTTPS_PROXY", "").env("ALL_PROXY", other);
    solved(&named, "proxy_variable_differs", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs python3(1)")]
async fn the_lines_for_the_url_and_for_java_solve_what_they_are_for() {
    let fake = Fake::start().await;
    let config = Config::to(fake.address);
    let guarded = start_with_users(config, &user("alice", "CANARY@x", ""), "").await;
    let at = guarded.proxy_addr().to_string();
    let words = [
        ("NAME", "alice"),
        ("SECRET", "CANARY%40x"),
        ("HOST:9293", at.as_str()),
    ];
    let unset = well("", &fake);
    let commands = commands_of(
        &unset,
        "proxy_not_set",
        &[("NAME", "NAME"), ("SECRET", "SECRET"), ("HOST", "HOST")],
    );
    let commands = words.iter().fold(commands.await, |line, (word, value)| {
        line.replace(word, value)
    });
    assert_eq!(unset.behind("sh", &commands).codes().await, [""; 0]);
    let host = "-Dhttps.proxyHost=127.0.0.1";
    let encoded = format!("http://alice:CANARY%40x@{at}");
    let java = well(&encoded, &fake).env("JDK_JAVA_OPTIONS", host);
    solved(&java, "java_disables_basic", &[]).await;
    // The line asks for the secret and prints it encoded.
    let raw = well(&format!("http://alice:CANARY@x@{at}"), &fake);
    let command = commands_of(&raw, "proxy_url_encoding", &[]).await;
    let printed = shell(&command, "CANARY@x\n").await;
    let url = format!("http://alice:{}@{at}", printed.trim());
    assert_eq!(well(&url, &fake).codes().await, [""; 0], "{command}");
}

/// What a shell prints for this command, with this standard input and no terminal.
async fn shell(command: &str, input: &str) -> String {
    let mut child = Command::new("setsid")
        .args(["--wait", "sh", "-ec", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output = support::soon("the command's end", child.wait_with_output()).await;
    let output = output.unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_for_a_wrong_scheme_solve_it() {
    let fake = Fake::start().await;
    let config = Config::to(fake.address);
    let guarded = start_with_users(config, &user("alice", "CANARY-x", ""), "").await;
    let authority = Authority::new("proxy CA");
    let ca = write(&fake.folder, "proxy.pem", &authority.pem());
    let own = certificate(&authority, 2024, 2100);
    let tls = listener(&own, None, guarded.proxy_addr()).await;
    let words = [("NAME", "alice"), ("SECRET", "CANARY-x")];
    for (url, code) in [
        (format!("http://alice:CANARY-x@{tls}"), "proxy_speaks_tls"),
        (
            format!("https://alice:CANARY-x@{}", guarded.proxy_addr()),
            "proxy_speaks_cleartext",
        ),
    ] {
        let doctor = well(&url, &fake).with(&["--proxy-ca", ca.to_str().unwrap()]);
        solved(&doctor, code, &words).await;
    }
}

/// The lines that run the doctor again, by the name `sealway doctor`.
#[tokio::test(flavor = "multi_thread")]
async fn the_lines_that_run_the_doctor_again_lead_further() {
    let fake = Fake::start().await;
    let (daemon, _) = tunnel(&fake).await;
    let (authority, clients) = (Authority::new("proxy CA"), Authority::new("client CA"));
    let ca = write(&fake.folder, "proxy.pem", &authority.pem());
    let client = clients.issue(&Wanted::client(3));
    let cert = write(&fake.folder, "client.pem", &client.pem);
    let key = write(&fake.folder, "client.key", &client.key_pem);
    let [ca, cert, key] = [&ca, &cert, &key].map(|path| path.to_str().unwrap());
    let own = certificate(&authority, 2024, 2100);
    let open = listener(&own, None, daemon.proxy_addr()).await;
    let asking = listener(&own, Some(&clients), daemon.proxy_addr()).await;
    let open = format!("https://{open}");
    let asking = format!("https://{asking}");
    let first = well(&open, &fake);
    let command = commands_of(&first, "proxy_certificate_untrusted", &[("FILE", ca)]).await;
    again(&first, &command).await;
    let second = well(&asking, &fake).with(&["--proxy-ca", ca]);
    let words = [("KEY_FILE", key), ("FILE", cert)];
    let command = commands_of(&second, "proxy_wants_certificate", &words).await;
    again(&second, &command).await;
}

/// A printed line that runs the doctor again finds nothing. What makes a run of the tests short is added.
async fn again(doctor: &Doctor, command: &str) {
    let line = format!("{command} --quick --timeout 25 --ignore D10");
    let ran = doctor.in_its_environment(&line).await;
    assert_eq!(ran.status, 0, "{line}: {ran:?}");
    assert!(ran.stdout.starts_with("ok: "), "{line}: {ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_that_reads_a_key_hides_it_and_sets_it() {
    let fake = Fake::start().await;
    let (_daemon, proxy) = tunnel(&fake).await;
    let doctor = Doctor::new(&proxy, &fake).with(&["--quick", "--key-env", "GEMINI_API_KEY"]);
    for (doctor, code) in [
        (doctor.clone(), "key_not_set"),
        (
            doctor.clone().env("GEMINI_API_KEY", "\"CANARY-well\""),
            "key_malformed",
        ),
    ] {
        let command = commands_of(&doctor, code, &[]).await;
        let typed = format!("{{ {command}; }} <<'END'\nCANARY-well\nEND");
        assert_eq!(doctor.behind("bash", &typed).codes().await, [""; 0]);
    }
}

/// Commands that only show something: they run, with the programs of this package and of a usual system.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs ss(8)")]
async fn the_lines_that_show_something_run() {
    let fake = Fake::start().await;
    let strict = Daemon::start(&Config::closed()).await;
    let refused = well(&format!("http://{}", strict.proxy_addr()), &fake);
    let command = commands_of(&refused, "tunnel_refused", &[]).await;
    let config = strict.path("sealway.toml").display().to_string();
    let command = command.replace("/etc/sealway/sealway.toml", &config);
    let ran = refused.in_its_environment(&command).await;
    assert!(ran.stdout.contains("host_denied"), "{command}: {ran:?}");
    assert!(ran.stdout.contains(HOST), "{command}: {ran:?}");
    let nobody = well("http://127.0.0.1:1", &fake);
    let command = commands_of(&nobody, "proxy_connect_refused", &[]).await;
    let ran = nobody.in_its_environment(&command).await;
    assert!(ran.stdout.contains(":"), "{command}: {ran:?}");
    let nameless = well("http://no-such-host.invalid:9293", &fake);
    let command = commands_of(&nameless, "proxy_dns_failed", &[]).await;
    // The name has no address, which getent(1) says with this status.
    assert_eq!(nameless.in_its_environment(&command).await.status, 2);
    let authority = Authority::new("proxy CA");
    let ca = write(&fake.folder, "proxy.pem", &authority.pem());
    let old = certificate(&authority, 2020, 2021);
    let old = listener(&old, None, fake.address).await;
    let old = well(&format!("https://{old}"), &fake).with(&["--proxy-ca", ca.to_str().unwrap()]);
    let command = commands_of(&old, "proxy_certificate_expired", &[]).await;
    assert_eq!(old.in_its_environment(&command).await.status, 0);
}

/// No printed line has a flag or a subcommand that Sealway does not have.
#[tokio::test(flavor = "multi_thread")]
async fn each_printed_line_of_sealway_has_flags_that_exist() {
    let mut lines: Vec<_> = Verdict::all()
        .flat_map(|verdict| verdict.command.lines())
        .map(|line| {
            line.replace("{again}", "sealway doctor")
                .replace(['{', '}'], "")
        })
        .map(|line| line.split(" >").next().unwrap_or_default().to_owned())
        .filter(|line| line.starts_with("sealway"))
        .collect();
    lines.sort();
    lines.dedup();
    assert!(lines.len() > 8, "{lines:?}");
    for line in lines {
        // Help comes before anything else is done, and after the flags are read.
        let (program, arguments) = line.split_once(' ').unwrap();
        let asked = format!("{program} {arguments} --help");
        let ran = Doctor::bare().in_its_environment(&asked).await;
        assert_eq!(
            (ran.status, ran.stderr.as_str()),
            (0, ""),
            "{line}: {ran:?}"
        );
        for word in arguments.split(' ').filter(|word| word.starts_with("--")) {
            let flag = word.split('=').next().unwrap();
            assert!(ran.stdout.contains(flag), "{line}: {}", ran.stdout);
        }
    }
}
