//! The keys that `config/keys.rs` says only a restart changes are those of [`Fixed`].

mod unrecorded;

use std::path::Path;

use super::Fixed;
use crate::config::keys::{Change, KEYS, Key, Kind};
use crate::config::{Config, Overrides};

#[test]
fn a_key_that_a_restart_changes_is_fixed_and_no_other_is() {
    let default = read("");
    for key in KEYS {
        // The first permits an address, and changes nothing on loopback. The others are for
        // sealway-hop: the daemon opens neither that listener nor that address.
        let is_of_hop = key.name == "listener.tls" || key.name.starts_with("hop.");
        if is_of_hop || key.name == "listener.allow_cleartext" {
            continue;
        }
        let (section, name) = key.name.split_once('.').unwrap();
        // They are the hop's, which is another process.
        if section == "hop" || key.name == "listener.tls" {
            continue;
        }
        let head = format!("[{section}]").replace("[listener]", "[[listener]]");
        let value = another(key);
        let changed = read(&format!("{head}\n{name} = {value}\n"));
        let text = |config: &Config| format!("{config:?}");
        assert_ne!(text(&changed), text(&default), "{} = {value}", key.name);
        assert_eq!(
            Fixed::of(&changed) != Fixed::of(&default),
            key.change == Change::Restart,
            "{}",
            key.name
        );
    }
}

/// A value that is not the default.
fn another(key: &Key) -> String {
    match key.kind {
        Kind::Boolean(default) => (!default).to_string(),
        Kind::Integer(default, _) => (default + 1).to_string(),
        Kind::Duration(..) => "\"7s\"".to_owned(),
        Kind::Choice(default, names) => {
            let other = names.iter().find(|name| default != Some(**name));
            format!("\"{}\"", other.unwrap())
        }
        Kind::Other(..) => match key.name {
            "policy.presets" => "[\"vertex\"]",
            "policy.allow" => "[\"a.example\"]",
            "policy.allow_files" => "[\"rules.txt\"]",
            "egress.nat64" => "[\"64:ff9b::/96\"]",
            "dns.servers" => "[\"192.0.2.1:53\"]",
            // Its clients can be anybody.
            "listener.proxy_protocol" => {
                "{ from = [\"192.0.2.1\"] }\n[auth]\nclients = [\"192.0.2.1\"]"
            }
            // Alone it is an error, because it names some of the others.
            "egress.floating" => "[\"192.0.2.1\"]\naddresses = [\"192.0.2.1\"]",
            // Alone it is an error; with the other key there are two files instead of one.
            "policy.destination_ranges_minus" => "\"minus\"\ndestination_ranges = \"ranges\"",
            _ => match key.type_name() {
                "address" => "\"127.0.0.1:7\"",
                "path" | "text" => "\"name\"",
                _ => "[\"192.0.2.1\"]",
            },
        }
        .to_owned(),
    }
}

/// Reads it for another machine, because the files that it names do not exist.
fn read(text: &str) -> Config {
    let overrides = Overrides {
        offline: true,
        ..Overrides::default()
    };
    Config::parse(Path::new("sealway.toml"), text, &overrides).unwrap()
}
