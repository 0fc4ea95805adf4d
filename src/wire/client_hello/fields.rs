//! Reads the fields of a checked ClientHello on demand. Never copies and never fails: the message
//! is checked, so a field that cannot be read is absent.

use super::body::{RANDOM_BYTES, VERSION_BYTES};
use super::extensions::{
    ALPN, EARLY_DATA, ECH_INNER, ENCRYPTED_CLIENT_HELLO, KEY_SHARE, PRE_SHARED_KEY, SERVER_NAME,
    SESSION_TICKET, SIGNATURE_ALGORITHMS, SUPPORTED_GROUPS, SUPPORTED_VERSIONS,
};
use super::{ClientHello, Ech, KeyShare, TlsVersion, numbers};
use crate::wire::cursor::Cursor;
use crate::wire::message::MESSAGE_HEADER_BYTES;

impl ClientHello {
    /// The message with its header of four bytes, joined from its records.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// `legacy_version`, which servers of TLS 1.2 and below read (RFC 8446, section 4.1.2).
    #[must_use]
    pub fn legacy_version(&self) -> u16 {
        Cursor::new(self.behind(MESSAGE_HEADER_BYTES))
            .u16()
            .unwrap_or_default()
    }

    /// `legacy_session_id`, at most 32 bytes (RFC 8446, section 4.1.2).
    #[must_use]
    pub fn session_id(&self) -> &[u8] {
        let fields = self.behind(MESSAGE_HEADER_BYTES + VERSION_BYTES + RANDOM_BYTES);
        Cursor::new(fields).vector8().unwrap_or_default()
    }

    /// The cipher suites in the client's order, GREASE and signalling values included (RFC 8446, section 4.1.2).
    pub fn cipher_suites(&self) -> impl Iterator<Item = u16> + '_ {
        numbers(
            self.message
                .get(self.places.cipher_suites.clone())
                .unwrap_or_default(),
        )
    }

    /// Type and content of every extension in the client's order, GREASE included (RFC 8446, section 4.2).
    pub fn extensions(&self) -> impl Iterator<Item = (u16, &[u8])> + '_ {
        let mut list = Cursor::new(
            self.message
                .get(self.places.extensions.clone())
                .unwrap_or_default(),
        );
        std::iter::from_fn(move || Some((list.u16()?, list.vector16()?)))
    }

    /// The content of one extension.
    fn extension(&self, wanted: u16) -> Option<&[u8]> {
        self.extensions()
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, content)| content)
    }

    /// The content of an extension that consists of one vector with a length of two bytes; empty if
    /// the extension is absent.
    fn list(&self, wanted: u16) -> &[u8] {
        self.extension(wanted)
            .and_then(|content| content.get(2..))
            .unwrap_or_default()
    }

    /// `server_name` (RFC 6066): ASCII letters, digits, hyphens, underscores and dots, unchanged.
    /// None if the extension is absent.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        let entry = self.extension(SERVER_NAME)?.get(NAME_AT..)?;
        std::str::from_utf8(entry).ok()
    }

    /// The numbers in `supported_versions` in the client's order, GREASE included (RFC 8446,
    /// section 4.2.1). None if the extension is absent.
    #[must_use]
    pub fn supported_versions(&self) -> Option<impl Iterator<Item = u16> + '_> {
        self.extension(SUPPORTED_VERSIONS)
            .map(|content| numbers(content.get(1..).unwrap_or_default()))
    }

    /// The known versions in the client's order: `supported_versions`, otherwise all up to
    /// `legacy_version`. Keeps duplicates.
    pub fn versions(&self) -> impl Iterator<Item = TlsVersion> + '_ {
        let listed = self.supported_versions();
        // Without the extension a client accepts every version up to this one, and never 1.3 (RFC
        // 8446, section 4.2.1).
        let highest = listed.is_none().then(|| self.legacy_version().min(TLS_1_2));
        listed
            .into_iter()
            .flatten()
            .chain(highest)
            .filter_map(TlsVersion::from_wire)
    }

    /// ALPN protocols in the client's order, without GREASE (RFC 7301); none if the extension is
    /// absent.
    pub fn alpn(&self) -> impl Iterator<Item = &[u8]> + '_ {
        let mut list = Cursor::new(self.list(ALPN));
        std::iter::from_fn(move || list.vector8()).filter(|protocol| !is_grease_protocol(protocol))
    }

    /// The groups in the client's order, GREASE included (RFC 8446, section 4.2.7; RFC 8422).
    pub fn supported_groups(&self) -> impl Iterator<Item = u16> + '_ {
        numbers(self.list(SUPPORTED_GROUPS))
    }

    /// The key shares in the client's order, GREASE included (RFC 8446, section 4.2.8).
    pub fn key_shares(&self) -> impl Iterator<Item = KeyShare<'_>> + '_ {
        let mut list = Cursor::new(self.list(KEY_SHARE));
        std::iter::from_fn(move || {
            Some(KeyShare {
                group: list.u16()?,
                key: list.vector16()?,
            })
        })
    }

    /// The signature algorithms in the client's order (RFC 8446, section 4.2.3).
    pub fn signature_algorithms(&self) -> impl Iterator<Item = u16> + '_ {
        numbers(self.list(SIGNATURE_ALGORITHMS))
    }

    /// `session_ticket` (RFC 5077): empty if the client has no ticket yet, None if the extension is
    /// absent.
    #[must_use]
    pub fn session_ticket(&self) -> Option<&[u8]> {
        self.extension(SESSION_TICKET)
    }

    /// Whether `pre_shared_key` is present: the client resumes a TLS 1.3 session (RFC 8446, section
    /// 4.2.11).
    #[must_use]
    pub fn has_pre_shared_key(&self) -> bool {
        self.extension(PRE_SHARED_KEY).is_some()
    }

    /// Whether `early_data` is present: 0-RTT records may follow before the server has answered
    /// (RFC 8446, section 4.2.10).
    #[must_use]
    pub fn has_early_data(&self) -> bool {
        self.extension(EARLY_DATA).is_some()
    }

    /// `encrypted_client_hello` (RFC 9849); None if the extension is absent.
    #[must_use]
    pub fn ech(&self) -> Option<Ech> {
        let content = self.extension(ENCRYPTED_CLIENT_HELLO)?;
        Some(if content.first() == Some(&ECH_INNER) {
            Ech::Inner
        } else {
            Ech::Outer
        })
    }

    fn behind(&self, at: usize) -> &[u8] {
        self.message.get(at..).unwrap_or_default()
    }
}

/// RFC 8701: two equal bytes ending in `a`.
fn is_grease_protocol(protocol: &[u8]) -> bool {
    matches!(protocol, [a, b] if a == b && a & 0x0f == 0x0a)
}

/// After the length of the list, and the type and length of the name.
const NAME_AT: usize = 5;
const TLS_1_2: u16 = 0x0303;
