//! Other people's TLS: openssl s_client and curl.

use std::process::Stdio;

use support::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::core::Core;
use crate::program::{Hop, NAME};
use crate::zoo::{Authority, Wanted, write};

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs openssl(1)")]
async fn openssl_gets_the_versions_suites_and_groups_of_each_profile_and_no_others() {
    let core = Core::start().await;
    let default = Hop::start(&core, "", "[limits]\naccept_rate = 0\n").await;
    let more = "[limits]\naccept_rate = 0\n";
    let nist = Hop::start(&core, ", profile = \"nist\"", more).await;
    for (hop, is_nist) in [(&default, false), (&nist, true)] {
        for (arguments, is_taken) in [
            ("-tls1_3", true),
            ("-tls1_2", true),
            ("-tls1_2 -cipher ECDHE-ECDSA-AES256-GCM-SHA384", true),
            ("-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256", true),
            ("-tls1_2 -cipher ECDHE-ECDSA-CHACHA20-POLY1305", !is_nist),
            (
                "-tls1_3 -ciphersuites TLS_CHACHA20_POLY1305_SHA256",
                !is_nist,
            ),
            ("-tls1_3 -ciphersuites TLS_AES_128_GCM_SHA256", true),
            ("-tls1_3 -groups P-256", true),
            ("-tls1_3 -groups P-384", true),
            ("-tls1_3 -groups X25519", !is_nist),
            ("-tls1_3 -groups X448", false),
            ("-tls1_1 -cipher DEFAULT:@SECLEVEL=0", false),
            ("-tls1 -cipher DEFAULT:@SECLEVEL=0", false),
            ("-tls1_2 -cipher ECDHE-ECDSA-AES256-SHA384", false),
            ("-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0", false),
            ("-tls1_2 -cipher AES128-GCM-SHA256", false),
            ("-tls1_2 -cipher DHE-RSA-AES128-GCM-SHA256", false),
        ] {
            let taken = s_client(hop, arguments).await;
            assert_eq!(taken, is_taken, "{arguments}, nist: {is_nist}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs curl(1)")]
async fn curl_uses_the_hop_as_an_https_proxy_with_a_certificate_of_its_own() {
    let core = Core::start().await;
    let authority = Authority::new("client CA");
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "ca.pem", &authority.pem());
    write(&folder, "crl.pem", &authority.list(&[], 2100));
    let tls = ", client_ca = \"ca.pem\", crl = [\"crl.pem\"]";
    let hop = Hop::start_in(folder, &core, tls, "").await;
    let client = authority.issue(&Wanted::client(7));
    write(&hop.folder, "client.pem", &client.pem);
    write(&hop.folder, "client.key", &client.key_pem);
    write(&hop.folder, "hop-ca.pem", &hop.authority.pem());
    let port = hop.address.port();
    let curl = |certificate: &[&str]| {
        let mut curl = Command::new("curl");
        curl.current_dir(hop.folder.path())
            .args([
                "--silent",
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_connect}",
            ])
            .args([
                "--max-time",
                "20",
                "--noproxy",
                "",
                "--proxy-cacert",
                "hop-ca.pem",
            ])
            .args(["--resolve", &format!("{NAME}:{port}:127.0.0.1")])
            .args(["--proxy", &format!("https://{NAME}:{port}")])
            .args(certificate)
            .arg("https://example.com/")
            .kill_on_drop(true);
        curl
    };
    let mut with = curl(&["--proxy-cert", "client.pem", "--proxy-key", "client.key"]);
    let (asked, answered) = tokio::join!(with.output(), async {
        let mut declared = core.client().await;
        assert_eq!(declared.names()[0], "spiffe://corp/app");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon("a head", declared.stream.read_u8()).await.unwrap());
        }
        let reply = b"HTTP/1.1 403 Forbidden (host_denied)\r\nContent-Length: 0\r\n\r\n";
        declared.stream.write_all(reply).await.unwrap();
        String::from_utf8(head).unwrap()
    });
    assert!(
        answered.starts_with("CONNECT example.com:443 HTTP/1.1\r\n"),
        "{answered}"
    );
    assert_eq!(asked.unwrap().stdout, b"403");
    let without = soon("curl", curl(&[]).output()).await.unwrap();
    assert_eq!(without.stdout, b"000");
    assert_eq!(
        core.event("handshake_refused").await["reason"],
        "certificate_required"
    );
}

/// Whether openssl finishes a handshake with these arguments.
async fn s_client(hop: &Hop, arguments: &str) -> bool {
    let mut client = Command::new("openssl");
    client
        .args(["s_client", "-connect", &hop.address.to_string()])
        .args(arguments.split(' '))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let said = soon("s_client", client.output()).await.unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(text.contains("CONNECTED"), "{arguments}: {text}");
    !text.contains("Cipher is (NONE)")
}
