//! The greetings of the load: a ClientHello recorded from curl, and the answer of a TLS 1.3 server,
//! made by hand: a ServerHello, a change_cipher_spec and records of zeros as long as a certificate
//! chain.

/// The name in the recorded ClientHello.
pub(crate) const HOST: &str = "generativelanguage.googleapis.com";

/// curl 7.88 with OpenSSL 3.0, one record of 517 bytes.
pub(crate) const CLIENT_HELLO: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/fixtures/clienthello/curl-openssl.bin"
));

/// What the upstream answers to [`CLIENT_HELLO`].
pub(crate) fn answer() -> Vec<u8> {
    let change_cipher_spec = [20, 3, 3, 0, 1, 1];
    let encrypted_extensions = record(23, &[0; 40]);
    let certificate_and_finished = record(23, &[0; 2_300]);
    [
        server_hello().as_slice(),
        &change_cipher_spec,
        &encrypted_extensions,
        &certificate_and_finished,
    ]
    .concat()
}

/// TLS 1.3, AES-128-GCM, X25519; it repeats the client's session id (RFC 8446, section 4.1.3).
fn server_hello() -> Vec<u8> {
    let session_id = CLIENT_HELLO
        .get(SESSION_ID_AT..SESSION_ID_AT + 33)
        .unwrap_or_default();
    let supported_versions = [0, 43, 0, 2, 3, 4];
    let key_share = [[0, 51, 0, 36, 0, 29, 0, 32].as_slice(), &[9; 32]].concat();
    let extensions = [supported_versions.as_slice(), &key_share].concat();
    let body = [
        &[3, 3],
        [0x5a; 32].as_slice(),
        session_id,
        &[0x13, 0x01, 0],
        &length(&extensions),
        &extensions,
    ]
    .concat();
    record(22, &[[2, 0].as_slice(), &length(&body), &body].concat())
}

fn record(kind: u8, fragment: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3], length(fragment).as_slice(), fragment].concat()
}

/// The length in two bytes; none of these is longer than that can say.
fn length(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes()
}

/// Record header, message header, version, random.
const SESSION_ID_AT: usize = 5 + 4 + 2 + 32;
