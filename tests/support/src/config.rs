//! The daemon's configuration in a test: everything on loopback, port 0, and one upstream that policy allows.

use std::fmt::Write;
use std::net::SocketAddr;

use crate::HOST;

/// The settings of one test's daemon; written as TOML.
#[derive(Clone)]
pub struct Config {
    listener: String,
    egress: Vec<String>,
    egress_lines: String,
    allow: Vec<String>,
    hosts: Vec<(String, Vec<String>)>,
    exempt: Vec<String>,
    policy: String,
    admin: String,
    sections: String,
    audit_file: Option<String>,
}

impl Config {
    /// A daemon with the egress address 127.0.0.2 that may reach only `upstream`, under the name
    /// [`HOST`].
    pub fn to(upstream: SocketAddr) -> Config {
        Config::closed().host(HOST, upstream)
    }

    /// A daemon that may reach nothing.
    pub fn closed() -> Config {
        Config {
            listener: "address = \"127.0.0.1:0\"".into(),
            egress: vec!["127.0.0.2".into()],
            egress_lines: String::new(),
            allow: Vec::new(),
            hosts: Vec::new(),
            exempt: Vec::new(),
            policy: String::new(),
            admin: "address = \"127.0.0.1:0\"".into(),
            sections: String::new(),
            audit_file: None,
        }
    }

    /// Allows `name` at the port of `upstream` and resolves it to the address of `upstream`.
    pub fn host(self, name: &str, upstream: SocketAddr) -> Config {
        let address = upstream.ip().to_string();
        self.allow(&format!("{name}:{}", upstream.port()))
            .resolve(name, &[&address])
    }

    /// Replaces the lines of the only listener.
    pub fn listener(mut self, lines: &str) -> Config {
        self.listener = lines.into();
        self
    }

    /// Names an audit file and adds lines to the `[audit]` section.
    pub fn audit_file(mut self, name: &str, lines: &str) -> Config {
        self.audit_file = Some(name.into());
        self.section(&format!("[audit]\nfile = {name:?}\n{lines}"))
    }

    /// Whether audit records go to a file, not to the log.
    pub fn has_audit_file(&self) -> bool {
        self.audit_file.is_some()
    }

    /// Adds an entry to `policy.allow`.
    pub fn allow(mut self, entry: &str) -> Config {
        self.allow.push(entry.into());
        self
    }

    /// Adds an entry to `dns.hosts`.
    pub fn resolve(mut self, name: &str, addresses: &[&str]) -> Config {
        self.hosts.push((
            name.into(),
            addresses.iter().map(ToString::to_string).collect(),
        ));
        self
    }

    /// Adds an entry to `policy.allow_destinations`.
    pub fn exempt(mut self, network: &str) -> Config {
        self.exempt.push(network.into());
        self
    }

    /// The line `policy.allow_destinations`. A range never opens an address of this machine, so
    /// each possible loopback address of an upstream is named: 127.0.0.1, ::1 and those in
    /// `dns.hosts`.
    pub fn allow_destinations(&self) -> String {
        let is_loopback = |address: &&String| {
            address
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
        };
        let mut named: Vec<String> = ["127.0.0.1", "::1"].map(String::from).into();
        named.extend(
            self.hosts
                .iter()
                .flat_map(|(_, addresses)| addresses)
                .filter(is_loopback)
                .cloned(),
        );
        named.sort();
        named.dedup();
        format!(
            "allow_destinations = {:?}",
            [named, self.exempt.clone()].concat()
        )
    }

    /// Replaces `egress.addresses`.
    pub fn egress(mut self, addresses: &[&str]) -> Config {
        self.egress = addresses.iter().map(ToString::to_string).collect();
        self
    }

    /// Adds a line to the `[egress]` section.
    pub fn egress_line(mut self, line: &str) -> Config {
        self.egress_lines.push_str(line);
        self.egress_lines.push('\n');
        self
    }

    /// Adds a line to the `[admin]` section.
    pub fn admin(mut self, line: &str) -> Config {
        self.admin.push('\n');
        self.admin.push_str(line);
        self
    }

    /// Replaces the address of the admin listener.
    pub fn admin_at(mut self, address: &str) -> Config {
        self.admin = format!("address = {address:?}");
        self
    }

    /// Adds lines to the `[policy]` section.
    pub fn policy(mut self, lines: &str) -> Config {
        self.policy.push_str(lines);
        self.policy.push('\n');
        self
    }

    /// Adds whole sections: any but `[[listener]]`, `[admin]`, `[egress]`, `[policy]` and `[dns.hosts]`.
    pub fn section(mut self, toml: &str) -> Config {
        self.sections.push_str(toml);
        self.sections.push('\n');
        self
    }

    /// The file the daemon reads.
    pub fn to_toml(&self) -> String {
        let mut toml = format!(
            "[[listener]]\n{}\n\n[admin]\n{}\n\n\
             [egress]\naddresses = {:?}\n{}\n\
             [policy]\npresets = []\nallow = {:?}\n{}\n{}\n\
             [dns.hosts]\n",
            self.listener,
            self.admin,
            self.egress,
            self.egress_lines,
            self.allow,
            self.allow_destinations(),
            self.policy
        );
        for (name, addresses) in &self.hosts {
            writeln!(toml, "{name:?} = {addresses:?}").expect("a String takes every write");
        }
        toml.push('\n');
        toml.push_str(&self.sections);
        toml
    }
}
