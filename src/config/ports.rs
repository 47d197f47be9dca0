//! The grammar of `port`, and how `host`, `proto`, `ipv` and `listen` pair with it.
//!
//! An entry is a number, text (`20203`, `imap2`, `host:port`, `[::1]:port/tcp/IPv4`, `/run/x.sock|unix`) or a table. What the
//! entry says itself wins; else the n-th value of the other lists goes with the n-th port, and the last one repeats.
//! Nothing is guessed: what could be read in two ways is refused with the way to write it.

use std::io::Read;
use std::net::Ipv6Addr;
use std::path::Path;

use super::draft::Draft;
use super::listen::FDS_MAX;
use super::node::{At, Entry, Kind, Mistakes, Node, hint};
use super::table::{DATAGRAMS, REUSE_PORT, TLS};
use super::{Ipv, ListenAddr, ListenAt, checks};

/// The listeners that the draft describes. A duplicate is left out and told in `warnings`.
pub(super) fn listeners(draft: &Draft, mistakes: &mut Mistakes, warnings: &mut Vec<String>) -> Vec<ListenAt> {
    let standard = Node { at: At::Default, kind: Kind::Int(i64::from(super::DEFAULT_PORT)) };
    let ports = draft.port.as_ref().unwrap_or(&standard).items();
    if let (true, Some(port)) = (ports.is_empty(), &draft.port) {
        mistakes.add("port", &port.at, "the list is empty: there is nothing to listen on");
    }
    let lists =
        [("host", &draft.host), ("proto", &draft.proto), ("ipv", &draft.ipv), ("listen", &draft.listen)];
    for (key, list) in lists {
        let Some(node) = list else { continue };
        let (count, of) = (node.items().len(), ports.len());
        if count > of.max(1) || count == 0 {
            let what = format!("{count} values for {of} port(s); the n-th goes with the n-th port");
            mistakes.add(key, &node.last().at, what);
        }
    }

    let mut found: Vec<ListenAt> = Vec::new();
    for (rank, port) in ports.iter().enumerate() {
        let Some(listener) = entry(port, &Rank { draft, rank }, mistakes) else { continue };
        if let Some(first) = found.iter().find(|first| same_place(first, &listener)) {
            warnings.push(format!("port: {} is the same as {}; it is skipped", listener.name, first.name));
        } else {
            found.push(listener);
        }
    }
    found
}

/// The values of the other lists that go with one port.
struct Rank<'a> {
    draft: &'a Draft,
    rank: usize,
}

