//! `sealway explain`: the rule, the address and the source that decide, as text and as JSON; its
//! verdict equals the daemon's, and it queries DNS only.

use serde_json::{Value, json};
use support::HOST;
use support::client::connect;
use support::command::{Ended, sealway};
use support::config::Config;
use support::daemon::Daemon;
use support::dns::{A, Dns, Say};
use support::raw::RawUpstream;
use support::users;
use support::users::{basic, user, write};
use tempfile::TempDir;

#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
async fn explain_shows_the_rule_and_its_origin() {
    let dns = Dns::start(Say::addresses(&["142.250.1.95"], 60)).await;
    let place = Place::new(&format!(
        "[policy]\npresets = [\"gemini\", \"google-auth\"]\n\
         allow = [\"API.example.com\", \"*.example.com:8443\", \"generativelanguage.googleapis.com:8443\"]\n{}",
        dns.section("5s")
    ));
    let cases = [
        (HOST, format!("name: {HOST}:443 named by preset gemini")),
        (
            "OAuth2.googleapis.com.:443",
            "name: oauth2.googleapis.com:443 named by preset google-auth".into(),
        ),
        (
            "generativelanguage.googleapis.com:8443",
            format!("name: {HOST}:8443 named by policy.allow"),
        ),
        (
            "api.example.com",
            "name: api.example.com:443 named by policy.allow".into(),
        ),
        (
            "api.example.com:8443",
            "name: *.example.com:8443 named by policy.allow".into(),
        ),
        (
            "a.b.example.com:8443",
            "name: *.example.com:8443 named by policy.allow".into(),
        ),
    ];
    for (target, line) in cases {
        let ended = place.explain(&[target]).await;
        judged(&ended, None);
        has(&ended, &line);
    }
    for (target, code, lines) in [
        (
            "example.com",
            "host_denied",
            [
                "name: example.com no rule names it",
                "port: 443 not checked",
            ],
        ),
        (
            "api.example.com:444",
            "port_denied",
            [
                "name: api.example.com:443 named by",
                "port: 444 the ports of the rules that name the host: 443, 8443",
            ],
        ),
    ] {
        let ended = place.explain(&[target]).await;
        is_refused(&ended, code);
        lines.iter().for_each(|line| has(&ended, line));
    }
    let by_flag = place
        .explain(&[
            "api.other.example",
            "--allow",
            "*.other.example",
            "--egress",
            "127.0.0.9",
        ])
        .await;
    has(&by_flag, "name: *.other.example:443 named by policy.allow");
    has(&by_flag, "egress: 127.0.0.9 IPv4: on this host");
    has(
        &place
            .explain(&["api.example.com", "--allow", "b.example"])
            .await,
        "name: api.example.com no rule names it",
    );
}

#[tokio::test]
async fn explain_shows_everything_that_decides_on_an_allowed_host() {
    let place = Place::new(&hosts(HOST, &["142.250.1.95"]));
    let ended = place.explain(&[HOST]).await;
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{ended:?}");
    let wanted = [
        "target:  generativelanguage.googleapis.com:443",
        "mode:    enforce                                names are enforced",
        "name:    generativelanguage.googleapis.com:443  named by preset gemini",
        "port:    443                                    allowed",
        "dns:     generativelanguage.googleapis.com      fixed in dns.hosts",
        "address: 142.250.1.95                           allowed: globally reachable",
        "egress:  127.0.0.2                              IPv4: on this host",
        "egress:  -                                      IPv6: none, so it is neither looked up nor dialled",
        "sni:     generativelanguage.googleapis.com      what the ClientHello must name",
        "verdict: allowed",
    ];
    assert_eq!(
        ended.stdout.lines().collect::<Vec<_>>(),
        wanted,
        "{}",
        ended.stdout
    );
}

