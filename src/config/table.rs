//! The one table of options: it drives the file, the command line, code, and the help text.
//!
//! A row has the name (Net::Server's where it has one), a hint at the value, a sentence, and the field of the
//! [`Draft`] that it fills. Net::Server's options that are not here stand in a second table, each with its reason.

use super::draft::{Draft, Field};
use super::node::{Node, hint};
use super::{Facility, LongLine, OnPanic, ports, process};

/// One option.
pub(super) struct Opt {
    /// Its name in a file and, after two dashes, on the command line.
    pub(super) name: &'static str,
    /// What stands for the value in the help; empty: a flag.
    pub(super) hint: &'static str,
    /// One sentence, at most 44 columns for an option of the short help.
    pub(super) help: &'static str,
    /// Whether the short help has it.
    pub(super) common: bool,
    pub(super) field: Field,
}

/// The option of that name; a dash counts as an underscore.
pub(super) fn find(name: &str) -> Option<&'static Opt> {
    OPTIONS.iter().find(|option| same_name(option.name, name))
}

/// The option of exactly that name, as files and code write it.
pub(super) fn find_exact(name: &str) -> Option<&'static Opt> {
    OPTIONS.iter().find(|option| option.name == name)
}

/// Whether two names are one option.
pub(super) fn same_name(a: &str, b: &str) -> bool {
    let plain = |byte: u8| if byte == b'-' { b'_' } else { byte };
    a.len() == b.len() && a.bytes().map(plain).eq(b.bytes().map(plain))
}

/// Why nobody takes `name`: a sentence for Net::Server's options that are not here, else a hint at the nearest of
/// ours and of `others`. `noun` is `key` or `option`.
pub(super) fn unknown<'a>(noun: &str, name: &str, others: impl IntoIterator<Item = &'a str>) -> String {
    if let Some((refused, why)) = REFUSED.iter().find(|(refused, _)| same_name(refused, name)) {
        // The command line names its option anyway.
        return if noun == "key" { format!("{refused}: {why}") } else { (*why).to_owned() };
    }
    let plain = name.replace('-', "_");
    let known = OPTIONS.iter().map(|option| option.name).chain(others);
    let hint = hint(&plain, known);
    let shown: String = name.chars().take(SHOWN_MAX).collect();
    format!("unknown {noun} `{}`{hint}", shown.escape_debug())
}

fn choose<T: Copy>(node: &Node, choices: [(&str, T); 2]) -> Result<T, String> {
    let text = node.text()?;
    let chosen = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    chosen.ok_or_else(|| format!("{} is neither `{}` nor `{}`", node.last(), choices[0].0, choices[1].0))
}

fn log_level(draft: &mut Draft, node: &Node) -> Result<(), String> {
    match node.count() {
        Ok(level @ 0..=4) => {
            // 0 to 4 by the pattern.
            #[allow(clippy::cast_possible_truncation, reason = "0 to 4")]
            let level = level as u8;
            draft.log_level = level;
            Ok(())
        }
        _ => Err(format!(
            "{} is no level: 0 errors, 1 warnings, 2 notices, 3 connections, 4 debug",
            node.last()
        )),
    }
}

fn log_file(draft: &mut Draft, node: &Node) -> Result<(), String> {
    let text = node.text()?;
    if text.is_empty() {
        return Err("it is empty; leave it out, or write `stderr`, for standard error".to_owned());
    }
    if text.eq_ignore_ascii_case("Log::Log4perl") {
        return Err("log4perl is not available; use a path, `syslog`, `journald`, or a log_function in code"
            .to_owned());
    }
    draft.log_file = Some(text.to_owned());
    Ok(())
}

fn syslog_facility(draft: &mut Draft, node: &Node) -> Result<(), String> {
    let facility = Facility::named(node.text()?);
    draft.syslog_facility = facility
        .ok_or_else(|| format!("{} is no facility: daemon, user, mail, local0 to local7, …", node.last()))?;
    Ok(())
}

