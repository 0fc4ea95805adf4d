//! The refusals of Google's APIs. A code is the reason of google.rpc.ErrorInfo in lower case, where there is one
//! (google/api/error_reason.proto); the others are known by their message or status.

use super::verdicts;

verdicts! {
    IP_BLOCKED D12 "api_key_ip_address_blocked"
        "the key accepts requests from certain addresses only, and Google saw the request come from {seen}; the doctor does not know whether that is the tunnel's address",
        "the first command, on the tunnel's machine, shows the tunnel's addresses; run the doctor again with them, and it says whether to add {seen} to the key or why the request bypassed the tunnel",
        "sealway top --once\n{again} --egress {tunnel_address}";
    IP_NOT_LISTED D12 "address_not_on_key"
        "Google saw the request come from {seen}, which is the tunnel's address, and the key does not accept requests from it",
        "add the tunnel's addresses to the key; the second command replaces the key's whole list, so add the addresses to it that the first command shows and that you still need; it takes some minutes to act",
        "gcloud services api-keys list --project={project}\ngcloud services api-keys update {key_id} --project={project} --allowed-ips={egress}";
    IP_BYPASS D12 "address_not_of_tunnel"
        "Google saw the request come from {seen}, and the tunnel's addresses are {egress}: a NAT behind the tunnel changed the address, or the request bypassed the tunnel",
        "if the tunnel's machine is behind a NAT, set egress.public to {seen} and add it to the key; the second command replaces the key's whole list, so add the addresses to it that you still need; otherwise let this machine connect to the tunnel only (firewall rules: {again} --print-rules)",
        "gcloud services api-keys list --project={project}\ngcloud services api-keys update {key_id} --project={project} --allowed-ips={seen}";
    API_KEY_SERVICE_BLOCKED D11 "api_key_service_blocked"
        "the key's API restriction does not have {service}",
        "add the API to the key's API restrictions; the command replaces the whole list",
        "gcloud services api-keys update {key_id} --project={project} --api-target=service={service}";
    API_KEY_HTTP_REFERRER_BLOCKED D11 "api_key_http_referrer_blocked"
        "the key is restricted to web sites (HTTP referrers), and a server sends no referrer",
        "restrict the key to IP addresses instead; a key has one kind of application restriction",
        "gcloud services api-keys update {key_id} --project={project} --clear-restrictions\ngcloud services api-keys update {key_id} --project={project} --allowed-ips={egress} --api-target=service={service}";
    API_KEY_ANDROID_APP_BLOCKED D11 "api_key_android_app_blocked"
        "the key is restricted to Android applications",
        "create a key for servers, restricted to IP addresses",
        "gcloud services api-keys create --project={project} --allowed-ips={egress} --api-target=service={service}";
    API_KEY_IOS_APP_BLOCKED D11 "api_key_ios_app_blocked"
        "the key is restricted to iOS applications",
        "create a key for servers, restricted to IP addresses",
        "gcloud services api-keys create --project={project} --allowed-ips={egress} --api-target=service={service}";
    API_KEY_INVALID D11 "api_key_invalid"
        "Google does not know this key: it is mistyped, deleted or not an API key; the source address does not matter",
        "compare the variable {key_env} with the key in the console, without quotes, spaces and line ends",
        "gcloud services api-keys get-key-string {key_id} --project={project}";
    API_KEY_EXPIRED D11 "api_key_expired"
        "the key has expired",
        "create a new key and restrict it to the tunnel's addresses",
        "gcloud services api-keys create --project={project} --allowed-ips={egress} --api-target=service={service}";
    API_KEY_LEAKED D11 "api_key_leaked"
        "Google blocked the key because it was reported as leaked; calls that only read may still pass",
        "create a new key, restrict it to the tunnel's addresses, and delete this one",
        "gcloud services api-keys create --project={project} --allowed-ips={egress} --api-target=service={service}\ngcloud services api-keys delete {key_id} --project={project}";
    ACCESS_TOKEN_TYPE_UNSUPPORTED D11 "access_token_type_unsupported"
        "this endpoint does not take this kind of credential, such as an API key that is sent as a bearer token",
        "send an API key as x-goog-api-key to generativelanguage.googleapis.com, and an OAuth token as Authorization: Bearer to Vertex AI";
    CREDENTIALS_MISSING D11 "credentials_missing"
        "the request had no credentials that Google recognises",
        "set the key's variable for the process that makes the call; Vertex AI needs an OAuth token",
        "gcloud auth application-default print-access-token";
    ACCESS_TOKEN_EXPIRED D11 "access_token_expired"
        "the OAuth access token has expired or was revoked",
        "get a new token; allow oauth2.googleapis.com in the tunnel (preset google-auth), or clients cannot refresh it",
        "gcloud auth application-default login";
    ACCESS_TOKEN_SCOPE_INSUFFICIENT D11 "access_token_scope_insufficient"
        "the OAuth access token lacks the scope of this API",
        "get a token with the scope https://www.googleapis.com/auth/cloud-platform",
        "gcloud auth application-default login --scopes=https://www.googleapis.com/auth/cloud-platform";
    SERVICE_DISABLED D11 "service_disabled"
        "the API {service} is not enabled in the key's project",
        "enable it, then wait some minutes",
        "gcloud services enable {service} --project={project}";
    BILLING_DISABLED D11 "billing_disabled"
        "billing is off in the key's project",
        "link a billing account",
        "gcloud billing projects link {project} --billing-account={billing_account}";
    CONSUMER_INVALID D11 "consumer_invalid"
        "the project that the request is charged to does not exist or is being deleted",
        "use a key of a project that exists, or restore this one",
        "gcloud projects describe {project}";
    CONSUMER_SUSPENDED D11 "consumer_suspended"
        "Google has suspended the key's project",
        "read the notice in the console and appeal there; a tunnel does not help",
        "gcloud projects describe {project}";
    USER_PROJECT_DENIED D11 "user_project_denied"
        "the caller may not charge requests to the quota project",
        "grant the role Service Usage Consumer on the project, or name another quota project",
        "gcloud projects add-iam-policy-binding {project} --member={member} --role=roles/serviceusage.serviceUsageConsumer";
    SECURITY_POLICY_VIOLATED D11 "security_policy_violated"
        "VPC Service Controls of the organisation forbid the call from this source",
        "ask the organisation's administrator to add the tunnel's addresses {egress} to an access level of the perimeter",
        "gcloud access-context-manager levels update {level} --basic-level-spec={file}";
    LOCATION_POLICY_VIOLATED D11 "location_policy_violated"
        "the organisation's policy forbids this location",
        "use an allowed region's endpoint, or ask the administrator to change gcp.resourceLocations",
        "gcloud resource-manager org-policies describe gcp.resourceLocations --project={project} --effective";
    ORG_RESTRICTION_VIOLATION D11 "org_restriction_violation"
        "the header X-Goog-Allowed-Resources, which a proxy adds that opens TLS, does not name this organisation",
        "ask the administrator of that proxy to add the organisation; the tunnel itself never adds a header";
    ORG_RESTRICTION_HEADER_INVALID D11 "org_restriction_header_invalid"
        "the header X-Goog-Allowed-Resources, which a proxy adds that opens TLS, is malformed",
        "ask the administrator of that proxy to correct it; the tunnel itself never adds a header";
    USER_BLOCKED_BY_ADMIN D11 "user_blocked_by_admin"
        "an administrator of the organisation blocked this user or this application",
        "ask the administrator to allow it in the Admin console: Security, API controls";
    RESOURCE_USAGE_RESTRICTION_VIOLATED D11 "resource_usage_restriction_violated"
        "the organisation's policy forbids the use of {service}",
        "ask the administrator to allow it in gcp.restrictServiceUsage",
        "gcloud resource-manager org-policies describe gcp.restrictServiceUsage --project={project} --effective";
    USER_LOCATION D11 "user_location_unsupported"
        "Google does not serve the Gemini API in the country to which it assigns the tunnel's address; the key's list does not matter",
        "give the tunnel an address of a supported region, or use Vertex AI";
    RATE_LIMIT_EXCEEDED D11 "rate_limit_exceeded"
        "the project's rate limit is used up; the source address does not matter",
        "send fewer requests a minute, or ask for more quota",
        "gcloud alpha services quota list --service={service} --consumer=projects/{project}";
    RESOURCE_QUOTA_EXCEEDED D11 "resource_quota_exceeded"
        "the project's quota is used up; the source address does not matter",
        "wait for the next period, or ask for more quota",
        "gcloud alpha services quota list --service={service} --consumer=projects/{project}";
    LOCATION_TAX_POLICY_VIOLATED D11 "location_tax_policy_violated"
        "the billing account's country does not allow this call",
        "correct the tax information of the billing account in the console";
    ACCOUNT_STATE_INVALID D11 "account_state_invalid"
        "the Google account of the credentials is disabled, deleted or has not accepted the terms",
        "sign in to the account in a browser and follow the notice",
        "gcloud auth list";
    RESOURCE_PROJECT_INVALID D11 "resource_project_invalid"
        "the project in the request does not exist or is of another kind than the call needs",
        "name an existing project",
        "gcloud projects describe {project}";
    SESSION_COOKIE_INVALID D11 "session_cookie_invalid"
        "the session cookie has expired",
        "use an API key or an OAuth token, not a browser's cookie";
    SYSTEM_PARAMETER_UNSUPPORTED D11 "system_parameter_unsupported"
        "the API does not take a system parameter of the request, such as an API key where a token is needed",
        "send the credential that the API's reference names";
    SERVICE_NOT_VISIBLE D11 "service_not_visible"
        "the API is hidden from this project",
        "ask its provider for access, or correct the host name",
        "gcloud services list --available --project={project}";
    GCP_SUSPENDED D11 "gcp_suspended"
        "Google has suspended the Cloud account of the project",
        "read the notice in the console and appeal there; a tunnel does not help";
    MISSING_ORIGIN D11 "missing_origin"
        "the API wants an Origin header, which only browsers send",
        "use the server API of the same service";
    OVERLOADED_CREDENTIALS D11 "overloaded_credentials"
        "the request has several credentials that contradict each other",
        "send either an API key or a token: unset GOOGLE_API_KEY or the application default credentials";
    UNAVAILABLE D11 "google_unavailable"
        "Google answered {status}: the service is overloaded, or the call took too long",
        "try again; if it lasts, compare the reason in the tunnel's audit record, on its machine",
        "sealway audit report /var/log/sealway/audit.jsonl";
    UNAUTHENTICATED D11 "google_unauthenticated"
        "Google rejected the credentials with 401 and gave no reason",
        "create a new key, or log in again",
        "gcloud auth application-default login";
    PERMISSION_DENIED D11 "google_permission_denied"
        "Google denied the call with 403 and gave no reason that the doctor knows",
        "check the key's restrictions and the project's state in the console",
        "gcloud services api-keys list --project={project}";
    REFUSED D11 "google_refused"
        "Google answered {status} and gave no reason that the doctor knows",
        "make the same call with curl through the tunnel and read its body";
}
