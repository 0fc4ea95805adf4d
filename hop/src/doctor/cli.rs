//! The command line of `sealway-doctor`: flags and environment in, a report and an exit status out.
//!
//! 0: nothing found. 1: at least one finding. 2: wrong flags, or a named file that cannot be read.

use std::env;
use std::io::{Read, stdin};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sealway::commands::findings::paragraphs::colours;
use sealway::sys;
use zeroize::{Zeroize, Zeroizing};

use super::api::{self, Key};
use super::checks::{self, Options};
use super::environment::{self, Variables};
use super::path::Target;
use super::print;
use super::provider::Provider;
use super::proxy_url::{ProxyUrl, host_and_port};
use super::trust::Trust;
use super::verdict::{Check, path};

#[derive(Parser)]
#[command(name = "sealway-doctor", bin_name = "sealway doctor", version = sealway::VERSION, about = ABOUT, after_help = EXAMPLES)]
struct Cli {
    /// The proxy. Without it, the first of HTTPS_PROXY, https_proxy, ALL_PROXY, all_proxy; prefer a
    /// variable for a URL with a secret, because other processes see arguments.
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// The variable with the API key, such as GEMINI_API_KEY. Without it the API is not asked.
    #[arg(long, value_name = "NAME", conflicts_with = "key_stdin")]
    key_env: Option<String>,
    /// Read the API key from standard input.
    #[arg(long)]
    key_stdin: bool,
    /// The provider: gemini, vertex, openai, anthropic, azure, bedrock or openrouter. Default: by the
    /// name of --key-env, otherwise gemini.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// The provider's host, if it is not the usual one: a region, or an Azure resource.
    #[arg(long, value_name = "HOST[:PORT]")]
    endpoint: Option<String>,
    /// A static address of the tunnel (egress.addresses, or egress.public behind NAT); may be repeated.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    egress: Vec<String>,
    /// The identifier of the key at Google, for the commands that are printed.
    #[arg(long, value_name = "ID")]
    key_id: Option<String>,
    /// The model that tokens are counted for.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Certificates of authorities (PEM) that may issue the proxy's certificate.
    #[arg(long, value_name = "FILE")]
    proxy_ca: Option<PathBuf>,
    /// Certificates of authorities (PEM) that may issue the provider's certificate, such as those of a
    /// gateway of your own. A device that opens TLS is not found then, if they issued its certificate.
    #[arg(long, value_name = "FILE")]
    endpoint_ca: Option<PathBuf>,
    /// The client certificate for the proxy (PEM, with its chain).
    #[arg(long, value_name = "FILE", requires = "cert_key")]
    cert: Option<PathBuf>,
    /// The private key of --cert (PEM).
    #[arg(long, value_name = "FILE", requires = "cert")]
    cert_key: Option<PathBuf>,
    /// End within three seconds: no split hello, no stream, no idle session.
    #[arg(long)]
    quick: bool,
    /// The limit for one step, such as a handshake: 1 to 60; default 5, with --quick 1.2.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<String>,
    /// How long a session stays idle before it is used again; 0 leaves the test out.
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    idle: String,
    /// Checks whose findings do not count, such as D10 where direct connections are wanted; D10 does not
    /// run then.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    ignore: Vec<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Print what each check learned, too.
    #[arg(long, short)]
    verbose: bool,
}

/// The definition of the command line, for its manual page. Runs nothing.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command line and returns its exit status.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("sealway-doctor: {reason}");
            ExitCode::from(CANNOT_RUN)
        }
    }
}

/// Whether nothing was found.
fn execute(cli: Cli) -> Result<bool, String> {
    // Before the first secret is read.
    sys::keep_out_of_core_files()
        .map_err(|error| format!("cannot keep this process's memory out of core files: {error}"))?;
    let (json, verbose) = (cli.json, cli.verbose);
    let ignored = each("--ignore", &cli.ignore, check)?;
    let key = key(&cli)?;
    let malformed = key.as_ref().is_some_and(api::is_malformed);
    let missing = key.as_ref().is_some_and(|key| key.is_empty());
    let options = options(cli, key.filter(|_| !malformed && !missing))?;
    let heading = heading(&options);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    let mut report = runtime.block_on(checks::run(options));
    // A resolver that hangs must not hold the exit.
    runtime.shutdown_background();
    if missing {
        report.found(path::KEY_MISSING);
    } else if malformed {
        report.found(path::KEY_MALFORMED);
    }
    report.ignore(&ignored);
    if json {
        println!("{}", print::json(&report, &heading));
    } else {
        print!("{}", print::text(&report, &heading, colours(), verbose));
    }
    Ok(report.findings().is_empty())
}

