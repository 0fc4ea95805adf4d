//! The table of all presets. `sealway presets` prints it, and `docs/providers.md` is made from it.
//!
//! The names of other providers than Google were read from the providers' own SDKs, as published on
//! PyPI in November 2026.

use super::google::{CLAUDE_GCP, GEMINI, GOOGLE_AUTH, VERTEX, vertex_mtls};
use super::parameter::{Region, Resource};
use super::{Hosts, Preset, SourceCheck};

/// The presets of Google's APIs.
pub(super) const OF_GOOGLE: &[Preset] = &[
    Preset {
        name: "gemini",
        serves: "the Gemini API (Google AI for Developers): REST, streams, WebSocket, files",
        hosts: Hosts::Listed(GEMINI),
        source: "https://ai.google.dev/api, mid-2026",
        check: Some(&SourceCheck {
            enter: "Google Cloud console, APIs & Services, Credentials, the key, Application restrictions, IP \
                    addresses; it takes IPv4, IPv6 and CIDRs, and acts within some minutes",
            command: "gcloud services api-keys update KEY_ID --allowed-ips=ADDRESS,ADDRESS",
            refusal: "403 PERMISSION_DENIED, reason API_KEY_IP_ADDRESS_BLOCKED; the message names the address that Google saw",
            source: "cloud.google.com: Manage API keys; google/api/error_reason.proto, November 2026",
        }),
        note: "the command replaces the whole list: name the addresses that are in it now, too",
    },
    Preset {
        name: "vertex",
        serves: "Vertex AI: the global host, the multi-regions us and eu, and one host for each region",
        hosts: Hosts::Listed(VERTEX),
        source: "https://cloud.google.com/vertex-ai/docs/general/locations and the discovery document, mid-2026",
        check: Some(VERTEX_CHECK),
        note: "clients also need google-auth; storage.googleapis.com is left out, because it opens every bucket",
    },
    Preset {
        name: "vertex-mtls",
        serves: "Vertex AI with certificate-bound access tokens (GOOGLE_API_USE_MTLS_ENDPOINT)",
        hosts: Hosts::Made(vertex_mtls),
        source: "google-genai 3.6.1, November 2026",
        check: Some(VERTEX_CHECK),
        note: "",
    },
    Preset {
        name: "google-auth",
        serves: "access tokens for Google's APIs without a browser",
        hosts: Hosts::Listed(GOOGLE_AUTH),
        source: "Google's authentication libraries, mid-2026",
        check: None,
        note: "",
    },
    Preset {
        name: "claude-gcp",
        serves: "Claude models on Google Cloud, by the host of Anthropic's SDK",
        hosts: Hosts::Listed(CLAUDE_GCP),
        source: "anthropic 2.14.0, November 2026",
        check: None,
        note: "clients also need google-auth",
    },
];