impl<'a> Rank<'a> {
    fn of(&self, list: Option<&'a Node>) -> Option<&'a Node> {
        let items = list?.items();
        items.get(self.rank).or_else(|| items.last())
    }
}

/// What one entry says; `None` where it is silent.
#[derive(Default)]
struct Spec {
    name: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    path: Option<String>,
    proto: Option<Proto>,
    ipv: Option<Ipv>,
    backlog: Option<u32>,
    mode: Option<u32>,
    owner: Option<String>,
    group: Option<String>,
    accept_fds: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Proto {
    Tcp,
    Unix,
}

/// A key that is wrong, where, and why.
type Wrong = (&'static str, At, String);

fn entry(port: &Node, rank: &Rank<'_>, mistakes: &mut Mistakes) -> Option<ListenAt> {
    let spec = match &port.kind {
        Kind::Table(entries) => table(entries, rank, mistakes),
        _ => inherited_proto(rank).and_then(|proto| {
            let mut spec = Spec::default();
            port_value(port, proto, &mut spec).map_err(|what| ("port", port.at.clone(), what))?;
            spec.name = Some(written(port));
            Ok(Some(spec))
        }),
    };
    let listener = spec.and_then(|spec| spec.map_or(Ok(None), |spec| finish(spec, port, rank).map(Some)));
    listener.unwrap_or_else(|(key, at, what)| {
        mistakes.add(key, &at, what);
        None
    })
}

/// A table; `None` when its mistakes are already told.
fn table(entries: &[Entry], rank: &Rank<'_>, mistakes: &mut Mistakes) -> Result<Option<Spec>, Wrong> {
    let mut spec = Spec::default();
    let mut wrong = false;
    let named = |key: &str| entries.iter().find(|entry| entry.key == key);
    // The protocol first: it says what a bare text of `port` means.
    let own = named("proto").map(|entry| entry.node.text().and_then(proto));
    let mut proto = match own {
        Some(Ok(proto)) => proto,
        Some(Err(_)) => Proto::Tcp,
        None if named("path").is_some() => Proto::Unix,
        None => inherited_proto(rank)?,
    };
    let mut said = Spec::default();
    if named("port").is_some_and(|entry| port_value(&entry.node, proto, &mut said).is_ok()) {
        proto = said.proto.unwrap_or(proto);
    }
    spec.proto = Some(proto);
    // The port last: what its text says wins.
    let (ports, others): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(|entry| entry.key == "port");
    for entry in others.into_iter().chain(ports) {
        if let Err(what) = table_key(entry, proto, &mut spec) {
            wrong = true;
            let key = if what.starts_with("unknown key") { "port" } else { entry.key.as_str() };
            let at = if key == "port" { &entry.at } else { &entry.node.at };
            mistakes.add(key, at, what);
        }
    }
    Ok(if wrong { None } else { Some(spec) })
}

fn table_key(entry: &Entry, proto: Proto, spec: &mut Spec) -> Result<(), String> {
    let node = &entry.node;
    let text = || node.text().map(str::to_owned);
    let only = |right: Proto, what: &str| {
        if proto == right { Ok(()) } else { Err(format!("only a {what} listener has it")) }
    };
    match entry.key.as_str() {
        "port" => port_value(node, proto, spec)?,
        "path" => {
            only(Proto::Unix, "Unix")?;
            spec.path = Some(text()?);
        }
        "host" => {
            only(Proto::Tcp, "TCP")?;
            spec.host = Some(host(node.text()?)?);
        }
        "proto" => drop(self::proto(node.text()?)?),
        "ipv" => {
            only(Proto::Tcp, "TCP")?;
            spec.ipv = Some(ipv(node)?);
        }
        "listen" => spec.backlog = Some(backlog(node)?),
        "name" => spec.name = Some(text()?).filter(|name| !name.is_empty()),
        "mode" => {
            only(Proto::Unix, "Unix")?;
            spec.mode = Some(mode(node)?);
        }
        "owner" => {
            only(Proto::Unix, "Unix")?;
            spec.owner = Some(owner(node)?);
        }
        "group" => {
            only(Proto::Unix, "Unix")?;
            spec.group = Some(owner(node)?);
        }
        "accept_fds" => {
            only(Proto::Unix, "Unix")?;
            spec.accept_fds = accept_fds(node)?;
        }
        "reuse_port" => return Err(REUSE_PORT.to_owned()),
        "cert_file" | "key_file" | "proxy_from" => {
            return Err("not available in this version".to_owned());
        }
        key => return Err(format!("unknown key `{}`{}", key.escape_debug(), hint(key, TABLE_KEYS))),
    }
    Ok(())
}

/// Puts an entry and the lists together.
fn finish(spec: Spec, port: &Node, rank: &Rank<'_>) -> Result<ListenAt, Wrong> {
    let draft = rank.draft;
    let here = |what: String| ("port", port.at.clone(), what);
    let proto = spec.proto.map_or_else(|| inherited_proto(rank), Ok)?;
    let backlog = match (spec.backlog, rank.of(draft.listen.as_ref())) {
        (None, Some(node)) => Some(backlog(node).map_err(|what| ("listen", node.at.clone(), what))?),
        (own, _) => own,
    };
    let addr = match proto {
        Proto::Unix => {
            let missing = || here("a Unix socket needs a path: \"/run/name.sock|unix\"".to_owned());
            let path = spec.path.filter(|path| !path.is_empty()).ok_or_else(missing)?;
            let path = draft.base.absolute(Path::new(&path)).map_err(here)?;
            let mode = spec.mode.or(draft.unix_mode);
            ListenAddr::Unix { path, mode, owner: spec.owner, group: spec.group, accept_fds: spec.accept_fds }
        }
        Proto::Tcp => {
            let port = spec.port.ok_or_else(|| here("the table has no port".to_owned()))?;
            let host = match (spec.host, rank.of(draft.host.as_ref())) {
                (Some(host), _) => host,
                (None, Some(node)) => {
                    node.text().and_then(host).map_err(|what| ("host", node.at.clone(), what))?
                }
                (None, None) => "*".to_owned(),
            };
            let ipv = match (spec.ipv, rank.of(draft.ipv.as_ref())) {
                (Some(ipv), _) => ipv,
                (None, Some(node)) => ipv(node).map_err(|what| ("ipv", node.at.clone(), what))?,
                (None, None) => Ipv::Any,
            };
            ListenAddr::Tcp { host, port, ipv }
        }
    };
    let name = spec.name.unwrap_or_else(|| match &addr {
        ListenAddr::Tcp { host, port, .. } => ListenAt::tcp(host, *port).name,
        ListenAddr::Unix { path, .. } => path.display().to_string(),
    });
    let listener = ListenAt { name, addr, backlog };
    checks::listener(&listener).map_or(Ok(listener), |what| Err(here(what)))
}

fn inherited_proto(rank: &Rank<'_>) -> Result<Proto, Wrong> {
    rank.of(rank.draft.proto.as_ref()).map_or(Ok(Proto::Tcp), |node| {
        node.text().and_then(proto).map_err(|what| ("proto", node.at.clone(), what))
    })
}

/// Reads an entry, or the `port` of a table, which is not a table.
fn port_value(node: &Node, proto: Proto, spec: &mut Spec) -> Result<(), String> {
    match &node.kind {
        Kind::Int(_) if proto == Proto::Unix => {
            Err(format!("{node} is a number; a Unix socket needs a path: \"/run/name.sock|unix\""))
        }
        Kind::Int(int) => {
            spec.port = Some(u16::try_from(*int).map_err(|_| out_of_range(node))?);
            Ok(())
        }
        Kind::Text(text) | Kind::Word(text) => port_text(text, proto, spec),
        Kind::List(_) => Err("a list stands inside the list of ports".to_owned()),
        _ => Err(format!("{node} is no port: a number, text such as \"127.0.0.1:20203\", or a table")),
    }
}

fn port_text(text: &str, inherited: Proto, spec: &mut Spec) -> Result<(), String> {
    let text = text.trim();
    if text.is_empty() || text.contains(char::is_control) {
        return Err(format!("`{}` is no port", text.escape_debug()));
    }
    if let Some((path, kind)) = text.split_once('|') {
        let mut words = kind.split('|').map(str::trim);
        let is_path = path.contains('/') || words.clone().any(|word| proto(word) == Ok(Proto::Unix));
        if is_path {
            for word in words.by_ref() {
                if proto(word)? != Proto::Unix {
                    return Err(format!("`{}` is a path; only |unix can follow it", path.escape_debug()));
                }
            }
            spec.proto = Some(Proto::Unix);
            spec.path = Some(path.trim().to_owned());
            return Ok(());
        }
    }
    if inherited == Proto::Unix {
        spec.path = Some(text.to_owned());
        return Ok(());
    }
    if text.starts_with(['/', '.']) {
        return Err(format!("`{}` looks like a path; write it as \"{0}|unix\"", text.escape_debug()));
    }
    tcp_text(text, spec)
}

/// `[host]:port/proto/ipv` and its shorter forms.
fn tcp_text(text: &str, spec: &mut Spec) -> Result<(), String> {
    let shown = text.escape_debug();
    let mut rest = text;
    let has_brackets = text.starts_with('[');
    if let Some(bracketed) = text.strip_prefix('[') {
        let (inside, after) =
            bracketed.split_once(']').ok_or_else(|| format!("`{shown}` has no closing bracket"))?;
        spec.host = Some(host(inside)?);
        rest = after.trim_start().strip_prefix(SEPARATORS).unwrap_or(after);
    }
    let words: Vec<&str> = rest.split(SEPARATORS).flat_map(pieces).collect();
    if words.contains(&"") {
        return Err(format!("`{shown}` is no port; an IPv6 address goes in brackets: \"[::1]:20203\""));
    }
    let mut words = words.as_slice();
    if let [before @ .., last] = words {
        if let (false, Some(ipv)) = (before.is_empty(), ipv_word(last)) {
            spec.ipv = Some(ipv);
            words = before;
        }
    }
    if let [before @ .., last] = words {
        if !before.is_empty() && is_proto_word(last) {
            if proto(last)? == Proto::Unix {
                return Err(format!(
                    "`{shown}` is no path; a Unix socket is written \"/run/name.sock|unix\""
                ));
            }
            spec.proto = Some(Proto::Tcp);
            words = before;
        }
    }
    match (words, has_brackets) {
        ([port], _) => spec.port = Some(port_number(port)?),
        ([first, second], false) if is_number(first) && is_number(second) => {
            return Err(format!("`{shown}` is two ports; write a list: [{first}, {second}]"));
        }
        ([name, port], false) => {
            spec.host = Some(host(name)?);
            spec.port = Some(port_number(port)?);
        }
        _ => {
            let what = "write PORT, HOST:PORT, HOST:PORT/tcp/IPv4 or PATH|unix, IPv6 in brackets";
            return Err(format!("`{shown}` is no port; {what}"));
        }
    }
    Ok(())
}

/// The words between two separators: blanks separate too, but only something empty between two others is wrong.
fn pieces(between: &str) -> impl Iterator<Item = &str> {
    let empty = between.trim().is_empty().then_some("");
    between.split_whitespace().chain(empty)
}

fn port_number(word: &str) -> Result<u16, String> {
    if is_number(word) {
        return word.parse().map_err(|_| out_of_range(word));
    }
    let known = std::fs::File::open(SERVICES).ok().and_then(|file| {
        let mut text = String::new();
        file.take(SERVICES_MAX_BYTES).read_to_string(&mut text).ok()?;
        service(&text, word)
    });
    known.ok_or_else(|| {
        format!("`{}` is neither a port (0 to 65535) nor a service of {SERVICES}", word.escape_debug())
    })
}

/// The TCP port of a service in the text of `services(5)`.
fn service(services: &str, name: &str) -> Option<u16> {
    services.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let first = words.next()?;
        let (port, kind) = words.next()?.split_once('/')?;
        let named = first == name || words.any(|alias| alias == name);
        if named && kind == "tcp" { port.parse().ok() } else { None }
    })
}

fn host(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let zoneless = bare.split_once('%').map_or(bare, |(address, _)| address);
    let right = if bare.contains(':') {
        zoneless.parse::<Ipv6Addr>().is_ok()
    } else {
        bare == "*"
            || (!bare.is_empty() && bare.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)))
    };
    if right {
        Ok(bare.to_owned())
    } else {
        Err(format!("`{}` is no address or host name", text.escape_debug()))
    }
}

