//! A real Prometheus on loopback that scrapes one daemon with the configuration and the rules of
//! `deploy/prometheus`, and promtool. Both are in the Debian package `prometheus`; without it a
//! test fails and says so.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Child;

use crate::client::dial;
use crate::monitoring::{ALERTS, CONFIG, RECORDING, read};
use crate::{soon, within};

/// A running Prometheus. Dropped, it is killed.
pub struct Prometheus {
    _child: Child,
    _directory: TempDir,
    address: SocketAddr,
}

/// A sample of an answer: its labels and its value.
pub type Sample = (Value, f64);

impl Prometheus {
    /// Starts one that scrapes this admin listener every half a second instead of every quarter of a minute.
    pub async fn start(admin: SocketAddr) -> Prometheus {
        let directory = tempfile::tempdir().expect("tempdir");
        let replaced = |text: String, old: &str, new: &str| {
            assert!(text.contains(old), "{CONFIG} has no {old}");
            text.replace(old, new)
        };
        let config = replaced(
            read(CONFIG),
            "\"127.0.0.1:9294\"]",
            &format!("\"{admin}\"]"),
        );
        let config = replaced(config, "scrape_interval: 15s", "scrape_interval: 500ms");
        let config = replaced(
            config,
            "evaluation_interval: 15s",
            "evaluation_interval: 500ms",
        );
        for (path, text) in [
            (CONFIG, config),
            (ALERTS, read(ALERTS)),
            (RECORDING, read(RECORDING)),
        ] {
            let name = path.rsplit('/').next().expect("a name");
            std::fs::write(directory.path().join(name), text).expect("write what Prometheus reads");
        }
        let flag =
            |flag: &str, name: &str| format!("--{flag}={}", directory.path().join(name).display());
        let mut command = tokio::process::Command::new("prometheus");
        command
            .arg(flag("config.file", "prometheus.yml"))
            .arg(flag("storage.tsdb.path", "data"));
        command.arg("--web.listen-address=127.0.0.1:0");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("prometheus: {error}; {INSTALL}"));
        let mut log = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        let listening = async {
            let mut all = Vec::new();
            while let Ok(Some(line)) = log.next_line().await {
                let found = line
                    .contains("msg=\"Listening on\"")
                    .then(|| line.split("address=").nth(1))
                    .flatten();
                if let Some(address) = found.and_then(|address| address.trim().parse().ok()) {
                    return address;
                }
                all.push(line);
            }
            panic!("Prometheus ended:\n{}", all.join("\n"));
        };
        let address = soon("Prometheus' address", listening).await;
        // A pipe without a reader would block it eventually.
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        let prometheus = Prometheus {
            _child: child,
            _directory: directory,
            address,
        };
        // It listens before it has read its own log.
        let ready = async { while !prometheus.page("/-/ready").await.0.contains(" 200 ") {} };
        within(SCRAPED, "a Prometheus that is ready", ready).await;
        prometheus
    }

    /// The finite samples of an expression now; an expression that Prometheus cannot parse fails
    /// the test.
    pub async fn query(&self, expression: &str) -> Vec<Sample> {
        let escaped: String = expression
            .bytes()
            .map(|byte| format!("%{byte:02X}"))
            .collect();
        let answer = self.get(&format!("/api/v1/query?query={escaped}")).await;
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        let sample = |sample: &Value| {
            let value: f64 = sample["value"][1]
                .as_str()
                .and_then(|text| text.parse().ok())
                .expect("a number");
            value.is_finite().then(|| (sample["metric"].clone(), value))
        };
        answer["data"]["result"]
            .as_array()
            .expect("a vector")
            .iter()
            .filter_map(sample)
            .collect()
    }

    /// Repeats the query until the answer satisfies `wanted`.
    pub async fn until(&self, expression: &str, wanted: impl Fn(&[Sample]) -> bool) -> Vec<Sample> {
        // A loop without a pause would take the processor from the process that it waits for.
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        let reached = async {
            loop {
                pace.tick().await;
                let samples = self.query(expression).await;
                if wanted(&samples) {
                    return samples;
                }
            }
        };
        within(SCRAPED, expression, reached).await
    }

    /// A page of the API.
    pub async fn get(&self, path: &str) -> Value {
        let (head, body) = self.page(path).await;
        serde_json::from_str(&body)
            .unwrap_or_else(|error| panic!("{path}: {error}\n{head}\n{body}"))
    }

    /// The head and the body of a page. In HTTP/1.0, to avoid chunks.
    async fn page(&self, path: &str) -> (String, String) {
        let mut stream = dial(self.address).await;
        stream
            .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
            .await
            .expect("ask Prometheus");
        let mut answer = String::new();
        soon("Prometheus' answer", stream.read_to_string(&mut answer))
            .await
            .expect("read it");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.to_owned(), body.to_owned())
    }
}

/// Runs promtool in the repository, with this standard input; returns its output, and panics with
/// it on a failure.
pub fn promtool(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(crate::root());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("promtool: {error}; {INSTALL}"));
    child
        .stdin
        .take()
        .expect("stdin is piped")
        .write_all(input.as_bytes())
        .expect("write to promtool");
    let output = child.wait_with_output().expect("wait for promtool");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success(),
        "promtool {arguments:?}: {}\n{said}",
        output.status
    );
    said
}

const INSTALL: &str = "the Debian package prometheus has it, and .ci/run installs that";
/// Prometheus scrapes a new target after five to ten seconds; a loaded machine takes longer for all of it.
const SCRAPED: Duration = Duration::from_secs(120);
