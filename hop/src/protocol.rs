//! The settings of TLS: versions, cipher suites, groups (RFC 8446, RFC 5246, SP 800-52 revision 2).
//!
//! TLS 1.2 and 1.3, AEAD with ephemeral keys only, extended master secret required. No resumption, because a resumed
//! session is not checked against revocation lists; so no tickets and no early data either.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use sealway::config::tls::Profile;

use crate::turns;

/// The algorithms of a profile, most preferred first.
#[must_use]
pub fn provider(profile: Profile) -> Arc<CryptoProvider> {
    use aws_lc_rs::cipher_suite as suite;
    use aws_lc_rs::kx_group as group;
    let mut cipher_suites = vec![
        suite::TLS13_AES_256_GCM_SHA384,
        suite::TLS13_AES_128_GCM_SHA256,
        suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ];
    let kx_groups = match profile {
        Profile::Default => {
            cipher_suites.extend([
                suite::TLS13_CHACHA20_POLY1305_SHA256,
                suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
                suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            ]);
            vec![
                group::X25519MLKEM768,
                group::SECP256R1MLKEM768,
                group::X25519,
                group::SECP256R1,
                group::SECP384R1,
            ]
        }
        Profile::Nist => vec![group::SECP256R1MLKEM768, group::SECP256R1, group::SECP384R1],
    };
    Arc::new(CryptoProvider {
        cipher_suites,
        kx_groups,
        ..aws_lc_rs::default_provider()
    })
}

/// The settings of one listener.
///
/// # Errors
/// The provider supports none of the versions; this one supports both.
pub fn server_config(
    provider: &CryptoProvider,
    verifier: Arc<dyn ClientCertVerifier>,
    key: CertifiedKey,
) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(turns::between_exchanges(provider))
        .with_protocol_versions(&[&TLS13, &TLS12])?;
    let key = turns::around_signatures(key);
    let mut config = builder
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    config.require_ems = true;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// The one protocol inside, by its ALPN name. A client that offers no ALPN at all means it too.
pub const HTTP_1_1: &[u8] = b"http/1.1";