/// The presets of other providers.
pub(super) const OF_OTHERS: &[Preset] = &[
    Preset {
        name: "openai",
        serves: "the OpenAI API: the global host, the regional hosts, token exchange",
        hosts: Hosts::Listed(&[
            "ae.api.openai.com",
            "api.openai.com",
            "au.api.openai.com",
            "auth.openai.com",
            "eu.api.openai.com",
            "in.api.openai.com",
            "jp.api.openai.com",
            "us.api.openai.com",
        ]),
        source: "openai 3.57.0, November 2026",
        check: Some(OPENAI_CHECK),
        note: "",
    },
    Preset {
        name: "openai-mtls",
        serves: "the OpenAI API with client certificates",
        hosts: Hosts::Listed(&[
            "mtls-eu.api.openai.com",
            "mtls-us.api.openai.com",
            "mtls.api.openai.com",
            "mtls.auth.openai.com",
        ]),
        source: "openai 3.57.0, November 2026",
        check: Some(OPENAI_CHECK),
        note: "",
    },
    Preset {
        name: "anthropic",
        serves: "the Claude API",
        hosts: Hosts::Listed(&["api.anthropic.com"]),
        source: "anthropic 2.14.0, November 2026",
        check: Some(&SourceCheck {
            enter: "Claude Console, organisation settings, IP allowlist; it holds for the whole organisation",
            command: "",
            refusal: "403 permission_error, \"Your IP address isn't in this organization's allowed range.\"",
            source: "platform.claude.com: IP allowlist (beta), November 2026",
        }),
        note: "tenant restrictions need a header inside the TLS session, which Sealway cannot add",
    },
    Preset {
        name: "azure-openai",
        serves: "one Azure OpenAI or Foundry resource",
        hosts: Hosts::OfResource(azure),
        source: "openai 3.57.0 and anthropic 2.14.0, November 2026",
        check: Some(&SourceCheck {
            enter: "Azure portal, the resource, Networking, Firewall; it takes IPv4 addresses and CIDRs only",
            command: "az cognitiveservices account network-rule add --resource-group GROUP --name RESOURCE --ip-address ADDRESS",
            refusal: "403, \"Access denied due to Virtual Network/Firewall rules.\"",
            source: "learn.microsoft.com: Configure virtual networks for Azure AI services, November 2026",
        }),
        note: "never *.openai.azure.com, which opens every tenant's resource; clients that sign in with Entra ID also need azure-auth",
    },
    Preset {
        name: "azure-auth",
        serves: "access tokens of Microsoft Entra ID",
        hosts: Hosts::Listed(&["login.microsoftonline.com"]),
        source: "Microsoft's identity platform documentation, November 2026",
        check: Some(&SourceCheck {
            enter: "only with Conditional Access: Microsoft Entra admin center, Conditional Access, Named locations; it \
                    takes CIDRs of IPv4 and IPv6",
            command: "",
            refusal: "400 invalid_grant with AADSTS53003, which any policy of Conditional Access gives; the sign-in log \
                      names the policy and the address",
            source: "learn.microsoft.com: ipNamedLocation, Troubleshoot Conditional Access, November 2026",
        }),
        note: "one host serves all tenants",
    },
    Preset {
        name: "bedrock",
        serves: "Amazon Bedrock, inference: one region, or all 20 commercial ones",
        hosts: Hosts::OfRegions {
            of_region: bedrock,
            regions: BEDROCK_REGIONS,
        },
        source: "botocore 1.44.8, openai 3.57.0, anthropic 2.14.0, November 2026",
        check: Some(BEDROCK_CHECK),
        note: "the control plane bedrock.REGION.amazonaws.com and sts.REGION.amazonaws.com are left out",
    },
    Preset {
        name: "bedrock-fips",
        serves: "Amazon Bedrock, inference, FIPS endpoints",
        hosts: Hosts::OfRegions {
            of_region: bedrock_fips,
            regions: &["ca-central-1", "us-east-1", "us-east-2", "us-west-2"],
        },
        source: "botocore 1.44.8, November 2026",
        check: Some(BEDROCK_CHECK),
        note: "",
    },
    Preset {
        name: "mistral",
        serves: "the Mistral API: global, eu, us",
        hosts: Hosts::Listed(&["api.eu.mistral.ai", "api.mistral.ai", "api.us.mistral.ai"]),
        source: "mistralai 3.7.0, November 2026",
        check: None,
        note: "",
    },
    Preset {
        name: "cohere",
        serves: "the Cohere API",
        hosts: Hosts::Listed(&["api.cohere.com"]),
        source: "cohere 7.3.1, November 2026",
        check: None,
        note: "",
    },
    Preset {
        name: "groq",
        serves: "the Groq API",
        hosts: Hosts::Listed(&["api.groq.com"]),
        source: "groq 1.7.0, November 2026",
        check: None,
        note: "",
    },
    Preset {
        name: "xai",
        serves: "the xAI API",
        hosts: Hosts::Listed(&["api.x.ai"]),
        source: "xai-sdk 1.21.0, November 2026",
        check: None,
        note: "management-api.x.ai, which manages keys, is left out",
    },
    Preset {
        name: "together",
        serves: "the Together API, by its present and its former name",
        hosts: Hosts::Listed(&["api.together.ai", "api.together.xyz"]),
        source: "together 3.1.1, November 2026",
        check: None,
        note: "",
    },
    Preset {
        name: "fireworks",
        serves: "the Fireworks API",
        hosts: Hosts::Listed(&["api.fireworks.ai"]),
        source: "fireworks-ai 1.2.30, November 2026",
        check: None,
        note: "",
    },
];

const OPENAI_CHECK: &SourceCheck = &SourceCheck {
    enter: "platform.openai.com, Settings, Security, IP allowlist; the organisation or a project has at most 50 \
            addresses or CIDRs, and the list acts within 15 minutes",
    command: "",
    refusal: "401, code ip_not_authorized",
    source: "developers.openai.com: IP allowlist, error codes, November 2026",
};

const VERTEX_CHECK: &SourceCheck = &SourceCheck {
    enter: "only with VPC Service Controls: an access level of Access Context Manager",
    command: "gcloud access-context-manager levels update LEVEL --basic-level-spec=FILE",
    refusal: "403 PERMISSION_DENIED, reason SECURITY_POLICY_VIOLATED",
    source: "cloud.google.com: VPC Service Controls, access levels, November 2026",
};

const BEDROCK_CHECK: &SourceCheck = &SourceCheck {
    enter: "an IAM policy that denies bedrock:InvokeModel* and bedrock:CallWithBearerToken unless the condition \
            aws:SourceIp is met; a request through a VPC endpoint never meets it",
    command: "aws iam put-role-policy --role-name ROLE --policy-name source-address --policy-document file://POLICY.json",
    refusal: "403 AccessDeniedException, \"... with an explicit deny in an identity-based policy\"",
    source: "docs.aws.amazon.com: Denies access to AWS based on the source IP, November 2026",
};

/// The regions of the commercial partition that have `bedrock-runtime`, from botocore 1.44.8.
const BEDROCK_REGIONS: &[&str] = &[
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-south-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ca-central-1",
    "eu-central-1",
    "eu-central-2",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "sa-east-1",
    "us-east-1",
    "us-east-2",
    "us-west-2",
];

/// The second host is the one that the SDKs of OpenAI and Anthropic use for Bedrock.
fn bedrock(region: &Region) -> Vec<String> {
    let region = region.as_str();
    vec![
        format!("bedrock-runtime.{region}.amazonaws.com"),
        format!("bedrock-mantle.{region}.api.aws"),
    ]
}

fn bedrock_fips(region: &Region) -> Vec<String> {
    let region = region.as_str();
    vec![format!("bedrock-runtime-fips.{region}.amazonaws.com")]
}

fn azure(resource: &Resource) -> Vec<String> {
    ["openai", "services.ai", "cognitiveservices"]
        .map(|service| format!("{}.{service}.azure.com", resource.as_str()))
        .to_vec()
}
