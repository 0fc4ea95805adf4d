//! A certificate authority and what it issues, good and bad.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams,
    CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its chain and key.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) pem: String,
    pub(crate) key_pem: String,
    pub(crate) serial: Vec<u8>,
}

/// What differs from a good client certificate.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) names: Vec<SanType>,
    pub(crate) serial: u8,
    pub(crate) from: i32,
    pub(crate) until: i32,
    /// Instead of `until`; certificates count in seconds.
    pub(crate) expires: Option<std::time::SystemTime>,
    pub(crate) purpose: ExtendedKeyUsagePurpose,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let issuer =
            CertifiedIssuer::self_signed(of_authority(name, 1), KeyPair::generate().unwrap());
        Authority {
            issuer: issuer.unwrap(),
        }
    }

    /// An authority below this one.
    pub(crate) fn below(&self, name: &str) -> Authority {
        let issuer = CertifiedIssuer::signed_by(
            of_authority(name, 2),
            KeyPair::generate().unwrap(),
            &self.issuer,
        );
        Authority {
            issuer: issuer.unwrap(),
        }
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate().pem()
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.certificate().der().clone()
    }

    fn certificate(&self) -> &Certificate {
        self.issuer.as_ref()
    }

    /// The hop's own certificate, for loopback too.
    pub(crate) fn server(&self, names: &[&str]) -> Issued {
        let names = names
            .iter()
            .map(|name| SanType::DnsName((*name).try_into().unwrap()));
        let loopback = SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        self.issue(&Wanted {
            names: names.chain([loopback]).collect(),
            purpose: ExtendedKeyUsagePurpose::ServerAuth,
            ..Wanted::client(9)
        })
    }

    pub(crate) fn issue(&self, wanted: &Wanted) -> Issued {
        let mut params = CertificateParams::default();
        params.subject_alt_names.clone_from(&wanted.names);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "app-1");
        params.serial_number = Some(SerialNumber::from(vec![wanted.serial]));
        params.not_before = date_time_ymd(wanted.from, 1, 1);
        params.not_after = date_time_ymd(wanted.until, 1, 1);
        if let Some(end) = wanted.expires {
            let since_1970 = end.duration_since(std::time::UNIX_EPOCH).unwrap();
            params.not_after = date_time_ymd(1970, 1, 1) + since_1970;
        }
        params.extended_key_usages = vec![wanted.purpose.clone()];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued {
            chain: vec![certificate.der().clone()],
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            serial: vec![wanted.serial],
        }
    }

    /// A revocation list that names these serials.
    pub(crate) fn list(&self, revoked: &[u8], until: i32) -> String {
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(vec![*serial]),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer: &Issuer<'_, KeyPair> = &self.issuer;
        params.signed_by(issuer).unwrap().pem().unwrap()
    }
}

impl Issued {
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        use rustls::pki_types::pem::PemObject;
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap()
    }

    /// The same with the certificate of an authority between.
    pub(crate) fn with(mut self, between: &Authority) -> Issued {
        self.chain.push(between.der());
        self.pem += &between.pem();
        self
    }
}

impl Wanted {
    pub(crate) fn client(serial: u8) -> Wanted {
        Wanted {
            names: vec![
                uri("spiffe://corp/app"),
                SanType::DnsName("app.corp".try_into().unwrap()),
            ],
            serial,
            from: 2024,
            until: 2100,
            expires: None,
            purpose: ExtendedKeyUsagePurpose::ClientAuth,
        }
    }
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn of_authority(name: &str, serial: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(vec![serial]));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.not_before = date_time_ymd(2024, 1, 1);
    params.not_after = date_time_ymd(2100, 1, 1);
    params
}

/// Writes a file in place, as a deploy hook does: a new file, renamed over the old one.
pub(crate) fn write(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let file = folder.path().join(name);
    let new = folder.path().join(format!("{name}.new"));
    std::fs::write(&new, text).unwrap();
    private(&new);
    std::fs::rename(&new, &file).unwrap();
    file
}

fn private(file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}
