//! Defaults, every kind of problem with its place, and the safety rules for listeners.

use super::*;

fn parse(text: &str) -> Result<Config, Vec<String>> {
    let shown = |problems: Vec<Problem>| problems.iter().map(Problem::to_string).collect();
    Config::parse(Path::new("sealway.toml"), text, &Overrides::default()).map_err(shown)
}

fn problems(text: &str) -> Vec<String> {
    parse(text).map(drop).unwrap_err()
}

#[test]
fn empty_entries_of_every_list_and_spaces_are_ignored() {
    let parse = |text: &str| Config::parse(Path::new("sealway.toml"), text, &Overrides::default());
    let spaced = parse(
        "[egress]\naddresses = [\"\", \" 192.0.2.7 \"]\npublic = [\" 203.0.113.7\", \" \"]\nnat64 = [\"64:ff9b::/96\", \"\"]\n\
         [policy]\npresets = [\"gemini\", \"\"]\nallow = [\"a.example\", \"\"]\nallow_destinations = [\"\", \"192.0.2.0/24\"]\n\
         [dns]\nservers = [\"192.0.2.53:53\", \"\"]\n[dns.hosts]\n\" b.example \" = [\"192.0.2.1 \", \"\"]\n\
         [auth]\nclients = [\"\", \"192.0.2.0/24\"]\n[admin]\nclients = [\"192.0.2.9\", \"\"]\n",
    );
    let plain = parse(
        "[egress]\naddresses = [\"192.0.2.7\"]\npublic = [\"203.0.113.7\"]\nnat64 = [\"64:ff9b::/96\"]\n\
         [policy]\npresets = [\"gemini\"]\nallow = [\"a.example\"]\nallow_destinations = [\"192.0.2.0/24\"]\n\
         [dns]\nservers = [\"192.0.2.53:53\"]\n[dns.hosts]\n\"b.example\" = [\"192.0.2.1\"]\n\
         [auth]\nclients = [\"192.0.2.0/24\"]\n[admin]\nclients = [\"192.0.2.9\"]\n",
    );
    let shown = |config: Config| {
        format!(
            "{} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            config.policy.hash(),
            config.egress,
            config.public,
            config.nat64,
            config.presets,
            config.dns,
            config.auth,
            config.admin_clients,
        )
    };
    assert_eq!(shown(spaced.unwrap()), shown(plain.unwrap()));
}

#[test]
fn listeners_with_ports_of_the_kernel_or_addresses_of_their_own_do_not_clash() {
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
        [[listener]]\naddress = \"127.0.0.1:5\"\n[[listener]]\naddress = \"127.0.0.2:5\"\n[[listener]]\naddress = \"[::1]:5\"\n\
        [admin]\naddress = \"127.0.0.3:5\"\n";
    let config = Config::parse(Path::new("sealway.toml"), text, &Overrides::default());
    assert_eq!(config.unwrap().listeners.len(), 5);
}

#[test]
fn an_empty_file_has_the_documented_defaults() {
    let config = parse("").unwrap();
    assert_eq!(parse("listener = []").unwrap().listeners, config.listeners);
    let [listener] = config.listeners.as_slice() else {
        panic!("{:?}", config.listeners);
    };
    assert_eq!(listener.address, "127.0.0.1:9293".parse().unwrap());
    assert_eq!(listener.proxy_protocol, None);
    assert_eq!(config.admin, Some("127.0.0.1:9294".parse().unwrap()));
    assert_eq!(config.limits.tunnels, 20_000);
    assert_eq!(config.timeouts.idle_limits.idle, Duration::from_secs(3_600));
    assert_eq!(config.timeouts.idle_limits.max_age, None);
    assert!(
        config.egress.is_empty()
            && config.audit_required
            && config.audit_file.is_none()
            && config.auth.users.is_none()
    );
}

#[test]
fn the_example_file_is_valid_and_says_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/sealway.toml");
    let example = Config::load(Some(&path), &Overrides::default()).unwrap();
    // The path is the same because `Config::files` contains it.
    let default = Config::parse(&path, "", &Overrides::default()).unwrap();
    assert_eq!(format!("{example:?}"), format!("{default:?}"));
}

