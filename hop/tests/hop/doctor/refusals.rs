//! Each refusal of each provider is named right, through a real tunnel; the commands that mend an address run as printed.

use std::sync::Arc;

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
