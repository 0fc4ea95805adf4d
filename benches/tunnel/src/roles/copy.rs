//! A second yardstick: a short program on tokio. One thread, the head, a 200, then
//! `copy_bidirectional` with its own buffers of 8 KiB. Not a proxy for use.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Serves until standard input ends.
pub(crate) fn serve(address: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
    // This thread blocks and costs nothing until the end.
    std::thread::spawn(|| {
        let _ended_either_way = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(accept_all(address, upstream))
}

async fn accept_all(address: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM.nonblocking(),
        None,
    )?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(4_096)?;
    let listener = TcpListener::from_std(socket.into())?;
    loop {
        let (client, _) = listener.accept().await?;
        // Both ends of a tunnel see its failure.
        tokio::spawn(async move { carry(client, upstream).await.is_ok() });
    }
}

async fn carry(mut client: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    let (mut head, mut got) = (vec![0; 4_096], 0);
    while !head
        .get(..got)
        .is_some_and(|head| head.ends_with(b"\r\n\r\n"))
    {
        match client.read(head.get_mut(got..).unwrap_or_default()).await? {
            0 => return Ok(()),
            n => got += n,
        }
    }
    drop(head);
    let mut upstream = TcpStream::connect(upstream).await?;
    upstream.set_nodelay(true)?;
    client
        .write_all(b"HTTP/1.1 200 Connection Established\r\n\r\n")
        .await?;
    tokio::io::copy_bidirectional(&mut client, &mut upstream).await?;
    Ok(())
}
