//! Why a connection does not become a session: one code for each cause, the same in the event, the metric and the log.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// Why a handshake was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// The client's certificate has expired.
    CertificateExpired,
    /// The client's certificate is not valid yet.
    CertificateNotYetValid,
    /// A revocation list names the certificate, or one above it.
    CertificateRevoked,
    /// The revocation list has passed its next update.
    CrlExpired,
    /// No revocation list covers a certificate of the chain.
    CrlMissing,
    /// The chain leads to no authority of `client_ca`.
    UnknownCa,
    /// The certificate is not for client authentication.
    CertificatePurpose,
    /// The certificate has several URIs, or too many names.
    CertificateNames,
    /// The certificate is wrong in another way.
    CertificateInvalid,
    /// The client presents no certificate, and it needs one.
    CertificateRequired,
    /// The client offers ALPN protocols, and `http/1.1` is none of them.
    NoApplicationProtocol,
    /// The client offers no common version, cipher suite, group or signature scheme.
    NoCommonParameters,
    /// The bytes are not TLS, or break its rules.
    Malformed,
    /// The client ended the handshake with an alert; often it does not trust the hop's certificate.
    AlertByClient,
    /// The client ended the connection within the handshake.
    ClosedByClient,
    /// The handshake took too long.
    Timeout,
    /// The first byte is that of an HTTP request in cleartext.
    TlsRequired,
    /// The client connects faster than `limits.accept_rate`, or is not in `auth.clients`.
    TooFast,
    /// `auth.clients` does not name the client.
    NotListed,
    /// More handshakes or sessions than the hop can hold.
    Overloaded,
    /// The daemon does not accept the connection of the hop.
    CoreUnreachable,
}

impl Refusal {
    /// All causes, in the order of the metric.
    pub const ALL: [Self; 21] = [
        Self::CertificateExpired,
        Self::CertificateNotYetValid,
        Self::CertificateRevoked,
        Self::CrlExpired,
        Self::CrlMissing,
        Self::UnknownCa,
        Self::CertificatePurpose,
        Self::CertificateNames,
        Self::CertificateInvalid,
        Self::CertificateRequired,
        Self::NoApplicationProtocol,
        Self::NoCommonParameters,
        Self::Malformed,
        Self::AlertByClient,
        Self::ClosedByClient,
        Self::Timeout,
        Self::TlsRequired,
        Self::TooFast,
        Self::NotListed,
        Self::Overloaded,
        Self::CoreUnreachable,
    ];

    /// The short code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateNotYetValid => "certificate_not_yet_valid",
            Self::CertificateRevoked => "certificate_revoked",
            Self::CrlExpired => "crl_expired",
            Self::CrlMissing => "crl_missing",
            Self::UnknownCa => "certificate_unknown_ca",
            Self::CertificatePurpose => "certificate_purpose",
            Self::CertificateNames => "certificate_names",
            Self::CertificateInvalid => "certificate_invalid",
            Self::CertificateRequired => "certificate_required",
            Self::NoApplicationProtocol => "no_application_protocol",
            Self::NoCommonParameters => "no_common_parameters",
            Self::Malformed => "malformed",
            Self::AlertByClient => "alert_by_client",
            Self::ClosedByClient => "closed_by_client",
            Self::Timeout => "timeout",
            Self::TlsRequired => "tls_required",
            Self::TooFast => "too_fast",
            Self::NotListed => "not_listed",
            Self::Overloaded => "overloaded",
            Self::CoreUnreachable => "core_unreachable",
        }
    }

    /// The place in [`Self::ALL`].
    #[must_use]
    pub fn place(self) -> usize {
        Self::ALL.iter().position(|one| *one == self).unwrap_or(0)
    }

    /// The cause behind an error of the handshake.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        let inner = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>());
        match inner {
            Some(error) => Self::of_tls(error),
            None => Self::ClosedByClient,
        }
    }

    /// The cause behind an error of TLS.
    #[must_use]
    pub fn of_tls(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => Self::of_certificate(error),
            Error::NoCertificatesPresented => Self::CertificateRequired,
            Error::PeerIncompatible(
                PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon,
            )
            | Error::InvalidCertRevocationList(_) => Self::CertificateInvalid,
            Error::PeerIncompatible(_) => Self::NoCommonParameters,
            Error::NoApplicationProtocol => Self::NoApplicationProtocol,
            Error::AlertReceived(AlertDescription::CloseNotify) => Self::ClosedByClient,
            Error::AlertReceived(_) => Self::AlertByClient,
            _ => Self::Malformed,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        use CertificateError as E;
        match error {
            E::Expired | E::ExpiredContext { .. } => Self::CertificateExpired,
            E::NotValidYet | E::NotValidYetContext { .. } => Self::CertificateNotYetValid,
            E::Revoked => Self::CertificateRevoked,
            E::ExpiredRevocationList | E::ExpiredRevocationListContext { .. } => Self::CrlExpired,
            E::UnknownRevocationStatus => Self::CrlMissing,
            E::UnknownIssuer | E::BadSignature => Self::UnknownCa,
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => Self::CertificatePurpose,
            E::ApplicationVerificationFailure => Self::CertificateNames,
            _ => Self::CertificateInvalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_places_are_unique() {
        let codes: std::collections::HashSet<_> =
            Refusal::ALL.iter().map(|one| one.code()).collect();
        assert_eq!(codes.len(), Refusal::ALL.len());
        for (place, one) in Refusal::ALL.iter().enumerate() {
            assert_eq!(one.place(), place);
        }
    }
}
