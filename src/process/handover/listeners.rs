//! Listeners in the state: which are kept, which are new, which go.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use crate::config::{Ipv, Limits, ListenAddr, ListenAt};
use crate::net::{Listener, LocalAddr, Other, OwnedPath};
use crate::state::{StateError, StateReader, StateWriter};
use crate::{Error, ErrorKind, Result};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A listener as the image before described it.
#[derive(Debug)]
pub(crate) struct Described {
    pub(super) fd: RawFd,
    at: ListenAt,
    /// The number that is really bound, which all addresses of one name share; 0 for a Unix socket.
    port: u16,
    /// The application had stopped taking clients from it.
    pub(super) paused: bool,
    /// Opened by the probe, and served by nobody yet.
    pub(super) is_new: bool,
    path: Option<OwnedPath>,
}

/// A listener that was taken over; its path becomes its own with the commit.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) listener: Listener,
    pub(crate) paused: bool,
    pub(crate) is_new: bool,
    path: Option<OwnedPath>,
}

impl Described {
    /// The listener, with its descriptor; its path is this image's from the start.
    pub(super) fn with(self, fd: OwnedFd, limits: &Limits) -> Result<Kept> {
        let mut listener = Listener::adopt(fd, &self.at, limits)?;
        if let Some(path) = self.path {
            listener.own_path(path);
        }
        Ok(Kept::new(listener))
    }
}

impl Kept {
    /// One that this image opened itself.
    pub(super) fn new(listener: Listener) -> Self {
        Self { listener, paused: false, is_new: true, path: None }
    }

    /// The claim to the path, for the listener that stands in a loop already.
    pub(crate) fn take_path(&mut self) -> Option<OwnedPath> {
        self.path.take()
    }
}

pub(super) fn write(out: &mut StateWriter, listener: &Listener, paused: bool) -> bool {
    let Some(fd) = listener.descriptor() else { return false };
    let at = listener.at();
    out.u32(fd.as_raw_fd().unsigned_abs()).text(&at.name).option(at.backlog, |out, backlog| {
        out.u32(backlog);
    });
    match &at.addr {
        ListenAddr::Tcp { host, port, ipv } => {
            let ipv = match ipv {
                Ipv::V4 => 4,
                Ipv::V6 => 6,
                Ipv::Any => 0,
            };
            out.u8(0).text(host).u16(*port).u8(ipv);
        }
        ListenAddr::Unix { path, mode, owner, group, accept_fds } => {
            // A kind of its own, so that the others are written as ever.
            match accept_fds {
                0 => out.u8(1),
                most => out.u8(2).u8(*most),
            };
            out.bytes(path.as_os_str().as_bytes());
            out.option(*mode, |out, mode| {
                out.u32(mode);
            });
            for name in [owner, group] {
                out.option(name.as_deref(), |out, name| {
                    out.text(name);
                });
            }
        }
    }
    let port = match listener.local_addr() {
        LocalAddr::Ip(addr) => addr.port(),
        LocalAddr::Unix(_) => 0,
    };
    out.u16(port).bool(paused);
    out.option(listener.owned_path(), |out, path| {
        let (path, device, inode) = path.parts();
        out.bytes(path.as_os_str().as_bytes()).u64(device).u64(inode);
    });
    true
}

pub(super) fn read(from: &mut StateReader<'_>) -> Result<Described, StateError> {
    let fd = from.u32()?;
    let fd = RawFd::try_from(fd).map_err(|_| StateError::invalid("a descriptor", fd.into()))?;
    let name = from.text()?.to_owned();
    let backlog = from.option(StateReader::u32)?;
    let path_of = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
    let addr = match from.u8()? {
        0 => {
            let (host, port) = (from.text()?.to_owned(), from.u16()?);
            let ipv = match from.u8()? {
                0 => Ipv::Any,
                4 => Ipv::V4,
                6 => Ipv::V6,
                other => return Err(StateError::invalid("an IP version", other.into())),
            };
            ListenAddr::Tcp { host, port, ipv }
        }
        kind @ (1 | 2) => ListenAddr::Unix {
            accept_fds: if kind == 2 { from.u8()? } else { 0 },
            path: path_of(from.bytes()?),
            mode: from.option(StateReader::u32)?,
            owner: from.option(|from| from.text().map(str::to_owned))?,
            group: from.option(|from| from.text().map(str::to_owned))?,
        },
        other => return Err(StateError::invalid("a kind of listener", other.into())),
    };
    let (port, paused) = (from.u16()?, from.bool()?);
    let path = from.option(|from| Ok(OwnedPath::of(path_of(from.bytes()?), from.u64()?, from.u64()?)))?;
    Ok(Described { fd, at: ListenAt { name, addr, backlog }, port, paused, is_new: false, path })
}

/// What a new configuration makes of the listeners that there were.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    /// In the order of the configuration: those taken over, and those opened now.
    pub(crate) open: Vec<Kept>,
    /// Which of `open` were opened now.
    pub(super) added: Vec<usize>,
    /// No longer in the configuration.
    pub(crate) removed: Vec<Kept>,
    /// What the configuration asks of those that are kept and cannot have, one sentence each.
    pub(crate) warnings: Vec<String>,
}