fn options(cli: Cli, key: Option<Key>) -> Result<Options, String> {
    let variables = environment::own();
    let key_env = cli.key_env.unwrap_or_else(|| {
        if cli.key_stdin {
            "the key on standard input".to_owned()
        } else {
            String::new()
        }
    });
    let named = cli
        .provider
        .as_deref()
        .map(|name| one("--provider", name, provider));
    let provider = named.transpose()?.unwrap_or_else(|| of_variable(&key_env));
    let target = match &cli.endpoint {
        Some(text) => one("--endpoint", text, target)?,
        None => usual(provider, &variables)?,
    };
    let proxy_named = cli.proxy.is_some();
    let proxy = cli
        .proxy
        .or_else(|| environment::proxy(&variables).map(|(_, value)| value.to_owned()));
    let identity = match (cli.cert, cli.cert_key) {
        (Some(cert), Some(key)) => Some(identity(&cert, &key)?),
        _ => None,
    };
    Ok(Options {
        provider,
        target,
        proxy: proxy.map(Zeroizing::new),
        proxy_named,
        variables,
        key,
        key_env,
        model: one(
            "--model",
            cli.model.as_deref().unwrap_or(model(provider)),
            word,
        )?,
        key_id: match &cli.key_id {
            Some(text) => one("--key-id", text, word)?,
            None => String::new(),
        },
        egress: each("--egress", &cli.egress, address)?,
        proxy_trust: Trust::load(cli.proxy_ca.as_deref())?,
        target_trust: Trust::load(cli.endpoint_ca.as_deref())?,
        identity,
        quick: cli.quick,
        step: match &cli.timeout {
            Some(text) => one("--timeout", text, limit)?,
            None if cli.quick => QUICK_STEP,
            None => STEP,
        },
        idle: one("--idle", &cli.idle, seconds)?,
        gap: GAP_MAX,
        ignored: each("--ignore", &cli.ignore, check)?,
    })
}

/// The key; empty if its variable is not set. None: none is wanted.
fn key(cli: &Cli) -> Result<Option<Key>, String> {
    if let Some(name) = &cli.key_env {
        return Ok(Some(Zeroizing::new(env::var(name).unwrap_or_default())));
    }
    if !cli.key_stdin {
        return Ok(None);
    }
    let mut text = Zeroizing::new(String::with_capacity(STDIN_MAX));
    let limit = u64::try_from(STDIN_MAX).unwrap_or(u64::MAX);
    stdin()
        .lock()
        .take(limit)
        .read_to_string(&mut text)
        .map_err(|error| format!("standard input: {error}"))?;
    let key = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
    text.zeroize();
    Ok(Some(key))
}

fn heading(options: &Options) -> String {
    let proxy = options
        .proxy
        .as_ref()
        .and_then(|text| ProxyUrl::parse(text).0);
    let through = proxy.map_or_else(
        || "without a proxy".to_owned(),
        |proxy| format!("through {}", proxy.shown()),
    );
    format!("{} at {} {through}", options.provider, options.target.host)
}

fn identity(cert: &Path, key: &Path) -> Result<Arc<CertifiedKey>, String> {
    let of = |file: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .map_err(|error| of(cert, &error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| of(key, &error))?;
    let pair = CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider())
        .map_err(|error| of(cert, &error))?;
    Ok(Arc::new(pair))
}

/// The provider whose SDKs read this variable.
fn of_variable(name: &str) -> Provider {
    let known = [
        ("OPENAI", Provider::OpenAi),
        ("ANTHROPIC", Provider::Anthropic),
        ("BEDROCK", Provider::Bedrock),
        ("OPENROUTER", Provider::OpenRouter),
        ("VERTEX", Provider::Vertex),
    ];
    let name = name.to_ascii_uppercase();
    if name.contains("AZURE") {
        return Provider::Azure;
    }
    let found = known.iter().find(|(part, _)| name.contains(part));
    found.map_or(Provider::Gemini, |(_, provider)| *provider)
}

