//! A real browser: Chromium without a window, driven over its own protocol (Chrome DevTools Protocol) through a pair of pipes, so
//! that it opens no port. Needs `chromium` (or `google-chrome`) in the path; without it the test fails.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::{soon, within};

/// A browser with one page. Dropped, it is killed.
pub struct Browser {
    _child: Child,
    commands: ChildStdin,
    messages: BufReader<ChildStdout>,
    session: Option<String>,
    next: u64,
    is_loaded: bool,
    /// Errors of the page, its security policy and the browser, and each requested address.
    pub complaints: Vec<String>,
    pub requests: Vec<String>,
    _profile: TempDir,
}

impl Browser {
    /// Starts it with an empty page.
    pub async fn start() -> Browser {
        let profile = tempfile::tempdir().expect("tempdir");
        let mut child = command(profile.path()).spawn().expect("run sh");
        let commands = child.stdin.take().expect("stdin is piped");
        let messages = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (complaints, requests) = (Vec::new(), Vec::new());
        let (session, next, is_loaded) = (None, 0, false);
        let _profile = profile;
        let _child = child;
        let mut browser = Browser {
            _child,
            commands,
            messages,
            session,
            next,
            is_loaded,
            complaints,
            requests,
            _profile,
        };
        let page = browser
            .call("Target.createTarget", json!({"url": "about:blank"}))
            .await;
        let attach = json!({"targetId": page["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach).await;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Goes to a page and waits until it is loaded.
    pub async fn open(&mut self, url: &str) {
        self.is_loaded = false;
        let opened = self.call("Page.navigate", json!({"url": url})).await;
        assert_eq!(opened.get("errorText"), None, "{url}: {opened}");
        let loaded = async {
            while !self.is_loaded {
                let message = self.message().await;
                self.note(&message);
            }
        };
        soon(url, loaded).await;
    }

    /// The value of an expression in the page.
    pub async fn eval(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true});
        let answer = self.call("Runtime.evaluate", asked).await;
        assert_eq!(
            answer.get("exceptionDetails"),
            None,
            "{expression}: {answer}"
        );
        answer["result"]["value"].clone()
    }

    /// Waits until an expression has this value.
    pub async fn until(&mut self, expression: &str, wanted: impl Into<Value>) {
        let (wanted, mut seen) = (wanted.into(), Value::Null);
        let reached = async {
            loop {
                seen = self.eval(expression).await;
                if seen == wanted {
                    return;
                }
                self.eval("new Promise(requestAnimationFrame)").await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(30), reached)
            .await
            .is_ok();
        assert!(in_time, "{expression} is {seen} and not {wanted}");
    }

    /// Presses a key that types no text, such as `Tab` or `Enter`.
    pub async fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            _ => panic!("which key is {key}?"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event =
                json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            if kind == "keyDown" && !text.is_empty() {
                event["text"] = text.into();
            }
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// Types a text where the focus is.
    pub async fn insert(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text})).await;
    }

    /// Sets a screen of this size, light or dark.
    pub async fn screen(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", features).await;
    }

    /// The whole page as PNG.
    pub async fn screenshot(&mut self) -> Vec<u8> {
        let asked = json!({"format": "png", "captureBeyondViewport": true});
        let shot = self.call("Page.captureScreenshot", asked).await;
        STANDARD
            .decode(shot["data"].as_str().expect("a picture"))
            .expect("base64")
    }

    /// Calls a method of the protocol.
    pub async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let mut command = json!({"id": self.next, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            command["sessionId"] = session.as_str().into();
        }
        let bytes = [command.to_string().as_bytes(), &[0]].concat();
        self.commands
            .write_all(&bytes)
            .await
            .expect("Chromium takes commands: is it installed?");
        let id = self.next;
        let answered = async {
            loop {
                let message = self.message().await;
                if message["id"] == id {
                    assert_eq!(message.get("error"), None, "{method}");
                    return message["result"].clone();
                }
                self.note(&message);
            }
        };
        within(Duration::from_secs(60), method, answered).await
    }

    async fn message(&mut self) -> Value {
        let mut message = Vec::new();
        self.messages
            .read_until(0, &mut message)
            .await
            .expect("read from Chromium");
        assert_eq!(
            message.pop(),
            Some(0),
            "Chromium has ended, or is not installed: apt-get install chromium"
        );
        serde_json::from_slice(&message).expect("JSON")
    }

    fn note(&mut self, message: &Value) {
        let parameters = &message["params"];
        match message["method"].as_str().unwrap_or_default() {
            "Page.loadEventFired" => self.is_loaded = true,
            "Runtime.exceptionThrown" => self
                .complaints
                .push(parameters["exceptionDetails"].to_string()),
            "Runtime.consoleAPICalled" => self.complaints.push(parameters["args"].to_string()),
            "Log.entryAdded" => self.complaints.push(parameters["entry"].to_string()),
            "Network.requestWillBeSent" => {
                self.requests.push(
                    parameters["request"]["url"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned(),
                );
            }
            _ => {}
        }
    }

    /// Ends it normally.
    pub async fn close(mut self) {
        self.session = None;
        self.call("Browser.close", json!({})).await;
        soon("Chromium's end", self._child.wait())
            .await
            .expect("wait for Chromium");
    }
}

/// The browser reads from descriptor 3 and writes to 4. Root cannot use its sandbox, and the pages
/// are our own.
fn command(profile: &Path) -> Command {
    let flags = "--headless --remote-debugging-pipe --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
                 --disable-background-networking --disable-component-update --disable-sync --disable-extensions \
                 --no-proxy-server --force-color-profile=srgb --hide-scrollbars";
    let script = format!(
        "for name in chromium chromium-browser google-chrome; do command -v $name >/dev/null && \
         exec $name {flags} --user-data-dir=\"$0\" 3<&0 4>&1 </dev/null >/dev/null 2>\"$0/log\"; done; \
         echo 'no chromium in the path' >&2; exit 127"
    );
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(profile);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}
