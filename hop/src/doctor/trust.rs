//! Whose certificates count: three sets of authorities, and the judgement of a chain that was presented.
//!
//! The handshake itself accepts every chain and keeps it ([`Keeper`]), so that a wrong one can be named. Code that sends
//! a secret must ask [`Trust::judge`] first. Roots: Mozilla's list, this system's file, and files that the user names.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Name};

/// The authorities that a peer's certificate may come from.
#[derive(Debug)]
pub struct Trust {
    public: Arc<RootCertStore>,
    system: Arc<RootCertStore>,
    given: Arc<RootCertStore>,
}

/// Who vouches for a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// An authority of Mozilla's list.
    Public,
    /// An authority that the user named.
    Given,
    /// An authority that only this system trusts.
    SystemOnly,
    /// Nobody whom this machine knows.
    Unknown,
    /// The chain may be right, but not for this name.
    WrongName,
    /// The chain may be right, but not at this time.
    NotNow,
}

impl Trust {
    /// The public and the system's authorities, and those of a PEM file.
    ///
    /// # Errors
    /// The file cannot be read or has no certificate.
    pub fn load(file: Option<&Path>) -> Result<Self, String> {
        let public = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        let mut given = RootCertStore::empty();
        if let Some(file) = file {
            let found =
                certificates(file).map_err(|error| format!("{}: {error}", file.display()))?;
            let (added, _) = given.add_parsable_certificates(found);
            if added == 0 {
                return Err(format!("{}: no certificate in it", file.display()));
            }
        }
        let mut system = RootCertStore::empty();
        // A system without the file trusts nobody of its own.
        let found = system_file().and_then(|file| certificates(&file).ok());
        system.add_parsable_certificates(found.unwrap_or_default());
        Ok(Self {
            public: Arc::new(public),
            system: Arc::new(system),
            given: Arc::new(given),
        })
    }

    /// An authority that counts as public, in tests.
    #[cfg(test)]
    pub(super) fn of_public(authority: CertificateDer<'_>) -> Option<Self> {
        let mut public = RootCertStore::empty();
        public.add(authority).ok()?;
        let none = || Arc::new(RootCertStore::empty());
        Some(Self {
            public: Arc::new(public),
            system: none(),
            given: none(),
        })
    }

    /// Judges a chain for this name, now.
    #[must_use]
    pub fn judge(&self, chain: &[CertificateDer<'_>], name: &ServerName<'_>) -> Judgement {
        let stores = [
            (&self.given, Judgement::Given),
            (&self.public, Judgement::Public),
            (&self.system, Judgement::SystemOnly),
        ];
        let mut worst = Judgement::Unknown;
        for (store, judgement) in stores {
            match verify(store, chain, name) {
                Ok(()) => return judgement,
                Err(Error::InvalidCertificate(error)) => match error {
                    CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. } => {
                        worst = Judgement::WrongName
                    }
                    CertificateError::Expired
                    | CertificateError::ExpiredContext { .. }
                    | CertificateError::NotValidYet
                    | CertificateError::NotValidYetContext { .. } => worst = Judgement::NotNow,
                    _ => {}
                },
                Err(_) => {}
            }
        }
        worst
    }
}

fn verify(
    store: &Arc<RootCertStore>,
    chain: &[CertificateDer<'_>],
    name: &ServerName<'_>,
) -> Result<(), Error> {
    let (leaf, between) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
    if store.is_empty() {
        return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(store), provider)
        .build()
        .map_err(|_| Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
    verifier
        .verify_server_cert(leaf, between, name, &[], UnixTime::now())
        .map(drop)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, rustls_pki_types::pem::Error> {
    CertificateDer::pem_file_iter(file)?.collect()
}

/// The file that OpenSSL and most clients read.
fn system_file() -> Option<PathBuf> {
    let declared = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let known = SYSTEM_FILES.iter().map(PathBuf::from);
    declared
        .into_iter()
        .chain(known)
        .find(|file| file.is_file())
}

/// What a certificate says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The issuer's organisation and common name.
    pub issuer: String,
    /// The names of hosts, at most four.
    pub names: String,
    /// The end of its validity.
    pub until: String,
    /// Days until then; negative afterwards.
    pub days_left: i64,
}

impl Facts {
    /// Reads the first certificate of a chain; empty if it is malformed.
    #[must_use]
    pub fn of(chain: &[CertificateDer<'_>]) -> Self {
        let Some(Ok((_, leaf))) = chain.first().map(|der| X509Certificate::from_der(der)) else {
            return Self::default();
        };
        let alternative = leaf.subject_alternative_name().ok().flatten();
        let names = alternative
            .iter()
            .flat_map(|found| &found.value.general_names);
        let names: Vec<_> = names
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                GeneralName::IPAddress(bytes) => address(bytes),
                _ => None,
            })
            .take(4)
            .collect();
        let until = leaf.validity().not_after;
        let now = UnixTime::now().as_secs();
        let left = until
            .timestamp()
            .saturating_sub(i64::try_from(now).unwrap_or(i64::MAX));
        Self {
            issuer: of_name(leaf.issuer()),
            names: if names.is_empty() {
                "nothing".to_owned()
            } else {
                names.join(", ")
            },
            until: until.to_string(),
            days_left: left.div_euclid(86_400),
        }
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    let four = <[u8; 4]>::try_from(bytes).map(|bytes| std::net::Ipv4Addr::from(bytes).to_string());
    let sixteen =
        <[u8; 16]>::try_from(bytes).map(|bytes| std::net::Ipv6Addr::from(bytes).to_string());
    four.or(sixteen).ok()
}

fn of_name(name: &X509Name<'_>) -> String {
    let organisation = name.iter_organization().chain(name.iter_common_name());
    let parts: Vec<_> = organisation
        .filter_map(|part| part.as_str().ok())
        .take(2)
        .collect();
    match parts.is_empty() {
        true => "an authority without a name".to_owned(),
        false => format!("\"{}\"", parts.join(", ")),
    }
}

/// Accepts every chain whose key signs the handshake, and keeps it.
#[derive(Debug)]
pub struct Keeper {
    provider: Arc<CryptoProvider>,
    chain: Mutex<Vec<CertificateDer<'static>>>,
}

impl Keeper {
    /// A verifier for one connection.
    #[must_use]
    pub fn new(provider: Arc<CryptoProvider>) -> Arc<Self> {
        let chain = Mutex::default();
        Arc::new(Self { provider, chain })
    }

    /// The chain that the peer presented; empty if it presented none.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain
            .lock()
            .map(|chain| chain.clone())
            .unwrap_or_default()
    }
}

impl ServerCertVerifier for Keeper {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Ok(mut chain) = self.chain.lock() {
            *chain = std::iter::once(leaf)
                .chain(between)
                .map(|one| one.clone().into_owned())
                .collect();
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            leaf,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            leaf,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

const SYSTEM_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
