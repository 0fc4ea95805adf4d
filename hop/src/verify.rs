//! The verification of client certificates: rustls-webpki's, and then the rules for their names.
//!
//! rustls verifies within one poll of the handshake, and drops a refused certificate. [`take_refused`] gives its facts to
//! the caller of that poll, on the same thread.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::identity::{Identity, facts};
use crate::turns;

/// A verifier of client certificates.
#[derive(Debug)]
pub struct Verifier {
    inner: Arc<dyn ClientCertVerifier>,
}

/// A certificate that was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusedCertificate {
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub fingerprint: String,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
}

impl Verifier {
    /// Adds the rules for names to a verifier.
    #[must_use]
    pub fn new(inner: Arc<dyn ClientCertVerifier>) -> Self {
        Self { inner }
    }

    /// Judges the chain of a live session again.
    ///
    /// # Errors
    /// Why a handshake would be refused now.
    pub fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.inner.verify_client_cert(leaf, intermediates, now)?;
        Identity::of(leaf).map_err(|_| NOT_ONE)?;
        Ok(())
    }
}

/// Takes the facts of the certificate that was refused last on this thread.
#[must_use]
pub fn take_refused() -> Option<RefusedCertificate> {
    REFUSED.take()
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(leaf, intermediates, now);
        turns::give_way();
        let verified = verified.and_then(|verified| match Identity::of(leaf) {
            Ok(_) => Ok(verified),
            Err(_) => Err(NOT_ONE),
        });
        if verified.is_err() {
            let (fingerprint, serial) = facts(leaf);
            REFUSED.replace(Some(RefusedCertificate {
                fingerprint,
                serial,
            }));
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = self.inner.verify_tls12_signature(message, leaf, signature);
        turns::give_way();
        verified
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = self.inner.verify_tls13_signature(message, leaf, signature);
        turns::give_way();
        verified
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

thread_local! {
    static REFUSED: RefCell<Option<RefusedCertificate>> = const { RefCell::new(None) };
}

/// rustls answers with the alert `access_denied`.
const NOT_ONE: Error = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
