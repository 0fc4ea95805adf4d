//! OpenSSL's command line tools as TLS client and TLS server: a second, independent stack, for what
//! rustls cannot do or does in its own way. Needs openssl(1) 3.0 or newer; without it the test
//! fails.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::{DEADLINE, HOST, soon};

/// Files of an authority, of a server called [`HOST`] and of a client that it has signed.
pub struct Identities {
    directory: TempDir,
}

/// `openssl s_server`, which serves one connection after the other.
pub struct Server {
    pub tool: Tool,
    pub addr: SocketAddr,
}

/// A running tool: its output, and its standard input, which goes to its peer. Dropped, it is
/// killed.
pub struct Tool {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines<BufReader<ChildStdout>>,
    said: Vec<String>,
}

impl Identities {
    pub fn generate() -> Identities {
        let directory = tempfile::tempdir().expect("tempdir");
        let mut params = named("the authority of this test", Vec::new());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"))
            .expect("an authority");
        let write = |name: &str, text: String| {
            std::fs::write(directory.path().join(name), text).expect("write")
        };
        write("ca.pem", authority.pem());
        for (file, name) in [("server", HOST), ("client", "client.example")] {
            let key = KeyPair::generate().expect("a key");
            let certificate = named(name, vec![name.to_string()])
                .signed_by(&key, &authority)
                .expect("a certificate");
            write(
                &format!("{file}.pem"),
                certificate.pem() + &key.serialize_pem(),
            );
        }
        Identities { directory }
    }

    /// A line of the client's certificate that no other has: it holds its serial number.
    pub fn client_certificate(&self) -> String {
        let pem = std::fs::read_to_string(self.path("client.pem")).expect("a certificate");
        pem.lines().nth(1).expect("a line").to_string()
    }

    /// A file in the same directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A server on a port of the kernel's choice. `options` are separated by spaces; in file names
    /// `@` is the directory.
    pub async fn server(&self, options: &str) -> Server {
        let own = "-accept 127.0.0.1:0 -cert @/server.pem -CAfile @/ca.pem -verify_return_error";
        let mut tool = self.tool("s_server", &format!("{own} {options}"));
        let listens = tool.says("ACCEPT 127.0.0.1:").await;
        let addr = listens
            .trim_start_matches("ACCEPT ")
            .trim()
            .parse()
            .expect("an address");
        Server { tool, addr }
    }

    /// A client that requests [`HOST`] from the proxy and checks the server's certificate.
    pub fn client(&self, proxy: SocketAddr, port: u16, options: &str) -> Tool {
        let own = format!(
            "-proxy {proxy} -connect {HOST}:{port} -servername {HOST} -CAfile @/ca.pem -verify_return_error \
             -verify_hostname {HOST}"
        );
        self.tool("s_client", &format!("{own} {options}"))
    }

    fn tool(&self, name: &str, options: &str) -> Tool {
        let directory = self.directory.path().to_str().expect("UTF-8");
        let mut command = Command::new("sh");
        // Some of the output goes to standard error.
        command.args(["-c", "exec openssl \"$@\" 2>&1", "openssl", name]);
        command.args(
            options
                .split_whitespace()
                .map(|option| option.replace('@', directory)),
        );
        // No configuration of this machine may change a default.
        command.env("OPENSSL_CONF", "/dev/null");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut child = command.spawn().expect("run sh(1)");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        Tool {
            stdin: child.stdin.take(),
            child,
            stdout,
            said: Vec::new(),
        }
    }
}

impl Tool {
    /// Waits for a line, old or new, that holds `text`; returns the line.
    pub async fn says(&mut self, text: &str) -> String {
        let mut read = 0;
        loop {
            if let Some(line) = self.said[read..].iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            read = self.said.len();
            match timeout(DEADLINE, self.stdout.next_line()).await {
                Ok(Ok(Some(line))) => self.said.push(line),
                other => panic!(
                    "openssl did not say {text:?} but {other:?} after {:#?}: {NEEDED}",
                    self.said
                ),
            }
        }
    }

    /// Sends a line to its peer. Its first letter must be none of the tools' commands: digits are not.
    pub async fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        stdin
            .write_all(format!("{line}\n").as_bytes())
            .await
            .expect("write to openssl");
        stdin.flush().await.expect("write to openssl");
    }

    /// Ends a client's session normally; returns all its output.
    pub async fn end(mut self) -> Vec<String> {
        drop(self.stdin.take());
        while let Some(line) = soon("the end of openssl", self.stdout.next_line())
            .await
            .expect("read")
        {
            self.said.push(line);
        }
        let status = soon("the exit of openssl", self.child.wait())
            .await
            .expect("wait for openssl");
        assert!(status.success(), "{status}: {:#?}", self.said);
        self.said
    }

    /// Whether it has printed `text`, in the output read so far.
    pub fn has_said(&self, text: &str) -> bool {
        self.said.iter().any(|line| line.contains(text))
    }
}

/// OpenSSL treats a certificate as self-signed if its issuer has the same name.
fn named(common_name: &str, names: Vec<String>) -> CertificateParams {
    let mut params = CertificateParams::new(names).expect("parameters");
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

const NEEDED: &str =
    "this test runs openssl(1): install the package openssl (apt-get install openssl)";
