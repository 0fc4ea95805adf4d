//! The tunnel's own refusals, recognised by their code, with the causes and cures of the daemon's table.

use rustls::AlertDescription;
use sealway::outcome::{DenyReason, End, Failure, Reply as Answered};

use super::finding::Finding;
use super::http::Reply;
use super::verdict::{path, setup};
use sealway::commands::findings::values::Values;

/// The finding for a refused CONNECT: the tunnel's code, or another proxy's refusal.
#[must_use]
pub fn refused(reply: &Reply) -> Finding {
    match code_of(reply).and_then(|code| ends().find(|end| end.code() == code)) {
        Some(end) => {
            let values = Values::default()
                .with("code", end.code())
                .with("cause", end.cause())
                .with("cure", end.cure());
            Finding::new(setup::TUNNEL_CODE, values)
        }
        None => {
            let by = reply.header("server").or_else(|| reply.header("via"));
            let mut values = Values::default().with("status", reply.status.to_string());
            values.set_exactly(
                "by",
                &by.map(|by| format!(" (it calls itself \"{by}\")"))
                    .unwrap_or_default(),
            );
            Finding::new(setup::OTHER_PROXY, values)
        }
    }
}

/// The code of a refusal: `details` of Proxy-Status, or the word in brackets at the end of the status line, which a proxy
/// between may have kept alone.
fn code_of(reply: &Reply) -> Option<&str> {
    let declared = reply.header("proxy-status").and_then(|value| {
        let (_, after) = value.split_once("details=\"")?;
        after.split_once('"').map(|(code, _)| code)
    });
    let in_line = || {
        reply
            .reason
            .strip_suffix(')')?
            .rsplit_once('(')
            .map(|(_, code)| code)
    };
    declared.or_else(in_line)
}

/// The finding for an alert behind the 200, if the tunnel sends it: the codes that it can mean.
#[must_use]
pub fn alerted(alert: AlertDescription) -> Option<Finding> {
    let sent = Answered::Alert(u8::from(alert));
    let ends: Vec<_> = ends().filter(|end| end.reply() == sent).collect();
    if ends.is_empty() {
        return None;
    }
    let of = |text: fn(End) -> String| ends.iter().copied().map(text).collect::<Vec<_>>();
    let values = Values::default()
        .with("alert", format!("{alert:?} ({})", u8::from(alert)))
        .with(
            "codes",
            of(|end| format!("{}, {}", end.code(), end.cause())).join("; or "),
        )
        .with(
            "cure",
            of(|end| format!("for {}: {}", end.code(), end.cure())).join("; "),
        );
    Some(Finding::new(path::TUNNEL_ALERT, values))
}

fn ends() -> impl Iterator<Item = End> {
    let denied = DenyReason::ALL.iter().map(|reason| End::from(*reason));
    denied.chain(Failure::ALL.iter().map(|failure| End::from(*failure)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::doctor::http::exchange;
    use sealway::wire::reply::farewell;
    use tokio::io::AsyncWriteExt;
    use zeroize::Zeroizing;

    #[tokio::test]
    async fn every_code_of_the_tunnel_has_its_cause_and_cure() {
        let mut seen = 0;
        for end in ends() {
            let finding = match end.reply() {
                Answered::Http(..) => {
                    let (near, mut far) = tokio::io::duplex(4096);
                    far.write_all(&farewell(end)).await.unwrap();
                    drop(far);
                    let request = Zeroizing::new(Vec::new());
                    refused(
                        &exchange(&mut (Box::new(near) as _), &request)
                            .await
                            .unwrap(),
                    )
                }
                Answered::Alert(alert) => alerted(AlertDescription::from(alert)).unwrap(),
                Answered::Close => continue,
            };
            assert!(
                finding.cause().contains(end.code()) && finding.cause().contains(end.cause()),
                "{}",
                finding.cause()
            );
            assert!(finding.cure().contains(end.cure()), "{}", finding.cure());
            seen += 1;
        }
        assert!(seen > 20, "{seen}");
        assert_eq!(alerted(AlertDescription::BadCertificate), None);
    }

    /// A load balancer may keep the header alone, or the words of the status line alone.
    #[tokio::test]
    async fn the_header_and_the_status_line_each_have_the_code() {
        for head in [
            "HTTP/1.1 403 Forbidden\r\nProxy-Status: t; error=x; details=\"host_denied\"\r\n",
            "HTTP/1.1 403 Forbidden (host_denied)\r\n",
            "HTTP/1.1 403 Forbidden (other)\r\nProxy-Status: t; details=\"host_denied\"\r\n",
        ] {
            let (near, mut far) = tokio::io::duplex(4096);
            far.write_all(head.as_bytes()).await.unwrap();
            far.write_all(b"Content-Length: 0\r\n\r\n").await.unwrap();
            let request = Zeroizing::new(Vec::new());
            let reply = exchange(&mut (Box::new(near) as _), &request).await;
            let finding = refused(&reply.unwrap());
            assert_eq!(finding.verdict, setup::TUNNEL_CODE, "{head}");
            assert!(finding.cause().contains("host_denied"), "{head}");
        }
    }

    #[tokio::test]
    async fn another_proxys_refusal_is_not_the_tunnels() {
        for head in [
            "HTTP/1.1 403 Forbidden\r\nServer: squid/6\r\n",
            "HTTP/1.1 403 Forbidden (mine)\r\nProxy-Status: x; details=\"other\"\r\n",
        ] {
            let (near, mut far) = tokio::io::duplex(4096);
            far.write_all(head.as_bytes()).await.unwrap();
            far.write_all(b"Content-Length: 0\r\n\r\n").await.unwrap();
            let request = Zeroizing::new(Vec::new());
            let finding = refused(
                &exchange(&mut (Box::new(near) as _), &request)
                    .await
                    .unwrap(),
            );
            assert_eq!(finding.verdict, setup::OTHER_PROXY);
            assert_eq!(finding.cause().contains("squid/6"), head.contains("squid"));
        }
    }
}
