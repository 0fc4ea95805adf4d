//! `sealway presets`, and presets with a parameter in a configuration.

use serde_json::Value;
use support::command::sealway;
use tempfile::TempDir;

#[tokio::test]
async fn the_table_has_each_preset() {
    let listed = sealway(&["presets"]).await;
    assert_eq!((listed.status, listed.stderr.as_str()), (0, ""));
    for line in [
        "gemini ",
        "bedrock[:REGION] ",
        "azure-openai:RESOURCE ",
        "anthropic ",
    ] {
        let row = listed.stdout.lines().find(|row| row.starts_with(line));
        assert!(
            row.is_some_and(|row| row.contains(" yes ")),
            "{line}: {}",
            listed.stdout
        );
    }
    assert!(listed.stdout.lines().all(|line| line.is_ascii()));
    // Each row ends with the source and its date.
    let dated = |row: &str| row.ends_with(" 2026") || row.ends_with("mid-2026");
    assert!(
        listed.stdout.lines().skip(1).all(dated),
        "{}",
        listed.stdout
    );
}

#[tokio::test]
async fn one_preset_is_shown_with_its_hosts_and_the_way_to_enter_addresses() {
    let shown = sealway(&["presets", "azure-openai:my-resource"]).await;
    assert_eq!(shown.status, 0, "{shown:?}");
    for part in [
        "preset: azure-openai:my-resource\n",
        "network-rule add",
        "refusal: 403",
        "\n  my-resource.openai.azure.com\n",
    ] {
        assert!(shown.stdout.contains(part), "{part}: {}", shown.stdout);
    }
}

#[tokio::test]
async fn json_has_the_same_facts() {
    let shown = sealway(&["presets", "--json", "bedrock:eu-west-1", "groq"]).await;
    let json: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    assert_eq!(json[0]["preset"], "bedrock:eu-west-1");
    assert_eq!(
        json[0]["hosts"][1],
        "bedrock-runtime.eu-west-1.amazonaws.com"
    );
    assert!(json[0]["source_addresses"]["refusal"].is_string());
    assert_eq!(json[1]["hosts"][0], "api.groq.com");
    assert!(json[1]["source_addresses"].is_null());
}

#[tokio::test]
async fn a_wrong_preset_ends_with_2_and_its_cause() {
    for (name, cause) in [
        ("opanai", "no such preset"),
        ("azure-openai", "azure-openai:RESOURCE"),
        ("bedrock:*", "not a region"),
        ("openai:eu", "no parameter"),
    ] {
        let ended = sealway(&["presets", name]).await;
        assert_eq!((ended.status, ended.stdout.as_str()), (2, ""), "{ended:?}");
        assert!(ended.stderr.contains(cause), "{ended:?}");
    }
}

#[tokio::test]
async fn a_preset_with_a_parameter_allows_its_hosts_only() {
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("sealway.toml");
    std::fs::write(
        &config,
        "[egress]\naddresses = [\"127.0.0.1\"]\n[policy]\npresets = [\"bedrock:us-east-1\", \"azure-openai:mine\"]\n[dns.hosts]\n\
         \"bedrock-runtime.us-east-1.amazonaws.com\" = [\"192.0.2.1\"]\n\
         \"mine.openai.azure.com\" = [\"192.0.2.1\"]\n",
    )
    .unwrap();
    let config = config.to_str().unwrap();
    for (host, found) in [
        (
            "bedrock-runtime.us-east-1.amazonaws.com",
            "named by preset bedrock:us-east-1",
        ),
        ("mine.openai.azure.com", "named by preset azure-openai:mine"),
        ("bedrock-runtime.us-west-2.amazonaws.com", "host_denied"),
        ("other.openai.azure.com", "host_denied"),
        ("generativelanguage.googleapis.com", "host_denied"),
    ] {
        let explained = sealway(&["explain", host, "--config", config]).await;
        assert!(explained.stdout.contains(found), "{host}: {explained:?}");
    }
}
