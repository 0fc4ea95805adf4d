//! The status page in a real browser: it shows the numbers of `/metrics`, live; it copies an
//! address, works by keyboard, reports a stopped daemon, asks for a configured token, and never
//! treats input of strangers as markup. Needs Chromium.

use serde_json::json;
use support::browser::Browser;
use support::client::connect;
use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel, pass};
use support::users;
use support::users::{basic, start_with_users, user};

#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs chromium")]
async fn the_page_shows_the_metrics_and_refreshes() {
    let upstream = RawUpstream::start().await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let mut browser = Browser::start().await;
    browser.open(&page(&daemon)).await;
    browser.until(STATE, "Ready").await;
    assert_eq!(number(&mut browser, "active").await, 0.0);
    browser
        .until(
            "document.getElementById('denials-none').textContent",
            "None. Every attempt so far got its tunnel.",
        )
        .await;
    let mut tunnel = Tunnel::open(&daemon, &upstream).await;
    let kept = Tunnel::open(&daemon, &upstream).await;
    browser
        .until("document.getElementById('active').textContent", "2")
        .await;
    pass(&mut tunnel.client, &mut tunnel.upstream, &[7; 100_000]).await;
    pass(&mut tunnel.upstream, &mut tunnel.client, &[7; 300_000]).await;
    tunnel.close().await;
    for _ in 0..3 {
        connect(daemon.proxy_addr(), "evil.example:443", &[]).await;
    }
    browser
        .until("document.getElementById('active').textContent", "1")
        .await;
    browser
        .until("document.getElementById('denied').textContent", "3")
        .await;
    daemon
        .metric_until(
            "sealway_tunnels_closed_total{code=\"closed_by_client\"}",
            |closed| closed == 1.0,
        )
        .await;
    browser
        .until("document.getElementById('closed').textContent", "1")
        .await;
    for (id, series) in [
        ("active", "sealway_tunnels_active"),
        ("max", "sealway_tunnels_max"),
        ("opened", "sealway_tunnels_opened_total"),
        (
            "closed",
            "sealway_tunnels_closed_total{code=\"closed_by_client\"}",
        ),
        (
            "denied",
            "sealway_tunnels_denied_total{code=\"host_denied\"}",
        ),
        ("bytes-up", "sealway_tunnel_bytes_total{direction=\"up\"}"),
        (
            "bytes-down",
            "sealway_tunnel_bytes_total{direction=\"down\"}",
        ),
        ("spliced", "sealway_relayed_bytes_total{path=\"splice\"}"),
    ] {
        let counted = daemon.metric(series).await.unwrap();
        browser
            .until(
                &format!("Number(document.getElementById('{id}').value) === {counted}"),
                true,
            )
            .await;
    }
    let told = browser
        .eval("document.getElementById('denials').innerText")
        .await
        .to_string();
    assert!(
        told.contains("host_denied") && told.contains("3 in all"),
        "{told}"
    );
    assert!(
        told.contains("What to do: ask the operator to add it to policy.allow."),
        "{told}"
    );
    // A refusal's code leads to that entry, within the page.
    browser
        .until(
            "document.querySelector(document.querySelector('#refusals a').hash).innerText.includes('What to do: ')",
            true,
        )
        .await;
    kept.close().await;
    browser
        .until("document.getElementById('active').textContent", "0")
        .await;
    only_our_own(&mut browser, &daemon);
    browser.close().await;
}

/// Behind NAT the allowlist needs the NAT's address, so only those addresses have a button.
#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs chromium")]
async fn the_public_addresses_are_those_for_the_allowlist() {
    let daemon =
        Daemon::start(&Config::closed().egress_line("public = [\"203.0.113.7\", \"2001:db8::7\"]"))
            .await;
    let mut browser = Browser::start().await;
    browser.open(&page(&daemon)).await;
    browser.until(STATE, "Ready").await;
    let buttons = "[...document.querySelectorAll('#addresses button')].map((button) => button.ariaLabel).join()";
    assert_eq!(
        browser.eval(buttons).await,
        "Copy 203.0.113.7,Copy 2001:db8::7"
    );
    let text = "document.getElementById('addresses').textContent";
    assert!(
        browser
            .eval(text)
            .await
            .as_str()
            .is_some_and(|text| text.contains("NAT maps 127.0.0.2"))
    );
    only_our_own(&mut browser, &daemon);
}