/// Whether this program can do what `option` asks for; what it cannot, the help does not show.
pub(super) fn is_available(option: &Opt) -> bool {
    cfg!(feature = "daemon") || !NEEDS_DAEMON.contains(&option.name)
}

macro_rules! row {
    ($name:literal, $hint:literal, $help:literal, common, $field:expr) => {
        Opt { name: $name, hint: $hint, help: $help, common: true, field: $field }
    };
    ($name:literal, $hint:literal, $help:literal, $field:expr) => {
        Opt { name: $name, hint: $hint, help: $help, common: false, field: $field }
    };
}

/// Every option, in the order of the help. `port` stands before `proto`: of two hints as near, the first is given.
pub(super) static OPTIONS: &[Opt] = &[
    row!(
        "conf_file",
        "FILE",
        "read settings from FILE (TOML)",
        common,
        Field::Later(|d| &mut d.conf_file, "none")
    ),
    row!(
        "port",
        "PORT",
        "20203, HOST:PORT or PATH|unix; repeatable",
        common,
        Field::Later(|d| &mut d.port, "20203")
    ),
    row!(
        "host",
        "HOST",
        "address or name to listen on; * for all",
        common,
        Field::Later(|d| &mut d.host, "*")
    ),
    row!(
        "proto",
        "PROTO",
        "tcp or unix, for the port of the same rank",
        Field::Later(|d| &mut d.proto, "tcp")
    ),
    row!("ipv", "IPV", "4, 6 or *: IP versions of the same rank's port", Field::Later(|d| &mut d.ipv, "*")),
    row!("listen", "N", "queue of connections that wait for accept", Field::Later(|d| &mut d.listen, "4096")),
    row!("allow", "RULE", "let only these in: address, net, 127.*", common, Field::Rules(|d| &mut d.allow)),
    row!("deny", "RULE", "keep these out; wins over allow", common, Field::Rules(|d| &mut d.deny)),
    row!(
        "cidr_allow",
        "NET",
        "as allow, for networks such as 10.0.0.0/8",
        Field::Rules(|d| &mut d.cidr_allow)
    ),
    row!("cidr_deny", "NET", "as deny, for networks", Field::Rules(|d| &mut d.cidr_deny)),
    row!("log_level", "0..4", "errors, warnings, notices, more, debug", common, Field::Other(log_level, "2")),
    row!("log_file", "FILE", "FILE, syslog, journald or stderr", common, Field::Other(log_file, "stderr")),
    row!(
        "syslog_ident",
        "NAME",
        "what each line begins with",
        Field::Text(|d| &mut d.syslog_ident, "the program")
    ),
    row!("syslog_facility", "NAME", "facility of the system's log", Field::Other(syslog_facility, "daemon")),
    row!("syslog_logsock", "PATH", "socket of it", Field::Text(|d| &mut d.syslog_logsock, "/dev/log")),
    row!(
        "journald_logsock",
        "PATH",
        "socket of the journal",
        Field::Text(|d| &mut d.journald_logsock, "/run/systemd/journal/socket")
    ),
    row!(
        "user",
        "USER",
        "become USER when the listeners are open",
        Field::Other(|d, node| ports::owner(node).map(|user| d.process.config.user = Some(user)), "none")
    ),
    row!(
        "group",
        "GROUP",
        "and GROUP; further ones after commas",
        Field::Other(
            |d, node| ports::owner(node).map(|group| d.process.config.group = Some(group)),
            "the user's"
        )
    ),
    row!("chroot", "PATH", "and see nothing above it", Field::Text(|d| &mut d.process.chroot, "none")),
    row!(
        "background",
        "",
        "leave the terminal, when it is ready",
        common,
        Field::Flag(|d| &mut d.process.config.background)
    ),
    row!("setsid", "", "the same", Field::Flag(|d| &mut d.process.config.setsid)),
    row!(
        "pid_file",
        "FILE",
        "holds the process's number and a lock",
        common,
        Field::Text(|d| &mut d.process.pid_file, "none")
    ),
    row!(
        "umask",
        "OCTAL",
        "rights that new files do not get",
        Field::Other(process::umask, "as it is; 027 in the background")
    ),
    row!(
        "on_hup",
        "WHAT",
        "handover, reload or ignore: what SIGHUP does",
        Field::Other(process::on_hup, "handover")
    ),
    row!(
        "probe_seconds",
        "SECONDS",
        "for a new program to show that it works",
        Field::Seconds(|d| &mut d.process.restart.probe_time)
    ),
    row!(
        "commit_seconds",
        "SECONDS",
        "for it to take over",
        Field::Seconds(|d| &mut d.process.restart.commit_time)
    ),
    row!(
        "quiesce_seconds",
        "SECONDS",
        "for threads to come to rest before that",
        Field::Seconds(|d| &mut d.process.restart.quiesce_time)
    ),
    row!(
        "state_max_bytes",
        "BYTES",
        "that it takes over",
        Field::Size(|d| &mut d.process.restart.state_max_bytes)
    ),
    row!(
        "check_for_dequeue",
        "SECONDS",
        "pause between two runs of run_dequeue",
        common,
        Field::MaybeSeconds(|d| &mut d.check_for_dequeue)
    ),
    row!(
        "max_connections",
        "N",
        "connections at once; 0 as many as can be",
        common,
        Field::MaybeCount(|d| &mut d.limits.max_connections)
    ),
    row!("max_per_address", "N", "from one address", Field::MaybeCount32(|d| &mut d.limits.max_per_address)),
    row!("max_per_network", "N", "from one network", Field::MaybeCount32(|d| &mut d.limits.max_per_network)),
    row!(
        "network_prefix_v4",
        "BITS",
        "of an IPv4 network",
        Field::Prefix(|d| &mut d.limits.network_prefix_v4)
    ),
    row!(
        "network_prefix_v6",
        "BITS",
        "of an IPv6 network",
        Field::Prefix(|d| &mut d.limits.network_prefix_v6)
    ),
    row!("line_max_bytes", "BYTES", "longest line", Field::Size(|d| &mut d.limits.line_max_bytes)),
    row!("long_line", "WHAT", "close or skip: what a longer one causes", Field::Other(long_line, "close")),
    row!(
        "input_max_bytes",
        "BYTES",
        "most bytes left unread",
        Field::Size(|d| &mut d.limits.input_max_bytes)
    ),
    row!(
        "output_soft_bytes",
        "BYTES",
        "unsent, then reading waits",
        Field::Size(|d| &mut d.limits.output_soft_bytes)
    ),
    row!(
        "output_hard_bytes",
        "BYTES",
        "unsent, then it is closed",
        Field::Size(|d| &mut d.limits.output_hard_bytes)
    ),
    row!(
        "lines_per_second",
        "N",
        "a client's lines, in the long run",
        Field::MaybeCount32(|d| &mut d.limits.lines_per_second)
    ),
    row!("lines_burst", "N", "a client's lines at once", Field::Count32(|d| &mut d.limits.lines_burst)),
    row!(
        "output_stall_seconds",
        "SECONDS",
        "for a slow reader to take something",
        Field::MaybeSeconds(|d| &mut d.limits.output_stall_time)
    ),
    row!(
        "line_seconds",
        "SECONDS",
        "from a line's first byte to its end",
        Field::MaybeSeconds(|d| &mut d.limits.line_time)
    ),
    row!(
        "idle_seconds",
        "SECONDS",
        "silence after which a client is closed",
        common,
        Field::MaybeSeconds(|d| &mut d.limits.idle_time)
    ),
    row!(
        "drain_seconds",
        "SECONDS",
        "to send what is owed at a close",
        Field::Seconds(|d| &mut d.limits.drain_time)
    ),
    row!(
        "linger_seconds",
        "SECONDS",
        "to wait for the peer's end",
        Field::Seconds(|d| &mut d.limits.linger_time)
    ),
    row!(
        "linger_max_seconds",
        "SECONDS",
        "the same in all",
        Field::Seconds(|d| &mut d.limits.linger_max_time)
    ),
    row!(
        "linger_max_bytes",
        "BYTES",
        "thrown away meanwhile",
        Field::Size(|d| &mut d.limits.linger_max_bytes)
    ),
    row!(
        "connect_seconds",
        "SECONDS",
        "to open an outgoing connection",
        Field::Seconds(|d| &mut d.limits.connect_time)
    ),
    row!("stop_seconds", "SECONDS", "for a graceful stop", Field::Seconds(|d| &mut d.limits.stop_time)),
    row!(
        "accepts_per_turn",
        "N",
        "new clients of a listener in a turn",
        Field::Count32(|d| &mut d.limits.accepts_per_turn)
    ),
    row!(
        "bytes_per_turn",
        "BYTES",
        "read from a client in a turn",
        Field::Size(|d| &mut d.limits.bytes_per_turn)
    ),
    row!(
        "lines_per_turn",
        "N",
        "served to a client in a turn",
        Field::Count32(|d| &mut d.limits.lines_per_turn)
    ),
    row!(
        "requests_per_turn",
        "N",
        "of other threads served in a turn",
        Field::Count(|d| &mut d.limits.requests_per_turn)
    ),
    row!(
        "expiries_per_turn",
        "N",
        "deadlines served in a turn",
        Field::Count(|d| &mut d.limits.expiries_per_turn)
    ),
    row!("gather", "", "wait a moment for lines of other talkers", Field::Flag(|d| &mut d.limits.gather)),
    row!(
        "gather_max_seconds",
        "SECONDS",
        "longest such wait",
        Field::Seconds(|d| &mut d.limits.gather_max_time)
    ),
    row!(
        "slow_turn_seconds",
        "SECONDS",
        "a longer turn is logged",
        Field::Seconds(|d| &mut d.limits.slow_turn)
    ),
    row!("on_panic", "WHAT", "close or abort: what a panic causes", Field::Other(on_panic, "close")),
    row!("keepalive", "", "TCP keep-alive probes", Field::Flag(|d| &mut d.keepalive)),
    row!(
        "keepalive_idle_seconds",
        "SECONDS",
        "silence before the first",
        Field::Seconds(|d| &mut d.probes.idle)
    ),
    row!("keepalive_interval_seconds", "SECONDS", "between two", Field::Seconds(|d| &mut d.probes.interval)),
    row!(
        "keepalive_count",
        "N",
        "unanswered until the peer is dead",
        Field::Count32(|d| &mut d.probes.count)
    ),
    row!(
        "tcp_user_timeout_seconds",
        "SECONDS",
        "sent data may stay unanswered",
        Field::MaybeSeconds(|d| &mut d.limits.tcp_user_timeout)
    ),
    row!("tcp_nodelay", "", "small answers leave at once", Field::Flag(|d| &mut d.limits.tcp_nodelay)),
    row!(
        "tcp_notsent_lowat",
        "BYTES",
        "unsent bytes in the kernel",
        Field::MaybeSize32(|d| &mut d.limits.tcp_notsent_lowat)
    ),
    row!("offload_threads", "N", "threads for slow work", Field::Count(|d| &mut d.limits.offload_threads)),
    row!("offload_queue", "N", "jobs that wait for one", Field::Count(|d| &mut d.limits.offload_queue)),
    row!("handle_queue", "N", "requests from other threads", Field::Count(|d| &mut d.limits.handle_queue)),
];

