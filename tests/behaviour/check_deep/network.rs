//! Faults of addresses, routes, DNS and TCP.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::dns::Say;
use support::etc::silent;
use support::namespace::{OtherHost, in_own_network, run, set_kernel_parameter};

use super::machine::codes_under;
use super::rig::{Rig, V4, V6};

macro_rules! in_network {
    ($($(#[$doc:meta])* $name:ident $body:expr;)+) => {
        $(
            $(#[$doc])*
            #[test]
            #[cfg_attr(
                not(feature = "system-tests"),
                ignore = "needs user namespaces, unshare(1) and ip(8)"
            )]
            fn $name() {
                in_own_network(stringify!($name), $body);
            }
        )+
    };
}
pub(super) use in_network;

in_network! {
    an_egress_address_that_is_not_here_is_named absent();
    a_host_without_egress_and_default_route_is_told no_default();
    a_missing_route_is_named_with_its_upstream no_route();
    a_private_egress_needs_the_public_address_named private();
    an_egress_that_no_router_forwards_and_a_private_public_are_told never_routed();
    each_fault_of_dns_has_its_code dns();
    a_slow_name_server_is_a_warning slow_dns();
    a_refused_a_dropped_and_a_forbidden_connection_differ connections();
    many_silent_upstreams_end_in_time many();
    a_small_mtu_is_a_warning small_mtu();
    an_upstream_that_announces_small_segments_is_not_a_small_path small_peer();
    one_lost_syn_and_one_lost_segment_are_no_finding lost_once();
    a_slow_path_is_no_finding slow_path();
    few_descriptors_are_no_fault_of_the_upstreams few_descriptors();
    a_router_that_drops_large_segments_is_found black_hole();
}

const FROM: &str = "192.0.2.1";

async fn absent() {
    let rig = Rig::start().await;
    let both = rig.toml_from("192.0.2.1\", \"192.0.2.77");
    let (codes, result) = rig.findings(&both).await;
    assert_eq!(codes, ["egress_absent"]);
    assert!(result.to_string().contains("egress address 192.0.2.77"));
    assert_eq!(
        rig.codes(&rig.toml_from("2001:db8:2::77")).await,
        ["egress_absent"]
    );
    // An address that another host has now is normal.
    let floating = both.replace("[policy]", "floating = [\"192.0.2.77\"]\n[policy]");
    assert_eq!(rig.codes(&floating).await, [""; 0]);
}

async fn no_default() {
    let rig = Rig::start().await;
    let none = rig.toml().replace(
        "addresses = [\"192.0.2.1\", \"2001:db8:2::1\"]",
        "addresses = []",
    );
    assert_eq!(rig.codes(&none).await, [""; 0]);
    run("ip address flush dev v0");
    // From a loopback address nothing leaves this host, so no connection is possible either.
    let codes = rig.codes(&none).await;
    assert!(codes.contains(&"egress_none".to_owned()), "{codes:?}");
    assert!(
        !codes.contains(&"egress_not_routed".to_owned()),
        "{codes:?}"
    );
}

async fn no_route() {
    let rig = Rig::start().await;
    run("ip route del default");
    let (codes, result) = rig.findings(&rig.toml()).await;
    assert_eq!(codes, ["route_missing"]);
    let commands = result["findings"][0]["commands"].to_string();
    assert!(commands.contains(&format!("ip route get {V4} from {FROM}")));
    run("ip route add default via 192.0.2.2");
    run(&format!("ip -6 route add unreachable {V6}/128"));
    let (codes, result) = rig.findings(&rig.toml()).await;
    assert_eq!(codes, ["route_missing"]);
    assert!(
        result
            .to_string()
            .contains(&format!("from 2001:db8:2::1 to api.example ([{V6}]"))
    );
}

async fn private() {
    let here = ["10.9.0.5/24", "fd00:9::5/64"];
    let there = ["10.9.0.1/24", "fd00:9::1/64"];
    let host = OtherHost::behind("v0", &here, &there);
    run("ip route add default via 10.9.0.1");
    run("ip -6 route add default via fd00:9::1");
    let rig = Rig::on(host).await;
    for egress in ["10.9.0.5", "fd00:9::5"] {
        let toml = rig.toml_from(egress);
        assert_eq!(rig.codes(&toml).await, ["egress_private"], "{egress}");
        let named = toml.replace("[policy]", "public = [\"203.0.113.9\"]\n[policy]");
        assert_eq!(rig.codes(&named).await, [""; 0], "{egress}");
    }
    // The source of the default route, where none is configured.
    let default = rig.toml_from("x").replace("addresses = [\"x\"]", "");
    assert_eq!(rig.codes(&default).await, ["egress_private"]);
}

async fn never_routed() {
    let rig = Rig::start().await;
    let loopback = rig.codes(&rig.toml_from("127.0.0.1")).await;
    assert_eq!(loopback, ["route_missing", "egress_not_routed"]);
    let toml = rig.toml();
    let named = toml.replace("[policy]", "public = [\"100.64.1.1\"]\n[policy]");
    assert_eq!(rig.codes(&named).await, ["public_not_global"]);
}

async fn dns() {
    let rig = Rig::start().await;
    let only_v4 = rig.toml_from(FROM);
    for (say, code) in [
        (Say::Failure, "dns_failed"),
        (Say::NoSuchName, "dns_no_address"),
        (Say::addresses(&[V6], 0), "dns_wrong_family"),
        (Say::addresses(&["10.0.0.9"], 0), "dns_address_denied"),
        (Say::addresses(&[V4, FROM], 0), "dns_address_denied"),
    ] {
        rig.dns.say(say);
        assert_eq!(rig.codes(&only_v4).await, [code]);
    }
    // An address of this host, within a network that the policy allows.
    run("ip address add 198.51.100.77/32 dev lo");
    rig.dns.say(Say::addresses(&["198.51.100.77"], 0));
    assert_eq!(rig.codes(&only_v4).await, ["dns_address_denied"]);
    rig.dns.say(Say::addresses(&[V4], 0));
    assert_eq!(
        rig.codes(&rig.toml()).await,
        [""; 0],
        "one family is enough"
    );
    assert_eq!(
        rig.codes(&rig.toml_from("2001:db8:2::1")).await,
        ["dns_wrong_family"]
    );
    let server = silent("127.0.0.1:0");
    let at = server.local_addr().unwrap().to_string();
    let dead = only_v4.replace(&rig.dns.addr().to_string(), &at);
    let began = Instant::now();
    assert_eq!(rig.codes(&dead).await, ["dns_timeout"]);
    assert!(began.elapsed() < Duration::from_secs(20));
}

async fn slow_dns() {
    let rig = Rig::start().await;
    let server = silent("127.0.0.1:0");
    let at = server.local_addr().unwrap().to_string();
    let toml = rig
        .toml_from(FROM)
        .replace(&rig.dns.addr().to_string(), &at);
    // The fast server answers each query, 1.6 s later in each round but 0; a late answer ends round 1.
    let late = Arc::new(Mutex::new(usize::MAX));
    let answers_late = Arc::clone(&late);
    let fast = rig.dns.addr();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = server.recv_from(&mut query) {
            let (server, query) = (server.try_clone().unwrap(), query[..length].to_vec());
            let answers_late = Arc::clone(&answers_late);
            let round = *answers_late.lock().unwrap();
            let is_late = round > 0;
            std::thread::spawn(move || {
                if is_late {
                    std::thread::sleep(Duration::from_millis(1_600));
                    let mut left = answers_late.lock().unwrap();
                    // A late answer of an earlier round changes nothing.
                    *left = if *left == round && round == 1 {
                        0
                    } else {
                        *left
                    };
                }
                let socket = silent("127.0.0.1:0");
                socket.send_to(&query, fast).unwrap();
                let mut answer = [0; 512];
                let length = socket.recv(&mut answer).unwrap();
                server.send_to(&answer[..length], client).unwrap();
            });
        }
    });
    assert_eq!(rig.codes(&toml).await, ["dns_slow"]);
    // Slow only with the first question, as with a name that the server has not cached yet.
    *late.lock().unwrap() = 1;
    assert_eq!(rig.codes(&toml).await, [""; 0]);
    assert_eq!(*late.lock().unwrap(), 0);
}