fn proto(word: &str) -> Result<Proto, String> {
    match word.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Proto::Tcp),
        "unix" => Ok(Proto::Unix),
        "udp" | "unixdgram" | "sock_dgram" => Err(DATAGRAMS.to_owned()),
        "ssl" | "ssleay" | "tls" => Err(TLS.to_owned()),
        _ => Err(format!("`{}` is no protocol; tcp and unix are", word.escape_debug())),
    }
}

fn is_proto_word(word: &str) -> bool {
    PROTO_WORDS.iter().any(|known| known.eq_ignore_ascii_case(word))
}

fn ipv(node: &Node) -> Result<Ipv, String> {
    let found = match &node.last().kind {
        Kind::Int(4) => Some(Ipv::V4),
        Kind::Int(6) => Some(Ipv::V6),
        Kind::Text(text) | Kind::Word(text) if matches!(text.as_str(), "4" | "6" | "*" | "46" | "64") => {
            ipv_word(&format!("v{text}"))
        }
        Kind::Text(text) | Kind::Word(text) => ipv_word(text),
        _ => None,
    };
    found.ok_or_else(|| format!("{} is no IP version: 4, 6 or \"*\"", node.last()))
}

/// `IPv4`, `v6`, `v4v6`, `ipv*`: the version has a letter here, so that it is never taken for a port.
fn ipv_word(word: &str) -> Option<Ipv> {
    let word = word.to_ascii_lowercase().replace("ip", "");
    let versions = word.strip_prefix('v')?;
    match versions.replace('v', "").as_str() {
        "4" => Some(Ipv::V4),
        "6" => Some(Ipv::V6),
        "46" | "64" | "*" => Some(Ipv::Any),
        _ => None,
    }
}