#[test]
fn every_problem_is_named_with_file_line_and_key() {
    let text = "[limits]\ntunnels = \"many\"\nhead_bytes = 1\n\n[policy]\nallow = [\"a.example:0\", \"*.com\"]\nmin_tls = \"1.1\"\nports = 1\n\n[bogus]\n";
    let found = problems(text);
    for wanted in [
        "sealway.toml:2: limits.tunnels: wrong type: this must be a whole number",
        "sealway.toml:3: limits.head_bytes: must be from 1024 to 1048576",
        "sealway.toml:6: policy.allow: entry 1, a text of 11 characters: a rule has one port",
        "sealway.toml:6: policy.allow: entry 2, a text of 5 characters: ",
        "sealway.toml:7: policy.min_tls: must be \"1.2\" or \"1.3\"",
        "sealway.toml:8: policy.ports: this key is unknown",
        "sealway.toml:10: bogus: this key is unknown",
    ] {
        assert!(
            found.iter().any(|problem| problem.starts_with(wanted)),
            "{wanted} in {found:#?}"
        );
    }
    assert_eq!(found.len(), 7, "{found:#?}");
}

#[test]
fn public_addresses_are_bounded_and_distinct() {
    let config =
        parse("[egress]\naddresses = [\"10.0.0.2\", \"fd00::2\", \"203.0.113.7\"]").unwrap();
    let unnamed: Vec<_> = config
        .behind_unnamed_nat()
        .map(|address| address.to_string())
        .collect();
    assert_eq!(unnamed, ["10.0.0.2", "fd00::2"]);
    let config =
        parse("[egress]\naddresses = [\"10.0.0.2\"]\npublic = [\"203.0.113.7\", \"2001:db8::7\"]")
            .unwrap();
    assert_eq!(
        (config.public.len(), config.behind_unnamed_nat().count()),
        (2, 0)
    );
    assert_ne!(config.policy.hash(), parse("").unwrap().policy.hash());
    let many: Vec<_> = (0..65)
        .map(|number| format!("\"203.0.113.{number}\""))
        .collect();
    for (list, wanted) in [
        (
            "\"203.0.113.7\", \"203.0.113.7\"",
            "\"203.0.113.7\": this address occurs twice",
        ),
        ("\"127.0.0.1\"", "\"127.0.0.1\": no other host"),
        ("\"169.254.1.1\"", "\"169.254.1.1\": a link-local"),
        ("\"fe80::1\"", "\"fe80::1\": a link-local"),
        (
            "\"::ffff:203.0.113.7\"",
            "\"::ffff:203.0.113.7\": this is an IPv4 address",
        ),
        ("\"0.0.0.0\"", "\"0.0.0.0\": no single host"),
        (
            "\"sealway.example\"",
            "a text of 15 characters: not an address such as",
        ),
        (
            many.join(", ").as_str(),
            "\"203.0.113.64\": more than 64 addresses",
        ),
    ] {
        let found = problems(&format!("[egress]\npublic = [{list}]"));
        assert!(
            found.len() == 1 && found[0].contains(&format!("2: egress.public: {wanted}")),
            "{wanted}: {found:?}"
        );
    }
}

