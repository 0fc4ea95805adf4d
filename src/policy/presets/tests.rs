//! Tests of the presets.

use super::*;
use crate::authority::Host;
use crate::policy::Rule;

#[test]
fn every_preset_is_sorted_and_unique() {
    for preset in Preset::all() {
        let hosts = preset.example();
        assert!(!hosts.is_empty(), "{}", preset.name);
        assert!(hosts.is_sorted_by(|a, b| a < b), "{hosts:?}");
    }
    let mut names: Vec<_> = Preset::all().map(|preset| preset.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

/// Letters, digits and hyphens (RFC 1123 section 2.1, lower case only). That also excludes
/// wildcards, ports, white space, empty labels and a trailing dot.
#[test]
fn every_name_is_exact_and_canonical() {
    for host in Preset::all().flat_map(Preset::example) {
        assert!(host.len() <= 253 && host.contains('.'), "{host}");
        for label in host.split('.') {
            assert!((1..=63).contains(&label.len()), "{host}");
            assert!(!label.starts_with('-') && !label.ends_with('-'), "{host}");
            let is_plain = |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
            assert!(label.bytes().all(is_plain), "{host}");
        }
        assert!(Rule::parse(&host).unwrap().is_of_presets(), "{host}");
    }
}

#[test]
fn every_name_belongs_to_its_provider() {
    for preset in Preset::all() {
        let domains: &[&str] = match preset.name {
            "gemini" | "vertex" | "claude-gcp" => &[".googleapis.com"],
            "vertex-mtls" => &["aiplatform.mtls.googleapis.com"],
            "google-auth" => &[".googleapis.com", "accounts.google.com"],
            "openai" => &["api.openai.com", "auth.openai.com"],
            "openai-mtls" => &[".api.openai.com", "mtls.auth.openai.com"],
            "anthropic" => &["api.anthropic.com"],
            "azure-openai" => &[
                "resource.openai.azure.com",
                "resource.services.ai.azure.com",
                "resource.cognitiveservices.azure.com",
            ],
            "azure-auth" => &["login.microsoftonline.com"],
            "bedrock" | "bedrock-fips" => &[".amazonaws.com", ".api.aws"],
            "mistral" => &["api.mistral.ai", ".mistral.ai"],
            "cohere" => &["api.cohere.com"],
            "groq" => &["api.groq.com"],
            "xai" => &["api.x.ai"],
            "together" => &["api.together.ai", "api.together.xyz"],
            "fireworks" => &["api.fireworks.ai"],
            unknown => panic!("say here which domains {unknown} may name"),
        };
        for host in preset.example() {
            assert!(
                domains.iter().any(|domain| host.ends_with(domain)),
                "{host}"
            );
        }
    }
}

#[test]
fn no_preset_opens_storage() {
    for host in Preset::all().flat_map(Preset::example) {
        let opens = ["storage", "s3", "blob"]
            .iter()
            .any(|store| host.contains(store));
        assert!(!opens && host != "www.googleapis.com", "{host}");
    }
}

#[test]
fn every_preset_says_what_it_serves_and_where_its_names_come_from() {
    for preset in Preset::all() {
        assert!(!preset.serves.is_empty(), "{}", preset.name);
        assert!(preset.source.ends_with("2026"), "{}", preset.name);
        if let Some(check) = preset.check {
            assert!(
                !check.enter.is_empty() && check.refusal.starts_with("40"),
                "{}",
                preset.name
            );
            let (page, date) = check.source.rsplit_once(", ").unwrap();
            assert!(page.contains('.') && date.ends_with(" 2026"), "{page}");
        }
    }
}

#[test]
fn the_mtls_hosts_of_vertex_leave_out_the_multi_regions() {
    let hosts = ChosenPreset::parse("vertex-mtls").unwrap();
    let of_vertex = ChosenPreset::parse("vertex").unwrap();
    assert_eq!(hosts.hosts().len(), of_vertex.hosts().len() - 2);
    assert!(
        hosts
            .hosts()
            .iter()
            .any(|host| host == "us-central1-aiplatform.mtls.googleapis.com")
    );
    assert!(hosts.hosts().iter().all(|host| !host.contains(".rep.")));
}

#[test]
fn a_region_narrows_bedrock() {
    let all = ChosenPreset::parse("bedrock").unwrap();
    assert_eq!(all.hosts().len(), 40);
    let one = ChosenPreset::parse(" bedrock:EU-central-1 ").unwrap();
    assert_eq!(one.to_string(), "bedrock:eu-central-1");
    assert_eq!(
        one.hosts(),
        [
            "bedrock-mantle.eu-central-1.api.aws",
            "bedrock-runtime.eu-central-1.amazonaws.com"
        ]
    );
    let gov = ChosenPreset::parse("bedrock-fips:us-gov-west-1").unwrap();
    assert_eq!(
        gov.hosts(),
        ["bedrock-runtime-fips.us-gov-west-1.amazonaws.com"]
    );
}

#[test]
fn a_resource_is_one_label() {
    let own = ChosenPreset::parse("azure-openai:My-Resource").unwrap();
    assert_eq!(own.to_string(), "azure-openai:my-resource");
    assert_eq!(
        own.hosts(),
        [
            "my-resource.cognitiveservices.azure.com",
            "my-resource.openai.azure.com",
            "my-resource.services.ai.azure.com",
        ]
    );
}

#[test]
fn a_wrong_preset_is_refused_with_its_cause() {
    for (text, error) in [
        ("", PresetError::Unknown),
        ("OpenAI", PresetError::Unknown),
        ("gemini,openai", PresetError::Unknown),
        ("openai:", PresetError::Superfluous),
        ("gemini:us", PresetError::Superfluous),
        ("azure-openai", PresetError::Missing),
        ("azure-openai:", PresetError::Resource),
        ("azure-openai:*", PresetError::Resource),
        ("azure-openai:evil.example#", PresetError::Resource),
        ("azure-openai:a.b", PresetError::Resource),
        ("azure-openai:-a", PresetError::Resource),
        ("azure-openai:xn--80ak6aa92e", PresetError::Resource),
        ("azure-openai:my_resource", PresetError::Resource),
        ("bedrock:", PresetError::Region),
        ("bedrock:*", PresetError::Region),
        ("bedrock:us-east", PresetError::Region),
        ("bedrock:us-1", PresetError::Region),
        ("bedrock:us--1", PresetError::Region),
        ("bedrock:us-east-1.evil.example", PresetError::Region),
        ("bedrock:us-east-1:443", PresetError::Region),
        ("bedrock:useast1", PresetError::Region),
    ] {
        assert_eq!(ChosenPreset::parse(text).unwrap_err(), error, "{text}");
    }
    let long = format!("azure-openai:{}", "a".repeat(64));
    assert_eq!(
        ChosenPreset::parse(&long).unwrap_err(),
        PresetError::Resource
    );
}

/// A parameter of any form gives hosts below the provider's own domains, or nothing.
#[test]
fn no_parameter_changes_the_domain() {
    proptest::proptest!(|(parameter in "[ -~]{0,70}")| {
        for (name, domains) in [
            ("bedrock", [".amazonaws.com", ".api.aws"].as_slice()),
            ("azure-openai", [".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com"].as_slice()),
        ] {
            let Ok(chosen) = ChosenPreset::parse(&format!("{name}:{parameter}")) else { continue };
            for host in chosen.hosts() {
                Host::parse(host).unwrap();
                let labels = host.split('.').count();
                let ends = domains.iter().find(|domain| host.ends_with(*domain)).unwrap();
                let beyond = if name == "bedrock" { 2 } else { 1 };
                assert_eq!(labels, ends.split('.').count() - 1 + beyond, "{host}");
            }
        }
    });
}
