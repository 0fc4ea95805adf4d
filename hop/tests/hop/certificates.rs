//! Certificates of clients, good and bad: each its alert, its event and its count; and the hop's own certificate.

use rcgen::ExtendedKeyUsagePurpose;
use rustls::AlertDescription as Alert;
use sha2::{Digest, Sha256};
use support::soon;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

use crate::core::Core;
use crate::program::{Client, Hop, NAME, ONLY_1_2, ONLY_1_3, command, config};
use crate::zoo::{Authority, Issued, Wanted, uri, write};

/// The authorities of clients, with lists that cover both, in a folder for the hop.
struct World {
    root: Authority,
    between: Authority,
    folder: TempDir,
}

impl World {
    fn new() -> World {
        let root = Authority::new("client CA");
        let world = World {
            between: root.below("client CA 2"),
            root,
            folder: tempfile::tempdir().unwrap(),
        };
        write(&world.folder, "ca.pem", &world.root.pem());
        world.lists(&[], 2100, true);
        world
    }

    fn lists(&self, revoked: &[u8], until: i32, has_root: bool) {
        let root = if has_root {
            self.root.list(&[], 2100)
        } else {
            String::new()
        };
        write(
            &self.folder,
            "crl.pem",
            &(self.between.list(revoked, until) + &root),
        );
    }

    fn issue(&self, wanted: &Wanted) -> Issued {
        self.between.issue(wanted).with(&self.between)
    }

