//! A sample of the kernel's TCP_INFO, for which no safe wrapper is at hand.

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What the kernel knows of a link's TCP connection. Fields an old kernel lacks are 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Both directions have ended, or it was reset.
    pub is_closed: bool,
    /// Smoothed round-trip time, microseconds.
    pub rtt_us: u32,
    /// Its mean deviation, microseconds.
    pub rtt_var_us: u32,
    /// The least round-trip time of the last minutes, microseconds.
    pub min_rtt_us: u32,
    /// Recent goodput to the peer, bytes per second.
    pub delivery_rate: u64,
    /// The rate was limited by us, not by the path.
    pub app_limited: bool,
    /// Segments sent again since the beginning.
    pub retrans: u32,
    /// Segments now thought lost.
    pub lost: u32,
    /// Congestion window, segments.
    pub cwnd: u32,
    /// Bytes per segment.
    pub mss: u32,
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Bytes in the socket that were never sent.
    pub notsent: u32,
    /// Milliseconds since data last came.
    pub last_data_recv_ms: u32,
    /// Milliseconds since anything last came: data, or a word that some has arrived there.
    pub last_recv_ms: u32,
    /// Bytes the peer's kernel has acknowledged.
    pub bytes_acked: u64,
    /// Bytes received in order.
    pub bytes_received: u64,
    /// Bytes sent, those sent again included.
    pub bytes_sent: u64,
    /// Bytes sent again.
    pub bytes_retrans: u64,
    /// Questions whether the peer still lives that it has not answered, one after the other.
    pub probes: u8,
    /// How often the oldest unacknowledged segment was sent again, without an answer.
    pub timeouts: u8,
}

/// `TCP_CLOSE` of include/net/tcp_states.h.
const CLOSED: u8 = 7;
/// Long enough for every field read below.
const LENGTH: usize = 256;

/// Asks the kernel.
///
/// # Errors
/// What the system says.
pub fn sample(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    let mut raw = [0_u8; LENGTH];
    let mut length = libc::socklen_t::try_from(size_of_val(&raw)).expect("256 fits");
    // SAFETY: the descriptor is open while it is borrowed; `raw` is `length` writable bytes of
    // plain data, and the kernel writes at most that many and says how many in `length`.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            raw.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(parse(&raw))
}

/// Reads `struct tcp_info` (include/uapi/linux/tcp.h) by its offsets, which never change.
fn parse(raw: &[u8; LENGTH]) -> TcpInfo {
    let u32_at = |at: usize| u32::from_ne_bytes(raw[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_ne_bytes(raw[at..at + 8].try_into().expect("eight bytes"));
    TcpInfo {
        is_closed: raw[0] == CLOSED,
        app_limited: raw[7] & 1 != 0,
        mss: u32_at(16),
        unacked: u32_at(24),
        lost: u32_at(32),
        last_data_recv_ms: u32_at(52),
        last_recv_ms: u32_at(56),
        rtt_us: u32_at(68),
        rtt_var_us: u32_at(72),
        cwnd: u32_at(80),
        retrans: u32_at(100),
        bytes_acked: u64_at(120),
        bytes_received: u64_at(128),
        notsent: u32_at(144),
        min_rtt_us: u32_at(148),
        delivery_rate: u64_at(160),
        bytes_sent: u64_at(200),
        bytes_retrans: u64_at(208),
        probes: raw[3],
        timeouts: raw[2],
    }
}

#[cfg(test)]
mod tests {
    macro_rules! stands_at {
        ($($field:ident at $offset:literal),+ $(,)?) => {
            $(
                let at = std::mem::offset_of!(libc::tcp_info, $field);
                assert_eq!(at, $offset, stringify!($field));
            )+
        };
    }

    #[test]
    fn every_field_stands_where_the_headers_say() {
        stands_at!(
            tcpi_snd_mss at 16, tcpi_unacked at 24, tcpi_lost at 32, tcpi_last_data_recv at 52,
            tcpi_last_ack_recv at 56,
            tcpi_rtt at 68, tcpi_rttvar at 72, tcpi_snd_cwnd at 80, tcpi_total_retrans at 100,
            tcpi_bytes_acked at 120, tcpi_bytes_received at 128, tcpi_notsent_bytes at 144,
            tcpi_min_rtt at 148, tcpi_delivery_rate at 160, tcpi_bytes_sent at 200,
            tcpi_bytes_retrans at 208, tcpi_probes at 3, tcpi_retransmits at 2,
            tcpi_state at 0,
        );
    }
}