#[test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
fn wrong_shapes_and_wrong_values_are_refused() {
    for (text, wanted) in [
        ("limits = 3", "sealway.toml:1: limits: this is a table"),
        (
            "[listener]\naddress = \"127.0.0.1:1\"",
            "sealway.toml:1: listener: this is a list of tables",
        ),
        (
            "[egress]\naddresses = [\"0.0.0.0\"]",
            "sealway.toml:2: egress.addresses: \"0.0.0.0\"",
        ),
        (
            "[timeouts]\nidle = \"soon\"",
            "sealway.toml:2: timeouts.idle: a text of 4 characters: not a duration such as",
        ),
        (
            "[timeouts]\nidle = \"0s\"",
            "sealway.toml:2: timeouts.idle: must be from",
        ),
        (
            "[timeouts]\nmax_age = \"400days\"",
            "sealway.toml:2: timeouts.max_age: must be from",
        ),
        (
            "[audit]\nfile = true",
            "sealway.toml:2: audit.file: wrong type",
        ),
        (
            "[policy]\nmode = \"off\"",
            "sealway.toml:2: policy.mode: must be \"enforce\" or \"report\"",
        ),
        (
            "[relay]\nmode = \"copy\"",
            "sealway.toml:2: relay.mode: must be \"splice\" or \"adaptive\"",
        ),
        (
            "[policy]\npresets = [\"opanai\"]",
            "sealway.toml:2: policy.presets: a text of 6 characters: no such preset; `sealway presets` lists them",
        ),
        (
            "[[listener]]\naddress = \"127.0.0.1:5\"\n[[listener]]\naddress = \"127.0.0.1:5\"",
            "sealway.toml:4: listener.address: 127.0.0.1:5 is in use by another listener, 127.0.0.1:5",
        ),
        (
            "[[listener]]\naddress = \"[::1]:5\"\n[admin]\naddress = \"[::1]:5\"",
            "sealway.toml:2: listener.address: [::1]:5 is in use by the admin listener, [::1]:5",
        ),
        (
            "[auth]\nclients = [\"192.0.2.0/24\"]\n[[listener]]\naddress = \"127.0.0.1:5\"\n[[listener]]\naddress = \"0.0.0.0:5\"\nallow_cleartext = true",
            "sealway.toml:6: listener.address: 0.0.0.0:5 is in use by another listener, 127.0.0.1:5",
        ),
        (
            "[[listener]]\naddress = \"127.0.0.1:9294\"",
            "sealway.toml:2: listener.address: 127.0.0.1:9294 is in use by the admin listener",
        ),
        (
            "[auth]\nclients = [\" \", \"\"]",
            "sealway.toml:2: auth.clients: has only empty entries",
        ),
        (
            "[dns.hosts]\n\"a.example\" = [\"\"]",
            "sealway.toml:2: dns.hosts.a.example: has only empty entries",
        ),
        (
            "[policy]\nallow = [\"\", \"a.example\", \"a b\"]",
            "sealway.toml:2: policy.allow: entry 3, a text of 3 characters",
        ),
        (
            "[dns.hosts]\n\"a b\" = [\"192.0.2.1\"]",
            "sealway.toml:2: dns.hosts: a text of 3 characters: ",
        ),
        (
            "[dns.hosts]\n\"A.example\" = [\"192.0.2.1\"]\n\"a.example\" = []",
            "sealway.toml:3: dns.hosts.\"a.example\": this name occurs twice",
        ),
        (
            "[dns]\nservers = [\"192.0.2.1:0\"]",
            "sealway.toml:2: dns.servers: \"192.0.2.1:0\": nobody answers",
        ),
        (
            "[dns]\nservers = [\"[fe80::1]:53\"]",
            "sealway.toml:2: dns.servers: \"[fe80::1]:53\": a link-local address needs",
        ),
        (
            "[egress]\naddresses = [\"fe80::1\"]",
            "sealway.toml:2: egress.addresses: \"fe80::1\": a link-local",
        ),
        (
            "[egress]\naddresses = [\"::ffff:192.0.2.1\"]",
            "sealway.toml:2: egress.addresses: \"::ffff:192.0.2.1\": this is",
        ),
        (
            "[admin]\naddress = \"0.0.0.0:9294\"",
            "sealway.toml:2: admin.address: ",
        ),
        (
            "[admin]\naddress = \"[2001:db8::1]:9294\"",
            "sealway.toml:2: admin.address: ",
        ),
        (
            "[admin]\ntoken_file = \"none\"",
            "sealway.toml:2: admin.token_file: ",
        ),
        (
            "[admin]\nclients = [\"192.0.2.0/33\"]",
            "sealway.toml:2: admin.clients: ",
        ),
        ("[limits", "sealway.toml:1: "),
        (
            "[auth]\nusers_file = \"none.toml\"",
            "sealway.toml:2: auth.users_file: ",
        ),
    ] {
        let found = problems(text);
        assert!(
            found.iter().any(|problem| problem.starts_with(wanted)),
            "{wanted} in {found:#?}"
        );
    }
}