#[tokio::test]
async fn json_has_the_same_answer_in_one_object() {
    let place = Place::new(&hosts(HOST, &["142.250.1.95", "10.0.0.7"]));
    let ended = place.explain(&[HOST, "--json"]).await;
    assert_eq!(
        (ended.status, ended.stdout.lines().count()),
        (1, 1),
        "{ended:?}"
    );
    let answer: Value = serde_json::from_str(&ended.stdout).unwrap();
    let known = [
        ("host", json!(HOST)),
        ("port", json!(443)),
        ("mode", json!("enforce")),
    ];
    for (key, value) in known.into_iter().chain([
        ("verdict", json!("refused")),
        ("code", json!("destination_denied")),
    ]) {
        assert_eq!(answer[key], value, "{answer}");
    }
    let findings = answer["findings"].as_array().unwrap();
    let codes: Vec<_> = findings
        .iter()
        .filter(|finding| finding["topic"] == "address")
        .collect();
    assert_eq!(
        (&codes[0]["value"], codes[0].get("code")),
        (&json!("142.250.1.95"), None),
        "{answer}"
    );
    assert_eq!(
        (&codes[1]["value"], &codes[1]["code"]),
        (&json!("10.0.0.7"), &json!("destination_denied")),
        "{answer}"
    );
}

#[tokio::test]
async fn explain_shows_the_guards_verdict_on_each_address() {
    let policy = "[policy]\nallow_destinations = [\"10.9.0.0/16\"]\n";
    let cases = [
        ("142.250.1.95", "allowed: globally reachable", None),
        (
            "10.9.1.1",
            "allowed: exempt by 10.9.0.0/16 of policy.allow_destinations",
            None,
        ),
        (
            "10.0.0.7",
            "denied: private (RFC 1918), in 10.0.0.0/8 (destination_denied)",
            Some("destination_denied"),
        ),
        (
            "127.0.0.1",
            "denied: an address of this host (destination_denied)",
            Some("destination_denied"),
        ),
        (
            "169.254.169.254",
            "denied: link-local (RFC 3927), in 169.254.0.0/16",
            Some("destination_denied"),
        ),
    ];
    for (address, text, code) in cases {
        let ended = Place::new(&format!("{policy}{}", hosts(HOST, &[address])))
            .explain(&[HOST])
            .await;
        has(&ended, &format!("address: {address} {text}"));
        judged(&ended, code);
    }
    let v6 = format!(
        "[egress]\naddresses = [\"::1\"]\n{}",
        hosts(HOST, &["8000::1", "142.250.1.95"])
    );
    let ended = Place::new(&v6).explain(&[HOST]).await;
    has(
        &ended,
        "address: 8000::1 denied: outside of global unicast (destination_denied)",
    );
    assert!(
        !ended.stdout.contains("142.250.1.95"),
        "a family without an egress address is not dialled: {ended:?}"
    );
    has(&ended, "egress: - IPv4: none");
}

/// No interface needs the address: a route makes the whole loopback network local.
#[tokio::test]
async fn addresses_of_this_host_are_denied() {
    let exempt = "public = [\"198.51.100.9\"]\n[policy]\nallow_destinations = [\"127.0.0.0/8\", \"127.7.7.7\"]\n";
    for (address, text, code) in [
        (
            "127.9.9.9",
            "denied: local to this host by its routes (destination_denied)",
            Some("destination_denied"),
        ),
        (
            "127.7.7.7",
            "allowed: exempt by 127.7.7.7/32 of policy.allow_destinations",
            None,
        ),
        (
            "198.51.100.9",
            "denied: this host's own public address, by egress.public",
            Some("destination_denied"),
        ),
    ] {
        let place = Place::new(&format!(
            "[egress]\naddresses = [\"127.0.0.2\"]\n{exempt}{}",
            hosts(HOST, &[address])
        ));
        let ended = place.explain(&[HOST]).await;
        has(&ended, &format!("address: {address} {text}"));
        has(
            &ended,
            "public: 198.51.100.9 upstreams see it through a NAT: put it on the key's allowlist",
        );
        judged(&ended, code);
    }
}

#[tokio::test]
async fn explain_applies_the_destination_ranges_to_each_address() {
    let policy =
        "[policy]\nallow_destinations = [\"10.9.0.0/16\"]\ndestination_ranges = \"ranges\"\n";
    for (address, text, code) in [
        (
            "142.250.1.95",
            "allowed: globally reachable, inside policy.destination_ranges",
            None,
        ),
        (
            "10.9.1.1",
            "allowed: exempt by 10.9.0.0/16 of policy.allow_destinations, also from",
            None,
        ),
        (
            "8.8.8.8",
            "denied: outside of policy.destination_ranges",
            Some("destination_denied"),
        ),
    ] {
        let place = Place::new(&format!("{policy}{}", hosts(HOST, &[address])));
        std::fs::write(place.directory.path().join("ranges"), "142.250.0.0/15").unwrap();
        let ended = place.explain(&[HOST]).await;
        has(&ended, &format!("address: {address} {text}"));
        judged(&ended, code);
    }
}

