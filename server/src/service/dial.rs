//! A TCP connection to a real server.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use stp_net::urgent;
use tokio::net::{TcpSocket, TcpStream};

/// A service that does not accept a connection in this time is down.
pub const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Connects.
///
/// # Errors
/// When nobody accepts it in time.
pub async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    connect_over(address, None).await
}

/// The same over this interface, if one is named. This machine is reached all the same.
///
/// # Errors
/// When nobody accepts it in time, or there is no such interface.
pub async fn connect_over(address: SocketAddr, device: Option<&str>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(device) = device.filter(|_| !address.ip().is_loopback()) {
        SockRef::from(&socket).bind_device(Some(device.as_bytes()))?;
    }
    // Before anything can come: a lone urgent byte wakes only whoever has asked for it in line.
    urgent::in_line(&socket)?;
    let connect = tokio::time::timeout(CONNECT_MAX, socket.connect(address));
    let tcp = connect.await.map_err(|_| io::ErrorKind::TimedOut)??;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}