#[test]
fn a_listener_off_loopback_needs_a_client_list_and_credentials() {
    let open = problems("[[listener]]\naddress = \"0.0.0.0:9293\"");
    assert_eq!(open.len(), 2, "{open:#?}");
    assert!(open[0].contains("sealway.toml:2: listener.address") && open[0].contains("open relay"));
    assert!(open[1].contains("allow_cleartext"));
    let closed = "[[listener]]\naddress = \"0.0.0.0:9293\"\nallow_cleartext = true\n[auth]\nclients = [\"192.0.2.0/24\"]";
    assert!(parse(closed).is_ok());
}

#[test]
fn a_listener_takes_the_proxy_protocol_from_named_peers_only() {
    let closed = "[auth]\nclients = [\"192.0.2.0/24\"]\n[[listener]]\n";
    let with = |line: &str| format!("{closed}{line}");
    let config = parse(&with(
        "proxy_protocol = { from = [\"198.51.100.7\", \"2001:db8::/64\"] }\n[[listener]]\naddress = \"127.0.0.1:1\"",
    ))
    .unwrap();
    let [first, second] = config.listeners.as_slice() else {
        panic!("{:?}", config.listeners);
    };
    let protocol = first.proxy_protocol.as_ref().unwrap();
    for (peer, is_trusted) in [
        ("198.51.100.7", true),
        ("::ffff:198.51.100.7", true),
        ("198.51.100.8", false),
        ("2001:db8::8", true),
        ("2001:db8:1::8", false),
        ("127.0.0.1", false),
    ] {
        assert_eq!(protocol.trusts(peer.parse().unwrap()), is_trusted, "{peer}");
    }
    assert_eq!(second.proxy_protocol, None);
}

#[test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
fn a_proxy_protocol_that_trusts_nobody_or_everybody_is_refused() {
    let closed = "[auth]\nclients = [\"192.0.2.0/24\"]\n[[listener]]\n";
    let with = |line: &str| format!("{closed}{line}");
    let line = "sealway.toml:4: listener.proxy_protocol.from: ";
    for (given, wanted) in [
        ("proxy_protocol = { from = [] }", "names nobody"),
        (
            "proxy_protocol = { from = [\"0.0.0.0/0\"] }",
            "holds every address",
        ),
        (
            "proxy_protocol = { from = [\"::/0\", \"192.0.2.1\"] }",
            "holds every address",
        ),
        (
            "proxy_protocol = { from = [\"lb.example\"] }",
            "not an address or a network",
        ),
        ("proxy_protocol = { from = \"192.0.2.1\" }", "wrong type"),
    ] {
        let found = problems(&with(given));
        assert!(
            found.len() <= 2 && found.iter().any(|problem| problem.contains(wanted)),
            "{given}: {found:#?}"
        );
        assert!(
            found
                .iter()
                .all(|problem| problem.contains(": listener.proxy_protocol.from: ")),
            "{given}: {found:#?}"
        );
    }
    assert!(problems(&with("proxy_protocol = { from = [] }"))[0].starts_with(line));
    let open = parse(&with("proxy_protocol = {}")).unwrap();
    assert_eq!(open.listeners[0].proxy_protocol, None, "the default");
    for (given, wanted) in [
        (
            "proxy_protocol = true",
            "listener.proxy_protocol: wrong type: this must be a table",
        ),
        (
            "proxy_protocol = { from = [\"192.0.2.1\"], fram = 1 }",
            "listener.proxy_protocol.fram: this key is unknown",
        ),
        (
            "proxy_protocol = { identities = 1 }",
            "listener.proxy_protocol.from: names nobody",
        ),
        (
            "proxy_protocol = { from = [\"127.0.0.1\"], identity = true }",
            "listener.proxy_protocol.identity: needs token_file",
        ),
    ] {
        let found = problems(&with(given));
        assert!(
            found.iter().any(|problem| problem.contains(wanted)),
            "{given}: {found:#?}"
        );
    }
    let open = problems("[[listener]]\nproxy_protocol = { from = [\"127.0.0.1\"] }");
    assert!(
        open.len() == 1 && open[0].contains("open relay"),
        "on loopback too: {open:?}"
    );
}

