//! The modules of the original, for the tests that compare with it.

use std::env;
use std::io::{self, Write};
use std::process::{Command, Stdio};

/// Whether the original can be run; says so if not, past the capture of the test harness.
pub(crate) fn perl_is_there() -> bool {
    let mut command = Command::new("perl");
    command.args(["-MIO::Multiplex", "-MNet::Server::Multiplex", "-e", "1"]).stderr(Stdio::null());
    let there = command.status().is_ok_and(|status| status.success());
    let required = env::var_os("LINEPLEX_REQUIRE_PERL").is_some_and(|value| value == "1");
    assert!(there || !required, "Net::Server is not installed, and LINEPLEX_REQUIRE_PERL is set; {PACKAGES}");
    if !there {
        let word = format!("skipped: Net::Server is not installed ({PACKAGES})\n");
        let _ = io::stderr().write_all(word.as_bytes());
    }
    there
}

const PACKAGES: &str = "Debian: libnet-server-perl libio-multiplex-perl";
