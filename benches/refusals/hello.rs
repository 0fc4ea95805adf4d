//! The greeting of the good tunnels: a ClientHello recorded from curl, which names
//! [`crate::attempt::GOOD_HOST`], and its ServerHello.

use std::sync::LazyLock;

use support::hello::Recorded;

/// curl with OpenSSL, TLS 1.3.
pub(crate) static CURL: LazyLock<Recorded> = LazyLock::new(|| Recorded::named("curl-openssl"));