#[test]
fn an_admin_listener_off_loopback_needs_a_token_in_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let read = |token: &str, mode: u32| {
        std::fs::write(&file, token).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode))
            .unwrap();
        let text = "[admin]\naddress = \"0.0.0.0:9294\"\ntoken_file = \"token\"";
        Config::parse(&folder.path().join("x.toml"), text, &Overrides::default())
    };
    let token = "0123456789abcdefghijklmnopqrstuv";
    for good in [
        token.to_owned(),
        format!("{token}\n"),
        format!("{token}\r\n"),
    ] {
        let config = read(&good, 0o600).unwrap();
        assert_eq!(
            config.admin_token.unwrap().hash,
            crate::auth::SecretHash::of(token),
            "{good:?}"
        );
    }
    let short = &token[1..];
    for (bad, mode) in [
        (token, 0o644),
        (token, 0o660),
        (short, 0o600),
        ("", 0o600),
        (&format!("{token}\n{token}"), 0o600),
    ] {
        let problems = read(bad, mode).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        let shown = problems[0].to_string();
        assert!(
            shown.contains("x.toml:3: admin.token_file: ") && !shown.contains(short),
            "{shown}"
        );
    }
    let elsewhere = Overrides {
        admin: Some("192.0.2.1:9294".to_owned()),
        ..Overrides::default()
    };
    let problems = Config::parse(Path::new("x"), "", &elsewhere).unwrap_err();
    assert!(
        problems[0].to_string().starts_with("--admin: "),
        "{problems:?}"
    );
}

fn addresses(config: &Config) -> Vec<SocketAddr> {
    let listeners = config.listeners.iter();
    listeners.map(|listener| listener.address).collect()
}

#[test]
fn flags_replace_the_key_of_the_file() {
    let overrides = Overrides {
        listen: vec!["127.0.0.1:7".parse().unwrap()],
        egress: vec!["192.0.2.9".parse().unwrap()],
        allow: vec![Rule::parse("b.example").unwrap()],
        admin: Some(String::new()),
        ..Overrides::default()
    };
    let text = "[[listener]]\naddress = \"0.0.0.0:1\"\n[egress]\naddresses = [\"192.0.2.1\"]\n[policy]\nallow = [\"a.example\"]\npresets = []";
    let config = Config::parse(Path::new("x"), text, &overrides).unwrap();
    assert_eq!(addresses(&config), overrides.listen);
    assert_eq!(config.egress, overrides.egress);
    assert_eq!(config.admin, None);
    // Only what the flag names can float; the file's list still has to be addresses.
    let floats = |list: &str| {
        let text = format!("[egress]\naddresses = [\"192.0.2.1\"]\nfloating = [{list}]");
        Config::parse(Path::new("x"), &text, &overrides).map(|config| config.floating)
    };
    assert_eq!(floats("\"192.0.2.1\"").unwrap(), [] as [IpAddr; 0]);
    let both = floats("\"192.0.2.9\", \"192.0.2.1\", \"192.0.2.9\"");
    assert_eq!(both.unwrap(), overrides.egress);
    assert!(floats("\"192.0.2\"").is_err());
    // A replaced value may be impossible on this machine.
    let overrides = Overrides {
        handed_over: Some(Vec::new()),
        ..overrides
    };
    let text = "[[listener]]\nsocket = \"sealway\"\n[admin]\naddress = \"0.0.0.0:9294\"";
    let awaiting = Config::parse(Path::new("x"), text, &overrides).unwrap();
    assert_eq!(addresses(&awaiting), overrides.listen);
    let same = parse("[policy]\nallow = [\"b.example\"]\npresets = []").unwrap();
    assert_eq!(config.policy.hash(), same.policy.hash());
    let open = Overrides {
        listen: vec!["0.0.0.0:7".parse().unwrap()],
        ..Overrides::default()
    };
    let problems = Config::parse(Path::new("x"), "", &open).unwrap_err();
    assert!(
        problems
            .iter()
            .all(|problem| problem.to_string().starts_with("--listen: ")),
        "{problems:?}"
    );
}

