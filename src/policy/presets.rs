//! The built-in sets of host names for `policy.presets`. Every name means port 443.
//!
//! Names are exact, never wildcards: under `*.googleapis.com` anyone's storage bucket could receive
//! stolen data. For the same reason a set omits hosts that also serve other purposes; the notes
//! below list them for an operator who accepts one in `policy.allow`. Nothing is fetched or
//! resolved here: a location that Google adds later needs an entry in `policy.allow` or a newer
//! release.
//!
//! Sources: Google's published locations, API references and discovery documents, as of mid-2026.
//! Each constant lists its own.

/// The Gemini API (Google AI for Developers). One host serves all of it: generation, streaming, the
/// WebSocket of the Live API, batches, caches, and file upload and download.
///
/// Source: <https://ai.google.dev/api>. Outside Vertex AI the Google Gen AI SDKs use no other host;
/// the upload URL that the Files API returns is on this host too.
pub const GEMINI: &[&str] = &["generativelanguage.googleapis.com"];

/// Vertex AI: the global host, the two multi-region hosts (`us` and `eu`) and one host for each region.
///
/// Sources: <https://cloud.google.com/vertex-ai/docs/general/locations>,
/// <https://cloud.google.com/vertex-ai/generative-ai/docs/learn/locations> and the more complete
/// `endpoints` of <https://aiplatform.googleapis.com/$discovery/rest?version=v1> without its
/// staging and preproduction hosts.
///
/// Omitted: `storage.googleapis.com`, where the Vertex AI SDK stages files (it would open every
/// bucket); the hosts under `vertexai.goog` that belong to one customer's endpoint or index; the
/// `mtls` hosts, which require a client certificate.
pub const VERTEX: &[&str] = &[
    "africa-south1-aiplatform.googleapis.com",
    "aiplatform.eu.rep.googleapis.com",
    "aiplatform.googleapis.com",
    "aiplatform.us.rep.googleapis.com",
    "asia-east1-aiplatform.googleapis.com",
    "asia-east2-aiplatform.googleapis.com",
    "asia-northeast1-aiplatform.googleapis.com",
    "asia-northeast2-aiplatform.googleapis.com",
    "asia-northeast3-aiplatform.googleapis.com",
    "asia-south1-aiplatform.googleapis.com",
    "asia-south2-aiplatform.googleapis.com",
    "asia-southeast1-aiplatform.googleapis.com",
    "asia-southeast2-aiplatform.googleapis.com",
    "asia-southeast3-aiplatform.googleapis.com",
    "australia-southeast1-aiplatform.googleapis.com",
    "australia-southeast2-aiplatform.googleapis.com",
    "europe-central2-aiplatform.googleapis.com",
    "europe-north1-aiplatform.googleapis.com",
    "europe-north2-aiplatform.googleapis.com",
    "europe-southwest1-aiplatform.googleapis.com",
    "europe-west1-aiplatform.googleapis.com",
    "europe-west10-aiplatform.googleapis.com",
    "europe-west12-aiplatform.googleapis.com",
    "europe-west15-aiplatform.googleapis.com",
    "europe-west2-aiplatform.googleapis.com",
    "europe-west3-aiplatform.googleapis.com",
    "europe-west4-aiplatform.googleapis.com",
    "europe-west6-aiplatform.googleapis.com",
    "europe-west8-aiplatform.googleapis.com",
    "europe-west9-aiplatform.googleapis.com",
    "me-central1-aiplatform.googleapis.com",
    "me-central2-aiplatform.googleapis.com",
    "me-west1-aiplatform.googleapis.com",
    "northamerica-northeast1-aiplatform.googleapis.com",
    "northamerica-northeast2-aiplatform.googleapis.com",
    "southamerica-east1-aiplatform.googleapis.com",
    "southamerica-west1-aiplatform.googleapis.com",
    "us-central1-aiplatform.googleapis.com",
    "us-central2-aiplatform.googleapis.com",
    "us-east1-aiplatform.googleapis.com",
    "us-east4-aiplatform.googleapis.com",
    "us-east5-aiplatform.googleapis.com",
    "us-east7-aiplatform.googleapis.com",
    "us-south1-aiplatform.googleapis.com",
    "us-west1-aiplatform.googleapis.com",
    "us-west2-aiplatform.googleapis.com",
    "us-west3-aiplatform.googleapis.com",
    "us-west4-aiplatform.googleapis.com",
    "us-west8-aiplatform.googleapis.com",
];