#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs chromium")]
async fn an_address_is_copied_by_keyboard_alone() {
    let daemon = Daemon::start(&Config::closed().egress(&["127.0.0.2", "127.0.0.3"])).await;
    let mut browser = Browser::start().await;
    allow_clipboard(&mut browser, &daemon).await;
    browser.open(&page(&daemon)).await;
    browser.until(STATE, "Ready").await;
    for (address, has_clipboard) in [("127.0.0.2", true), ("127.0.0.3", false)] {
        if !has_clipboard {
            // The same as on a page from off loopback without TLS.
            browser.eval("window.board = navigator.clipboard; Object.defineProperty(navigator, 'clipboard', {value: undefined}); 0").await;
        }
        let label = format!("Copy {address}");
        let mut presses = 0;
        while browser
            .eval("document.activeElement.getAttribute('aria-label')")
            .await
            != label.as_str()
        {
            presses += 1;
            assert!(presses < 10, "{label} is not reached by the Tab key");
            browser.press("Tab").await;
        }
        assert_ne!(
            browser
                .eval("getComputedStyle(document.activeElement).outlineStyle")
                .await,
            "none",
            "focus shows"
        );
        browser.press("Enter").await;
        browser
            .until(
                "document.getElementById('copied').textContent",
                format!("Copied {address}"),
            )
            .await;
        let read = if has_clipboard {
            "navigator.clipboard.readText()"
        } else {
            "board.readText()"
        };
        assert_eq!(browser.eval(read).await, address);
        assert_eq!(
            browser
                .eval("document.activeElement.getAttribute('aria-label')")
                .await,
            label,
            "the focus stays"
        );
    }
    only_our_own(&mut browser, &daemon);
    browser.close().await;
}

#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs chromium")]
async fn the_page_shows_input_of_strangers_as_text() {
    let upstream = RawUpstream::start().await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    for name in [
        "<img src=x onerror=alert(1)>.example:443",
        "xn--a\"><script>1</script>:443",
        "evil.example:443",
    ] {
        connect(
            daemon.proxy_addr(),
            name,
            &[("User-Agent", "<script>alert(1)</script>")],
        )
        .await;
    }
    let mut browser = Browser::start().await;
    browser.open(&page(&daemon)).await;
    // Both malformed names are one entry with a count.
    browser
        .until("document.querySelectorAll('#refusals tr').length", 2)
        .await;
    // In case markup ever passes the daemon: each text of the report has some here.
    browser
        .eval(
            "const markup = '<img src=x onerror=\"window.owned=1\"><script>window.owned=1</script>', asked = window.fetch; \
             window.fetch = async (...question) => new Response((await (await asked(...question)).text()).replace( \
             /:\"([^\"]*)\"/g, (_, text) => ':' + JSON.stringify(text + markup))); 0",
        )
        .await;
    browser
        .until(
            "document.getElementById('refusals').innerText.includes('evil.example<img src=x')",
            true,
        )
        .await;
    browser
        .until(
            "document.getElementById('denials').innerText.includes('host_denied<img src=x')",
            true,
        )
        .await;
    browser
        .until(
            "document.getElementById('addresses').innerText.includes('127.0.0.2<img src=x')",
            true,
        )
        .await;
    assert_eq!(
        browser
            .eval("document.querySelectorAll('img, main script, iframe').length")
            .await,
        0
    );
    // The content security policy holds even if the script has a fault.
    let injected = "document.getElementById('notices').innerHTML = '<img src=x onerror=\"window.owned=1\"><b style=\"color:red\">x</b>'; \
                    const s = document.createElement('script'); s.textContent = 'window.owned=1'; document.body.append(s); window.owned ?? 0";
    browser.complaints.clear();
    assert_eq!(browser.eval(injected).await, 0);
    browser.until("window.owned ?? 0", 0).await;
    assert!(
        browser
            .complaints
            .iter()
            .any(|text| text.contains("Content Security Policy")),
        "{:?}",
        browser.complaints
    );
    let sent = "fetch('http://127.0.0.9:9/').then(() => 'sent', () => 'refused')";
    assert_eq!(browser.eval(sent).await, "refused");
    browser.close().await;
}