/// The provider's usual host.
fn usual(provider: Provider, variables: &Variables) -> Result<Target, String> {
    let host = match provider {
        Provider::Gemini => "generativelanguage.googleapis.com".to_owned(),
        Provider::Vertex => "aiplatform.googleapis.com".to_owned(),
        Provider::OpenAi => "api.openai.com".to_owned(),
        Provider::Anthropic => "api.anthropic.com".to_owned(),
        Provider::OpenRouter => "openrouter.ai".to_owned(),
        Provider::Azure => {
            return Err("azure needs --endpoint RESOURCE.openai.azure.com".to_owned());
        }
        Provider::Bedrock => {
            let region = variables
                .get("AWS_REGION")
                .or_else(|| variables.get("AWS_DEFAULT_REGION"));
            let region = region.filter(|region| word(region).is_ok());
            let region = region.ok_or(
                "bedrock needs AWS_REGION or --endpoint bedrock-runtime.REGION.amazonaws.com",
            )?;
            format!("bedrock-runtime.{}.amazonaws.com", **region)
        }
    };
    Ok(Target { host, port: 443 })
}

/// Any model will do: an answer that it does not exist also shows that the key was let in.
fn model(provider: Provider) -> &'static str {
    match provider {
        Provider::Bedrock => "anthropic.claude-sonnet-4-20250514-v1:0",
        Provider::Anthropic => "claude-sonnet-4-5",
        _ => "gemini-2.5-flash",
    }
}

// clap's own message would print a wrong value, which may be a misplaced secret; these say only what is expected.

/// One value of a flag.
fn one<T>(flag: &str, text: &str, parse: fn(&str) -> Result<T, String>) -> Result<T, String> {
    parse(text.trim()).map_err(|expected| format!("{flag}: {expected}; see --help"))
}

/// All values of a flag.
fn each<T>(
    flag: &str,
    texts: &[String],
    parse: fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    texts.iter().map(|text| one(flag, text, parse)).collect()
}

fn address(text: &str) -> Result<IpAddr, String> {
    let parsed = text.parse::<IpAddr>();
    parsed
        .map(|address| address.to_canonical())
        .map_err(|_| "expected an IP address".to_owned())
}

fn limit(text: &str) -> Result<Duration, String> {
    let parsed = text
        .parse()
        .ok()
        .filter(|seconds| (1..=60).contains(seconds));
    parsed
        .map(Duration::from_secs)
        .ok_or_else(|| "expected seconds, 1 to 60".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let parsed = text.parse().ok().filter(|seconds| *seconds <= 3600);
    parsed
        .map(Duration::from_secs)
        .ok_or_else(|| "expected seconds, 0 to 3600".to_owned())
}

fn provider(name: &str) -> Result<Provider, String> {
    let found = Provider::ALL
        .into_iter()
        .find(|provider| provider.name().eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        "expected gemini, vertex, openai, anthropic, azure, bedrock or openrouter".to_owned()
    })
}

fn target(text: &str) -> Result<Target, String> {
    let (host, port) = host_and_port(text).ok_or("expected HOST or HOST:PORT")?;
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    Ok(Target {
        host,
        port: port.unwrap_or(443),
    })
}

fn check(name: &str) -> Result<Check, String> {
    Check::parse(name).ok_or_else(|| "expected D01 to D16".to_owned())
}

fn word(text: &str) -> Result<String, String> {
    let known = |c: char| c.is_ascii_alphanumeric() || "._:-/".contains(c);
    match !text.is_empty() && text.len() <= 200 && text.chars().all(known) {
        true => Ok(text.to_owned()),
        false => Err("expected letters, digits and . _ : - /".to_owned()),
    }
}

/// Also of a slow tunnel.
const STEP: Duration = Duration::from_secs(5);
const QUICK_STEP: Duration = Duration::from_millis(1200);
/// Balancers with short limits end a stream after as long a silence.
const GAP_MAX: Duration = Duration::from_secs(10);
const CANNOT_RUN: u8 = 2;
/// More than any key has.
const STDIN_MAX: usize = 16 << 10;
const ABOUT: &str = "Finds out, from the application's side, why a request through the tunnel fails, and prints what mends it. Changes nothing.";
const EXAMPLES: &str = "Examples:\n  sealway doctor\n  sealway doctor --key-env GEMINI_API_KEY --egress 203.0.113.7\n  sealway doctor --proxy http://tunnel.example:9293 --quick --json\n  sealway doctor --key-env AZURE_OPENAI_API_KEY --endpoint my-resource.openai.azure.com\n\nWithout --quick it counts tokens and, for Gemini, generates a few, and waits a minute to test an idle session.\nExit status: 0 nothing found, 1 at least one finding, 2 cannot run.";
