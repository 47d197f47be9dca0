//! Ranges and relations of the limits and listeners, for every source alike.
//!
//! One list serves [`Config::validate`](super::Config::validate) and the builder, which adds the place of each key.

use std::time::Duration;

use super::{Limits, ListenAddr, ListenAt};

/// What is wrong with `limits`: the key at fault, and the sentence about it.
pub(super) fn limits(limits: &Limits) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let mut at_least = |key, value: usize, least: usize| {
        if value < least {
            found.push((key, format!("{value} is too small: at least {least}")));
        }
    };
    at_least("line_max_bytes", limits.line_max_bytes, 1);
    at_least("lines_burst", limits.lines_burst as usize, 1);
    at_least("accepts_per_turn", limits.accepts_per_turn as usize, 1);
    at_least("bytes_per_turn", limits.bytes_per_turn, 1024);
    at_least("lines_per_turn", limits.lines_per_turn as usize, 1);
    at_least("requests_per_turn", limits.requests_per_turn, 1);
    at_least("expiries_per_turn", limits.expiries_per_turn, 1);
    at_least("offload_threads", limits.offload_threads, 1);
    at_least("offload_queue", limits.offload_queue, 1);
    at_least("handle_queue", limits.handle_queue, 1);

    let mut ordered = |key, value: usize, other, least: usize| {
        if value < least {
            found.push((key, format!("{value} is less than {other} ({least}); raise it or lower {other}")));
        }
    };
    ordered("input_max_bytes", limits.input_max_bytes, "line_max_bytes", limits.line_max_bytes);
    ordered("output_hard_bytes", limits.output_hard_bytes, "output_soft_bytes", limits.output_soft_bytes);

    for (key, value, most) in [
        ("network_prefix_v4", limits.network_prefix_v4, 32),
        ("network_prefix_v6", limits.network_prefix_v6, 128),
    ] {
        if value > most {
            found.push((key, format!("{value} is no prefix length: 0 to {most}")));
        }
    }
    if let Some(probes) = limits.keepalive {
        for (key, value) in
            [("keepalive_idle_seconds", probes.idle), ("keepalive_interval_seconds", probes.interval)]
        {
            if value.subsec_nanos() != 0 || value.is_zero() || value > KEEPALIVE_MAX {
                let most = KEEPALIVE_MAX.as_secs();
                found.push((key, format!("{} is not 1 to {most} whole seconds", value.as_secs_f64())));
            }
        }
        if !(1..=KEEPALIVE_COUNT_MAX).contains(&probes.count) {
            let what = format!("{} is out of range: 1 to {KEEPALIVE_COUNT_MAX}", probes.count);
            found.push(("keepalive_count", what));
        }
    }
    found
}

/// What is wrong with one listener.
pub(super) fn listener(at: &ListenAt) -> Option<String> {
    match &at.addr {
        ListenAddr::Tcp { host, .. } if host.is_empty() => {
            Some("the host is empty; write * for every address".to_owned())
        }
        ListenAddr::Tcp { .. } => None,
        ListenAddr::Unix { path, mode, .. } => {
            let bytes = path.as_os_str().as_encoded_bytes();
            if bytes.is_empty() {
                Some("the path is empty".to_owned())
            } else if bytes.contains(&0) {
                Some("the path has a zero byte".to_owned())
            } else if bytes.len() > UNIX_PATH_MAX {
                let (path, length) = (path.display(), bytes.len());
                Some(format!("{path} has {length} bytes; a Unix socket's path has at most {UNIX_PATH_MAX}"))
            } else if mode.is_some_and(|mode| !is_mode(mode)) {
                Some("the mode has more than permission bits; write it in octal, as 0o660".to_owned())
            } else {
                at.fds_fault()
            }
        }
    }
}

/// Whether a socket can have this mode: permission bits, or all of them with the sticky bit, which some servers give to the
/// socket that is everybody's. A mode written in decimal by mistake, as 660 or 1777, is neither.
pub(super) fn is_mode(mode: u32) -> bool {
    mode <= 0o777 || mode == 0o1777
}

/// `sun_path` of `unix(7)` without its closing zero.
const UNIX_PATH_MAX: usize = 107;
/// `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL` of Linux.
const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);
/// `MAX_TCP_KEEPCNT` of Linux.
const KEEPALIVE_COUNT_MAX: u32 = 127;
