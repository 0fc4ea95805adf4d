//! TLS listeners of a configuration, right and wrong.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;
use crate::config::Config;

/// The TLS listeners of a file with the daemon's own listener, or its problems.
fn read(text: &str) -> Result<Tls, Vec<String>> {
    read_beside(
        "from = [\"127.0.0.1\"], identity = true, token_file = \"t\"",
        text,
    )
}

/// The same with these keys of `proxy_protocol`. The files that it names do not exist here.
fn read_beside(protocol: &str, text: &str) -> Result<Tls, Vec<String>> {
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:9296\"\n\
         proxy_protocol = {{ {protocol} }}\n[auth]\nclients = [\"127.0.0.1\"]\n{text}"
    );
    let overrides = Overrides {
        offline: true,
        ..Overrides::default()
    };
    let config = Config::parse(Path::new("/etc/s/sealway.toml"), &text, &overrides);
    config
        .map(|config| config.tls)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn listener(keys: &str) -> String {
    format!(
        "[[listener]]\naddress = \"127.0.0.1:9443\"\ntls = {{ certificate = \"a.pem\", key = \"a.key\", \
         core = \"127.0.0.1:9296\", token_file = \"t\"{keys} }}\n"
    )
}

#[test]
fn a_tls_listener_has_its_defaults() {
    let tls = read(&listener("")).unwrap();
    assert_eq!(tls.admin, Some(DEFAULT));
    let [one] = &tls.listeners[..] else {
        unreachable!("{tls:?}")
    };
    assert_eq!(one.certificate, Path::new("/etc/s/a.pem"));
    assert_eq!(one.client_certificate, ClientCertificate::Off);
    assert_eq!(
        (one.revocation, one.profile),
        (Revocation::Chain, Profile::Default)
    );
    let asking = read(&listener(", client_ca = \"/ca.pem\", crl = [\"b\", \"\"]")).unwrap();
    let asking = &asking.listeners[0];
    assert_eq!(asking.client_certificate, ClientCertificate::Required);
    assert_eq!(
        (asking.client_ca.as_deref(), asking.crl.len()),
        (Some(Path::new("/ca.pem")), 1)
    );
    let own = read("[hop]\naddress = \"\"\nprogram = \"bin/hop\"\n").unwrap();
    let program = Some(Path::new("/etc/s/bin/hop"));
    assert_eq!((own.admin, own.program.as_deref()), (None, program));
    assert_eq!(tls.program, None);
}

#[test]
fn a_core_that_takes_no_header_and_an_open_relay_are_refused() {
    for (tls, says) in [
        (
            listener(""),
            "listener.tls.core: sealway-hop passes clients on",
        ),
        (
            listener("").replace("127.0.0.1:9443", "0.0.0.0:9443"),
            "0.0.0.0:9443 can be reached from off this machine",
        ),
    ] {
        let text = format!("[[listener]]\naddress = \"127.0.0.1:9296\"\n{tls}");
        let config = Config::parse(Path::new("s.toml"), &text, &Overrides::default());
        let problems: Vec<_> = config
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(
            problems.iter().any(|problem| problem.contains(says)),
            "{problems:?}"
        );
    }
}

#[test]
fn a_core_that_does_not_trust_the_hop_is_refused() {
    let with_clients = listener(", client_ca = \"c\"");
    let says = |protocol, text: &str| read_beside(protocol, text).unwrap_err().join("\n");
    let elsewhere = says("from = [\"192.0.2.1\"]", &listener(""));
    assert!(
        elsewhere.contains("listener.tls.core: sealway-hop passes"),
        "{elsewhere}"
    );
    let nameless = says("from = [\"127.0.0.1\"]", &with_clients);
    assert!(
        nameless.contains("listener.tls.core: client certificates"),
        "{nameless}"
    );
    assert!(read_beside("from = [\"127.0.0.1\"]", &listener("")).is_ok());
}

#[test]
fn the_address_of_the_hop_is_its_own() {
    for taken in ["127.0.0.1:9296", "127.0.0.1:9443", "127.0.0.1:9294"] {
        let hop = format!("[hop]\naddress = {taken:?}\n");
        let problems = read(&format!("{}{hop}", listener("")))
            .unwrap_err()
            .join("\n");
        assert!(problems.contains("hop.address: "), "{taken}: {problems}");
        assert!(read(&hop).is_ok(), "no hop runs");
    }
}

