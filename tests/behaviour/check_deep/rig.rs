//! A healthy machine in a namespace: two egress addresses, a name server, and an upstream on another host.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;
use support::command::sealway;
use support::dns::{Dns, Say};
use support::namespace::{OtherHost, set_kernel_parameter};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

pub struct Rig {
    pub host: OtherHost,
    pub dns: Dns,
    pub port: u16,
    folder: TempDir,
}

impl Rig {
    pub async fn start() -> Rig {
        Rig::on(OtherHost::start()).await
    }

    pub async fn on(host: OtherHost) -> Rig {
        set_kernel_parameter("/proc/sys/net/ipv4/tcp_tw_reuse", "1");
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let listener = TcpListener::from_std(host.listen(any)).unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(answer(listener));
        let dns = Dns::start(Say::addresses(&[V4, V6], 60)).await;
        let folder = tempfile::tempdir().unwrap();
        Rig {
            host,
            dns,
            port,
            folder,
        }
    }

    /// The configuration of the healthy machine.
    pub fn toml(&self) -> String {
        let dns = self.dns.section("5s");
        self.toml_with("192.0.2.1\", \"2001:db8:2::1", &dns)
    }

    /// The same with one egress address.
    pub fn toml_from(&self, egress: &str) -> String {
        self.toml_with(egress, &self.dns.section("5s"))
    }

    fn toml_with(&self, egress: &str, dns: &str) -> String {
        let port = self.port;
        format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"\"\n[egress]\naddresses = [\"{egress}\"]\n[policy]\npresets = []\nallow = [\"api.example:{port}\"]\nallow_destinations = [\"198.51.100.0/24\", \"2001:db8:80::/48\"]\n[limits]\ntunnels = 100\n{dns}\n"
        )
    }

    /// Writes a file of the rig and returns its path.
    pub fn write(&self, toml: &str) -> String {
        let path = self.path("sealway.toml");
        std::fs::write(&path, toml).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Every file of the rig's folder with its time and length.
    pub fn files(&self) -> BTreeMap<PathBuf, (SystemTime, u64)> {
        let of = |path: &Path| {
            let found = path.metadata().unwrap();
            (found.modified().unwrap(), found.len())
        };
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), of(&path)))
            .collect()
    }

    /// Checks with this configuration file.
    pub async fn check(&self, path: &str) -> (i32, Value) {
        let ended = sealway(&[&super::RUN[..], &["--json", "--config", path]].concat()).await;
        let result = serde_json::from_str(&ended.stdout);
        let result = result.unwrap_or_else(|error| panic!("{error}: {ended:?}"));
        (ended.status, result)
    }

    /// The codes that this configuration has; the status follows from them.
    pub async fn codes(&self, toml: &str) -> Vec<String> {
        self.findings(toml).await.0
    }

    /// The same with the whole result.
    pub async fn findings(&self, toml: &str) -> (Vec<String>, Value) {
        let (status, result) = self.check(&self.write(toml)).await;
        let codes = codes(&result);
        assert_eq!(status, i32::from(!codes.is_empty()), "{result:#}");
        (codes, result)
    }
}

/// The codes of all findings, in order.
pub fn codes(result: &Value) -> Vec<String> {
    let findings = result["findings"].as_array().unwrap();
    let code = |finding: &Value| finding["code"].as_str().unwrap().to_owned();
    findings.iter().map(code).collect()
}

/// Answers every connection that has sent something, as a TLS server does with an alert.
async fn answer(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut some = [0; 4096];
            if matches!(stream.read(&mut some).await, Ok(count) if count > 0) {
                // The other end may have reset the connection.
                let _sent = stream.write_all(&[21, 3, 3, 0, 2, 2, 50]).await;
                while matches!(stream.read(&mut some).await, Ok(count) if count > 0) {}
            }
        });
    }
}

/// The upstream's addresses.
pub const V4: &str = "198.51.100.8";
pub const V6: &str = "2001:db8:80::8";
