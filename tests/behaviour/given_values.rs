//! Values that an operator may give: spaces around `SEALWAY_ADMIN`, a host as the table shows it,
//! and a users file with an inline table.

use support::command::{sealway, sealway_with};
use support::config::Config;
use support::daemon::Daemon;
use support::raw::{RawUpstream, Tunnel};
use support::users::{self, user};

#[tokio::test]
async fn spaces_around_the_admin_variable_are_ignored_and_a_wrong_one_is_named() {
    let daemon = Daemon::start(&Config::closed()).await;
    let spaced = format!(" {}\n", daemon.admin_addr());
    for command in [
        &["tunnels"][..],
        &["top", "--once"],
        &["drain"],
        &["undrain"],
        &["end", "--client", "192.0.2.0/24", "--reason", "test"],
    ] {
        let ended = sealway_with(&[("SEALWAY_ADMIN", &spaced)], command).await;
        assert_eq!(ended.status, 0, "{command:?}: {ended:?}");
        let ended = sealway_with(&[("SEALWAY_ADMIN", "nowhere")], command).await;
        assert_eq!(ended.status, 78, "{command:?}: {ended:?}");
        assert!(ended.stderr.contains("SEALWAY_ADMIN"), "{ended:?}");
        let by_flag = [command, &["--admin", "nowhere"]].concat();
        let ended = sealway_with(&[("SEALWAY_ADMIN", &spaced)], &by_flag).await;
        assert!(ended.stderr.contains("--admin"), "{ended:?}");
    }
    let ended = sealway_with(&[("SEALWAY_ADMIN", &spaced)], &["reload"]).await;
    assert_eq!(ended.status, 0, "{ended:?}");
}

#[tokio::test]
async fn a_users_file_with_an_inline_table_is_edited() {
    let directory = users::tempdir();
    let at = |name: &str| directory.path().join(name);
    users::write(&at("sealway.toml"), "[auth]\nusers_file = \"users.toml\"\n");
    let config = at("sealway.toml");
    let config = config.to_str().unwrap();
    let table = user("alice", "s", "");
    let secrets = table
        .lines()
        .find(|line| line.starts_with("secrets"))
        .unwrap();
    for text in [
        format!("# kept\nusers = {{ alice = {{ {secrets} }} }}\n"),
        format!("# kept\nusers.alice = {{ {secrets} }}\n"),
        format!("# kept\nusers.alice.{secrets}\n"),
    ] {
        users::write(&at("users.toml"), &text);
        for words in [
            ["user", "add", "bob"],
            ["user", "rotate", "alice"],
            ["user", "rotate", "bob"],
        ] {
            let ended = sealway(&[&words[..], &["--config", config]].concat()).await;
            assert_eq!(ended.status, 0, "{text}: {ended:?}");
        }
        let listed = sealway(&["user", "list", "--config", config]).await;
        assert_eq!(
            listed.stdout, "alice  secrets 2\nbob  secrets 2\n",
            "{text}"
        );
        let after = std::fs::read_to_string(at("users.toml")).unwrap();
        assert!(after.contains("# kept"), "{after}");
    }
    std::fs::remove_file(at("users.toml")).unwrap();
    std::os::unix::fs::symlink("nowhere.toml", at("users.toml")).unwrap();
    let ended = sealway(&["user", "add", "bob", "--config", config]).await;
    assert!(
        ended.status != 0
            && ended
                .stderr
                .contains("is a link to a file that does not exist"),
        "{ended:?}"
    );
    let ended = sealway(&["check", "--offline", "--config", config]).await;
    assert!(!ended.stderr.contains("sealway user add"), "{ended:?}");
}

#[tokio::test]
async fn a_host_is_parsed_as_the_table_shows() {
    let upstream = RawUpstream::start().await;
    let daemon = Daemon::start(&Config::to(upstream.addr())).await;
    let _tunnel = Tunnel::open(&daemon, &upstream).await;
    let admin = daemon.admin_addr().to_string();
    let port = upstream.addr().port();
    for (host, number) in [
        (support::HOST.to_owned(), 1),
        (format!("{}:{port}", support::HOST), 1),
        (format!("{}.:{port}", support::HOST.to_uppercase()), 1),
        (format!("{}:{}", support::HOST, port ^ 1), 0),
        (format!("{}:", support::HOST), 0),
        (format!("other.{}:{port}", support::HOST), 0),
    ] {
        let ended = sealway(&["tunnels", "--host", &host, "--admin", &admin]).await;
        assert_eq!(
            ended.stdout.lines().count(),
            1 + number,
            "{host}: {ended:?}"
        );
    }
}