#[test]
fn settings_weaker_than_they_look_are_refused() {
    for (text, says) in [
        (
            listener(", client_certificate = \"required\""),
            "client_ca and client_certificate belong together",
        ),
        (
            listener(", client_ca = \"c\", client_certificate = \"off\""),
            "client_ca and client_certificate belong together",
        ),
        (listener(", crl = [\"c\"]"), "lists need tls.client_ca"),
        (
            listener(", revocation = \"none\""),
            "must be \"chain\" or \"leaf\"",
        ),
        (listener(", profil = \"nist\""), "this key is unknown"),
        (
            listener("").replace("a.key", ""),
            "listener.tls.key: a PEM file is needed",
        ),
        (
            format!(
                "{}{}",
                listener(""),
                listener("")
                    .replace("9443", "9444")
                    .replace("\"t\"", "\"u\"")
            ),
            "listener.tls.token_file: another listener with tls and the same core names /etc/s/t",
        ),
        (
            listener("").replace("core = \"127.0.0.1:9296\"", "core = \"192.0.2.1:9296\""),
            "this must be a loopback address",
        ),
        (
            listener("").replace("address = \"127.0.0.1:9443\"\n", ""),
            "a listener with tls needs an address",
        ),
        (
            listener("").replace("9443", "9296"),
            "is in use by another listener",
        ),
        (
            listener("").replace("tls =", "allow_cleartext = true\ntls ="),
            "takes no cleartext",
        ),
        (
            "[[listener]]\naddress = \"127.0.0.1:9443\"\ntls = true\n".to_owned(),
            "listener.tls: wrong type",
        ),
        (
            "[hop]\naddress = \"0.0.0.0:9295\"\n".to_owned(),
            "this must be a loopback address",
        ),
    ] {
        let problems = read(&text).unwrap_err();
        assert!(
            problems.iter().any(|problem| problem.contains(says)),
            "{says}: {problems:?}"
        );
    }
}

/// The addresses and the hop's listeners of a file whose token files hold tokens or do not exist.
fn short(text: &str, offline: bool) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("hop.token");
    std::fs::write(&token, "0123456789abcdef0123456789abcdef\n").unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o640)).unwrap();
    let overrides = Overrides {
        offline,
        ..Overrides::default()
    };
    let text = format!("[auth]\nclients = [\"127.0.0.1\"]\n{text}");
    let config = Config::parse(&folder.path().join("sealway.toml"), &text, &overrides);
    config.map_err(|problems| {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        problems.join("\n")
    })
}

const SHORT: &str = "[[listener]]\naddress = \"127.0.0.1:9443\"\ntls = { certificate = \"a.pem\", key = \"a.key\" }\n";

#[test]
fn the_daemon_opens_the_listener_for_the_hop_that_the_file_leaves_out() {
    let config = short(SHORT, false).unwrap();
    let [core] = &config.listeners[..] else {
        unreachable!("{:?}", config.listeners)
    };
    assert_eq!((core.address, config.tls.listeners[0].core), (CORE, CORE));
    let protocol = core.proxy_protocol.as_ref().unwrap();
    assert!(protocol.identity && protocol.knows(Some(b"0123456789abcdef0123456789abcdef")));
    assert!(!protocol.knows(None) && !protocol.knows(Some(b"another")));
    assert!(protocol.trusts(CORE.ip()) && !protocol.trusts("192.0.2.1".parse().unwrap()));

    let two = short(&format!("{SHORT}{}", SHORT.replace("9443", "9444")), false).unwrap();
    assert_eq!((two.listeners.len(), two.tls.listeners.len()), (1, 2));
    let other = short(&SHORT.replace(" }", ", core = \"[::1]:7001\" }"), false).unwrap();
    assert_eq!(addresses(&other.listeners), ["[::1]:7001".parse().unwrap()]);
    let plain = format!("{SHORT}[[listener]]\naddress = \"127.0.0.1:9293\"\n");
    assert_eq!(short(&plain, false).unwrap().listeners.len(), 2);
}

#[test]
fn the_listener_for_the_hop_needs_its_token_and_an_address_of_its_own() {
    let elsewhere = SHORT.replace(" }", ", token_file = \"none.token\" }");
    let missing = short(&elsewhere, false).unwrap_err();
    assert!(
        missing.contains("listener.tls.token_file: ")
            && missing.contains("create it: (umask 027; openssl"),
        "{missing}"
    );
    assert!(
        short(&elsewhere, true).is_ok(),
        "a check for another machine needs no token"
    );
    let plain = format!("{SHORT}[[listener]]\naddress = \"127.0.0.1:9296\"\n");
    let deaf = short(&plain, false).unwrap_err();
    assert!(
        deaf.contains("listener.tls.core: sealway-hop passes clients on to this listener"),
        "{deaf}"
    );
    let taken = short(&SHORT.replace(" }", ", core = \"127.0.0.1:9294\" }"), false).unwrap_err();
    assert!(
        taken.contains("listener.tls.core: 127.0.0.1:9294 is in use by the admin listener"),
        "{taken}"
    );
    let own = short(&SHORT.replace("9443", "9296"), false).unwrap_err();
    assert!(
        own.contains("127.0.0.1:9296 is in use by another listener"),
        "{own}"
    );
}