/// The name leads to this upstream, and nobody connects to it.
#[tokio::test]
async fn explain_queries_dns_and_connects_to_nobody() {
    let upstream = RawUpstream::start().await;
    let dns = Dns::start(Say::addresses(&["127.0.0.1"], 60)).await;
    let place = |timeout: &str| {
        Place::new(&format!(
            "[policy]\nallow = [\"{}\"]\nallow_destinations = [\"127.0.0.1\"]\n{}",
            upstream.authority(),
            dns.section(timeout)
        ))
    };
    // A late answer causes a second query.
    let patient = place("10s");
    let ended = patient.explain(&[&upstream.authority()]).await;
    judged(&ended, None);
    has(&ended, &format!("dns: {HOST} from DNS"));
    assert_eq!(dns.asked(), [(HOST.to_string(), A)]);
    assert!(upstream.is_untouched().await);
    for (say, place, code, text) in [
        (
            Say::NoSuchName,
            &patient,
            "dns_failed",
            "the name has no address",
        ),
        (Say::Failure, &patient, "dns_failed", "DNS: "),
        (
            Say::Nothing,
            &place("400ms"),
            "dns_timeout",
            "no answer from DNS within 400ms",
        ),
    ] {
        dns.say(say);
        let ended = place.explain(&[&upstream.authority()]).await;
        is_refused(&ended, code);
        has(&ended, &format!("dns: {HOST} {text}"));
    }
}

#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
async fn explain_applies_the_users_own_rules() {
    let users = [
        user(
            "alice",
            "a",
            "allow = [\"b.example\"]\nsources = [\"10.0.0.0/8\"]\ntunnels = 7\negress = [\"127.0.0.3\"]",
        ),
        user("off", "a", "disabled = true"),
        user("gone", "a", "expires = \"2020-01-01T00:00:00Z\""),
        user("later", "a", "expires = \"2999-01-01T00:00:00Z\""),
        "[users.bare]\n".to_owned(),
    ];
    let place = Place::new(
        "[egress]\naddresses = [\"127.0.0.2\", \"127.0.0.3\"]\n[policy]\nallow = [\"a.example\", \"b.example\"]\n\
         [auth]\nusers_file = \"users.toml\"\n[dns.hosts]\n\"a.example\" = [\"142.250.1.95\"]\n\"b.example\" = [\"142.250.1.95\"]",
    );
    write(&place.directory.path().join("users.toml"), &users.concat());
    let cases = [
        (
            None,
            "a.example",
            None,
            "user: - none given: credentials are required",
        ),
        (
            Some("nobody"),
            "a.example",
            Some("auth_failed"),
            "user: nobody unknown: not one of the 5",
        ),
        (
            Some("off"),
            "a.example",
            Some("auth_failed"),
            "user: off disabled",
        ),
        (
            Some("gone"),
            "a.example",
            Some("auth_failed"),
            "user: gone expired 2020-01-01T00:00:00Z",
        ),
        (
            Some("bare"),
            "a.example",
            Some("auth_failed"),
            "user: bare without a secret",
        ),
        (
            Some("later"),
            "a.example",
            None,
            "user: later live; expires 2999-01-01T00:00:00Z",
        ),
        (
            Some("alice"),
            "b.example",
            None,
            "allow: b.example:443 named by the user's own allow",
        ),
        (
            Some("alice"),
            "a.example",
            Some("host_denied"),
            "allow: a.example the user's own allow does not name it",
        ),
        (
            Some("alice"),
            "c.example",
            Some("host_denied"),
            "name: c.example no rule names it",
        ),
    ];
    for (name, host, code, line) in cases {
        let user = name.map_or(Vec::new(), |name| vec!["--user", name]);
        let ended = place.explain(&[&[host], user.as_slice()].concat()).await;
        has(&ended, line);
        judged(&ended, code);
        assert!(!ended.stdout.contains("sha256"), "{ended:?}");
    }
    let alice = place.explain(&["b.example", "--user", "alice"]).await;
    has(
        &alice,
        "user: alice live; from 10.0.0.0/8 only; leaves from 127.0.0.3 only; at most 7 tunnels",
    );
    has(&alice, "egress: 127.0.0.3 IPv4: on this host");
    assert!(!alice.stdout.contains("127.0.0.2"), "{alice:?}");
    let nobody_asks = Place::new(&hosts(HOST, &["142.250.1.95"]))
        .explain(&[HOST, "--user", "alice"])
        .await;
    has(
        &nobody_asks,
        "user: alice not checked: no credentials are required",
    );
    judged(&nobody_asks, None);
}