#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs chromium")]
async fn the_page_reports_a_stopped_daemon_and_retries() {
    // An address on which no other process uses a port while none is bound there.
    let mut daemon = Daemon::start(&Config::closed().admin_at("127.0.0.77:0")).await;
    let address = daemon.admin_addr();
    let mut browser = Browser::start().await;
    browser.open(&page(&daemon)).await;
    browser.until(STATE, "Ready").await;
    daemon.signal("INT");
    assert!(daemon.exit_status().await.success());
    browser.until(STATE, "Disconnected").await;
    let told = browser
        .eval("document.getElementById('notices').innerText")
        .await
        .to_string();
    assert!(
        told.contains("The daemon does not answer") && told.contains("What is shown below is old"),
        "{told}"
    );
    let again = Daemon::start(&Config::closed().admin_at(&address.to_string())).await;
    browser.until(STATE, "Ready").await;
    assert_eq!(
        browser
            .eval("document.getElementById('notices').innerText")
            .await,
        ""
    );
    assert_eq!(
        browser
            .eval("document.getElementById('content').className")
            .await,
        ""
    );
    drop(again);
    browser.close().await;
}

#[tokio::test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs chromium")]
async fn the_page_asks_for_a_configured_token() {
    let directory = users::tempdir();
    users::write(&directory.path().join("token"), TOKEN);
    let daemon =
        Daemon::start_in(directory, &Config::closed().admin("token_file = \"token\"")).await;
    let mut browser = Browser::start().await;
    browser.open(&page(&daemon)).await;
    browser.until(STATE, "Locked").await;
    assert_eq!(
        browser
            .eval("document.getElementById('content').hidden")
            .await,
        true,
        "nothing is shown before"
    );
    for (typed, refused) in [("wrong", true), (TOKEN, false)] {
        browser.until("document.activeElement.id", "token").await;
        browser.insert(typed).await;
        browser.press("Enter").await;
        if refused {
            browser
                .until(
                    "document.getElementById('refused').textContent",
                    "That is not the token.",
                )
                .await;
        }
    }
    browser.until(STATE, "Ready").await;
    let kept = "JSON.stringify([localStorage.length, sessionStorage.length, document.cookie, location.href, document.documentElement.outerHTML])";
    let kept = browser.eval(kept).await.to_string();
    assert!(
        kept.starts_with("\"[0,0,\\\"\\\"") && !kept.contains(TOKEN),
        "the token is kept in memory only: {kept}"
    );
    browser.close().await;
}

