//! Runs the built `sealway-doctor` with an environment of its own, and fails if a secret is in its output.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use sealway_hop::doctor::checks::Options;
use sealway_hop::doctor::environment::Variables;
use sealway_hop::doctor::path::Target;
use sealway_hop::doctor::provider::Provider;
use sealway_hop::doctor::trust::Trust;
use sealway_hop::doctor::verdict::Check;
use serde_json::Value;
use support::config::Config;
use support::daemon::Daemon;
use support::namespace::Machine;
use support::{HOST, soon};
use tokio::process::Command;

use super::fake::Fake;

/// What a run printed.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A run to be.
#[derive(Clone)]
pub(crate) struct Doctor {
    /// Words before the program, such as nsenter(1).
    prefix: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    terminal: bool,
}

impl Doctor {
    /// Through this proxy to this provider, as JSON, without the direct connection and the idle session.
    pub(crate) fn new(proxy: &str, fake: &Fake) -> Doctor {
        let endpoint = format!("{HOST}:{}", fake.address.port());
        let arguments = [
            "--json",
            "--ignore",
            "D10",
            "--idle",
            "0",
            // Much, for a slow machine.
            "--timeout",
            "25",
            "--endpoint",
            &endpoint,
        ];
        let doctor = Doctor {
            prefix: Vec::new(),
            arguments: arguments.map(str::to_owned).into(),
            environment: Vec::new(),
            terminal: false,
        };
        doctor
            .with(&["--endpoint-ca", &fake.ca()])
            .env("HTTPS_PROXY", proxy)
    }