#[tokio::test]
async fn explain_compares_sni_with_the_host() {
    for (mode, refused) in [("enforce", true), ("report", false)] {
        let place = Place::new(&format!(
            "[policy]\nmode = \"{mode}\"\n{}",
            hosts(HOST, &["142.250.1.95"])
        ));
        for (sni, code) in [
            (HOST, None),
            ("evil.example", Some("sni_mismatch")),
            ("", Some("sni_missing")),
        ] {
            let ended = place.explain(&[HOST, "--sni", sni]).await;
            judged(&ended, code.filter(|_| refused));
            if let Some(code) = code.filter(|_| !refused) {
                has(&ended, &format!("verdict: allowed, but reported ({code})"));
            }
        }
        assert_eq!(
            place
                .explain(&[HOST, "--sni", &HOST.to_uppercase()])
                .await
                .status,
            0
        );
    }
}

#[tokio::test]
async fn report_mode_shows_what_it_would_refuse() {
    let place = Place::new(&format!(
        "[policy]\nmode = \"report\"\n{}",
        hosts("unknown.example", &["142.250.1.95"])
    ));
    let ended = place.explain(&["unknown.example"]).await;
    has(
        &ended,
        "mode: report names that would be refused pass and are recorded",
    );
    has(
        &ended,
        "name: unknown.example no rule names it, so it is refused (reported: host_denied)",
    );
    has(&ended, "verdict: allowed, but reported (host_denied)");
    assert_eq!(ended.status, 0);
    let other_port = place.explain(&["unknown.example:8443"]).await;
    is_refused(&other_port, "port_denied");
    has(
        &other_port,
        "port: 8443 a host that no rule names has port 443 only",
    );
}

#[tokio::test]
async fn explain_shows_a_missing_egress_address() {
    let v4 = format!(
        "[egress]\naddresses = [\"192.0.2.77\"]\n{}",
        hosts(HOST, &["142.250.1.95"])
    );
    let ended = Place::new(&v4).explain(&[HOST]).await;
    has(
        &ended,
        "egress: 192.0.2.77 IPv4: missing: not an address of this host (egress_unavailable)",
    );
    is_refused(&ended, "egress_unavailable");
    let one_is_left = v4.replace("\"192.0.2.77\"", "\"192.0.2.77\", \"127.0.0.2\"");
    judged(&Place::new(&one_is_left).explain(&[HOST]).await, None);
}

#[tokio::test]
async fn an_address_or_an_invalid_host_is_refused() {
    let place = Place::new("");
    for target in [
        "203.0.113.9",
        "203.0.113.9:443",
        "::1",
        "[::1]",
        "[::1]:8443",
    ] {
        let ended = place.explain(&[target]).await;
        is_refused(&ended, "ip_literal_denied");
    }
    for (target, reason) in [
        ("a b", "several rules"),
        ("a-.example", "the host is not a valid name"),
        ("0x7f.1", "an IPv4 address in a form other than"),
        ("a.example:0", "a number from 1 to 65535"),
        ("a.example:443:443", "write a.example"),
        ("user@a.example", "write a.example"),
        ("", "an empty rule"),
    ] {
        let ended = place.explain(&[target]).await;
        assert_eq!(
            (ended.status, ended.stdout.as_str()),
            (2, ""),
            "{target:?}: {ended:?}"
        );
        assert!(
            ended.stderr.contains(reason) && ended.stderr.contains("--help"),
            "{reason}: {ended:?}"
        );
    }
    assert_eq!(sealway(&["explain"]).await.status, 2);
    assert_eq!(place.explain(&["a.example", "--bogus"]).await.status, 2);
    let wrong = Place::new("[policy]\nbogus = 1")
        .explain(&["a.example"])
        .await;
    assert_eq!((wrong.status, wrong.stdout.as_str()), (78, ""), "{wrong:?}");
    assert!(
        wrong.stderr.contains("policy.bogus: this key is unknown"),
        "{wrong:?}"
    );
}