fn backlog(node: &Node) -> Result<u32, String> {
    let count = node.count().ok().filter(|count| (1..=BACKLOG_MAX).contains(count));
    count
        .and_then(|count| u32::try_from(count).ok())
        .ok_or_else(|| format!("{} is no backlog: a whole number from 1", node.last()))
}

fn mode(node: &Node) -> Result<u32, String> {
    let bits = match &node.kind {
        Kind::Int(int) | Kind::Octal(int) => u32::try_from(*int).ok(),
        Kind::Text(text) => {
            let digits = text.strip_prefix("0o").unwrap_or(text);
            let octal = digits.bytes().all(|byte| byte.is_ascii_digit());
            u32::from_str_radix(digits, 8).ok().filter(|_| octal)
        }
        _ => None,
    };
    bits.filter(|bits| checks::is_mode(*bits))
        .ok_or_else(|| format!("{node} is no mode; write permission bits in octal: 0o660 or \"0660\""))
}

fn accept_fds(node: &Node) -> Result<u8, String> {
    let count = node.count().ok().and_then(|count| u8::try_from(count).ok());
    count
        .filter(|count| *count <= FDS_MAX)
        .ok_or_else(|| format!("{} is no number of descriptors: 0 to {FDS_MAX}", node.last()))
}

/// A user or group: its name, or its number.
pub(super) fn owner(node: &Node) -> Result<String, String> {
    let node = node.last();
    match &node.kind {
        Kind::Int(int) if u32::try_from(*int).is_ok() => Ok(int.to_string()),
        Kind::Text(text) | Kind::Word(text) if !text.is_empty() => node.text().map(str::to_owned),
        _ => Err(format!("{node} is neither a name nor a number")),
    }
}

