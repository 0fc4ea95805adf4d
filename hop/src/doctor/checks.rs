//! The order of the checks, and which finding each result is.
//!
//! A check that fails ends the way behind it; the checks that could not run are named with the reason. The key is sent only
//! if the provider's certificate is right. Everything has a limit: each step, and the whole run.

mod around;
mod ask;
mod outer;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::time::timeout;

use super::api::Key;
use super::codes;
use super::environment::{self, Variables};
use super::finding::{Finding, Report};
use super::http::Stream;
use super::path::{LATE, Path, Target};
use super::provider::Provider;
use super::proxy_url::ProxyUrl;
use super::tls::{Handshake, Hello, TlsFailure};
use super::trust::{Facts, Judgement, Trust};
use super::verdict::Check::{self, D05, D06, D07, D08, D09, D11, D12, D14, D16};
use super::verdict::path as verdict;
use sealway::commands::findings::values::{AGAIN, Values};

/// What a run examines.
pub struct Options {
    /// The provider.
    pub provider: Provider,
    /// Its host.
    pub target: Target,
    /// The proxy URL, from --proxy or the environment; it holds the secret.
    pub proxy: Option<zeroize::Zeroizing<String>>,
    /// Whether --proxy named it.
    pub proxy_named: bool,
    /// The environment.
    pub variables: Variables,
    /// The key; None: the API is not asked.
    pub key: Option<Key>,
    /// The variable that the key comes from.
    pub key_env: String,
    /// The command line that repeats this run, without a secret.
    pub again: String,
    /// The model of countTokens and of the stream.
    pub model: String,
    /// The identifier of the key at Google, for the commands.
    pub key_id: String,
    /// The tunnel's static addresses; may be empty.
    pub egress: Vec<IpAddr>,
    /// The authorities of the proxy.
    pub proxy_trust: Trust,
    /// The authorities of the provider.
    pub target_trust: Trust,
    /// The client certificate for the proxy.
    pub identity: Option<Arc<CertifiedKey>>,
    /// Leaves out what takes long.
    pub quick: bool,
    /// The time that was used before, which counts for the limit of `quick`.
    pub spent: Duration,
    /// The limit for one step, such as a handshake.
    pub step: Duration,
    /// How long a session stays idle; zero leaves it out.
    pub idle: Duration,
    /// The longest silence of a stream that is no finding.
    pub gap: Duration,
    /// Checks whose findings do not count. D10 does not run then, nor does the direct IPv6 connection of D13.
    pub ignored: Vec<Check>,
}

/// A way to the provider that works.
struct Way<'a> {
    options: &'a Options,
    path: &'a Path,
    address: SocketAddr,
    hello: Hello,
}

/// Runs the checks.
pub async fn run(mut options: Options) -> Report {
    let mut report = Report::default();
    report.values = shared_values(&options);
    let (chosen, findings) = match &options.proxy {
        Some(text) => ProxyUrl::parse(text),
        None => (None, Vec::new()),
    };
    options.proxy = None;
    let named = options.proxy_named;
    // A URL that cannot be read is a finding of its own, not an unset variable.
    let unreadable = chosen.is_none() && !findings.is_empty();
    findings
        .into_iter()
        .for_each(|finding| report.found(finding));
    let Target { host, port } = &options.target;
    for finding in environment::findings(&options.variables, chosen.as_ref(), named, host, *port) {
        if !(unreadable && finding.verdict == super::verdict::setup::PROXY_NOT_SET) {
            report.found(finding);
        }
    }
    let total = match options.quick {
        // Below the three seconds that --quick promises, with its usual step.
        true => (options.step * 9 / 4).saturating_sub(options.spent),
        false => TOTAL + options.step * 10 + options.idle,
    };
    if timeout(total, examine(&mut options, chosen, &mut report))
        .await
        .is_err()
    {
        report.skip_all(&BEHIND, "the time for all checks is used up");
        // Not well: nobody knows.
        if report.findings().is_empty() {
            let values = Values::default().with("limit", format!("{:.1} s", total.as_secs_f32()));
            report.found(Finding::new(verdict::TIME_UP, values));
        }
    }
    report.ignore(&options.ignored);
    report
}

