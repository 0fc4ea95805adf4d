//! Certificates, keys, authorities and revocation lists of one listener, read and checked as a whole: usable, or an error
//! that names the file. Never shows the content of a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ServerConfig, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, server};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use sealway::config::read::{ReadError, Secrecy, read};
use sealway::config::tls::{ClientCertificate, Revocation, TlsListener};
use sealway::digest::Digest;
use sealway::policy::NameRules;
use x509_parser::prelude::{CertificateRevocationList, FromDer, GeneralName, X509Certificate};

use crate::protocol;
use crate::verify::Verifier;

/// What a listener shows and trusts.
#[derive(Debug)]
pub struct Material {
    /// The settings of its handshakes.
    pub config: Arc<ServerConfig>,
    /// How clients are verified; None: they present no certificates.
    pub clients: Option<Clients>,
    /// When the hop's certificate expires, in seconds of Unix time.
    pub certificate_expires: i64,
    /// When the first revocation list passes its next update; None without lists.
    pub crl_expires: Option<i64>,
}

/// How clients are verified.
#[derive(Clone, Debug)]
pub struct Clients {
    /// Judges a chain.
    pub verifier: Arc<Verifier>,
    /// SHA-256 over the authorities and lists: another value means that live sessions are judged again.
    pub fingerprint: Digest,
}

/// Why the files of a listener cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// A file cannot be read, or others can read a key.
    #[error("{}: {}", .0.display(), .1)]
    Read(PathBuf, #[source] ReadError),
    /// A file holds no PEM block of the kind that is needed.
    #[error("{}: holds no {} in PEM; convert DER with openssl", .0.display(), .1)]
    Empty(PathBuf, &'static str),
    /// A PEM block is broken.
    #[error("{}: {} cannot be parsed", .0.display(), .1)]
    Broken(PathBuf, &'static str),
    /// The key is of another certificate, or of an unknown kind.
    #[error("{}: {}; it must be the key of the first certificate", .0.display(), .1)]
    Key(PathBuf, #[source] rustls::Error),
    /// The certificate could stand for a host of the policy.
    #[error(
        "{}: the certificate names {}, which matches a host that policy allows: the hop could stand for that host; use a certificate for a name of its own",
        .0.display(), .1
    )]
    Impersonates(PathBuf, String),
    /// The authorities and lists do not fit together.
    #[error("tls.client_ca or tls.crl: {0}")]
    Verifier(#[from] VerifierBuilderError),
    /// The settings do not fit the provider.
    #[error("{0}")]
    Protocol(#[from] rustls::Error),
}

impl Material {
    /// Reads all files of a listener.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn load(listener: &TlsListener, rules: &NameRules) -> Result<Self, MaterialError> {
        let provider = protocol::provider(listener.profile);
        let chain = certificates(&listener.certificate)?;
        let certificate_expires = judge_own(&listener.certificate, &chain, rules)?;
        let key = CertifiedKey::from_der(chain, key(&listener.key)?, &provider)
            .map_err(|error| MaterialError::Key(listener.key.clone(), error))?;
        let (clients, crl_expires) = match &listener.client_ca {
            Some(authorities) => clients(listener, authorities, &provider)?,
            None => (None, None),
        };
        let verifier: Arc<dyn ClientCertVerifier> = match &clients {
            Some(clients) => Arc::clone(&clients.verifier) as _,
            None => Arc::new(server::NoClientAuth),
        };
        Ok(Self {
            config: Arc::new(protocol::server_config(&provider, verifier, key)?),
            clients,
            certificate_expires,
            crl_expires,
        })
    }

    /// The files that a listener names.
    #[must_use]
    pub fn files(listener: &TlsListener) -> Vec<PathBuf> {
        let own = [&listener.certificate, &listener.key, &listener.token_file];
        let trusted = listener.client_ca.iter().chain(&listener.crl);
        own.into_iter().chain(trusted).cloned().collect()
    }
}

/// The verifier of client certificates, and when the first list passes its next update.
fn clients(
    listener: &TlsListener,
    authorities: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<(Option<Clients>, Option<i64>), MaterialError> {
    let mut trusted = Vec::new();
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authorities)? {
        trusted.extend_from_slice(&certificate);
        roots
            .add(certificate)
            .map_err(|_| MaterialError::Broken(authorities.to_owned(), CERTIFICATE))?;
    }
    let (mut lists, mut expires) = (Vec::new(), None);
    for file in &listener.crl {
        for list in revocation_lists(file)? {
            let update = next_update(&list)
                .ok_or_else(|| MaterialError::Broken(file.clone(), LIST_WITHOUT_UPDATE))?;
            expires = Some(expires.map_or(update, |first: i64| first.min(update)));
            trusted.extend_from_slice(&list);
            lists.push(list);
        }
    }
    let roots = Arc::new(roots);
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider))
        .with_crls(lists)
        .enforce_revocation_expiration();
    if listener.revocation == Revocation::Leaf {
        builder = builder.only_check_end_entity_revocation();
    }
    if listener.client_certificate == ClientCertificate::Optional {
        builder = builder.allow_unauthenticated();
    }
    let clients = Clients {
        verifier: Arc::new(Verifier::new(builder.build()?)),
        fingerprint: Digest::of(trusted),
    };
    Ok((Some(clients), expires))
}

