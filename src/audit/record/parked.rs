//! The parts of a record that an open tunnel keeps, on their way from one daemon to the next.

use super::{HelloRecord, Micros, Protocols, Versions};
use crate::handover::state::HelloState;
use crate::wire::client_hello::TlsVersion;
use crate::wire::ja4::Ja4;

impl Micros {
    /// The number of microseconds.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }

    /// This many microseconds.
    #[must_use]
    pub fn of(number: u32) -> Self {
        Self(number)
    }
}

impl HelloRecord {
    /// For the next daemon.
    #[must_use]
    pub fn state(&self) -> HelloState {
        HelloState {
            sni: self.sni.as_deref().map(str::to_owned),
            alpn: self.alpn.names().map(str::to_owned).collect(),
            bytes: self.hello_bytes,
            records: self.hello_records,
            ech: self.ech,
            ja4: self.ja4.as_str().to_owned(),
            versions: self
                .tls_offered
                .each()
                .map(|version| version.number())
                .collect(),
            took_us: self.hello_ms.number(),
        }
    }

    /// That of another daemon; None if its fingerprint is none.
    #[must_use]
    pub fn of(state: HelloState) -> Option<Self> {
        let versions = state.versions.into_iter();
        Some(Self {
            sni: state.sni.map(Into::into),
            alpn: Protocols::of_escaped(state.alpn.into_iter()),
            hello_bytes: state.bytes,
            hello_records: state.records,
            ech: state.ech,
            ja4: Ja4::parse(&state.ja4)?,
            tls_offered: Versions::of(versions.filter_map(TlsVersion::from_wire)),
            hello_ms: Micros::of(state.took_us),
        })
    }
}