/// The entry as it was written.
fn written(node: &Node) -> String {
    match &node.kind {
        Kind::Text(text) | Kind::Word(text) => text.trim().to_owned(),
        _ => node.to_string(),
    }
}

fn same_place(a: &ListenAt, b: &ListenAt) -> bool {
    match (&a.addr, &b.addr) {
        (ListenAddr::Tcp { port: 0, .. }, _) => false,
        (ListenAddr::Unix { path: a, .. }, ListenAddr::Unix { path: b, .. }) => a == b,
        (a, b) => a == b,
    }
}

fn is_number(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit())
}

fn out_of_range(port: impl std::fmt::Display) -> String {
    format!("{port} is no port: 1 to 65535, or 0 for any free one")
}

const SEPARATORS: [char; 4] = [':', '/', '|', ','];
const TABLE_KEYS: [&str; 11] =
    ["port", "path", "host", "proto", "ipv", "listen", "name", "mode", "owner", "group", "accept_fds"];
const PROTO_WORDS: [&str; 8] = ["tcp", "unix", "udp", "unixdgram", "sock_dgram", "ssl", "ssleay", "tls"];
/// `listen(2)` takes an `int`.
const BACKLOG_MAX: u64 = 2_147_483_647;
/// `services(5)`.
const SERVICES: &str = "/etc/services";
/// Most of it that is read.
const SERVICES_MAX_BYTES: u64 = 4 * 1024 * 1024;