/// Rejects a certificate that could stand for a host of the policy, and returns when it expires.
fn judge_own(
    file: &Path,
    chain: &[CertificateDer<'_>],
    rules: &NameRules,
) -> Result<i64, MaterialError> {
    let broken = || MaterialError::Broken(file.to_owned(), CERTIFICATE);
    let leaf = chain.first().ok_or_else(broken)?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| broken())?;
    let alternative = parsed.subject_alternative_name().map_err(|_| broken())?;
    let names = alternative
        .iter()
        .flat_map(|names| &names.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    // Old clients use the common name of a certificate without alternative names; it is often no host at all.
    let common = parsed.subject().iter_common_name();
    let common = common.filter_map(|name| name.as_str().ok().filter(|name| name.contains('.')));
    match names
        .chain(common)
        .find(|name| rules.meets_certificate_name(name))
    {
        Some(name) => Err(MaterialError::Impersonates(
            file.to_owned(),
            name.escape_default().to_string(),
        )),
        None => Ok(parsed.validity().not_after.timestamp()),
    }
}

fn next_update(list: &CertificateRevocationListDer<'_>) -> Option<i64> {
    let (_, parsed) = CertificateRevocationList::from_der(list).ok()?;
    Some(parsed.next_update()?.timestamp())
}

/// The certificates in a file.
///
/// # Errors
/// Why the file cannot be used.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    blocks(file, CERTIFICATE)
}

fn revocation_lists(
    file: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, MaterialError> {
    blocks(file, LIST)
}

fn blocks<T: PemObject>(file: &Path, kind: &'static str) -> Result<Vec<T>, MaterialError> {
    let text = read(file, Secrecy::Public)
        .map_err(|error| MaterialError::Read(file.to_owned(), error))?
        .text;
    let found: Result<Vec<T>, _> = T::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err(MaterialError::Empty(file.to_owned(), kind)),
        Ok(found) => Ok(found),
        Err(_) => Err(MaterialError::Broken(file.to_owned(), kind)),
    }
}

/// The private key in a file, which others must not be able to read.
///
/// # Errors
/// Why the file cannot be used.
pub fn key(file: &Path) -> Result<PrivateKeyDer<'static>, MaterialError> {
    let text = read(file, Secrecy::Secret)
        .map_err(|error| MaterialError::Read(file.to_owned(), error))?
        .text;
    PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| MaterialError::Empty(file.to_owned(), "private key"))
}

const CERTIFICATE: &str = "certificate";
const LIST: &str = "revocation list";
const LIST_WITHOUT_UPDATE: &str = "a revocation list without next update";
