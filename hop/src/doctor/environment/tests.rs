//! What the doctor reads from an application's environment, one variable and one pitfall after the other.

use super::*;

fn found(variables: &[(&str, &str)], named: Option<&str>) -> Vec<Finding> {
    let variables: Variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Zeroizing::new((*value).to_owned())))
        .collect();
    let text = named.or_else(|| proxy(&variables).map(|(_, value)| value));
    let chosen = text.and_then(|text| ProxyUrl::parse(text).0);
    findings(
        &variables,
        chosen.as_ref(),
        named.is_some(),
        "api.example.com",
        443,
    )
}

fn codes(variables: &[(&str, &str)], named: Option<&str>) -> Vec<&'static str> {
    found(variables, named)
        .iter()
        .map(|finding| finding.verdict.code)
        .collect()
}

#[test]
fn a_good_environment_has_no_finding() {
    let url = "http://a:b@proxy:9293";
    for variables in [
        &[("HTTPS_PROXY", url)][..],
        &[
            ("HTTPS_PROXY", url),
            ("https_proxy", url),
            ("NO_PROXY", "localhost,127.0.0.1,.internal"),
        ],
        &[
            ("https_proxy", url),
            ("HTTPS_PROXY", " "),
            (
                "no_proxy",
                "example.com:8443,xapi.example.com,i.example.com",
            ),
        ],
        &[
            ("ALL_PROXY", url),
            (
                "JAVA_TOOL_OPTIONS",
                "-Dhttps.proxyHost=proxy -Djdk.http.auth.tunneling.disabledSchemes=",
            ),
        ],
        &[
            ("HTTPS_PROXY", url),
            ("NODE_ENV", "production"),
            ("NODE_USE_ENV_PROXY", "1"),
        ],
        &[("HTTPS_PROXY", url), ("NODE_OPTIONS", "--use-env-proxy")],
        &[
            ("HTTPS_PROXY", url),
            ("grpc_proxy", "http://c:d@proxy:9293"),
        ],
    ] {
        assert!(codes(variables, None).is_empty(), "{variables:?}");
    }
    assert!(codes(&[], Some(url)).is_empty());
}

#[test]
fn each_pitfall_of_the_variables_is_named() {
    let url = "http://a:b@proxy:9293";
    for (variables, named, wanted) in [
        (&[][..], None, "proxy_not_set"),
        (&[("HTTPS_PROXY", "")], None, "proxy_not_set"),
        (
            &[("HTTPS_PROXY", url), ("https_proxy", "http://other:1")],
            None,
            "proxy_cases_differ",
        ),
        (
            &[("https_proxy", "http://other:1")],
            Some(url),
            "proxy_variable_differs",
        ),
        (
            &[("HTTPS_PROXY", url), ("NO_PROXY", "*")],
            None,
            "no_proxy_matches",
        ),
        (
            &[("HTTPS_PROXY", url), ("no_proxy", "a, example.com")],
            None,
            "no_proxy_matches",
        ),
        (
            &[("HTTPS_PROXY", url), ("NO_PROXY", ".EXAMPLE.com.")],
            None,
            "no_proxy_matches",
        ),
        (
            &[("HTTPS_PROXY", url), ("NO_PROXY", "*.example.com")],
            None,
            "no_proxy_matches",
        ),
        (
            &[("HTTPS_PROXY", url), ("NO_PROXY", "api.example.com:443")],
            None,
            "no_proxy_matches",
        ),
    ] {
        assert_eq!(codes(variables, named), [wanted], "{variables:?}");
    }
}

#[test]
fn each_pitfall_of_a_library_is_named() {
    let url = "http://a:b@proxy:9293";
    for (variables, named, wanted) in [
        (
            &[("HTTPS_PROXY", url), ("no_grpc_proxy", "example.com")],
            None,
            "no_grpc_proxy_matches",
        ),
        (
            &[
                ("HTTPS_PROXY", "https://h:1"),
                ("grpc_proxy", "https://h:1"),
            ],
            None,
            "grpc_https_proxy",
        ),
        (
            &[("HTTPS_PROXY", url), ("grpc_proxy", "http://h:2")],
            None,
            "grpc_proxy_differs",
        ),
        (
            &[
                ("HTTPS_PROXY", url),
                ("JAVA_TOOL_OPTIONS", "-Dhttps.proxyHost=h"),
            ],
            None,
            "java_disables_basic",
        ),
        (
            &[
                ("HTTPS_PROXY", "http://h:1"),
                ("JDK_JAVA_OPTIONS", "-Xmx1g"),
            ],
            None,
            "java_ignores_variables",
        ),
        (
            &[("HTTPS_PROXY", url), ("NODE_VERSION", "22")],
            None,
            "node_fetch_ignores_variables",
        ),
    ] {
        assert_eq!(codes(variables, named), [wanted], "{variables:?}");
    }
}

#[test]
fn the_command_leaves_the_other_entries() {
    let list = "localhost, example.com,10.0.0.0/8,api.example.com";
    let finding = found(&[("HTTPS_PROXY", "http://h:1"), ("no_proxy", list)], None)
        .pop()
        .unwrap();
    assert_eq!(finding.commands(), ["export no_proxy=localhost,10.0.0.0/8"]);
    let finding = found(&[("HTTPS_PROXY", "http://h:1"), ("NO_PROXY", "*")], None)
        .pop()
        .unwrap();
    assert_eq!(finding.commands(), ["export NO_PROXY="]);
}

#[test]
fn no_text_shows_credentials() {
    let secret = "http://a:CANARY@h:1";
    let variables = [
        ("HTTPS_PROXY", secret),
        ("https_proxy", "http://a:CANARY@g:1"),
        ("grpc_proxy", "https://a:CANARY@g:1"),
        ("JAVA_TOOL_OPTIONS", "-Dx=CANARY"),
    ];
    let texts: Vec<_> = found(&variables, None)
        .iter()
        .map(|finding| format!("{finding:?} {:?}", finding.commands()))
        .collect();
    assert!(
        texts.len() >= 4 && !texts.concat().contains("CANARY"),
        "{texts:?}"
    );
}
