//! No TLS library is part of the daemon, so that there is nothing to open a tunnel with; the hop alone has one. No unsafe code
//! in either.

use std::process::Command;

/// Names, or starts of names, of libraries that speak TLS or bring its cryptography.
const TLS: [&str; 17] = [
    "rustls",
    "tokio-rustls",
    "ring",
    "openssl",
    "native-tls",
    "tokio-native-tls",
    "aws-lc",
    "boring",
    "boringssl",
    "s2n",
    "webpki",
    "schannel",
    "security-framework",
    "mbedtls",
    "wolfssl",
    "gnutls",
    "botan",
];

#[test]
fn no_tls_library_is_part_of_the_program() {
    let tree = tree("sealway", "normal");
    let names: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(
        names.contains(&"tokio") && names.contains(&"hickory-resolver"),
        "not the program's tree:\n{tree}"
    );
    let found: Vec<_> = names.iter().filter(|name| speaks_tls(name)).collect();
    assert!(
        found.is_empty(),
        "{found:?} in cargo tree -p sealway -e normal"
    );
}

#[test]
fn the_search_finds_the_tls_library_of_the_tests() {
    let tree = tree("sealway", "dev");
    assert!(
        tree.lines()
            .any(|line| speaks_tls(line.split(' ').next().unwrap_or_default())),
        "{tree}"
    );
}

#[test]
fn the_hop_has_one_tls_library_and_one_library_of_its_cryptography() {
    let tree = tree("sealway-hop", "normal");
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    let found: std::collections::BTreeSet<_> = names.filter(|name| speaks_tls(name)).collect();
    let wanted = [
        "aws-lc-rs",
        "aws-lc-sys",
        "rustls",
        "rustls-pki-types",
        "rustls-webpki",
        "tokio-rustls",
        "webpki-roots",
    ];
    assert_eq!(found.into_iter().collect::<Vec<_>>(), wanted, "{tree}");
}

#[test]
fn unsafe_code_is_forbidden() {
    let [daemon, hop] = [MANIFEST, HOP].map(|text| text.parse::<toml::Table>().unwrap());
    assert_eq!(
        daemon["lints"]["rust"]["unsafe_code"].as_str(),
        Some("forbid")
    );
    for group in ["rust", "clippy"] {
        assert_eq!(daemon["lints"][group], hop["lints"][group]);
    }
}

#[test]
fn every_dependency_has_its_reason() {
    for manifest in [MANIFEST, HOP] {
        let dependencies = manifest
            .lines()
            .skip_while(|line| *line != "[dependencies]")
            .skip(1);
        let dependencies: Vec<_> = dependencies
            .take_while(|line| *line != "[lints.rust]")
            .filter(|line| line.contains(" = "))
            .collect();
        assert!(dependencies.len() > 20, "{dependencies:?}");
        let bare: Vec<_> = dependencies
            .iter()
            .filter(|line| !line.contains(" # ") && !line.starts_with("tokio = "))
            .collect();
        assert!(bare.is_empty(), "no reason given: {bare:#?}");
    }
}

/// `cargo deny` checks the program's crates only; this checks those of the tests and the fuzz
/// targets too.
#[test]
fn every_crate_comes_from_the_one_registry() {
    for name in ["Cargo.lock", "fuzz/Cargo.lock"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let lock: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
        let packages = lock["package"].as_array().unwrap();
        assert!(packages.len() > 50, "{name} is not whole");
        for package in packages {
            let source = package.get("source").and_then(toml::Value::as_str);
            assert!(
                source.is_none_or(|source| source == CRATES_IO),
                "{name}: {package}"
            );
        }
    }
}

/// `cargo tree` of one package for edges of one kind, with every feature.
fn tree(package: &str, edges: &str) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "tree",
        "--package",
        package,
        "--edges",
        edges,
        "--prefix",
        "none",
        "--locked",
        "--offline",
        "--all-features",
    ]);
    let output = cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("run cargo tree");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn speaks_tls(name: &str) -> bool {
    let is = |tls: &&str| {
        name.strip_prefix(*tls)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_']))
    };
    TLS.iter().any(is)
}

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";
const MANIFEST: &str = include_str!("../../Cargo.toml");
const HOP: &str = include_str!("../../hop/Cargo.toml");
