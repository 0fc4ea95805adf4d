//! The names of Google's APIs. `presets.rs` says what all presets have in common.

/// The Gemini API (Google AI for Developers). One host serves all of it: generation, streaming, the
/// WebSocket of the Live API, batches, caches, and file upload and download.
///
/// Source: <https://ai.google.dev/api>. Outside Vertex AI the Google Gen AI SDKs use no other host;
/// the upload URL that the Files API returns is on this host too.
pub(super) const GEMINI: &[&str] = &["generativelanguage.googleapis.com"];

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
pub(super) const VERTEX: &[&str] = &[
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
pub(super) const GOOGLE_AUTH: &[&str] = &[
    "accounts.google.com",
    "iamcredentials.googleapis.com",
    "oauth2.googleapis.com",
    "sts.googleapis.com",
];

/// Vertex AI for clients with certificate-bound access tokens: each host of [`VERTEX`] under
/// `mtls.googleapis.com`. The two multi-region hosts have no such name.
///
/// Source: `to_mtls_url` of google-genai 3.6.1, which uses these hosts if
/// `GOOGLE_API_USE_MTLS_ENDPOINT` asks for them.
pub(super) fn vertex_mtls() -> Vec<String> {
    let host = |host: &&str| {
        let name = host.strip_suffix(".googleapis.com")?;
        (!name.ends_with(".rep")).then(|| format!("{name}.mtls.googleapis.com"))
    };
    VERTEX.iter().filter_map(host).collect()
}

/// Claude models on Google Cloud through the host that Anthropic's SDK uses.
///
/// Source: the Google Cloud client of anthropic 2.14.0 (Python).
pub(super) const CLAUDE_GCP: &[&str] = &["claude.googleapis.com"];
