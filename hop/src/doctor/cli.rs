//! The command line of `sealway-doctor`: flags and environment in, a report and an exit status out.
//!
//! 0: nothing found. 1: at least one finding. 2: wrong flags, or a named file or admin listener that cannot be read.

use std::env;
use std::io::{Read, stdin};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser};
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sealway::commands::findings::paragraphs::colours;
use sealway::sys;
use tokio::runtime::Runtime;
use zeroize::{Zeroize, Zeroizing};

use super::api::{self, Key};
use super::checks::{self, Options};
use super::environment::{self, Variables};
use super::path::{Target, resolve};
use super::print;
use super::provider::Provider;
use super::proxy_url::ProxyUrl;
use super::rules;
use super::trust::Trust;
use super::tunnel_status::static_addresses;
use super::verdict::path;

mod flags;
mod parse;

use flags::{Cli, again};
use parse::{address, check, each, limit, one, provider, seconds, target, word};

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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    let outcome = examine(cli, &runtime);
    // A resolver that hangs must not hold the exit.
    runtime.shutdown_background();
    outcome
}

fn examine(cli: Cli, runtime: &Runtime) -> Result<bool, String> {
    let (json, verbose) = (cli.json, cli.verbose);
    let ignored = each("--ignore", &cli.ignore, check)?;
    if cli.print_rules {
        print!("{}", runtime.block_on(firewall(cli))?);
        return Ok(true);
    }
    let token = cli.admin_token.as_deref();
    let token = token.map(sealway::config::admin::text).transpose()?;
    let admin = cli.admin.as_deref();
    let admin = admin.map(|text| one("--admin", text, parse::admin));
    let admin = admin.transpose()?;
    let key = key(&cli)?;
    let malformed = key.as_ref().is_some_and(api::is_malformed);
    let missing = key.as_ref().is_some_and(|key| key.is_empty());
    let mut options = options(cli, key.filter(|_| !malformed && !missing))?;
    let heading = heading(&options);
    if let Some((host, port)) = admin {
        let began = Instant::now();
        let asked = static_addresses((&host, port), token.as_ref(), options.step);
        let egress = runtime.block_on(asked);
        options.egress = egress.map_err(|reason| format!("--admin {host}:{port}: it {reason}"))?;
        options.spent = began.elapsed();
    }
    let mut report = runtime.block_on(checks::run(options));
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

/// The firewall rules with the proxy's addresses in them.
async fn firewall(cli: Cli) -> Result<String, String> {
    let variables = environment::own();
    let proxy = cli.proxy.map(Zeroizing::new);
    let proxy = proxy.or_else(|| {
        environment::proxy(&variables).map(|(_, value)| Zeroizing::new(value.to_owned()))
    });
    let proxy = proxy.ok_or("--print-rules needs the proxy: --proxy or HTTPS_PROXY")?;
    let (url, _) = ProxyUrl::parse(&proxy);
    let url = url.ok_or("the proxy URL cannot be read")?;
    let found = resolve(&url.host, url.port, STEP).await;
    let found = found.map_err(|error| format!("{}: {error}", url.host))?;
    if found.iter().any(|at| at.ip().to_canonical().is_loopback()) {
        return Err(format!("--print-rules: {LOCAL_PROXY}"));
    }
    Ok(rules::with_tunnel(&found))
}

fn options(cli: Cli, key: Option<Key>) -> Result<Options, String> {
    let variables = environment::own();
    let again = again(&cli);
    let key_env = cli.key_env.unwrap_or_default();
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
        again,
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
        spent: Duration::ZERO,
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

/// Also of a slow tunnel.
const STEP: Duration = Duration::from_secs(5);
const QUICK_STEP: Duration = Duration::from_millis(1200);
/// Balancers with short limits end a stream after as long a silence.
const GAP_MAX: Duration = Duration::from_secs(10);
const LOCAL_PROXY: &str = "the proxy is on this machine, such as sealway-agent, whose own connections the rules would reject; name the tunnel \
     with --proxy";
const CANNOT_RUN: u8 = 2;
/// More than any key has.
const STDIN_MAX: usize = 16 << 10;