async fn connections() {
    let rig = Rig::start().await;
    let other_port = rig.toml().replace(
        &format!("api.example:{}", rig.port),
        &format!("api.example:{}\", \"api.example:9", rig.port),
    );
    let (codes, result) = rig.findings(&other_port).await;
    assert_eq!(codes, ["tcp_refused", "tcp_refused"], "of each family");
    assert!(
        result
            .to_string()
            .contains(&format!("api.example ({V4}:9)"))
    );
    // The other host gets the packets, and its answers go nowhere.
    rig.host
        .run(&format!("ip route replace blackhole {FROM}/32 table local"));
    let (codes, result) = rig.findings(&rig.toml()).await;
    assert_eq!(codes, ["tcp_timeout"]);
    assert!(
        result
            .to_string()
            .contains("connections from 192.0.2.1 get no answer")
    );
    rig.host
        .run("ip route del blackhole 192.0.2.1/32 table local");
    rig.host.run("ip route add 192.0.2.1/32 dev v1 table local");
    assert_eq!(rig.codes(&rig.toml()).await, [""; 0]);
    // Answers to the second address are lost: each connection leaves from its own.
    run("ip address add 192.0.2.3/24 dev v0");
    rig.host
        .run("ip route add blackhole 192.0.2.3/32 table local");
    let two = rig.toml_from("192.0.2.1\", \"192.0.2.3");
    let (codes, result) = rig.findings(&two).await;
    assert_eq!(codes, ["tcp_timeout"]);
    assert!(
        result
            .to_string()
            .contains("connections from 192.0.2.3 get")
    );
    rig.host.run("sysctl -qw net.ipv4.ip_forward=1");
    rig.host
        .run(&format!("ip route add prohibit {V4}/32 table local"));
    assert_eq!(rig.codes(&rig.toml()).await, ["tcp_failed"]);
}

