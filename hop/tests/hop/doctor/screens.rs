//! What a user sees: the sample of the page is a real run, and a terminal has colours and 80 columns.

use support::namespace::in_own_network;
use support::{HOST, monitoring};

use super::fake::Fake;
use super::machines::{Network, PROVIDER, STATIC};
use super::run::{Doctor, tunnel};

/// The second block of docs/doctor.md is what the first one prints, on the application's machine of the tests.
#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs user namespaces")]
fn the_sample_of_the_page_is_a_real_run() {
    in_own_network("the_sample_of_the_page_is_a_real_run", async {
        let page = monitoring::read("docs/doctor.md");
        let blocks: Vec<&str> = page.split("```").collect();
        let command = blocks[1].strip_prefix("sh\n").unwrap().trim();
        let network = Network::start(&[PROVIDER]).await;
        let _tunnel = network.tunnel(&[STATIC], &[PROVIDER]).await;
        network.fake.allow(&["203.0.113.9"]);
        let mut doctor = Doctor::new("http://alice:CANARY-s3cr%25t@192.0.2.1:9293", &network.fake)
            .key("GEMINI_API_KEY", "listed")
            .with(&["--endpoint", HOST, "--egress", STATIC])
            .on(&network.app);
        doctor.check_everything();
        let again = "sealway doctor --key-env GEMINI_API_KEY --egress 198.51.100.2";
        assert_eq!(command, again);
        doctor.as_text();
        let ran = doctor.run().await;
        assert_eq!(ran.stdout.trim_end(), blocks[3].trim(), "{}", ran.stdout);
    });
}

/// A program on a terminal of script(1), with these variables.
async fn on_a_terminal(doctor: &Doctor, variables: &[(&str, &str)]) -> String {
    let mut doctor = doctor.clone();
    for (name, value) in variables {
        doctor = doctor.env(name, value);
    }
    let ran = doctor.on_a_terminal().run_unchecked().await;
    ran.stdout.replace('\r', "")
}

fn without_colours(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |out, part| {
        let (code, rest) = part.split_once('m').unwrap();
        assert!(code.starts_with('['), "{code:?}");
        out + rest
    })
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs script(1)")]
async fn a_terminal_has_colours_and_80_columns_unless_it_wants_none() {
    let fake = Fake::start().await;
    let (_daemon, proxy) = tunnel(&fake).await;
    for key in ["well", "listed", "google-referrer-blocked:403"] {
        let mut doctor = Doctor::new(&proxy, &fake)
            .key("GEMINI_API_KEY", key)
            .with(&["--quick", "--verbose", "--ignore", "D11"])
            .env("NO_PROXY", if key == "well" { "" } else { HOST });
        doctor.as_text();
        let plain = doctor.run().await.stdout;
        let verdict = |text: &str| {
            text.lines()
                .skip_while(|line| !line.is_empty())
                .fold(String::new(), |out, line| out + line + "\n")
        };
        let coloured = on_a_terminal(&doctor, &[("TERM", "xterm")]).await;
        assert!(coloured.contains("\x1b["), "{coloured}");
        assert_eq!(verdict(&without_colours(&coloured)), verdict(&plain));
        for variables in [
            &[("TERM", "xterm"), ("NO_COLOR", "1")][..],
            &[("TERM", "dumb")],
        ] {
            let screen = on_a_terminal(&doctor, variables).await;
            assert!(!screen.contains('\x1b'), "{variables:?}: {screen}");
            assert_eq!(verdict(&screen), verdict(&plain), "{variables:?}");
        }
        // Empty, the variable counts as unset (no-color.org).
        let empty = on_a_terminal(&doctor, &[("TERM", "xterm"), ("NO_COLOR", "")]).await;
        assert!(empty.contains("\x1b["), "{empty}");
        let wide = |line: &&str| line.chars().count() > 80 && !line.starts_with("    ");
        assert_eq!(plain.lines().find(wide), None);
    }
}
