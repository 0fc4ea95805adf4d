//! The settings of TLS towards upstreams: whom the agent trusts, and its own certificate. Never shows the content of a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use sealway::config::tls::Profile;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::settings::Options;
use crate::material::{self, MaterialError};
use crate::protocol;

/// What the files hold.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The settings of each handshake.
    pub config: Arc<ClientConfig>,
    /// When the agent's own certificate expires, in seconds of Unix time.
    pub expires: Option<i64>,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file is wrong.
    #[error("{0}")]
    File(#[from] MaterialError),
    /// The certificate and the key do not fit, or the settings do not fit the provider.
    #[error("SEALWAY_AGENT_CERT and SEALWAY_AGENT_KEY: {0}")]
    Own(#[from] rustls::Error),
    /// The system has no authorities where distributions keep them.
    #[error(
        "this machine has no certificates of authorities: install ca-certificates, or name the file of your authority in SEALWAY_AGENT_CA"
    )]
    NoAuthorities,
}

impl Bundle {
    /// Reads the files.
    ///
    /// # Errors
    /// The first one that cannot be used.
    pub fn load(options: &Options) -> Result<Self, BundleError> {
        let provider = protocol::provider(Profile::Default);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_root_certificates(roots(options.ca.as_deref())?);
        let (mut config, expires) = match options.cert.as_deref().zip(options.key.as_deref()) {
            Some((cert, key)) => {
                let chain = material::certificates(cert)?;
                let expires = chain.first().and_then(|leaf| {
                    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
                    Some(leaf.validity().not_after.timestamp())
                });
                let key = material::key(key)?;
                (builder.with_client_auth_cert(chain, key)?, expires)
            }
            None => (builder.with_no_client_auth(), None),
        };
        config.alpn_protocols = vec![protocol::HTTP_1_1.to_vec()];
        // As the hop, which issues no tickets: a resumed session is checked against no list.
        config.resumption = Resumption::disabled();
        config.require_ems = true;
        Ok(Self {
            config: Arc::new(config),
            expires,
        })
    }
}

/// The authorities in this file, or those of the system.
fn roots(file: Option<&Path>) -> Result<RootCertStore, BundleError> {
    let mut roots = RootCertStore::empty();
    let (file, is_own) = match file {
        Some(file) => (file.to_owned(), true),
        None => (system_file().ok_or(BundleError::NoAuthorities)?, false),
    };
    for certificate in material::certificates(&file)? {
        // A distribution's file may hold one that this library cannot use; one that the operator names must be usable.
        let added = roots.add(certificate);
        if is_own {
            added.map_err(BundleError::Own)?;
        }
    }
    Ok(roots)
}

/// The authorities of the system; None: it has none where distributions keep them.
#[must_use]
pub fn system_file() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let known = SYSTEM_FILES.iter().map(PathBuf::from);
    named.into_iter().chain(known).find(|file| file.is_file())
}

/// Debian and Alpine; Fedora and RHEL; openSUSE; OpenBSD's layout, which some images use.
const SYSTEM_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
