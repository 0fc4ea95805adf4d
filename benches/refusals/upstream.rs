//! The upstreams of this benchmark: one greets and echoes, one only accepts.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use crate::hello;

/// An upstream that greets and then echoes.
pub(crate) fn echo(port: u16) -> io::Result<SocketAddr> {
    serve(port, |stream| {
        std::thread::spawn(move || greet_and_echo(stream));
    })
}

/// An upstream that closes each connection: the daemon resets it anyway after it has refused the
/// hello.
pub(crate) fn closing(port: u16) -> io::Result<SocketAddr> {
    serve(port, drop)
}

fn serve(port: u16, each: fn(TcpStream)) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || listener.incoming().flatten().for_each(each));
    Ok(address)
}

fn greet_and_echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.read_exact(&mut vec![0; hello::CURL.bytes.len()])?;
    stream.write_all(&hello::CURL.server_hello())?;
    let mut buffer = [0; 4_096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            read => stream.write_all(buffer.get(..read).unwrap_or_default())?,
        }
    }
}
