//! Tests that change the machine's network or mount something: each runs again, alone, as root of
//! namespaces of its own, with `lo` only, so that nothing leaves the machine and no other process
//! sees the change. Needs unshare(1), ip(8) and ss(8); without them the test fails.

use std::fs::File;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::panic::Location;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// Runs `body` in a network namespace of its own. `test` is the name of the calling test, which
/// must be in the file that calls this.
#[track_caller]
pub fn in_own_network(test: &str, body: impl Future<Output = ()>) {
    let test = &in_its_module(test, Location::caller().file());
    if std::env::var(INSIDE).is_ok_and(|inside| &inside == test) {
        run("ip link set lo up");
        return runtime().block_on(body);
    }
    let executable = std::env::current_exe().expect("this executable");
    let mut again = Command::new("unshare");
    again
        .args(["--user", "--map-root-user", "--net", "--mount", "--"])
        .arg(executable);
    again
        .args([
            "--exact",
            test,
            "--include-ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(INSIDE, test);
    let output = again.output().expect("run unshare(1) of util-linux");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let passed = output.status.success() && stdout.contains("1 passed");
    assert!(
        passed,
        "inside a network namespace of its own, {}:\n{stdout}\n{stderr}",
        output.status
    );
}

/// The test harness's name of a test:
/// `refused_dials::an_upstream_without_a_route_is_connect_unreachable` for one in
/// `tests/behaviour/refused_dials.rs`.
fn in_its_module(test: &str, file: &str) -> String {
    // The tests of the hop's package are in hop/tests.
    let modules = file.strip_prefix("hop/").unwrap_or(file);
    let modules = modules
        .strip_prefix("tests/")
        .and_then(|path| path.strip_suffix(".rs"))
        .unwrap_or_else(|| panic!("{file} is no file in tests/"));
    let name = test.rsplit("::").next().unwrap_or(test);
    let words = modules.split('/').skip(1).chain([name]);
    words.collect::<Vec<_>>().join("::")
}

/// Runs a command, which must succeed; returns its output.
pub fn run(command: &str) -> String {
    let mut words = command.split(' ');
    let program = words.next().expect("a program");
    let output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Sets a kernel parameter of the namespace.
pub fn set_kernel_parameter(path: &str, value: &str) {
    std::fs::write(path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// Another host: a network namespace beside this one, reached over a link of its own. This machine
/// has 192.0.2.1 and 2001:db8:2::1 on that link and sends everything there; the other host answers
/// for every address.
pub struct OtherHost(Machine);

impl OtherHost {
    /// Starts it; this machine's namespace must be one of [`in_own_network`].
    pub fn start() -> OtherHost {
        let host = OtherHost::behind(
            "v0",
            &["192.0.2.1/24", "2001:db8:2::1/64"],
            &["192.0.2.2/24", "2001:db8:2::2/64"],
        );
        run("ip route add default via 192.0.2.2");
        run("ip -6 route add default via 2001:db8:2::2");
        host
    }

    /// Another host behind the named link: the addresses of this machine on it, one of each family,
    /// and those of the other host. Routes lead to it only within these networks.
    pub fn behind(link: &str, here: &[&str; 2], there: &[&str; 2]) -> OtherHost {
        let host = OtherHost(Machine::start());
        run(&format!(
            "ip link add {link} type veth peer name v1 netns {}",
            host.0.pid()
        ));
        for address in here {
            run(&format!(
                "ip address add {address} dev {link}{}",
                no_detection(address)
            ));
        }
        for command in ["link set lo up", "link set v1 up"] {
            host.run(&format!("ip {command}"));
        }
        for address in there {
            host.run(&format!(
                "ip address add {address} dev v1{}",
                no_detection(address)
            ));
        }
        host.run("ip route add local 0.0.0.0/0 dev lo");
        host.run("ip -6 route add local ::/0 dev lo");
        for address in here {
            let (ip, _) = address
                .split_once('/')
                .expect("an address with its network");
            let (family, bits) = if ip.contains(':') {
                (" -6", 128)
            } else {
                ("", 32)
            };
            host.run(&format!(
                "ip{family} route add {ip}/{bits} dev v1 table local"
            ));
        }
        run(&format!("ip link set {link} up"));
        host
    }

    /// Runs a command there.
    pub fn run(&self, command: &str) -> String {
        self.0.run(command)
    }

    /// A socket that listens there, at any address.
    pub fn listen(&self, address: SocketAddr) -> TcpListener {
        let any = if address.is_ipv4() {
            [0; 4].into()
        } else {
            [0; 16].into()
        };
        self.0.listen(SocketAddr::new(any, address.port()))
    }
}

/// A network namespace beside this one, with `lo` only: a machine without links.
pub struct Machine(Child);

impl Machine {
    /// Starts it; this machine's namespace must be one of [`in_own_network`].
    pub fn start() -> Machine {
        let unshare = Command::new("unshare")
            .args(["--net", "--", "cat"])
            .stdin(Stdio::piped())
            .spawn();
        let machine = Machine(unshare.expect("run unshare(1) of util-linux"));
        let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
        let deadline = Instant::now() + Duration::from_secs(30);
        while of(&machine.pid().to_string()).is_none_or(|theirs| Some(theirs) == of("self")) {
            assert!(Instant::now() < deadline, "no namespace for another host");
            std::thread::sleep(Duration::from_millis(5));
        }
        machine
    }

    /// The process that holds the namespace.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The words before a command that is to run there.
    pub fn prefix(&self) -> Vec<String> {
        let namespace = format!("--net=/proc/{}/ns/net", self.pid());
        ["nsenter", &namespace, "--"].map(str::to_string).into()
    }

    /// Runs a command there.
    pub fn run(&self, command: &str) -> String {
        run(&format!("{} {command}", self.prefix().join(" ")))
    }

    /// A socket that listens there. It and those that it accepts belong to that namespace.
    pub fn listen(&self, address: SocketAddr) -> TcpListener {
        let there = File::open(format!("/proc/{}/ns/net", self.pid())).expect("its namespace");
        let bound = std::thread::spawn(move || {
            // A socket belongs to the namespace of the thread that creates it.
            setns(there, CloneFlags::CLONE_NEWNET).expect("enter its namespace");
            TcpListener::bind(address).expect("bind there")
        });
        let listener = bound.join().expect("a listener");
        listener.set_nonblocking(true).expect("nonblocking");
        listener
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// IPv6 addresses are usable at once, without duplicate address detection.
fn no_detection(address: &str) -> &'static str {
    if address.contains(':') { " nodad" } else { "" }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

const INSIDE: &str = "INSIDE_NETWORK_NAMESPACE";
