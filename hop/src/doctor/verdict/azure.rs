//! The refusals of Azure OpenAI and Foundry resources.

use super::verdicts;

verdicts! {
    NETWORK_RULES D16 "azure_network_rules"
        "the firewall of the Azure resource does not have the address that the request came from",
        "add each of the tunnel's IPv4 addresses {egress}; the firewall takes no IPv6",
        "az cognitiveservices account network-rule add --resource-group {group} --name {resource} --ip-address {egress4}";
    PUBLIC_ACCESS D16 "azure_public_access_disabled"
        "the Azure resource accepts private endpoints only, so no public address can be allowed",
        "allow selected networks, then add the tunnel's IPv4 addresses",
        "az resource update --ids {resource_id} --set properties.publicNetworkAccess=Enabled properties.networkAcls.defaultAction=Deny\naz cognitiveservices account network-rule add --resource-group {group} --name {resource} --ip-address {egress4}";
    ENDPOINT D16 "azure_wrong_endpoint"
        "the Azure resource has network rules, which hold only at its own name, and the request went to a regional endpoint",
        "use https://RESOURCE.openai.azure.com, and allow that host in the tunnel (preset azure-openai:RESOURCE)",
        "az cognitiveservices account show --resource-group {group} --name {resource} --query properties.endpoint";
    INVALID_KEY D16 "azure_invalid_key"
        "the Azure resource does not know this key, or the key is of another resource",
        "compare the variable {key_env} with the resource's keys",
        "az cognitiveservices account keys list --resource-group {group} --name {resource}";
    KEYS_DISABLED D16 "azure_keys_disabled"
        "the Azure resource accepts no keys, only tokens of Entra ID",
        "use a token and allow login.microsoftonline.com in the tunnel (preset azure-auth), or allow keys",
        "az resource update --ids {resource_id} --set properties.disableLocalAuth=false";
    ROLE D16 "azure_role_missing"
        "the caller's identity lacks a role on the Azure resource",
        "assign the role Cognitive Services OpenAI User",
        "az role assignment create --assignee {member} --role 'Cognitive Services OpenAI User' --scope {resource_id}";
    RATE D16 "azure_rate_limit"
        "the deployment's rate limit is used up; the source address does not matter",
        "send fewer requests, or raise the deployment's capacity";
    REFUSED D16 "azure_refused"
        "Azure answered {status} and gave no reason that the doctor knows",
        "make the same call with curl through the tunnel and read its body";
}
