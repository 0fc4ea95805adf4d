//! Turns the facts of a tunnel into its audit record.

use std::sync::Arc;

use time::OffsetDateTime;

use super::{Transferred, TunnelFacts};
use crate::admission::AuthMethod;
use crate::audit::{Named, ServerRecord, TunnelId, TunnelRecord};
use crate::outcome::{DenyReason, End, Ending};
use crate::relay::TunnelBytes;
use crate::wire::server_hello::ServerHello;

impl TunnelFacts {
    /// Builds the record of its end.
    pub(in crate::tunnel) fn record(self, end: End, transferred: Transferred) -> TunnelRecord {
        let Transferred {
            bytes_moved: TunnelBytes { up, down },
            timing,
        } = transferred;
        let asked = self.visible.authority();
        let (host, port) = asked
            .map(|asked| (asked.destination.clone(), asked.port.number()))
            .unzip();
        let [egress, upstream] = self.visible.ends().map_or([None; 2], |ends| ends.map(Some));
        let duration_ms = self.age().as_micros() as f64 / 1_000.0;
        let declared = self.declared.as_deref();
        let statement = declared.map(|declared| &declared.statement);
        let certificate = statement.and_then(|statement| statement.certificate.as_ref());
        TunnelRecord {
            ts: OffsetDateTime::now_utc(),
            event: "tunnel",
            id: TunnelId::of(self.visible.key()),
            user: self.visible.user().cloned(),
            client: Some(self.visible.client),
            auth: self.auth.map(AuthMethod::as_str),
            via: self.declared.as_ref().map(|declared| declared.via),
            certificate: certificate.and_then(|certificate| certificate.fingerprint),
            certificate_serial: certificate.and_then(|certificate| certificate.serial.clone()),
            hop_version: statement.and_then(|statement| statement.version.clone()),
            hop_cipher: statement.and_then(|statement| statement.cipher.clone()),
            hop_group: statement.and_then(|statement| statement.group.clone()),
            listener: *self.listener,
            host,
            port,
            outcome: end.outcome(),
            code: end.code(),
            would_deny: self.would_deny.map(DenyReason::code),
            revoked_by: self
                .revoked
                .filter(|_| end == Ending::Revoked.into())
                .map(|by| End::from(*by).code()),
            hello: self.hello,
            hello_retry: self.hello_retry,
            server: self.server.map(chosen),
            upstream,
            egress,
            dns_ms: self.dns,
            connect_ms: self.connect,
            warm: self.warm.taken(),
            redialled: self.warm.redialled(),
            first_byte_ms: timing.and_then(|timing| timing.first_byte),
            max_gap_ms: timing.map(|timing| timing.max_gap),
            duration_ms,
            bytes_up: up.bytes(),
            bytes_down: down.bytes(),
            spliced_up: up.spliced,
            spliced_down: down.spliced,
            error: self.error,
            cut: None,
            count: None,
            first: None,
            policy: Arc::clone(self.snapshot.config.policy.hash()),
        }
    }
}

fn chosen(hello: ServerHello) -> ServerRecord {
    ServerRecord {
        tls_version: hello.version.as_str(),
        cipher: Named {
            number: hello.cipher,
            name: hello.cipher_name(),
        },
        group: hello.group.map(|number| Named {
            number,
            name: hello.group_name(),
        }),
    }
}
