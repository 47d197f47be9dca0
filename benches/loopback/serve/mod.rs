//! The servers that are compared, as child processes of this same program: `serve raw|ours|ours_gather echo|broadcast|mixed ADDR`.
//!
//! `echo`: every line goes back to its sender. `broadcast`: every line goes to all the others. `mixed`: a line that
//! begins with `+` makes its sender a listener, one that begins with `!` goes to all listeners, any other is echoed.

mod ours;
mod raw;

use std::io;

use crate::measure::server::{Addr, Mode};
use crate::measure::{sys, wrong};

/// Serves until it is killed, and for ten minutes at most.
pub(crate) fn serve(args: &[String]) -> io::Result<()> {
    let [kind, mode, addr] = args else {
        return Err(wrong("serve needs raw|ours|ours_gather, a mode and an address"));
    };
    let (mode, addr) = (Mode::parse(mode)?, Addr::parse(addr)?);
    sys::die_after(TIME_MAX);
    sys::raise_descriptor_limit()?;
    match kind.as_str() {
        "raw" => raw::serve(mode, &addr),
        "ours" => ours::serve(mode, &addr, false),
        "ours_gather" => ours::serve(mode, &addr, true),
        _ => Err(wrong(format!("{kind} is none of raw, ours, ours_gather"))),
    }
}

const TIME_MAX: std::time::Duration = std::time::Duration::from_secs(600);
