//! Listeners that the service manager has opened, or kept for us, and passes at a start (`sd_listen_fds(3)`).

use std::fmt::Write as _;

/// The name under which the manager keeps the listener called `listener`: told apart from what a socket unit passes by
/// its beginning, and with `%XX` for what no such name may hold (`sd_notify(3)`, FDNAME). `None`: it would be too long.
pub(super) fn stored_name(listener: &str) -> Option<String> {
    let mut name = STORED.to_owned();
    for byte in listener.bytes() {
        match byte {
            b':' | b'%' | 0..b' ' | 0x7f.. => {
                // Writing to a String cannot fail.
                let _ = write!(name, "%{byte:02X}");
            }
            _ => name.push(char::from(byte)),
        }
    }
    (name.len() <= NAME_MAX_BYTES).then_some(name)
}

/// What the names of kept descriptors begin with.
const STORED: &str = "kept-";

/// The manager's limit.
const NAME_MAX_BYTES: usize = 255;