fn long_line(draft: &mut Draft, node: &Node) -> Result<(), String> {
    draft.limits.long_line = choose(node, [("close", LongLine::Close), ("skip", LongLine::Skip)])?;
    Ok(())
}

fn on_panic(draft: &mut Draft, node: &Node) -> Result<(), String> {
    draft.limits.on_panic = choose(node, [("close", OnPanic::Close), ("abort", OnPanic::Abort)])?;
    Ok(())
}

/// What can be done only with Unix calls; `on_hup` also works without.
const NEEDS_DAEMON: [&str; 11] = [
    "user",
    "group",
    "chroot",
    "background",
    "setsid",
    "pid_file",
    "umask",
    "probe_seconds",
    "commit_seconds",
    "quiesce_seconds",
    "state_max_bytes",
];

/// Net::Server's options that are not here, and one that other servers have, each with the reason or the remedy.
static REFUSED: &[(&str, &str)] = &[
    ("reverse_lookups", LOOKUPS),
    ("double_reverse_lookups", LOOKUPS),
    ("ipv6_package", "it chooses a Perl module; use ipv"),
    ("no_client_stdout", STDOUT),
    ("tie_client_stdout", STDOUT),
    ("tied_stdin_callback", STDOUT),
    ("tied_stdout_callback", STDOUT),
    ("log_function", "it is code: ConfigBuilder::log_function"),
    ("log4perl_conf", LOG4PERL),
    ("log4perl_logger", LOG4PERL),
    ("log4perl_poll", LOG4PERL),
    (
        "syslog_logopt",
        "there is nothing to choose: the process id is always sent, and a lost log is never fatal",
    ),
    ("ports", "its name is port"),
    ("reuse_port", REUSE_PORT),
    ("max_servers", "one process serves everybody; use max_connections"),
    ("min_servers", CHILDREN),
    ("max_requests", CHILDREN),
    ("min_spare_servers", CHILDREN),
    ("max_spare_servers", CHILDREN),
    ("spare_servers", CHILDREN),
    ("check_for_waiting", CHILDREN),
    ("check_for_spawn", CHILDREN),
    ("check_for_dead", CHILDREN),
    ("min_child_ttl", CHILDREN),
    ("child_communication", CHILDREN),
    ("no_close_by_child", CHILDREN),
    ("serialize", CHILDREN),
    ("lock_file", CHILDREN),
    ("sig_passthrough", CHILDREN),
    ("server_type", CHILDREN),
    ("leave_children_open_on_hup", "there are no children; a restart keeps its connections anyway"),
    ("max_dequeue", "there are no children; run_dequeue runs in the loop, see check_for_dequeue"),
    ("udp_recv_len", DATAGRAMS),
    ("udp_recv_flags", DATAGRAMS),
    ("udp_broadcast", DATAGRAMS),
    ("unix_type", "every Unix socket is a stream; datagrams are not available in this version"),
    ("unix_path", "write the path as a port: port = \"/run/name.sock|unix\""),
    ("SSL_key_file", TLS),
    ("SSL_cert_file", TLS),
    ("SSL_ca_file", TLS),
    ("SSL_ca_path", TLS),
    ("SSL_cipher_list", TLS),
    ("SSL_verify_mode", TLS),
    ("SSL_version", TLS),
    ("cert_file", TLS),
    ("key_file", TLS),
];

const LOOKUPS: &str =
    "peers are not looked up by name in this version; use addresses and networks in allow and deny";
const STDOUT: &str = "clients never get the process's standard streams; write through the context";
const LOG4PERL: &str = "log4perl is not available; use log_file, or a log_function in code";
const CHILDREN: &str = "there are no children: one process serves everybody";
/// Also said by the ports.
pub(super) const DATAGRAMS: &str = "datagrams are not available in this version; tcp and unix are";
/// Also said by the ports.
pub(super) const TLS: &str = "TLS is not available in this version; put a TLS proxy in front";
/// Also said by the ports.
pub(super) const REUSE_PORT: &str = "sockets that share a port lose clients: who waits at one that closes is reset, and any \
     program of the same user can take a share; let several processes inherit one socket (see the example `scale`)";
/// Longest part of an unknown name that a message repeats.
const SHOWN_MAX: usize = 64;