fn shared_values(options: &Options) -> Values {
    let all: Vec<_> = options.egress.iter().map(ToString::to_string).collect();
    let first_v4 = options.egress.iter().find(|address| address.is_ipv4());
    Values::default()
        .with("host", &options.target.host)
        .with("port", options.target.port.to_string())
        .with("key_env", &options.key_env)
        .with(AGAIN, &options.again)
        .with("key_id", &options.key_id)
        .with("egress", all.join(","))
        .with(
            "egress4",
            first_v4.map(ToString::to_string).unwrap_or_default(),
        )
}

async fn examine(options: &mut Options, chosen: Option<ProxyUrl>, report: &mut Report) {
    let key = options.key.take();
    let limit = options.step;
    let around = async {
        match options.ignored.contains(&Check::D10) {
            true => None,
            false => {
                Some(around::direct(&options.target, &options.egress, limit.min(DIRECT_STEP)).await)
            }
        }
    };
    let through = async {
        let Some(proxy) = chosen else {
            report.skip_all(&BEHIND, "there is no proxy URL");
            return;
        };
        report.values = proxy.values().or(&report.values);
        let path = Path {
            proxy,
            target: options.target.clone(),
            identity: options.identity.clone(),
            limit,
        };
        through(options, &path, key, report).await;
    };
    let (around, ()) = tokio::join!(around, through);
    if let Some(around) = around {
        around
            .findings
            .into_iter()
            .for_each(|finding| report.found(finding));
        report.fact(Check::D10, around.fact);
    }
}

/// The way through the proxy to the provider.
async fn through(options: &Options, path: &Path, key: Option<Key>, report: &mut Report) {
    let Some((address, stream)) = outer::open(options, path, report).await else {
        return;
    };
    let Some((mut session, hello)) = inner(options, path, address, stream, report).await else {
        return;
    };
    let way = Way {
        options,
        path,
        address,
        hello,
    };
    // At the same time, so that --quick has time for both.
    let big_dropped =
        async { hello == Hello::Small && big_is_dropped(options, path, address).await };
    let asked = async {
        match key {
            Some(key) => ask::calls(&way, &mut session, &key, report).await,
            None => report.skip_all(&[D11, D12, D16], "no key was given"),
        }
    };
    let (big_dropped, ()) = tokio::join!(big_dropped, asked);
    drop(session);
    if big_dropped {
        report.found(verdict::HELLO_BIG);
    }
    if options.quick {
        report.skip(D14, "--quick");
    } else if !big_dropped {
        split(path, address, report).await;
    }
    if !options.quick && !options.idle.is_zero() {
        ask::idle(&way, report).await;
    }
}

/// TLS with the provider, with the certificate judged. None: there is none, or it is not the provider's.
async fn inner(
    options: &Options,
    path: &Path,
    address: SocketAddr,
    stream: Stream,
    report: &mut Report,
) -> Option<(Stream, Hello)> {
    let first = path.inner(stream, Hello::PostQuantum).await;
    let (handshake, hello) = match &first.result {
        Err(failure) if may_be_size(failure) => {
            let again = match path.tunnel(address).await {
                Some(stream) => path.inner(stream, Hello::Small).await,
                None => first,
            };
            (again, Hello::Small)
        }
        _ => (first, Hello::PostQuantum),
    };
    let Handshake {
        result,
        chain,
        negotiated,
        ..
    } = handshake;
    let session = match result {
        Ok(session) => session,
        Err(failure) => {
            report.found(of_failure(&failure));
            report.skip_all(&BEHIND_TLS, "TLS with the provider failed");
            return None;
        }
    };
    report.fact(D08, format!("TLS with {}: {negotiated}", path.target.host));
    report.fact(
        D07,
        format!("the certificate is issued by {}", Facts::of(&chain).issuer),
    );
    match wrong(options, &chain) {
        None => Some((session, hello)),
        Some(finding) => {
            report.found(finding);
            report.skip_all(&BEHIND_TLS, "the provider's certificate is wrong");
            None
        }
    }
}

