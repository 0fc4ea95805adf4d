//! The flags of `sealway-doctor`, and how the doctor is run again with those of this run. Reads no file and no variable.

use std::path::PathBuf;

use clap::Parser;
use sealway::commands::findings::values::quoted;

use super::super::proxy_url::ProxyUrl;

#[derive(Parser)]
#[command(name = "sealway-doctor", bin_name = "sealway doctor", version = sealway::VERSION, about = ABOUT, after_help = EXAMPLES)]
pub(super) struct Cli {
    /// The proxy. Without it, the first of HTTPS_PROXY, https_proxy, ALL_PROXY, all_proxy; prefer a
    /// variable for a URL with a secret, because other processes see arguments.
    #[arg(long, value_name = "URL")]
    pub(super) proxy: Option<String>,
    /// The variable with the API key, such as GEMINI_API_KEY. Without it the API is not asked.
    #[arg(long, value_name = "NAME", conflicts_with = "key_stdin")]
    pub(super) key_env: Option<String>,
    /// Read the API key from standard input.
    #[arg(long)]
    pub(super) key_stdin: bool,
    /// The provider: gemini, vertex, openai, anthropic, azure, bedrock or openrouter. Default: by the
    /// name of --key-env, otherwise gemini.
    #[arg(long, value_name = "NAME")]
    pub(super) provider: Option<String>,
    /// The provider's host, if it is not the usual one: a region, or an Azure resource.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(super) endpoint: Option<String>,
    /// A static address of the tunnel (egress.addresses, or egress.public behind NAT); may be repeated.
    #[arg(
        long,
        value_name = "IP",
        value_delimiter = ',',
        conflicts_with = "admin"
    )]
    pub(super) egress: Vec<String>,
    /// The tunnel's admin listener, from which its static addresses are read instead (/status); it
    /// listens on the tunnel's machine only, by default at 127.0.0.1:9294.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) admin: Option<String>,
    /// The file with the token of the admin listener (admin.token_file).
    #[arg(long, value_name = "FILE", requires = "admin")]
    pub(super) admin_token: Option<PathBuf>,
    /// The identifier of the key at Google, for the commands that are printed.
    #[arg(long, value_name = "ID")]
    pub(super) key_id: Option<String>,
    /// The model that tokens are counted for.
    #[arg(long, value_name = "MODEL")]
    pub(super) model: Option<String>,
    /// Certificates of authorities (PEM) that may issue the proxy's certificate.
    #[arg(long, value_name = "FILE", overrides_with = "proxy_ca")]
    pub(super) proxy_ca: Option<PathBuf>,
    /// Certificates of authorities (PEM) that may issue the provider's certificate, such as those of a
    /// gateway of your own. A device that opens TLS is not found then, if they issued its certificate.
    #[arg(long, value_name = "FILE")]
    pub(super) endpoint_ca: Option<PathBuf>,
    /// The client certificate for the proxy (PEM, with its chain).
    #[arg(
        long,
        value_name = "FILE",
        requires = "cert_key",
        overrides_with = "cert"
    )]
    pub(super) cert: Option<PathBuf>,
    /// The private key of --cert (PEM).
    #[arg(
        long,
        value_name = "FILE",
        requires = "cert",
        overrides_with = "cert_key"
    )]
    pub(super) cert_key: Option<PathBuf>,
    /// End within three seconds: no split hello, no stream, no idle session.
    #[arg(long)]
    pub(super) quick: bool,
    /// The limit for one step, such as a handshake: 1 to 60; default 5, with --quick 1.2.
    #[arg(long, value_name = "SECONDS")]
    pub(super) timeout: Option<String>,
    /// How long a session stays idle before it is used again; 0 leaves the test out.
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    pub(super) idle: String,
    /// Checks whose findings do not count, such as D10 where direct connections are wanted; D10 does not
    /// run then.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub(super) ignore: Vec<String>,
    /// Print nftables rules that let this machine's applications reach only the tunnel, with the
    /// tunnel's addresses in them, and exit. Checks nothing.
    #[arg(long)]
    pub(super) print_rules: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub(super) json: bool,
    /// Print what each check learned, too.
    #[arg(long, short)]
    pub(super) verbose: bool,
}

/// The command line that repeats this run, for the commands that are printed. It has no secret, and leaves out what only
/// shortens a run or changes its output.
pub(super) fn again(cli: &Cli) -> String {
    let proxy = cli.proxy.as_ref().and_then(|text| {
        let url = ProxyUrl::parse(text).0?;
        let (scheme, rest) = url.shown().split_once("://").map(owned)?;
        let userinfo = url.credentials.map_or("", |_| "NAME:SECRET@");
        Some(format!("{scheme}://{userinfo}{rest}"))
    });
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let mut words = vec!["sealway doctor".to_owned()];
    for (flag, value) in [
        ("--proxy", proxy),
        ("--key-env", cli.key_env.clone()),
        ("--provider", cli.provider.clone()),
        ("--endpoint", cli.endpoint.clone()),
        ("--egress", Some(cli.egress.join(","))),
        ("--admin", cli.admin.clone()),
        ("--admin-token", path(&cli.admin_token)),
        ("--key-id", cli.key_id.clone()),
        ("--model", cli.model.clone()),
        ("--proxy-ca", path(&cli.proxy_ca)),
        ("--endpoint-ca", path(&cli.endpoint_ca)),
        ("--cert", path(&cli.cert)),
        ("--cert-key", path(&cli.cert_key)),
    ] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            words.extend([flag.to_owned(), quoted(&value)]);
        }
    }
    if cli.key_stdin {
        words.push("--key-stdin".to_owned());
    }
    words.join(" ")
}

fn owned((one, other): (&str, &str)) -> (String, String) {
    (one.to_owned(), other.to_owned())
}

const ABOUT: &str = "Finds out, from the application's side, why a request through the tunnel fails, and prints what fixes it. Changes nothing.";
const EXAMPLES: &str = "Examples:\n  sealway doctor\n  sealway doctor --key-env GEMINI_API_KEY --egress 203.0.113.7\n  sealway doctor --proxy http://tunnel.example:9293 --quick --json\n  sealway doctor --key-env AZURE_OPENAI_API_KEY --endpoint my-resource.openai.azure.com\n\nWithout --quick it counts tokens and, for Gemini, generates a few, and waits a minute to test an idle session.\nExit status: 0 nothing found, 1 at least one finding, 2 cannot run.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_command_repeats_the_run_without_a_secret() {
        let of = |words: &[&str]| {
            let cli = Cli::try_parse_from([&["sealway-doctor"], words].concat());
            cli.map(|cli| again(&cli)).unwrap_or_default()
        };
        assert_eq!(
            of(&["--quick", "--json", "--timeout", "3"]),
            "sealway doctor"
        );
        assert_eq!(
            of(&[
                "--proxy",
                "https://a:CANARY@h.example:9443/",
                "--key-env",
                "K",
                "--egress",
                "192.0.2.1,2001:db8::1"
            ]),
            "sealway doctor --proxy https://NAME:SECRET@h.example:9443 --key-env K --egress 192.0.2.1,2001:db8::1"
        );
        assert_eq!(
            of(&[
                "--proxy",
                "http://[::1]:1",
                "--key-stdin",
                "--proxy-ca",
                "/a b/c.pem"
            ]),
            "sealway doctor --proxy 'http://[::1]:1' --proxy-ca '/a b/c.pem' --key-stdin"
        );
        // What such a command adds counts.
        assert!(!of(&["--proxy-ca", "a", "--proxy-ca", "b"]).contains(" a"));
    }
}
