//! A TCP connection to a real server.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use stp_net::urgent;
use tokio::net::{TcpSocket, TcpStream};

/// A service that does not accept a connection in this time is down.
pub const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Connects.
///
/// # Errors
/// When nobody accepts it in time.
pub async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Before anything can come: a lone urgent byte wakes only whoever has asked for it in line.
    urgent::in_line(&socket)?;
    let connect = tokio::time::timeout(CONNECT_MAX, socket.connect(address));
    let tcp = connect.await.map_err(|_| io::ErrorKind::TimedOut)??;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}