/// What is wrong with the provider's certificate. None: the key may be sent.
fn wrong(options: &Options, chain: &[CertificateDer<'_>]) -> Option<Finding> {
    wrong_for(&options.target.host, &options.target_trust, chain)
}

fn wrong_for(host: &str, trust: &Trust, chain: &[CertificateDer<'_>]) -> Option<Finding> {
    let facts = Facts::of(chain);
    let Ok(name) = ServerName::try_from(host.to_owned()) else {
        return Some(verdict::TLS_NAME.into());
    };
    let found = match trust.judge(chain, &name) {
        Judgement::WrongName => verdict::TLS_NAME,
        Judgement::NotNow => verdict::TLS_EXPIRED,
        Judgement::Given => return None,
        Judgement::Public if !is_googles(host) || facts.issuer.contains(GOOGLES_ISSUER) => {
            return None;
        }
        Judgement::Public | Judgement::SystemOnly | Judgement::Unknown => verdict::TLS_OPENED,
    };
    let values = Values::default()
        .with("issuer", facts.issuer)
        .with("names", facts.names)
        .with("until", facts.until);
    Some(Finding::new(found, values))
}

/// A device that drops a hello answers nothing, or closes.
fn may_be_size(failure: &TlsFailure) -> bool {
    match failure {
        TlsFailure::Closed => true,
        TlsFailure::Other(reason) => reason == LATE,
        TlsFailure::Alert(_) | TlsFailure::NotTls => false,
    }
}

/// Whether a large hello fails again after a small one succeeded: one lost connection is no device.
async fn big_is_dropped(options: &Options, path: &Path, address: SocketAddr) -> bool {
    let Some(stream) = path.tunnel(address).await else {
        return false;
    };
    // --quick has no time for a second step.
    let limit = match options.quick {
        true => options.step / 2,
        false => options.step,
    };
    let again = timeout(limit, path.inner(stream, Hello::PostQuantum)).await;
    again.is_err()
        || again.is_ok_and(|again| again.result.is_err_and(|failure| may_be_size(&failure)))
}

fn of_failure(failure: &TlsFailure) -> Finding {
    let reason = match failure {
        TlsFailure::Alert(alert) => match codes::alerted(*alert) {
            Some(finding) => return finding,
            None => format!("the alert {alert:?}"),
        },
        TlsFailure::Closed => "the connection was closed".to_owned(),
        TlsFailure::NotTls => "the answer is not TLS".to_owned(),
        TlsFailure::Other(reason) => reason.clone(),
    };
    Finding::new(verdict::INNER_TLS, Values::default().with("reason", reason))
}

async fn split(path: &Path, address: SocketAddr, report: &mut Report) {
    // Once more, because one lost connection is no device.
    for _ in 0..2 {
        match path.split_hello_is_answered(address).await {
            Some(true) => return report.fact(D08, "a ClientHello in two pieces is answered"),
            Some(false) => {}
            None => return report.skip(D08, "no further tunnel"),
        }
    }
    report.found(verdict::HELLO_SPLIT);
}

fn is_googles(host: &str) -> bool {
    host.ends_with(".googleapis.com")
}

const DIRECT_STEP: Duration = Duration::from_secs(2);
const TOTAL: Duration = Duration::from_secs(120);
const GOOGLES_ISSUER: &str = "Google Trust Services";
/// The checks that need the proxy.
const BEHIND: [Check; 9] = [D05, D06, D07, D08, D09, D11, D12, D14, D16];
/// The checks that need a session with the provider.
const BEHIND_TLS: [Check; 5] = [D08, D11, D12, D14, D16];

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    /// A public authority of this organisation, and what is wrong with its certificate for the host.
    fn judged(organisation: &str, host: &str) -> Option<&'static str> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = &mut params.distinguished_name;
        name.push(DnType::OrganizationName, organisation);
        name.push(DnType::CommonName, "R1");
        let authority = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let own = KeyPair::generate().unwrap();
        let wanted = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let leaf = wanted.signed_by(&own, &issuer).unwrap();
        let trust = Trust::of_public(authority.der().clone()).unwrap();
        wrong_for(host, &trust, &[leaf.der().clone()]).map(|finding| finding.verdict.code)
    }

    /// A device may have a certificate of a public authority for a host of Google's, which Google issues itself.
    #[test]
    fn a_host_of_googles_has_a_certificate_of_googles_authority() {
        let google = "generativelanguage.googleapis.com";
        assert_eq!(judged("Google Trust Services", google), None);
        assert_eq!(judged("Other Authority", google), Some("tls_is_opened"));
        assert_eq!(judged("Other Authority", "api.openai.com"), None);
        assert_eq!(judged("Other Authority", "googleapis.com.example"), None);
    }
}
