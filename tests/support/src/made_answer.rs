//! Answers of a server made by hand: a ServerHello of any version and a HelloRetryRequest (RFC 8446, sections 4.1.3 and 4.1.4).

/// A ServerHello under construction.
#[derive(Clone)]
pub struct MadeAnswer {
    legacy_version: u16,
    random: [u8; 32],
    extensions: Vec<Vec<u8>>,
}

impl MadeAnswer {
    /// Accepts with TLS 1.3 and a key share of x25519.
    pub fn tls13() -> MadeAnswer {
        let share = [&[0, 29, 0, 32], [0x09; 32].as_slice()].concat();
        MadeAnswer::below(0x0303)
            .extension(SUPPORTED_VERSIONS, &[3, 4])
            .extension(KEY_SHARE, &share)
    }

    /// Accepts with a version without `supported_versions`: TLS 1.2 and older.
    pub fn below(version: u16) -> MadeAnswer {
        MadeAnswer {
            legacy_version: version,
            random: [0x5a; 32],
            extensions: Vec::new(),
        }
    }

    /// Requests another ClientHello, with a key share of secp256r1.
    pub fn retry() -> MadeAnswer {
        let mut retry = MadeAnswer::below(0x0303);
        retry.random = RETRY_RANDOM;
        retry
            .extension(SUPPORTED_VERSIONS, &[3, 4])
            .extension(KEY_SHARE, &[0, 23])
    }

    /// Any extension.
    pub fn extension(mut self, kind: u16, data: &[u8]) -> MadeAnswer {
        self.extensions
            .push([kind.to_be_bytes().as_slice(), &vector16(data)].concat());
        self
    }

    /// The handshake message.
    pub fn message(&self) -> Vec<u8> {
        let mut body = self.legacy_version.to_be_bytes().to_vec();
        body.extend(self.random);
        body.push(0); // no session id
        body.extend([0x13, 0x01]); // TLS_AES_128_GCM_SHA256
        body.push(0); // no compression
        if !self.extensions.is_empty() {
            body.extend(vector16(&self.extensions.concat()));
        }
        let length = u32::try_from(body.len())
            .expect("a short hello")
            .to_be_bytes();
        [&[2, length[1], length[2], length[3]], body.as_slice()].concat()
    }

    /// In one record.
    pub fn bytes(&self) -> Vec<u8> {
        let message = self.message();
        [&[22, 3, 3], vector16(&message).as_slice()].concat()
    }
}

fn vector16(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len())
        .expect("a short vector")
        .to_be_bytes();
    [&length, bytes].concat()
}

/// `supported_versions`.
pub const SUPPORTED_VERSIONS: u16 = 43;
/// `key_share`.
pub const KEY_SHARE: u16 = 51;
/// The random of a HelloRetryRequest, copied from the RFC.
const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];
