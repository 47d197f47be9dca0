//! Every option that we set on a TCP socket, in one place.
//!
//! On Linux an accepted socket inherits all of them from its listener (`tcp(7)` and the kernel's
//! `tcp_create_openreq_child`), which a test reads back; elsewhere [`accepted`] sets them once more.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::config::Limits;

/// Sets what `limits` asks for on a listening or connecting socket, which may have had other options before.
pub(super) fn tcp(socket: &SockRef<'_>, limits: &Limits) -> io::Result<()> {
    socket.set_tcp_nodelay(limits.tcp_nodelay)?;
    if let Some(keepalive) = limits.keepalive {
        let params = TcpKeepalive::new()
            .with_time(whole_seconds(keepalive.idle))
            .with_interval(whole_seconds(keepalive.interval))
            .with_retries(keepalive.count.max(1));
        socket.set_tcp_keepalive(&params)?;
    } else {
        socket.set_keepalive(false)?;
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        socket.set_tcp_user_timeout(limits.tcp_user_timeout)?;
        // All bits: as many as it likes, as on a new socket.
        socket.set_tcp_notsent_lowat(limits.tcp_notsent_lowat.unwrap_or(u32::MAX))?;
    }
    Ok(())
}

/// Sets the same on an accepted socket where it does not inherit it. What fails there is passed over: the client is
/// served without it.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn accepted(socket: &SockRef<'_>, limits: &Limits) {
    let _ = tcp(socket, limits);
}

/// The kernel counts keep-alive in whole seconds and refuses 0: rounded up, at least 1.
fn whole_seconds(time: Duration) -> Duration {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    Duration::from_secs(seconds.clamp(1, KEEPALIVE_MAX_SECONDS))
}

/// The kernel's own bound (`MAX_TCP_KEEPIDLE`, `MAX_TCP_KEEPINTVL`).
const KEEPALIVE_MAX_SECONDS: u64 = 32_767;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepalive_times_are_whole_seconds_of_at_least_one_and_at_most_what_the_kernel_takes() {
        for (given, kept) in [(0.0, 1), (0.2, 1), (1.0, 1), (1.5, 2), (32_767.0, 32_767), (1e6, 32_767)] {
            assert_eq!(whole_seconds(Duration::from_secs_f64(given)), Duration::from_secs(kept), "{given}");
        }
    }
}
