//! Faults that need more than a wrong value: certificates that change or end, answers that are cut, a proxy with two
//! addresses.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use support::HOST;
use support::namespace::in_own_network;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use super::fake::Fake;
use super::machines::{Network, PROVIDER, STATIC, only};
use super::proxies::{certificate_until, listener};
use super::run::{Doctor, tunnel, tunnel_to};
use crate::zoo::{Authority, write};

fn well(proxy: &str, fake: &Fake) -> Doctor {
    Doctor::new(proxy, fake)
        .key("GEMINI_API_KEY", "well")
        .with(&["--quick"])
}

/// Its only finding and that finding's cause.
async fn only_cause(doctor: &Doctor, code: &str) -> String {
    let (texts, _) = only(doctor, code).await;
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_certificate_that_ends_soon_is_found_beside_a_tunnel_that_works() {
    let fake = Fake::start().await;
    let (daemon, _) = tunnel(&fake).await;
    let authority = Authority::new("proxy CA");
    let ca = write(&fake.folder, "proxy.pem", &authority.pem());
    let day = Duration::from_secs(86_400);
    for (days, wanted) in [(13, &["proxy_certificate_ends_soon"][..]), (16, &[])] {
        let end = SystemTime::now() + day * days;
        let own = certificate_until(&authority, end);
        let address = listener(&own, None, daemon.proxy_addr()).await;
        let doctor = well(&format!("https://{address}"), &fake);
        let doctor = doctor.with(&["--proxy-ca", ca.to_str().unwrap()]);
        let before = fake.requests();
        assert_eq!(doctor.codes().await, wanted, "{days} days");
        assert_eq!(fake.requests(), before + 2);
    }
}

/// Nothing else listens in a namespace, so the port that was tried is known.
#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs user namespaces")]
fn a_url_without_a_port_is_found_with_the_port_that_was_tried() {
    let test = "a_url_without_a_port_is_found_with_the_port_that_was_tried";
    in_own_network(test, async {
        let fake = Fake::start().await;
        for (scheme, port) in [("http", 80), ("https", 443)] {
            let doctor = well(&format!("{scheme}://127.0.0.1"), &fake);
            let report = doctor.run().await.json();
            let codes = ["proxy_url_no_port", "proxy_connect_refused"];
            for (place, code) in codes.into_iter().enumerate() {
                assert_eq!(report["findings"][place]["code"], code, "{report}");
            }
            let cause = report["findings"][1]["cause"].as_str().unwrap();
            assert!(cause.contains(&format!("127.0.0.1:{port}")), "{cause}");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_grpc_and_java_cannot_do_with_this_proxy_is_found() {
    let fake = Fake::start().await;
    let (daemon, proxy) = tunnel(&fake).await;
    let https = proxy.replace("http://", "https://");
    let doctor = well(&proxy, &fake).env("grpc_proxy", &https);
    let codes = doctor.codes().await;
    assert_eq!(codes, ["grpc_https_proxy", "grpc_proxy_differs"]);
    let named = format!("http://alice:CANARY@{}", daemon.proxy_addr());
    let host = "-Dhttps.proxyHost=127.0.0.1";
    let schemes = "-Djdk.http.auth.tunneling.disabledSchemes=";
    for (options, wanted) in [
        (
            host.to_owned(),
            &["proxy_needs_no_credentials", "java_disables_basic"][..],
        ),
        (format!("{host} {schemes}"), &["proxy_needs_no_credentials"]),
    ] {
        let doctor = well(&named, &fake).env("JDK_JAVA_OPTIONS", &options);
        assert_eq!(doctor.codes().await, wanted, "{options}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_cut_or_of_another_service_is_found() {
    let fake = Fake::start().await;
    let (_daemon, proxy) = tunnel(&fake).await;
    for (key, wanted) in [("half", "api_no_answer"), ("absent", "api_not_found")] {
        let doctor = Doctor::new(&proxy, &fake).key("GEMINI_API_KEY", key);
        let cause = only_cause(&doctor.with(&["--quick"]), wanted).await;
        assert!(cause.contains(HOST), "{cause}");
    }
}

/// The first connection leads to one server and each later one to another.
async fn switch(first: SocketAddr, later: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut to = first;
        while let Ok((mut near, _)) = listener.accept().await {
            let target = std::mem::replace(&mut to, later);
            tokio::spawn(async move {
                let mut far = TcpStream::connect(target).await.unwrap();
                let _ended = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    address
}

/// The provider closes after the first call; behind the next connection is a device that opens TLS.
#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_not_sent_in_a_second_session_with_another_certificate() {
    let fake = Fake::start().await;
    let other = Authority::new("Inspection CA");
    let opened = Fake::with(&other, &other.server(&[HOST]), rustls::ALL_VERSIONS).await;
    for (later, requests) in [(fake.address, 2), (opened.address, 1)] {
        let before = fake.requests();
        let address = switch(fake.address, later).await;
        let (_daemon, proxy) = tunnel_to(address).await;
        let doctor = Doctor::new(&proxy, &fake)
            .key("GEMINI_API_KEY", "close")
            .with(&[
                "--quick",
                "--endpoint",
                &format!("{HOST}:{}", address.port()),
            ]);
        assert!(doctor.codes().await.is_empty());
        assert_eq!(fake.requests(), before + requests);
        assert_eq!(opened.requests(), 0);
    }
}

/// An authority that only this machine trusts may belong to a device that opens TLS.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_this_machine_alone_does_not_vouch_for_the_provider() {
    let fake = Fake::start().await;
    let other = Authority::new("Inspection CA");
    let opened = Fake::with(&other, &other.server(&[HOST]), rustls::ALL_VERSIONS).await;
    let (_daemon, proxy) = tunnel(&opened).await;
    let system = write(&fake.folder, "system.pem", &other.pem());
    let doctor = well(&proxy, &fake)
        .with(&["--endpoint", &format!("{HOST}:{}", opened.address.port())])
        .env("SSL_CERT_FILE", system.to_str().unwrap());
    let cause = only_cause(&doctor, "tls_is_opened").await;
    assert!(cause.contains("Inspection CA"), "{cause}");
    assert_eq!(opened.requests(), 0);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs user namespaces")]
fn each_address_of_the_proxys_name_counts_if_clients_lose_time_with_it() {
    let test = "each_address_of_the_proxys_name_counts_if_clients_lose_time_with_it";
    in_own_network(test, async {
        let network = Network::start(&[PROVIDER]).await;
        let _tunnel = network.tunnel(&[STATIC], &[PROVIDER]).await;
        network.fake.allow(&[STATIC]);
        // Behind one address nothing listens, which costs no time; the other one is silent.
        network.name("192.0.2.2", "refusing.example");
        network.name("192.0.2.1", "refusing.example");
        network.name("192.0.2.99", "silent.example");
        network.name("192.0.2.1", "silent.example");
        for (host, wanted) in [
            ("refusing.example", &[][..]),
            ("silent.example", &["proxy_connect_timeout"]),
        ] {
            let proxy = format!("http://alice:CANARY-s3cr%25t@{host}:9293");
            let doctor = network.doctor_of(&proxy).with(&["--timeout", "2"]);
            let before = network.fake.requests();
            assert_eq!(doctor.codes().await, wanted, "{host}");
            assert_eq!(network.fake.requests(), before + 2, "{host}");
        }
    });
}