/// The pictures in docs/ are made by this test: `STATUS_PICTURES=docs cargo test --test tools status_page::pictures`.
#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one scenario in its order, or a table of cases"
)]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs chromium")]
async fn the_page_fits_any_width_and_makes_the_pictures_of_docs() {
    let upstream = RawUpstream::start().await;
    let config = Config::to(upstream.addr()).egress(&["127.0.0.2", "127.0.0.3"]);
    let folks = [
        user("alice", "secret", "tunnels = 10"),
        user("batch-jobs", "secret", ""),
        user("carol", "secret", ""),
    ]
    .concat();
    let mut daemon = start_with_users(config.clone(), &folks, "").await;
    let authority = upstream.authority();
    let mut tunnels = Vec::new();
    for name in ["alice", "alice", "alice", "alice", "batch-jobs"] {
        let credentials = basic(name, "secret");
        tunnels.push(
            Tunnel::open_with(&daemon, &upstream, &[("Proxy-Authorization", &credentials)]).await,
        );
    }
    let (alice, wrong) = (basic("alice", "secret"), basic("alice", "wrong"));
    for (target, credentials) in [
        ("api.openai.com:443", &alice),
        ("generativelanguage.googleapis.com:80", &alice),
        ("storage.googleapis.com:443", &alice),
        (authority.as_str(), &wrong),
        ("203.0.113.80:443", &alice),
    ] {
        assert_ne!(
            connect(
                daemon.proxy_addr(),
                target,
                &[("Proxy-Authorization", credentials)]
            )
            .await
            .status(),
            200
        );
    }
    assert_eq!(
        connect(daemon.proxy_addr(), &authority, &[]).await.status(),
        407
    );
    let mut browser = Browser::start().await;
    browser.screen(1280, 900, "light").await;
    browser.open(&page(&daemon)).await;
    browser.until(STATE, "Ready").await;
    for round in 1..=12_usize {
        // Before the bytes: the page may show all of them as soon as they arrive.
        let seen = number(&mut browser, "bytes-down").await;
        let Tunnel {
            client, upstream, ..
        } = &mut tunnels[0];
        pass(client, upstream, &vec![7; 40_000 * (1 + round % 4)]).await;
        pass(upstream, client, &vec![7; 200_000 * (1 + round * 5 % 7)]).await;
        browser
            .until(
                &format!("Number(document.getElementById('bytes-down').value) > {seen}"),
                true,
            )
            .await;
    }
    for (name, width, scheme) in [
        ("light", 1280, "light"),
        ("dark", 1280, "dark"),
        ("narrow", 360, "light"),
        ("narrow-dark", 360, "dark"),
    ] {
        browser.screen(width, 900, scheme).await;
        picture(&mut browser, name, width, scheme).await;
    }
    daemon
        .reload(&(config.to_toml() + "[limits]\ntunels = 5\n"))
        .await;
    browser
        .until(
            "document.getElementById('notices').innerText.includes('limits.tunels')",
            true,
        )
        .await;
    picture(&mut browser, "reload", 360, "dark").await;
    let fresh = Daemon::start(&Config::closed()).await;
    browser.open(&page(&fresh)).await;
    browser.until(STATE, "Ready").await;
    browser.screen(1280, 900, "light").await;
    picture(&mut browser, "fresh", 1280, "light").await;
    browser.close().await;
}

/// Nothing is wider than the screen, no error is logged; saves the picture if requested.
async fn picture(browser: &mut Browser, name: &str, width: u32, scheme: &str) {
    let widest = browser.eval("document.documentElement.scrollWidth").await;
    assert!(
        widest.as_u64().unwrap() <= u64::from(width),
        "{name}: {widest} wide on a screen of {width}"
    );
    let ground = browser
        .eval("getComputedStyle(document.body).backgroundColor")
        .await;
    assert_eq!(
        ground == "rgb(14, 20, 27)",
        scheme == "dark",
        "{name}: {ground}"
    );
    let png = browser.screenshot().await;
    assert!(png.starts_with(b"\x89PNG"));
    if let Some(folder) = std::env::var_os("STATUS_PICTURES") {
        std::fs::write(
            std::path::Path::new(&folder).join(format!("status-{name}.png")),
            png,
        )
        .unwrap();
    }
    assert_eq!(browser.complaints, Vec::<String>::new());
}

/// No error in the console, and no request to another host.
fn only_our_own(browser: &mut Browser, daemon: &Daemon) {
    assert_eq!(browser.complaints, Vec::<String>::new());
    let own = page(daemon);
    let others: Vec<_> = browser
        .requests
        .iter()
        .filter(|url| !url.starts_with(&own) && !url.starts_with("data:"))
        .collect();
    assert!(
        others.is_empty() && browser.requests.len() > 1,
        "{others:?} of {:?}",
        browser.requests
    );
}

async fn allow_clipboard(browser: &mut Browser, daemon: &Daemon) {
    let page = page(daemon);
    let permissions = json!(["clipboardReadWrite", "clipboardSanitizedWrite"]);
    browser
        .call(
            "Browser.grantPermissions",
            json!({"permissions": permissions, "origin": page}),
        )
        .await;
}

async fn number(browser: &mut Browser, id: &str) -> f64 {
    let value = browser
        .eval(&format!("Number(document.getElementById('{id}').value)"))
        .await;
    value.as_f64().unwrap_or_else(|| panic!("{id}: {value}"))
}

fn page(daemon: &Daemon) -> String {
    format!("http://{}/", daemon.admin_addr())
}

const STATE: &str = "document.getElementById('state').textContent";
const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";
