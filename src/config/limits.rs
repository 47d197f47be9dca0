//! Every limit of the loop, named, with its default.
//!
//! A limit is reached by somebody in every service that lives long enough, so each says what happens then. Times
//! are [`Duration`]s here and `..._seconds` (a number, fractions allowed) in a file or on the command line.

use std::time::Duration;

/// What is done with a line that grows past [`Limits::line_max_bytes`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LongLine {
    /// The client is told in one line and closed (`CloseReason::LineTooLong`). In a file: `"close"`.
    #[default]
    Close,
    /// The line is thrown away up to its end and the next one is served. In a file: `"skip"`.
    Skip,
}

/// What is done when a callback panics.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnPanic {
    /// The connection it served is closed; everybody else is served on. In a file: `"close"`.
    #[default]
    Close,
    /// The process aborts after the panic has been logged. In a file: `"abort"`.
    Abort,
}

/// TCP keep-alive probes (`tcp(7)`): when they begin, how often, how many until the peer is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first probe (`TCP_KEEPIDLE`). File: `keepalive_idle_seconds`; whole seconds.
    pub idle: Duration,
    /// Between probes (`TCP_KEEPINTVL`). File: `keepalive_interval_seconds`; whole seconds.
    pub interval: Duration,
    /// Unanswered probes until the connection is dead (`TCP_KEEPCNT`). File: `keepalive_count`.
    pub count: u32,
}