    /// With more arguments; a second `--endpoint`, `--endpoint-ca`, `--idle` or `--timeout` replaces the first.
    pub(crate) fn with(mut self, arguments: &[&str]) -> Doctor {
        for flag in ["--endpoint", "--endpoint-ca", "--idle", "--timeout"] {
            let place = self.arguments.iter().position(|argument| argument == flag);
            if let Some(place) = place.filter(|_| arguments.contains(&flag)) {
                self.arguments.drain(place..place + 2);
            }
        }
        self.arguments
            .extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// On this machine.
    pub(crate) fn on(mut self, machine: &Machine) -> Doctor {
        self.prefix = machine.prefix();
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Doctor {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a key in a variable that names its provider.
    pub(crate) fn key(self, variable: &str, key: &str) -> Doctor {
        self.env(variable, &format!("CANARY-{key}"))
            .with(&["--key-env", variable])
    }

    /// Behind these commands, in the same shell.
    pub(crate) fn behind(mut self, shell: &str, commands: &str) -> Doctor {
        let script = format!("{commands}\nexec \"$@\"");
        self.prefix = [shell, "-ec", &script, shell].map(str::to_owned).into();
        self
    }

    /// Without a proxy, a provider or an argument.
    pub(crate) fn bare() -> Doctor {
        Doctor {
            prefix: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            terminal: false,
        }
    }

    /// A line that a shell runs in place of the doctor, in its environment and with this package's programs in the path.
    pub(crate) async fn in_its_environment(&self, line: &str) -> Ran {
        let programs = std::path::Path::new(env!("CARGO_BIN_EXE_sealway-doctor"));
        let programs = programs.parent().unwrap().display();
        let path = format!("{programs}:/usr/sbin:/usr/bin:/sbin:/bin");
        let environment = self.environment.iter().cloned();
        let child = Command::new("sh")
            .args(["-ec", line])
            .env_clear()
            .envs(environment.chain([("PATH".to_owned(), path)]))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        Ran::of(&soon("the command's end", child).await.unwrap())
    }

    /// With the limits that a user has.
    pub(crate) fn as_a_user(&mut self) {
        let place = self
            .arguments
            .iter()
            .position(|argument| argument == "--timeout");
        self.arguments.drain(place.unwrap()..place.unwrap() + 2);
    }

    /// On a terminal of script(1), in place of the machine.
    pub(crate) fn on_a_terminal(mut self) -> Doctor {
        self.terminal = true;
        self
    }

    pub(crate) fn as_text(&mut self) {
        self.arguments.retain(|argument| argument != "--json");
    }

    /// Without `--ignore`.
    pub(crate) fn check_everything(&mut self) {
        let place = self
            .arguments
            .iter()
            .position(|argument| argument == "--ignore");
        let place = place.unwrap();
        self.arguments.drain(place..place + 2);
    }

    pub(crate) async fn run(&self) -> Ran {
        let ran = self.run_unchecked().await;
        assert_ne!(ran.status, 2, "{ran:?}");
        ran
    }

    /// A run that may fail.
    pub(crate) async fn run_unchecked(&self) -> Ran {
        let doctor = env!("CARGO_BIN_EXE_sealway-doctor").to_owned();
        let mut words = [&self.prefix[..], &[doctor], &self.arguments[..]].concat();
        if self.terminal {
            let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
            let script = ["script", "-qec", &quoted.join(" "), "/dev/null"];
            words = script.map(str::to_owned).into();
        }
        let child = Command::new(&words[0])
            .args(&words[1..])
            .env_clear()
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = soon("the doctor's end", child).await.unwrap();
        Ran::of(&output)
    }

    /// The codes of its findings, after a check of the exit status.
    pub(crate) async fn codes(&self) -> Vec<String> {
        let ran = self.run().await;
        let report = ran.json();
        let codes: Vec<_> = report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|finding| finding["code"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(ran.status, i32::from(!codes.is_empty()), "{ran:?}");
        codes
    }
}

impl Ran {
    /// Fails if a secret was printed.
    fn of(output: &Output) -> Ran {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let ran = Ran {
            status: output.status.code().unwrap(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        };
        assert!(!format!("{ran:?}").contains("CANARY"), "{ran:?}");
        ran
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A tunnel to this provider that needs no credentials.
pub(crate) async fn tunnel(fake: &Fake) -> (Daemon, String) {
    tunnel_to(fake.address).await
}

pub(crate) async fn tunnel_to(upstream: SocketAddr) -> (Daemon, String) {
    let daemon = Daemon::start(&Config::to(upstream)).await;
    let proxy = format!("http://{}", daemon.proxy_addr());
    (daemon, proxy)
}

/// The agent's own connections to the tunnel would be rejected.
#[test]
fn rules_for_a_proxy_on_this_machine_are_refused() {
    for proxy in [
        "http://127.0.0.1:9293",
        "http://[::1]:9293",
        "http://[::ffff:127.0.0.1]:9293",
    ] {
        let doctor = std::process::Command::new(env!("CARGO_BIN_EXE_sealway-doctor"))
            .args(["--print-rules", "--proxy", proxy])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&doctor.stderr);
        assert_eq!(doctor.status.code(), Some(2), "{said}");
        assert!(
            doctor.stdout.is_empty() && said.contains("name the tunnel with --proxy"),
            "{said}"
        );
    }
}

/// A wrong value may be a misplaced secret.
#[test]
fn a_wrong_admin_listener_is_not_shown() {
    let doctor = std::process::Command::new(env!("CARGO_BIN_EXE_sealway-doctor"))
        .args(["--proxy", "http://192.0.2.1:9293", "--admin", "se cret:x:y"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&doctor.stderr);
    assert_eq!(doctor.status.code(), Some(2), "{said}");
    assert!(
        said.contains("--admin: expected HOST or HOST:PORT") && !said.contains("cret"),
        "{said}"
    );
}

/// A run in this process: a Gemini key through this proxy, to `fake` or to the provider, without what waits.
pub(crate) fn options(proxy: &str, fake: Option<&Fake>) -> Options {
    Options {
        provider: Provider::Gemini,
        target: Target {
            host: HOST.to_owned(),
            port: fake.map_or(443, |fake| fake.address.port()),
        },
        proxy: Some(proxy.to_owned().into()),
        proxy_named: true,
        variables: Variables::new(),
        key: Some("CANARY-well".to_owned().into()),
        key_env: "GEMINI_API_KEY".to_owned(),
        again: "sealway doctor".to_owned(),
        model: "m".to_owned(),
        key_id: String::new(),
        egress: Vec::new(),
        proxy_trust: Trust::load(None).unwrap(),
        target_trust: Trust::load(fake.map(Fake::ca).as_deref().map(Path::new)).unwrap(),
        identity: None,
        quick: false,
        spent: Duration::ZERO,
        step: Duration::from_secs(25),
        idle: Duration::ZERO,
        gap: Duration::ZERO,
        // Looks up a name, which takes real time.
        ignored: vec![Check::D10],
    }
}
