//! TLS listeners of a configuration, right and wrong.

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
            listener("").replace("\"t\"", "\"\""),
            "listener.tls.token_file: name the file",
        ),
        (
            listener("").replace("core = \"127.0.0.1:9296\"", "core = \"127.0.0.1:9297\""),
            "listener.tls.core: ",
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
