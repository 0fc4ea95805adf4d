//! The refusals of Amazon Bedrock.

use super::verdicts;

verdicts! {
    EXPLICIT_DENY D16 "bedrock_explicit_deny"
        "a policy of the AWS identity denies the call explicitly; with a condition on aws:SourceIp, it does not have the address that the request came from",
        "add the tunnel's addresses {egress} to the condition aws:SourceIp of the policy",
        "aws iam put-role-policy --role-name {role} --policy-name source-address --policy-document file://{file}";
    SERVICE_CONTROL D16 "bedrock_service_control_policy"
        "a service control policy of the AWS organisation denies the call; it may restrict regions or source addresses",
        "ask the organisation's administrator to allow the action, the region and the tunnel's addresses {egress}",
        "aws organizations list-policies --filter SERVICE_CONTROL_POLICY";
    ENDPOINT_POLICY D16 "bedrock_endpoint_policy"
        "the policy of a VPC endpoint denies the call, so the request reached AWS through a VPC and not from a public address",
        "allow the action in the endpoint's policy; aws:SourceIp does not hold there",
        "aws ec2 describe-vpc-endpoints";
    NOT_ALLOWED D16 "bedrock_not_allowed"
        "no policy of the AWS identity allows the action",
        "allow bedrock:InvokeModel and, for API keys, bedrock:CallWithBearerToken",
        "aws iam put-role-policy --role-name {role} --policy-name bedrock --policy-document file://{file}";
    MODEL D16 "bedrock_model_access"
        "the AWS account has no access to the model in this region",
        "request access in the Bedrock console: Model access";
    INVALID_KEY D16 "bedrock_invalid_key"
        "AWS does not know this key or token, or it is of another region or partition",
        "create a new API key in the Bedrock console and compare it with the variable {key_env}",
        "aws sts get-caller-identity";
    EXPIRED D16 "bedrock_expired"
        "the key or token has expired",
        "create a new one; short-term keys last 12 hours at most",
        "aws sts get-caller-identity";
    SIGNATURE D16 "bedrock_signature"
        "AWS rejects the request's signature; if the clock of this machine is wrong by five minutes, each is rejected",
        "set the clock, then compare the secret access key",
        "timedatectl set-ntp true";
    RATE D16 "bedrock_rate_limit"
        "the account's quota is used up; the source address does not matter",
        "send fewer requests, or ask for more quota",
        "aws service-quotas list-service-quotas --service-code bedrock";
    REFUSED D16 "bedrock_refused"
        "AWS answered {status} and gave no reason that the doctor knows",
        "make the same call with the AWS CLI through the tunnel and read its error";
}