#[test]
fn a_users_source_must_be_configured() {
    let folder = tempfile::tempdir().unwrap();
    let hash = crate::auth::SecretHash::of("x");
    let users = folder.path().join("users.toml");
    std::fs::write(
        &users,
        format!("[users.alice]\nsecrets = [\"{hash}\"]\negress = [\"192.0.2.9\"]\n"),
    )
    .unwrap();
    std::fs::set_permissions(&users, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let text = "[auth]\nusers_file = \"users.toml\"\n[egress]\naddresses = [\"192.0.2.1\"]";
    let parse = |text: &str| {
        Config::parse(
            &folder.path().join("sealway.toml"),
            text,
            &Overrides::default(),
        )
    };
    assert!(
        parse(text).unwrap_err()[0]
            .to_string()
            .contains("users.toml:3: users.alice.egress: \"192.0.2.9\"")
    );
    assert!(parse(&text.replace(".1\"]", ".9\"]")).is_ok());
}

#[test]
fn users_are_read_whole_and_wrong_ones_named_without_their_hash() {
    let hash = crate::auth::SecretHash::of("x").to_string();
    let good = format!(
        "[users.alice]\nsecrets = [\"{hash}\"]\nexpires = \"2027-01-01T00:00:00Z\"\nallow = [\"a.example\"]\nsources = [\"192.0.2.0/24\"]\negress = [\"203.0.113.7\"]\ntunnels = 100\ndisabled = false\n"
    );
    assert_eq!(
        users::parse(Path::new("users.toml"), &good, &[])
            .unwrap()
            .count(),
        1
    );
    let bad = "[users.alice]\nsecrets = [\"sha256:feed\"]\nexpires = \"never\"\ncolour = 1\n[users.\"bo b\"]\nsecrets = []\n";
    let found: Vec<_> = users::parse(Path::new("users.toml"), bad, &[])
        .unwrap_err()
        .iter()
        .map(Problem::to_string)
        .collect();
    for wanted in [
        "users.toml:2: users.alice.secrets",
        "users.toml:3: users.alice.expires",
        "users.toml:4: users.alice.colour",
        "users.toml:5: users: a text of 4 characters: a user's name",
    ] {
        assert!(
            found.iter().any(|problem| problem.starts_with(wanted)),
            "{wanted} in {found:#?}"
        );
    }
    assert!(found.iter().all(|problem| !problem.contains("feed")));
    let misplaced = users::parse(
        Path::new("users.toml"),
        "[users.alice]\nsecrets = \"my-secret\"\n",
        &[],
    )
    .unwrap_err();
    assert!(
        misplaced[0]
            .to_string()
            .starts_with("users.toml:2: users.alice.secrets: wrong type")
    );
    assert!(!misplaced[0].message.contains("my-secret"));
}

#[test]
fn an_empty_allow_narrows_a_user_to_nothing() {
    let hash = crate::auth::SecretHash::of("x").to_string();
    let allow = |line: &str| {
        let text = format!("[users.alice]\nsecrets = [\"{hash}\"]\n{line}");
        let users = users::parse(Path::new("users.toml"), &text, &[]).unwrap();
        let allow = users.iter().next().unwrap().allow.as_ref();
        allow.map(ToString::to_string)
    };
    assert_eq!(allow(""), None, "the policy alone decides");
    assert_eq!(allow("allow = []\n"), Some(String::new()));
    assert_eq!(allow("allow_files = []\n"), Some(String::new()));
}

#[test]
fn each_socket_of_one_name_needs_a_client_list_and_credentials() {
    let sockets = ["127.0.0.1:1", "192.0.2.1:1", "[::1]:1", "[2001:db8::1]:1"];
    let named = |address: &&str| ("sealway".to_owned(), address.parse().unwrap());
    let overrides = Overrides {
        handed_over: Some(sockets.iter().map(named).collect()),
        ..Overrides::default()
    };
    let text = "[[listener]]\nsocket = \"sealway\"\n";
    let problems = Config::parse(Path::new("x"), text, &overrides).unwrap_err();
    let problems: Vec<_> = problems.iter().map(Problem::to_string).collect();
    let of = |address: &str| problems.iter().filter(|p| p.contains(address)).count();
    assert_eq!(
        sockets.map(of),
        [0, 2, 0, 2],
        "open relay and cleartext: {problems:#?}"
    );
}