/// The hosts that Google's authentication libraries call to obtain and refresh access tokens
/// without a browser.
///
/// - `accounts.google.com`: the token endpoint that `token_uri` names in older service account keys and client secrets.
/// - `iamcredentials.googleapis.com`: impersonation of a service account, signing without a local key, and the lookup
///   of the locations an account is allowed to use.
/// - `oauth2.googleapis.com`: the token endpoint of service account keys and of user credentials (made by
///   `gcloud auth application-default login`), and their revocation.
/// - `sts.googleapis.com`: the token exchange of workload and workforce identity federation.
///
/// Sources: <https://developers.google.com/identity/protocols/oauth2/service-account>,
/// <https://cloud.google.com/iam/docs/reference/sts/rest>,
/// <https://cloud.google.com/iam/docs/reference/credentials/rest> and the endpoints written into the libraries for
/// Python, Node.js, Java, Go, Ruby and PHP.
///
/// Omitted:
///
/// - `www.googleapis.com`, because it also takes uploads for Cloud Storage and Drive. Some clients
///   still request tokens from it: Node.js service accounts with `gtoken` before version 8, Ruby
///   service accounts created without a `token_credential_uri`, and in Python the ID tokens of a
///   virtual machine that are signed through IAM. Programs that verify ID tokens fetch Google's
///   certificates from it.
/// - `cloudresourcemanager.googleapis.com`: federated credentials use it only to look up the name
///   of their project, and not if `GOOGLE_CLOUD_PROJECT` is set.
/// - `sts.REGION.rep.googleapis.com`: used only if a credential file names it.
pub const GOOGLE_AUTH: &[&str] = &[
    "accounts.google.com",
    "iamcredentials.googleapis.com",
    "oauth2.googleapis.com",
    "sts.googleapis.com",
];

/// The presets by their names in the configuration.
pub const NAMES: [(&str, &[&str]); 3] = [
    ("gemini", GEMINI),
    ("vertex", VERTEX),
    ("google-auth", GOOGLE_AUTH),
];

/// The preset of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static [&'static str]> {
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, preset)| *preset)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&[&str]; 3] = [GEMINI, VERTEX, GOOGLE_AUTH];

    #[test]
    fn every_preset_is_sorted_and_unique() {
        for preset in ALL {
            assert!(!preset.is_empty());
            assert!(preset.is_sorted_by(|a, b| a < b), "{preset:?}");
        }
    }

    /// Letters, digits and hyphens (RFC 1123 section 2.1, lower case only). That also excludes wildcards, ports, white
    /// space, empty labels and a trailing dot.
    #[test]
    fn every_name_is_exact_and_canonical() {
        for host in ALL.concat() {
            assert!(host.len() <= 253 && host.contains('.'), "{host}");
            for label in host.split('.') {
                assert!((1..=63).contains(&label.len()), "{host}");
                assert!(!label.starts_with('-') && !label.ends_with('-'), "{host}");
                assert!(
                    label
                        .bytes()
                        .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')),
                    "{host}"
                );
            }
        }
    }

    #[test]
    fn every_name_belongs_to_google() {
        for host in ALL.concat() {
            assert!(
                host.ends_with(".googleapis.com") || host == "accounts.google.com",
                "{host}"
            );
        }
    }

    #[test]
    fn no_preset_opens_storage() {
        for host in ALL.concat() {
            assert!(
                !host.contains("storage") && host != "www.googleapis.com",
                "{host}"
            );
        }
    }
}