async fn many() {
    let rig = Rig::start().await;
    run("ip address add 192.0.2.3/24 dev v0");
    for source in [FROM, "192.0.2.3"] {
        rig.host.run(&format!(
            "ip route replace blackhole {source}/32 table local"
        ));
    }
    let names: Vec<_> = (0..300).map(|at| format!("\"h{at}.example\"")).collect();
    let toml = rig.toml_from("192.0.2.1\", \"192.0.2.3");
    let toml = toml.replace(&format!("\"api.example:{}\"", rig.port), &names.join(", "));
    rig.dns.say(Say::by_name(|name| {
        let number = name.trim_start_matches('h').split('.').next().unwrap_or("");
        let last = number.parse::<u32>().unwrap_or(0) % 250;
        let third = if last % 2 == 0 {
            "198.51.100"
        } else {
            "198.51.101"
        };
        Say::addresses(&[&format!("{third}.{last}")], 60)
    }));
    let toml = toml.replace("198.51.100.0/24", "198.51.0.0/16");
    let began = Instant::now();
    let (codes, result) = rig.findings(&toml).await;
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    // 500 connections, of which 128 at once are silent for 3.5 s each.
    let expected = ["time_used_up", "tcp_timeout", "tcp_timeout"].map(String::from);
    // On a busy machine 256 look-ups may take longer than theirs have.
    assert!(codes.ends_with(&expected), "{codes:?}");
    let findings = result["findings"].as_array().unwrap();
    let cause = findings[codes.len() - 3]["cause"].as_str().unwrap();
    let count = cause.split(' ').find_map(|word| word.parse::<u32>().ok());
    assert!((1..500).contains(&count.unwrap()), "{cause}");
}

async fn small_mtu() {
    let rig = Rig::start().await;
    run("ip route replace default via 192.0.2.2 mtu 1279");
    let (codes, result) = rig.findings(&rig.toml()).await;
    assert_eq!(codes, ["mtu_small"]);
    assert!(
        result
            .to_string()
            .contains("packets from 192.0.2.1 have at most 1279 bytes")
    );
    run("ip route replace default via 192.0.2.2 mtu 1280");
    assert_eq!(rig.codes(&rig.toml()).await, [""; 0]);
}

async fn small_peer() {
    let rig = Rig::start().await;
    for (source, family) in [(FROM, ""), ("2001:db8:2::1", " -6")] {
        let bits = if family.is_empty() { 32 } else { 128 };
        let route = format!("ip{family} route replace {source}/{bits} dev v1 table local");
        rig.host.run(&format!("{route} advmss 1000"));
        let (codes, result) = rig.findings(&rig.toml_from(source)).await;
        assert_eq!(codes, ["mss_small"], "{source}");
        let cause = result["findings"][0]["cause"].as_str().unwrap();
        assert!(cause.contains("packets of 1500 bytes"), "{cause}");
        rig.host.run(&route);
        assert_eq!(rig.codes(&rig.toml_from(source)).await, [""; 0], "{source}");
    }
}