impl Sorted {
    /// Takes over the listeners that `wanted` still names, by address, and opens the others.
    ///
    /// # Errors
    /// A descriptor is not the listener that it should be, or a new one cannot be opened: all of these at once.
    pub(crate) fn sort(
        wanted: &[ListenAt],
        there: Vec<Described>,
        limits: &Limits,
        mut take: impl FnMut(RawFd) -> io::Result<OwnedFd>,
    ) -> Result<Self> {
        let mut there: Vec<Option<Described>> = there.into_iter().map(Some).collect();
        let mut sorted = Self::default();
        let mut missing = Vec::new();
        for (rank, at) in wanted.iter().enumerate() {
            let Some((name, port)) = choose(&there, at, &wanted[rank + 1..]) else {
                missing.push((sorted.open.len(), at.clone()));
                continue;
            };
            let chosen = |described: &Described| {
                same_place(&described.at.addr, &at.addr)
                    && described.at.name == name
                    && described.port == port
            };
            for slot in &mut there {
                if let Some(described) = slot.take_if(|described| chosen(described)) {
                    sorted.warnings.extend(warning(&described.at, at));
                    sorted.open.push(adopt(described, at, limits, &mut take)?);
                }
            }
        }
        for described in there.into_iter().flatten() {
            let at = described.at.clone();
            sorted.removed.push(adopt(described, &at, limits, &mut take)?);
        }
        sorted.open_missing(missing, limits)?;
        Ok(sorted)
    }

    fn open_missing(&mut self, missing: Vec<(usize, ListenAt)>, limits: &Limits) -> Result<()> {
        let ats: Vec<ListenAt> = missing.iter().map(|(_, at)| at.clone()).collect();
        let stay = self.open.iter().map(|kept| Other { listener: &kept.listener, goes: false });
        let go = self.removed.iter().map(|kept| Other { listener: &kept.listener, goes: true });
        let others: Vec<Other<'_>> = stay.chain(go).collect();
        let mut opened = Listener::bind_all_beside(&ats, limits, &others)?.into_iter().peekable();
        let mut shift = 0;
        for (at, wanted) in missing {
            while let Some(listener) = opened.next_if(|listener| *listener.at() == wanted) {
                self.added.push(at + shift);
                self.open.insert(at + shift, Kept::new(listener));
                shift += 1;
            }
        }
        Ok(())
    }
}

/// Which listeners `at` takes over: their name and their number. Only a port 0 may be wanted several times; then each entry
/// gets the one of its name, or else one whose name no `later` entry has.
fn choose(there: &[Option<Described>], at: &ListenAt, later: &[ListenAt]) -> Option<(String, u16)> {
    let here = || there.iter().flatten().filter(|described| same_place(&described.at.addr, &at.addr));
    let is_wanted_later = |described: &&Described| {
        later.iter().any(|later| later.name == described.at.name && same_place(&later.addr, &at.addr))
    };
    let same_name = here().find(|described| described.at.name == at.name);
    let chosen = same_name.or_else(|| here().find(|described| !is_wanted_later(described)));
    chosen.map(|described| (described.at.name.clone(), described.port))
}

fn adopt(
    described: Described,
    at: &ListenAt,
    limits: &Limits,
    take: &mut impl FnMut(RawFd) -> io::Result<OwnedFd>,
) -> Result<Kept> {
    let fd = take(described.fd).map_err(|error| {
        Error::with_source(ErrorKind::State, format!("the listener {}", described.at.name), error)
    })?;
    let listener = Listener::share(fd, at, limits)?;
    Ok(Kept { listener, paused: described.paused, is_new: described.is_new, path: described.path })
}

/// Whether two addresses are the same socket, whatever name or mode they have.
fn same_place(one: &ListenAddr, other: &ListenAddr) -> bool {
    match (one, other) {
        (ListenAddr::Unix { path: one, .. }, ListenAddr::Unix { path: other, .. }) => one == other,
        (one, other) => one == other,
    }
}

/// What `new` asks for and the listener that was opened as `old` cannot have.
fn warning(old: &ListenAt, new: &ListenAt) -> Option<String> {
    let what = "mode, owner and group change only when the server is started anew";
    changes_attributes(&old.addr, &new.addr).then(|| format!("listen `{}`: {what}", new.name))
}

/// Whether `new` asks for another mode, owner or group than the path has.
fn changes_attributes(old: &ListenAddr, new: &ListenAddr) -> bool {
    let (
        ListenAddr::Unix { mode, owner, group, .. },
        ListenAddr::Unix { mode: new_mode, owner: new_owner, group: new_group, .. },
    ) = (old, new)
    else {
        return false;
    };
    let differs = |new: &Option<String>, old: &Option<String>| new.is_some() && new != old;
    mode != new_mode || differs(new_owner, owner) || differs(new_group, group)
}