/// The limits of one mux. Every field may be changed before the mux is made; none afterwards.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Longest line in bytes, without its ending. At it: [`Limits::long_line`]. Default 64 KiB, at least 1.
    pub line_max_bytes: usize,
    /// What is done with a longer one. Default: close.
    pub long_line: LongLine,
    /// Most bytes that a client may leave unconsumed, for protocols that do not use lines. At it the connection is
    /// closed (`CloseReason::InputLimit`). Default 1 MiB, at least `line_max_bytes`.
    pub input_max_bytes: usize,
    /// Unsent bytes from which a client is no longer read, until half of them are gone. Default 256 KiB, at most
    /// `output_hard_bytes`.
    pub output_soft_bytes: usize,
    /// Unsent bytes past which a write is dropped and the connection closed (`CloseReason::OutputLimit`).
    /// Default 1 MiB.
    pub output_hard_bytes: usize,
    /// How long a client over `output_soft_bytes` may take nothing at all of what waits for it. Past it: closed
    /// (`CloseReason::OutputStalled`), seen once a second. Default 30 s, as for TCP's own `tcp_user_timeout`, which Unix
    /// sockets do not have. File: `output_stall_seconds`, 0 for off.
    pub output_stall_time: Option<Duration>,
    /// Most connections at once. At it a newcomer is refused with one line, and counted. `None` (the default): the
    /// process's descriptor limit (raised as far as it may be) less 32. Where a listener has `accept_fds` it is at most that
    /// less a quarter of the limit, which is kept for descriptors that wait.
    pub max_connections: Option<usize>,
    /// Most connections from one address. At it: refused with one line. Default: off.
    pub max_per_address: Option<u32>,
    /// Most connections from one network, as wide as the two prefixes say. At it: refused. Default: off.
    pub max_per_network: Option<u32>,
    /// Prefix length of an IPv4 network for `max_per_network`. Default 24.
    pub network_prefix_v4: u8,
    /// Prefix length of an IPv6 network for `max_per_network`. Default 64.
    pub network_prefix_v6: u8,
    /// Lines that a client may send per second in the long run; more are left unread. Default: off.
    pub lines_per_second: Option<u32>,
    /// Lines that may come at once before `lines_per_second` slows the client down. Default 40, at least 1.
    pub lines_burst: u32,
    /// From the first byte of a line to its end. Past it: closed (`CloseReason::LineDeadline`). Default: off.
    /// For protocols that take lines with `Input::line`: one that takes its input otherwise and always leaves a part of
    /// the next message must leave this off. File: `line_seconds`.
    pub line_time: Option<Duration>,
    /// Silence of a client. Past it: closed (`CloseReason::Idle`). Our own output does not extend it. Default: off.
    /// File: `idle_seconds`.
    pub idle_time: Option<Duration>,
    /// For sending what is owed to a closing connection. Past it: closed at once. Default 10 s.
    /// File: `drain_seconds`.
    pub drain_time: Duration,
    /// After the last byte is sent and our side is shut: how long to wait for the peer's next byte or its end, so
    /// that what we sent is not destroyed by a reset. Default 2 s. File: `linger_seconds`.
    pub linger_time: Duration,
    /// The same in all. Default 10 s. File: `linger_max_seconds`.
    pub linger_max_time: Duration,
    /// Most bytes that are read and thrown away while lingering. Default 1 MiB.
    pub linger_max_bytes: usize,
    /// For opening an outgoing connection when the caller names no deadline. Default 10 s.
    /// File: `connect_seconds`.
    pub connect_time: Duration,
    /// For a graceful stop (QUIT). Past it everybody left is cut, and counted. Default 10 s.
    /// File: `stop_seconds`.
    pub stop_time: Duration,
    /// New clients taken from one listener in one turn; the rest wait one turn. Default 64, at least 1.
    pub accepts_per_turn: u32,
    /// Bytes read from one connection in one turn; the rest wait one turn. A descriptor that it passes counts as 1 KiB.
    /// Default 64 KiB, at least 1 KiB.
    pub bytes_per_turn: usize,
    /// Lines given to one connection in one turn (by `Input::line`); the rest wait one turn. Default 128, at
    /// least 1.
    pub lines_per_turn: u32,
    /// Requests of other threads ([`Handle`](crate::Handle)) served in one turn; the rest wait one turn. Default 1024, at
    /// least 1.
    pub requests_per_turn: usize,
    /// Deadlines served in one turn; the rest wait one turn. Default 256, at least 1.
    pub expiries_per_turn: usize,
    /// Whether a flush to 64 connections or more waits a moment, so that lines which are about to come leave in the same
    /// sends: 0.1 µs for each of them, at most `gather_max_time`, and only if more than one client has talked. Turns go
    /// on meanwhile, without blocking; the wait ends early when a connection's output passes `output_soft_bytes`. It pays
    /// where many hear several talkers who answer what they hear (a chat of 1000 of whom 10 talk: half the CPU). It does
    /// nothing for one talker, for few listeners, or for talkers with a pace of their own. Default off.
    pub gather: bool,
    /// Longest such wait. Default 1 ms, which is reached at 10 000 connections. File: `gather_max_seconds`.
    pub gather_max_time: Duration,
    /// A turn longer than this is counted and logged: somebody's callback holds up everybody. Default 100 ms.
    /// File: `slow_turn_seconds`.
    pub slow_turn: Duration,
    /// What is done when a callback panics. Default: close.
    pub on_panic: OnPanic,
    /// TCP keep-alive. Default: after 60 s, every 15 s, 4 times. `None`: off. File: `keepalive = false`.
    pub keepalive: Option<KeepAlive>,
    /// Longest time that sent data may stay unacknowledged (`TCP_USER_TIMEOUT`, Linux). Default 30 s.
    /// File: `tcp_user_timeout_seconds`, 0 for off.
    pub tcp_user_timeout: Option<Duration>,
    /// `TCP_NODELAY`: small answers leave at once. Default on.
    pub tcp_nodelay: bool,
    /// Unsent bytes that the kernel takes from us for one TCP connection (`TCP_NOTSENT_LOWAT`). Default 16 KiB;
    /// `None`: as many as it likes, some 4 MB for a client that does not read. File: 0 for off.
    pub tcp_notsent_lowat: Option<u32>,
    /// Threads for `offload` and name look-ups; started with the first job. Default 2, at least 1.
    pub offload_threads: usize,
    /// Jobs that wait for such a thread. At it the caller is told. Default 64, at least 1.
    pub offload_queue: usize,
    /// Requests from other threads (`Handle`) that wait for the loop. At it the caller is told. Default 65 536, at
    /// least 1.
    pub handle_queue: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line_max_bytes: 64 * KIB,
            long_line: LongLine::Close,
            input_max_bytes: 1024 * KIB,
            output_soft_bytes: 256 * KIB,
            output_hard_bytes: 1024 * KIB,
            output_stall_time: Some(Duration::from_secs(30)),
            max_connections: None,
            max_per_address: None,
            max_per_network: None,
            network_prefix_v4: 24,
            network_prefix_v6: 64,
            lines_per_second: None,
            lines_burst: 40,
            line_time: None,
            idle_time: None,
            drain_time: Duration::from_secs(10),
            linger_time: Duration::from_secs(2),
            linger_max_time: Duration::from_secs(10),
            linger_max_bytes: 1024 * KIB,
            connect_time: Duration::from_secs(10),
            stop_time: Duration::from_secs(10),
            accepts_per_turn: 64,
            bytes_per_turn: 64 * KIB,
            lines_per_turn: 128,
            requests_per_turn: 1024,
            expiries_per_turn: 256,
            gather: false,
            gather_max_time: Duration::from_millis(1),
            slow_turn: Duration::from_millis(100),
            on_panic: OnPanic::Close,
            keepalive: Some(KeepAlive {
                idle: Duration::from_secs(60),
                interval: Duration::from_secs(15),
                count: 4,
            }),
            tcp_user_timeout: Some(Duration::from_secs(30)),
            tcp_nodelay: true,
            tcp_notsent_lowat: Some(16 * 1024),
            offload_threads: 2,
            offload_queue: 64,
            handle_queue: 65_536,
        }
    }
}

const KIB: usize = 1024;
