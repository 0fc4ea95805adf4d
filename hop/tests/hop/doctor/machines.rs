//! Application, tunnel, router and provider as machines in a row, each a network namespace. This process is the tunnel's
//! machine.

use support::HOST;
use support::config::Config;
use support::daemon::Daemon;
use support::namespace::{Machine, run};
use support::users::{start_with_users, user};
use tokio::net::TcpListener;

use super::fake::Fake;
use super::run::Doctor;
use crate::zoo::Authority;

/// The application, the tunnel (this machine), a router and the provider, in a row.
pub(super) struct Network {
    pub(super) app: Machine,
    pub(super) router: Machine,
    pub(super) provider: Machine,
    pub(super) authority: Authority,
    pub(super) fake: Fake,
    /// The hosts file of this mount namespace, which the doctor reads.
    hosts: tempfile::NamedTempFile,
}

impl Network {
    /// The provider's name has these addresses for the application.
    pub(super) async fn start(names: &[&str]) -> Network {
        let (app, router, provider) = (Machine::start(), Machine::start(), Machine::start());
        let here = std::process::id();
        connect(("app0", here), ("tun0", app.pid()));
        connect(("out0", here), ("in0", router.pid()));
        connect_between(&router, "out0", &provider, "in0");
        for (address, device) in [
            ("192.0.2.1/24", "app0"),
            ("198.51.100.2/28", "out0"),
            ("2001:db8:2::2/64", "out0"),
        ] {
            run(&add(address, device));
        }
        for (machine, address, device) in [
            (&app, "192.0.2.2/24", "tun0"),
            (&router, "198.51.100.1/28", "in0"),
            (&router, "2001:db8:2::1/64", "in0"),
            (&router, "203.0.113.1/24", "out0"),
            (&router, "2001:db8:3::1/64", "out0"),
            (&provider, "203.0.113.80/24", "in0"),
            (&provider, "2001:db8:3::80/64", "in0"),
        ] {
            machine.run("ip link set lo up");
            machine.run(&format!("ip link set {device} up"));
            machine.run(&add(address, device));
        }
        run("ip link set app0 up");
        run("ip link set out0 up");
        for (to, via) in [("-4", "198.51.100.1"), ("-6", "2001:db8:2::1")] {
            run(&format!("ip {to} route add default via {via}"));
        }
        for (to, via) in [("-4", "203.0.113.1"), ("-6", "2001:db8:3::1")] {
            provider.run(&format!("ip {to} route add default via {via}"));
        }
        for parameter in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
            router.run(&format!("sysctl -qw {parameter}"));
        }
        let hosts = tempfile::NamedTempFile::new().unwrap();
        let lines = names.iter().map(|address| format!("{address} {HOST}\n"));
        std::fs::write(hosts.path(), lines.collect::<String>()).unwrap();
        run(&format!(
            "mount --bind {} /etc/hosts",
            hosts.path().display()
        ));
        let authority = Authority::new("provider CA");
        let issued = authority.server(&[HOST]);
        let listener = listen(&provider, "[::]:443");
        let fake = Fake::at(listener, &authority, &issued, rustls::ALL_VERSIONS);
        Network {
            app,
            router,
            provider,
            authority,
            fake,
            hosts,
        }
    }

    /// Gives an address one more name for the application.
    pub(super) fn name(&self, address: &str, name: &str) {
        let mut text = std::fs::read_to_string(self.hosts.path()).unwrap();
        text += &format!("{address} {name}\n");
        std::fs::write(self.hosts.path(), text).unwrap();
    }

    /// The application knows no name any more.
    pub(super) fn forget_names(&self) {
        std::fs::write(self.hosts.path(), "").unwrap();
    }

    /// The tunnel, which reaches the provider at these addresses.
    pub(super) async fn tunnel(&self, egress: &[&str], upstream: &[&str]) -> Daemon {
        self.tunnel_with(egress, upstream, "").await
    }

    pub(super) async fn tunnel_with(
        &self,
        egress: &[&str],
        upstream: &[&str],
        sections: &str,
    ) -> Daemon {
        let config = Config::closed()
            .listener("address = \"192.0.2.1:9293\"\nallow_cleartext = true")
            .egress(egress)
            .allow(HOST)
            .resolve(HOST, upstream)
            .exempt("203.0.113.0/24")
            .exempt("2001:db8:3::/64")
            .section(sections);
        start_with_users(config, &user("alice", "CANARY-s3cr%t", ""), "").await
    }

    /// Runs a printed command on the application's machine, which must succeed.
    pub(super) fn on_app(&self, command: &str, folder: &std::path::Path) {
        let words = self.app.prefix();
        let programs = std::path::Path::new(env!("CARGO_BIN_EXE_sealway-doctor"));
        let programs = programs.parent().unwrap().display();
        let ran = std::process::Command::new(&words[0])
            .args(&words[1..])
            .args(["sh", "-ec", command])
            .env("PATH", format!("{programs}:/usr/sbin:/usr/bin:/sbin:/bin"))
            .env("HTTPS_PROXY", "http://alice:CANARY-s3cr%25t@192.0.2.1:9293")
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(ran.status.success(), "{command}: {ran:?}");
        assert!(!format!("{ran:?}").contains("CANARY"), "{ran:?}");
    }

    /// A doctor on the application's machine, with a key that has a list, and with every check.
    pub(super) fn doctor(&self) -> Doctor {
        self.doctor_of("http://alice:CANARY-s3cr%25t@192.0.2.1:9293")
    }

    /// The same with another proxy URL.
    pub(super) fn doctor_of(&self, proxy: &str) -> Doctor {
        let mut doctor = Doctor::new(proxy, &self.fake)
            .key("GEMINI_API_KEY", "listed")
            .with(&["--quick", "--egress", STATIC, "--endpoint", HOST])
            .on(&self.app);
        doctor.check_everything();
        doctor
    }
}

/// A link between two processes' namespaces.
fn connect((near, of): (&str, u32), (far, to): (&str, u32)) {
    run(&format!(
        "ip link add {near} netns {of} type veth peer name {far} netns {to}"
    ));
}

pub(super) fn connect_between(one: &Machine, near: &str, other: &Machine, far: &str) {
    connect((near, one.pid()), (far, other.pid()));
}

pub(super) fn add(address: &str, device: &str) -> String {
    let at_once = if address.contains(':') { " nodad" } else { "" };
    format!("ip address add {address} dev {device}{at_once}")
}

pub(super) fn listen(machine: &Machine, address: &str) -> TcpListener {
    TcpListener::from_std(machine.listen(address.parse().unwrap())).unwrap()
}

/// The only finding: its cause and cure, and its commands.
pub(super) async fn only(doctor: &Doctor, code: &str) -> (String, Vec<String>) {
    assert_eq!(doctor.codes().await, [code]);
    let report = doctor.run().await.json();
    let finding = &report["findings"][0];
    let texts = ["cause", "cure"].map(|part| finding[part].as_str().unwrap().to_owned());
    let commands = finding["commands"].as_array().unwrap();
    let commands = commands.iter().map(|one| one.as_str().unwrap().to_owned());
    (texts.join("; "), commands.collect())
}

pub(super) const STATIC: &str = "198.51.100.2";
pub(super) const PROVIDER: &str = "203.0.113.80";