    async fn start(self, core: &Core, more: &str) -> (Hop, Authority, Authority) {
        let tls = format!(", client_ca = \"ca.pem\", crl = [\"crl.pem\"]{more}");
        (
            Hop::start_in(self.folder, core, &tls, "").await,
            self.root,
            self.between,
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_certificate_is_declared_with_all_its_names() {
    let (core, world) = (Core::start().await, World::new());
    let good = world.issue(&Wanted::client(7));
    let (hop, ..) = world.start(&core, "").await;
    for versions in [ONLY_1_2, ONLY_1_3] {
        let mut client = hop.client().with(&good);
        client.versions = versions;
        let _session = client.connect(hop.address).await.unwrap();
        let declared = core.client().await;
        let tls = declared.tls();
        assert!(tls.client_cert_conn() && tls.client_cert_sess() && tls.verify() == 0);
        let names = declared.names();
        assert_eq!(
            names[..3],
            ["spiffe://corp/app", "dns:app.corp", "cn:app-1"]
        );
        assert!(
            names[3].starts_with("spki:sha256:") && names.len() == 4,
            "{names:?}"
        );
        let digest: [u8; 32] = Sha256::digest(&good.chain[0]).into();
        assert_eq!(declared.custom(0xe4).unwrap(), digest);
        assert_eq!(declared.custom(0xe5).unwrap(), b"07");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines, reason = "the table reads best whole")]
async fn each_bad_certificate_has_its_alert_its_event_and_its_count() {
    let (core, world) = (Core::start().await, World::new());
    world.lists(&[66], 2100, true);
    let wanted = |serial, change: fn(&mut Wanted)| {
        let mut wanted = Wanted::client(serial);
        change(&mut wanted);
        wanted
    };
    let stranger = Authority::new("another CA");
    let bad = [
        (
            world.issue(&wanted(61, |w| w.until = 2025)),
            Alert::CertificateExpired,
            "certificate_expired",
        ),
        (
            world.issue(&wanted(62, |w| w.from = 2099)),
            Alert::CertificateExpired,
            "certificate_not_yet_valid",
        ),
        (
            world.issue(&wanted(63, |w| {
                w.purpose = ExtendedKeyUsagePurpose::ServerAuth
            })),
            Alert::UnsupportedCertificate,
            "certificate_purpose",
        ),
        (
            stranger.issue(&wanted(64, |_| ())),
            Alert::UnknownCA,
            "certificate_unknown_ca",
        ),
        (
            world.issue(&wanted(66, |_| ())),
            Alert::CertificateRevoked,
            "certificate_revoked",
        ),
        (
            world.issue(&wanted(67, |w| w.names.push(uri("spiffe://corp/other")))),
            Alert::AccessDenied,
            "certificate_names",
        ),
    ];
    let (hop, ..) = world.start(&core, "").await;
    for (issued, alert, reason) in bad {
        let client = hop.client().with(&issued);
        assert_eq!(refused(&hop, &client).await, alert, "{reason}");
        let event = core.event("handshake_refused").await;
        assert_eq!(
            (&event["reason"], &event["count"]),
            (&reason.into(), &1.into())
        );
        assert_eq!(event["client"], "127.0.0.1");
        let digest = Sha256::digest(&issued.chain[0]);
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            (event["certificate"].as_str(), event["serial"].as_str()),
            (Some(&*digest), Some(&*format!("{:02x}", issued.serial[0])))
        );
        assert_eq!(hop.handshakes(reason).await, 1.0);
    }
    assert_eq!(
        refused(&hop, &hop.client()).await,
        Alert::CertificateRequired
    );
    assert_eq!(
        core.event("handshake_refused").await["reason"],
        "certificate_required"
    );
    assert!(core.is_idle().await, "a refused client came to the daemon");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_must_be_fresh_and_cover_the_chain() {
    let core = Core::start().await;
    let world = World::new();
    world.lists(&[], 2025, true);
    let good = world.issue(&Wanted::client(7));
    let (hop, ..) = world.start(&core, "").await;
    assert_eq!(
        refused(&hop, &hop.client().with(&good)).await,
        Alert::UnknownCA
    );
    assert_eq!(
        core.event("handshake_refused").await["reason"],
        "crl_expired"
    );
    let gauge = "sealway_hop_crl_expiry_timestamp_seconds";
    let expiry = hop.metrics().await[&format!("{gauge}{{listener=\"{}\"}}", hop.address)];
    assert_eq!(expiry, 1_735_689_600.0, "2025-01-01");

    let world = World::new();
    world.lists(&[], 2100, false);
    let good = world.issue(&Wanted::client(7));
    let (hop, ..) = world.start(&core, "").await;
    assert_eq!(
        refused(&hop, &hop.client().with(&good)).await,
        Alert::UnknownCA
    );
    assert_eq!(
        core.event("handshake_refused").await["reason"],
        "crl_missing"
    );

    let world = World::new();
    world.lists(&[8], 2100, false);
    let (good, revoked) = (
        world.issue(&Wanted::client(7)),
        world.issue(&Wanted::client(8)),
    );
    let (hop, ..) = world.start(&core, ", revocation = \"leaf\"").await;
    let _session = hop.client().with(&good).connect(hop.address).await.unwrap();
    assert_eq!(core.client().await.names()[0], "spiffe://corp/app");
    assert_eq!(
        refused(&hop, &hop.client().with(&revoked)).await,
        Alert::CertificateRevoked
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_certificate_may_be_left_out_but_not_be_bad() {
    let (core, world) = (Core::start().await, World::new());
    let stranger = Authority::new("another CA").issue(&Wanted::client(5));
    let (hop, ..) = world
        .start(&core, ", client_certificate = \"optional\"")
        .await;
    let _session = hop.connect().await;
    let declared = core.client().await;
    assert!(!declared.tls().client_cert_conn() && declared.names().is_empty());
    assert_eq!(
        refused(&hop, &hop.client().with(&stranger)).await,
        Alert::UnknownCA
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_stop_the_start() {
    let core = Core::start().await;
    let authority = Authority::new("hop CA");
    let (own, other) = (authority.server(&[NAME]), authority.server(&[NAME]));
    let allowed = authority.server(&["*.googleapis.com", NAME]);
    let named = Issued {
        pem: allowed.pem.clone(),
        ..allowed.clone()
    };
    for (pem, key, mode, says) in [
        (&own.pem, &own.key_pem, 0o644, "chmod 0640"),
        (
            &own.pem,
            &other.key_pem,
            0o600,
            "it must be the key of the first certificate",
        ),
        (
            &own.key_pem,
            &own.key_pem,
            0o600,
            "hop.pem: holds no certificate",
        ),
        (&own.pem, &own.pem, 0o600, "hop.key: holds no private key"),
        (
            &named.pem,
            &named.key_pem,
            0o600,
            "the certificate names *.googleapis.com, which matches a host",
        ),
        (&own.pem, &own.key_pem, 0o600, ""),
    ] {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        write(&folder, "hop.pem", pem);
        let file = write(&folder, "hop.key", key);
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
        write(&folder, "hop.token", crate::core::TOKEN);
        write(&folder, "sealway.toml", &config(core.address, "", ""));
        let checked = soon("a check", command(&folder).arg("--check").output())
            .await
            .unwrap();
        let said = String::from_utf8(checked.stderr).unwrap();
        assert!(said.contains(says), "{says}: {said}");
        assert_eq!(
            checked.status.code(),
            Some(if says.is_empty() { 0 } else { 78 }),
            "{said}"
        );
        assert!(!said.contains("BEGIN"), "{said}");
    }
}

/// The alert that ends this client's handshake.
async fn refused(hop: &Hop, client: &Client) -> Alert {
    let error = match client.connect(hop.address).await {
        // In TLS 1.3 the client is done before the server judges its certificate.
        Ok(mut session) => soon("an alert", session.read(&mut [0; 1]))
            .await
            .expect_err("an accepted client"),
        Err(error) => error,
    };
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        other => panic!("{other:?}, {error}"),
    }
}