/// The other host's firewall drops the first packet that this matches.
fn drop_first(rig: &Rig, what: &str, bytes: u32) {
    let rule = format!("{what} quota until {bytes} bytes drop");
    rig.host
        .run(&format!("nft add rule inet lossy rules {rule}"));
}

async fn lost_once() {
    let rig = Rig::start().await;
    run("ip link set v0 gso_max_segs 1");
    rig.host.run("nft add table inet lossy");
    let hook = "{ type filter hook input priority 0; }";
    rig.host
        .run(&format!("nft add chain inet lossy rules {hook}"));
    for source in [FROM, "2001:db8:2::1"] {
        // After a lost SYN the kernel sends a lost segment again only after three seconds.
        drop_first(&rig, "tcp flags == syn", 99);
        drop_first(&rig, "meta length > 1000", 1_600);
        let (codes, result) = rig.findings(&rig.toml_from(source)).await;
        assert_eq!(codes, [""; 0], "{result:#}");
        let rules = rig.host.run("nft list chain inet lossy rules");
        assert_eq!(rules.matches("used 0 bytes").count(), 0, "{rules}");
        rig.host.run("nft flush chain inet lossy rules");
        // So many that the first connection ends; the second one gets through.
        drop_first(&rig, "meta length > 1000", 7_400);
        let (codes, result) = rig.findings(&rig.toml_from(source)).await;
        assert_eq!(codes, [""; 0], "{result:#}");
        rig.host.run("nft flush chain inet lossy rules");
    }
}

async fn slow_path() {
    // Answers leave with 45 bytes a second, so an acknowledgement takes more than a second.
    let rig = Rig::start().await;
    let toml = rig.toml_from(FROM);
    assert_eq!(rig.codes(&toml).await, [""; 0]);
    rig.host
        .run("tc qdisc add dev v1 root tbf rate 360bit burst 80 limit 4000");
    let (codes, result) = rig.findings(&toml).await;
    assert_eq!(codes, [""; 0], "{result:#}");
}

async fn few_descriptors() {
    let rig = Rig::start().await;
    let names: Vec<_> = (0..60)
        .map(|at| format!("\"h{at}.example:{}\"", rig.port))
        .collect();
    rig.dns.say(Say::by_name(|name| {
        let number = name.trim_start_matches('h').split('.').next().unwrap_or("");
        Say::addresses(&[&format!("198.51.100.{number}")], 60)
    }));
    let toml = rig.toml_from(FROM);
    let one = format!("\"api.example:{}\"", rig.port);
    let path = rig.write(&toml.replace(&one, &names.join(", ")));
    for limit in ["--nofile=64:64", "--nofile=48:48"] {
        let path = path.clone();
        let check = move || codes_under(&["prlimit", limit], &path, &super::RUN[2..]);
        let codes = tokio::task::spawn_blocking(check).await.unwrap();
        assert_eq!(codes, ["descriptors_few"], "{limit}");
    }
    // Connections on which nothing was sent are reset too.
    let waiting = run("ss -Htan state time-wait");
    assert_eq!(waiting, "", "check holds ports that tunnels need");
}

async fn black_hole() {
    let rig = Rig::start().await;
    // One segment a packet; the veth of the other host drops what is larger than its MTU, in silence.
    run("ip link set v0 gso_max_segs 1");
    rig.host.run("ip link set v1 mtu 1400");
    rig.host.run(&format!(
        "ip route replace {FROM}/32 dev v1 table local advmss 1460"
    ));
    let toml = rig.toml_from(FROM);
    let (codes, result) = rig.findings(&toml).await;
    assert_eq!(codes, ["large_segments_lost"], "{result:#}");
    let command = result["findings"][0]["commands"][0].as_str().unwrap();
    run(command);
    let (codes, result) = rig.findings(&toml).await;
    assert_eq!(codes, [""; 0], "{command}: {result:#}");
    set_kernel_parameter("/proc/sys/net/ipv4/tcp_mtu_probing", "0");
    assert_eq!(rig.codes(&toml).await, ["large_segments_lost"]);
    run("ip link set v0 mtu 1400");
    assert_eq!(rig.codes(&toml).await, [""; 0]);
}