/// The same file, the same questions: `explain` predicts what the daemon does.
#[tokio::test]
async fn explain_and_the_daemon_agree() {
    let upstream = RawUpstream::start().await;
    let port = upstream.addr().port();
    for mode in ["enforce", "report"] {
        let config = Config::to(upstream.addr())
            .host("other.example", upstream.addr())
            .host("inside.example", "10.0.0.7:443".parse().unwrap())
            .host("nowhere.example", "[::1]:443".parse().unwrap())
            .resolve("unknown.example", &["10.0.0.8"])
            .policy(&format!("mode = \"{mode}\""));
        let config = users::with_users(config, "");
        let directory = users::tempdir();
        write(
            &directory.path().join("users.toml"),
            &[
                user("alice", "a", "allow = [\"other.example:1\"]"),
                user("bob", "b", ""),
            ]
            .concat(),
        );
        let daemon = Daemon::start_in(directory, &config).await;
        let file = daemon.path("sealway.toml").to_str().unwrap().to_owned();
        for name in ["alice", "bob"] {
            for target in [
                format!("{HOST}:{port}"),
                format!("{HOST}:1"),
                format!("other.example:{port}"),
                "unknown.example:443".into(),
                "unknown.example:444".into(),
                "inside.example:443".into(),
                "nowhere.example:443".into(),
                "127.0.0.1:443".into(),
            ] {
                let credentials = basic(name, &name[..1]);
                let reply = connect(
                    daemon.proxy_addr(),
                    &target,
                    &[("Proxy-Authorization", &credentials)],
                )
                .await;
                let done = reply
                    .status_line
                    .split_once('(')
                    .map(|(_, code)| code.trim_end_matches(')'));
                let ended = sealway(&["explain", &target, "--user", name, "--config", &file]).await;
                judged(&ended, done);
            }
        }
    }
}

/// A configuration file with an egress address of its own, and no DNS except the test's.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new(toml: &str) -> Place {
        let egress = if toml.contains("[egress]") {
            ""
        } else {
            "[egress]\naddresses = [\"127.0.0.2\"]\n"
        };
        // No server answers there: no query of a test leaves this machine.
        let silent = "\n[dns]\nservers = [\"127.0.0.1:1\"]\ntimeout = \"200ms\"";
        let dns = if toml.contains("servers = ") {
            ""
        } else {
            silent
        };
        let directory = users::tempdir();
        std::fs::write(
            directory.path().join("sealway.toml"),
            format!("{egress}{toml}{dns}"),
        )
        .unwrap();
        Place { directory }
    }

    async fn explain(&self, arguments: &[&str]) -> Ended {
        let file = self.directory.path().join("sealway.toml");
        sealway(
            &[
                &["explain"],
                arguments,
                &["--config", file.to_str().unwrap()],
            ]
            .concat(),
        )
        .await
    }
}

fn hosts(name: &str, addresses: &[&str]) -> String {
    format!("[dns.hosts]\n{name:?} = {addresses:?}\n")
}

/// A line of the answer starts with this, columns apart.
fn has(ended: &Ended, line: &str) {
    let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        ended
            .stdout
            .lines()
            .any(|found| squeezed(found).starts_with(line)),
        "{line:?} in {}",
        ended.stdout
    );
}

fn is_refused(ended: &Ended, code: &str) {
    judged(ended, Some(code));
}

/// The verdict and its exit status.
fn judged(ended: &Ended, code: Option<&str>) {
    let last = ended.stdout.lines().last().unwrap_or_default();
    match code {
        Some(code) => assert_eq!(
            (last, ended.status),
            (format!("verdict: refused ({code})").as_str(), 1),
            "{ended:?}"
        ),
        None => assert!(
            last.starts_with("verdict: allowed") && ended.status == 0,
            "{ended:?}"
        ),
    }
    assert_eq!(ended.stderr, "", "{ended:?}");
}
