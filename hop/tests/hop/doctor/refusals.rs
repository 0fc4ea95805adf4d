//! Each refusal of each provider is named right, through a real tunnel; the commands that mend an address run as printed.

use std::sync::Arc;

use support::config::Config;
use support::daemon::Daemon;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::fake::Fake;
use super::run::{Doctor, tunnel};

/// Variable, fixture with status, code.
const REFUSALS: [(&str, &str, &str); 43] = [
    (
        "GEMINI_API_KEY",
        "google-ip-blocked:403",
        "api_key_ip_address_blocked",
    ),
    (
        "GEMINI_API_KEY",
        "google-ip-blocked-legacy:403",
        "api_key_ip_address_blocked",
    ),
    (
        "GEMINI_API_KEY",
        "google-service-blocked:403",
        "api_key_service_blocked",
    ),
    (
        "GEMINI_API_KEY",
        "google-referrer-blocked:403",
        "api_key_http_referrer_blocked",
    ),
    (
        "GEMINI_API_KEY",
        "google-key-invalid:400",
        "api_key_invalid",
    ),
    ("GEMINI_API_KEY", "google-key-leaked:403", "api_key_leaked"),
    ("GEMINI_API_KEY", "leaked", "api_key_leaked"),
    (
        "GEMINI_API_KEY",
        "google-token-type:401",
        "access_token_type_unsupported",
    ),
    (
        "VERTEX_TOKEN",
        "google-credentials-missing:401",
        "credentials_missing",
    ),
    (
        "VERTEX_TOKEN",
        "google-token-expired:401",
        "access_token_expired",
    ),
    (
        "VERTEX_TOKEN",
        "google-service-disabled:403",
        "service_disabled",
    ),
    (
        "VERTEX_TOKEN",
        "google-billing-disabled:403",
        "billing_disabled",
    ),
    (
        "VERTEX_TOKEN",
        "google-consumer-invalid:403",
        "consumer_invalid",
    ),
    (
        "VERTEX_TOKEN",
        "google-consumer-suspended:403",
        "consumer_suspended",
    ),
    (
        "VERTEX_TOKEN",
        "google-user-project-denied:403",
        "user_project_denied",
    ),
    (
        "VERTEX_TOKEN",
        "google-security-policy:403",
        "security_policy_violated",
    ),
    (
        "VERTEX_TOKEN",
        "google-location-policy:403",
        "location_policy_violated",
    ),
    (
        "VERTEX_TOKEN",
        "google-org-restriction:403",
        "org_restriction_violation",
    ),
    (
        "VERTEX_TOKEN",
        "google-user-blocked:403",
        "user_blocked_by_admin",
    ),
    (
        "GEMINI_API_KEY",
        "google-location:400",
        "user_location_unsupported",
    ),
    ("GEMINI_API_KEY", "google-rate:429", "rate_limit_exceeded"),
    (
        "GEMINI_API_KEY",
        "google-unavailable:503",
        "google_unavailable",
    ),
    (
        "GEMINI_API_KEY",
        "openrouter-blocked:403",
        "openrouter_provider_blocked",
    ),
    (
        "OPENAI_API_KEY",
        "openai-ip:401",
        "openai_ip_not_authorized",
    ),
    ("OPENAI_API_KEY", "openai-key:401", "openai_invalid_key"),
    (
        "OPENAI_API_KEY",
        "openai-region:403",
        "openai_region_unsupported",
    ),
    ("OPENAI_API_KEY", "openai-quota:429", "openai_quota"),
    (
        "ANTHROPIC_API_KEY",
        "anthropic-ip:403",
        "anthropic_ip_not_allowed",
    ),
    (
        "ANTHROPIC_API_KEY",
        "anthropic-key:401",
        "anthropic_invalid_key",
    ),
    (
        "ANTHROPIC_API_KEY",
        "anthropic-forbidden:403",
        "anthropic_forbidden",
    ),
    (
        "ANTHROPIC_API_KEY",
        "anthropic-credit:400",
        "anthropic_credit",
    ),
    (
        "AZURE_OPENAI_API_KEY",
        "azure-ip:403",
        "azure_network_rules",
    ),
    (
        "AZURE_OPENAI_API_KEY",
        "azure-private:403",
        "azure_public_access_disabled",
    ),
    (
        "AZURE_OPENAI_API_KEY",
        "azure-endpoint:403",
        "azure_wrong_endpoint",
    ),
    ("AZURE_OPENAI_API_KEY", "azure-key:401", "azure_invalid_key"),
    (
        "AZURE_OPENAI_API_KEY",
        "azure-keys-disabled:403",
        "azure_keys_disabled",
    ),
    (
        "AWS_BEARER_TOKEN_BEDROCK",
        "bedrock-deny:403:AccessDeniedException",
        "bedrock_explicit_deny",
    ),
    (
        "AWS_BEARER_TOKEN_BEDROCK",
        "bedrock-scp:403:AccessDeniedException",
        "bedrock_service_control_policy",
    ),
    (
        "AWS_BEARER_TOKEN_BEDROCK",
        "bedrock-missing:403",
        "bedrock_not_allowed",
    ),
    (
        "AWS_BEARER_TOKEN_BEDROCK",
        "bedrock-expired:403:ExpiredTokenException",
        "bedrock_expired",
    ),
    (
        "AWS_BEARER_TOKEN_BEDROCK",
        "bedrock-token:403",
        "bedrock_invalid_key",
    ),
    (
        "OPENROUTER_API_KEY",
        "openrouter-blocked:403",
        "openrouter_provider_blocked",
    ),
    (
        "OPENROUTER_API_KEY",
        "openrouter-credit:402",
        "openrouter_credit",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_is_the_only_finding_and_has_its_code() {
    let fake = Fake::start().await;
    let (_daemon, proxy) = tunnel(&fake).await;
    // As many as a small machine has cores.
    let turns = Arc::new(Semaphore::new(2));
    let mut runs = JoinSet::new();
    for (variable, key, wanted) in REFUSALS {
        let doctor = Doctor::new(&proxy, &fake)
            .key(variable, key)
            .with(&["--quick"]);
        let turns = Arc::clone(&turns);
        runs.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            (key, doctor.codes().await, wanted)
        });
    }
    for (key, codes, wanted) in runs.join_all().await {
        assert_eq!(codes, [wanted], "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_that_google_saw_decides_between_the_key_and_a_bypass() {
    let fake = Fake::start().await;
    let (_daemon, proxy) = tunnel(&fake).await;
    let doctor = Doctor::new(&proxy, &fake)
        .key("GEMINI_API_KEY", "listed")
        .with(&["--quick"]);
    // The tunnel leaves from 127.0.0.2. A NAT behind it, or another way, shows as another address.
    for (egress, wanted) in [
        (&[][..], "api_key_ip_address_blocked"),
        (&["--egress", "127.0.0.2"], "address_not_on_key"),
        (&["--egress", "203.0.113.7,127.0.0.2"], "address_not_on_key"),
        (&["--egress", "203.0.113.7"], "address_not_of_tunnel"),
        (&["--egress", "2001:db8::7"], "address_not_of_tunnel"),
    ] {
        assert_eq!(
            doctor.clone().with(egress).codes().await,
            [wanted],
            "{egress:?}"
        );
    }
    let v6 = Doctor::new(&proxy, &fake)
        .key("GEMINI_API_KEY", "google-ip-blocked-v6:403")
        .with(&["--quick"]);
    for (egress, wanted) in [
        ("203.0.113.7", "ipv6_not_listed"),
        ("203.0.113.7,2001:db8::9", "address_not_of_tunnel"),
        ("203.0.113.7,2001:db8::7", "address_not_on_key"),
    ] {
        assert_eq!(
            v6.clone().with(&["--egress", egress]).codes().await,
            [wanted],
            "{egress}"
        );
    }
}

/// The doctor reads the tunnel's addresses itself where it reaches the admin listener.
#[tokio::test(flavor = "multi_thread")]
async fn the_tunnels_addresses_are_read_from_its_admin_listener() {
    const TOKEN: &str = "CANARY-0123456789abcdef0123456789abcdef";
    let fake = Fake::start().await;
    let open = Daemon::start(&Config::to(fake.address)).await;
    let folder = support::users::tempdir();
    let token = folder.path().join("token");
    support::users::write(&token, TOKEN);
    let shut = Config::to(fake.address).admin("token_file = \"token\"");
    let shut = Daemon::start_in(folder, &shut).await;
    let wrong = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(wrong.path(), "CANARY-wrong-wrong-wrong-wrong-wrong\n").unwrap();
    let doctor = |daemon: &Daemon, more: &[&str]| {
        let proxy = format!("http://{}", daemon.proxy_addr());
        let admin = daemon.admin_addr().to_string();
        let doctor = Doctor::new(&proxy, &fake).key("GEMINI_API_KEY", "listed");
        doctor.with(&[&["--quick", "--admin", &admin], more].concat())
    };
    let right = ["--admin-token", token.to_str().unwrap()];
    for (daemon, more) in [(&open, &[][..]), (&shut, &right)] {
        let report = doctor(daemon, more).run().await.json();
        let finding = &report["findings"][0];
        assert_eq!(finding["code"], "address_not_on_key", "{report}");
        let command = finding["commands"][1].as_str().unwrap();
        assert!(command.ends_with("--allowed-ips=127.0.0.2"), "{command}");
        assert!(finding["placeholders"]["KEY_ID"].is_string(), "{finding}");
    }
    for more in [&[][..], &["--admin-token", wrong.path().to_str().unwrap()]] {
        let ran = doctor(&shut, more).run_unchecked().await;
        assert_eq!(ran.status, 2, "{ran:?}");
        assert!(ran.stderr.contains("--admin-token"), "{ran:?}");
    }
    let nobody = Doctor::new("http://127.0.0.1:9", &fake).with(&["--admin", "127.0.0.1:1"]);
    let ran = nobody.run_unchecked().await;
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stderr.contains("cannot be reached"), "{ran:?}");
}

/// Without the addresses, the finding says how to get them and how to run the doctor again.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_of_an_unknown_address_runs_as_printed_with_its_word_replaced() {
    let fake = Fake::start().await;
    let (_daemon, proxy) = tunnel(&fake).await;
    let doctor = Doctor::new(&proxy, &fake)
        .key("GEMINI_API_KEY", "listed")
        .with(&["--quick"]);
    let report = doctor.run().await.json();
    let finding = &report["findings"][0];
    assert_eq!(finding["code"], "api_key_ip_address_blocked");
    let command = finding["commands"][1].as_str().unwrap();
    let words = &finding["placeholders"];
    assert_eq!(words.as_object().unwrap().len(), 1, "{words}");
    assert!(words["TUNNEL_ADDRESS"].is_string(), "{words}");
    let command = command.replace("TUNNEL_ADDRESS", "127.0.0.2");
    let program = env!("CARGO_BIN_EXE_sealway-doctor");
    let command = command.replace("sealway doctor", program);
    let ran = Command::new("sh")
        .args([
            "-ec",
            &format!("{command} --quick --timeout 25 --ignore D10"),
        ])
        .env_clear()
        .env("HTTPS_PROXY", &proxy)
        .env("GEMINI_API_KEY", "CANARY-listed")
        .output()
        .await
        .unwrap();
    let shown = String::from_utf8(ran.stdout).unwrap();
    assert!(
        shown.contains("D12 address_not_on_key"),
        "{shown}: {:?}",
        ran.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_command_runs_as_it_is_and_mends_the_key() {
    let fake = Fake::start().await;
    let (_daemon, proxy) = tunnel(&fake).await;
    fake.allow(&["203.0.113.99"]);
    let doctor = Doctor::new(&proxy, &fake)
        .key("GEMINI_API_KEY", "listed")
        .with(&[
            "--quick",
            "--egress",
            "127.0.0.2",
            "--key-id",
            "projects/123/keys/a",
        ]);
    let report = doctor.run().await.json();
    let commands = report["findings"][0]["commands"].as_array().unwrap();
    let wanted =
        "gcloud services api-keys update projects/123/keys/a --project=123 --allowed-ips=127.0.0.2";
    assert_eq!(commands[1], wanted);
    let mut allowed = String::new();
    for command in commands {
        // Stands in for gcloud: prints the new list.
        let script = format!(
            "gcloud() {{ [ \"$1 $2\" = 'services api-keys' ] && case $3 in list) ;; update) for a; do case $a in --allowed-ips=*) echo \"${{a#*=}}\";; esac; done;; *) return 1;; esac; }}\n{}",
            command.as_str().unwrap()
        );
        let ran = Command::new("sh")
            .args(["-ec", &script])
            .output()
            .await
            .unwrap();
        assert!(
            ran.status.success() && ran.stderr.is_empty(),
            "{command}: {ran:?}"
        );
        allowed += &String::from_utf8(ran.stdout).unwrap();
    }
    let allowed: Vec<_> = allowed.trim().split(',').collect();
    assert_eq!(allowed, ["127.0.0.2"]);
    fake.allow(&allowed);
    assert!(doctor.codes().await.is_empty());
}
