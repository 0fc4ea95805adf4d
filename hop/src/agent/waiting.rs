//! `sealway-agent wait`: asks `/readyz` until it is 200 or the time is over.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

/// Waits until the agent with this admin listener is ready.
///
/// # Errors
/// What the last answer was when the time was over.
pub async fn wait(admin: SocketAddr, max: Duration) -> Result<(), String> {
    let deadline = Instant::now() + max;
    let mut last = format!("nothing listens on {admin}");
    loop {
        match timeout_at(deadline, ask(admin)).await {
            Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200 ") => return Ok(()),
            Ok(Ok(answer)) => {
                let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
                last = body.unwrap_or(&answer).trim_end().replace('\n', "; ");
            }
            Ok(Err(error)) => last = format!("{admin}: {error}"),
            Err(_) => return Err(last),
        }
        if timeout_at(deadline, sleep(TICK)).await.is_err() {
            return Err(last);
        }
    }
}

async fn ask(admin: SocketAddr) -> io::Result<String> {
    let mut connection = TcpStream::connect(admin).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    connection.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

const TICK: Duration = Duration::from_millis(50);
const ANSWER_MAX: u64 = 16 * 1024;
