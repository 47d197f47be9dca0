//! What joins an image, then its heir in the same process, to the standby: two pipes, and the right to serve.
//!
//! Through `commit` the standby is told what to do; its end says that the process of the heir is gone. Through `gone`
//! comes the number of the standby, then one byte that stays in the pipe: the *right*. Both sides hold that pipe's end
//! for reading, and nobody but who has taken the byte out may serve: an heir takes it when it commits, a standby before
//! it ends an heir that is late. So a commit that comes at the very moment of its limit is either in time or has not
//! happened. The end of `gone` says that the standby is gone.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::signals::Signals;
use crate::{Error, ErrorKind, sys};

/// The side of the image that serves, and of its heir.
#[derive(Debug)]
pub(crate) struct Standby {
    commit: File,
    gone: File,
    /// The number of the standby.
    pub(crate) pid: i32,
}

/// The side of the standby.
#[derive(Debug)]
pub(super) struct Vigil {
    commit: File,
    gone: File,
    right: File,
    /// The process of the image that forked, and of its heir.
    pub(super) heir: i32,
}

/// What a standby is to do.
pub(super) enum Verdict {
    /// The other one serves: the image before, or, if it has committed, its heir.
    Leave { committed: bool },
    /// Nobody else does; why.
    Serve(Error),
}

/// Both sides, to be called before the fork.
///
/// # Errors
/// No descriptors left.
pub(super) fn link() -> io::Result<(Standby, Vigil)> {
    let (their_commit, commit) = sys::pipe()?;
    let (gone, their_gone) = sys::pipe()?;
    // Whoever comes too late for the right must not wait for it. The flag belongs to all who share this end.
    SockRef::from(&gone).set_nonblocking(true)?;
    let right = gone.try_clone()?;
    let vigil = Vigil {
        commit: their_commit.into(),
        gone: their_gone.into(),
        right: right.into(),
        heir: sys::own_pid(),
    };
    Ok((Standby { commit: commit.into(), gone: gone.into(), pid: 0 }, vigil))
}

impl Standby {
    /// Waits until the standby has said its number.
    ///
    /// # Errors
    /// It has not. It may still be on its way: it is told to leave.
    pub(super) fn meet(&mut self) -> io::Result<()> {
        let mut pid = [0; 4];
        let there = sys::wait_readable(&self.gone, FORK_TIME);
        match there.and_then(|_| (&self.gone).read_exact(&mut pid)) {
            Ok(()) => {
                self.pid = i32::from_le_bytes(pid);
                Ok(())
            }
            Err(error) => {
                self.renounce();
                Err(io::Error::new(error.kind(), "the standby did not start"))
            }
        }
    }

    /// This image goes on without having met its standby, which may be there or on its way: it is told to leave, and the
    /// right to serve is taken out of the pipe with everything else. One that comes later finds the pipe closed, or the
    /// word that it is to leave.
    fn renounce(&self) {
        self.say(&[DISMISS]);
        let until = Instant::now() + DISMISS_TIME;
        while Instant::now() < until {
            match (&self.gone).read(&mut [0; 8]) {
                Ok(0) => return,
                Ok(_) => {}
                Err(_) => std::thread::sleep(LOOK_TIME),
            }
        }
    }

    /// As the heir of the process that made it.
    pub(super) fn inherited(commit: OwnedFd, gone: OwnedFd, pid: i32) -> Self {
        Self { commit: commit.into(), gone: gone.into(), pid }
    }

    /// For the heir to find.
    pub(super) fn numbers(&self) -> [RawFd; 2] {
        [self.commit.as_raw_fd(), self.gone.as_raw_fd()]
    }

    /// To be passed to the heir.
    pub(super) fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.commit.as_fd(), self.gone.as_fd()]
    }

    /// This image goes on, and the standby is not needed: waits until it is gone.
    pub(super) fn dismiss(&self) {
        self.take_right();
        self.say(&[DISMISS]);
        let _ = sys::wait_readable(&self.gone, DISMISS_TIME);
    }

    /// The heir has taken everything up. When this returns, it serves and nobody else; where the system does not let it
    /// have the right, this process ends, and the standby serves.
    pub(super) fn commit(&self) {
        if !self.take_right() {
            sys::exit_now(NO_RIGHT);
        }
        self.say(&[COMMIT]);
    }

    /// The heir cannot serve.
    pub(super) fn give_up(&self, why: &str) {
        let mut text = vec![GIVE_UP];
        text.extend(why.bytes().take(TEXT_MAX));
        self.say(&text);
    }

    /// The process ends with this status, and nothing has gone wrong. The standby, if it is still there, ends after it.
    pub(super) fn end(self, status: u8) {
        self.say(&[END, status]);
        // The pipe closes with the process.
        std::mem::forget(self);
    }

    /// Whether it has ended. To be called after the commit: before it, the right lies in the pipe.
    pub(super) fn is_gone(&self) -> bool {
        sys::wait_readable(&self.gone, Duration::ZERO).unwrap_or(true)
    }

    /// Whether this side has the right now, or there is nobody else who could.
    fn take_right(&self) -> bool {
        loop {
            match (&self.gone).read(&mut [0]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The standby has it, and is about to end this process.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let _ = sys::wait_readable(&self.gone, KILL_TIME);
                }
                // The right, or the end: with the standby gone there is nobody else.
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
    }

    fn say(&self, bytes: &[u8]) {
        // It fails only if the standby is gone: there is nobody else then.
        let _ = (&self.commit).write_all(bytes);
    }
}

impl AsFd for Standby {
    /// Becomes readable when the standby is gone.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.gone.as_fd()
    }
}

impl Vigil {
    /// Says who this is, and leaves the right to serve.
    ///
    /// # Errors
    /// Nobody is there to be told.
    pub(super) fn begin(&self) -> io::Result<()> {
        let mut told = sys::own_pid().to_le_bytes().to_vec();
        told.push(RIGHT);
        (&self.gone).write_all(&told)
    }

    /// Waits until it is clear who serves, `limit` for the heir to commit. A signal that the process of an heir without
    /// luck was sent arrives here.
    pub(super) fn wait(&self, limit: Duration) -> Verdict {
        let mut spoke = self.is_told_within(limit);
        if !spoke && self.takes_right() {
            let limit = limit.as_secs_f64();
            let why = format!("the new image did not commit within commit_seconds = {limit} and was killed");
            return self.instead(Duration::ZERO, why);
        }
        // Without the right it has just committed and is about to say so. If it dies before, nobody serves, and a process
        // that it has forked may hold its end of the pipe open.
        while !spoke {
            let dead = self.heir_is_dead();
            spoke = self.is_told_within(if dead { Duration::ZERO } else { LIFE_TIME });
            if dead && !spoke {
                let why = "the new image died when it was about to take over".to_owned();
                return self.instead(Duration::ZERO, why);
            }
        }
        let mut word = [0];
        match (&self.commit).read(&mut word) {
            Ok(1) if matches!(word[0], COMMIT | DISMISS) => Verdict::Leave { committed: word[0] == COMMIT },
            Ok(1) if word[0] == GIVE_UP => {
                let mut said = vec![0; TEXT_MAX];
                // Both came by one write.
                let length = (&self.commit).read(&mut said).unwrap_or(0);
                let why = String::from_utf8_lossy(&said[..length]);
                self.instead(KILL_TIME, format!("the new image gave up: {why}"))
            }
            Ok(1) => {
                let why = format!("the new image said {}, which means nothing, and was killed", word[0]);
                self.instead(Duration::ZERO, why)
            }
            Ok(_) => self.instead(Duration::ZERO, "the new image died before it had taken over".to_owned()),
            // What it said cannot be read; the right says who serves.
            Err(error) if self.takes_right() => self
                .instead(Duration::ZERO, format!("the new image cannot be heard ({error}) and was killed")),
            Err(_) => Verdict::Leave { committed: true },
        }
    }

    /// Whether something is said, or the other side gone, within that time. A look that fails says nothing about it.
    fn is_told_within(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match sys::wait_readable(&self.commit, left) {
                Ok(told) => return told,
                Err(_) if left.is_zero() => return false,
                Err(_) => std::thread::sleep(LOOK_TIME),
            }
        }
    }

    /// What is left to do before this process ends, when the service manager was told who serves; the exit status, or none
    /// if that one has crashed.
    ///
    /// A manager that was just about to stop the server, or that found the one that serves dead already, still takes this
    /// process for the server. So a signal that it was sent is passed on, and after one that asks for the end the other
    /// one ends first, with `patience` to do so: what is left after this process is killed. And if that one has ended, the
    /// manager takes the status of this one for its.
    pub(super) fn leave(&self, patience: Duration) -> Option<u8> {
        // What the manager takes for dead is dead here, too.
        let dying = sys::is_zombie(self.heir);
        let mut end = self.end_of_heir(if dying { END_TIME } else { Duration::ZERO });
        // Whose end of the pipe is open lives, and its number is its own.
        if end.is_none() && Signals::pass_on(sys::own_pid(), self.heir) {
            end = self.end_of_heir(patience);
        }
        end.unwrap_or(Some(0))
    }

    fn takes_right(&self) -> bool {
        matches!((&self.right).read(&mut [0]), Ok(1))
    }

    /// This process serves in the place of the heir, which may end by itself within `patience`.
    fn instead(&self, patience: Duration, why: String) -> Verdict {
        // What it was sent would be lost with it. It cannot be asked any more when it is gone and waited for.
        Signals::pass_on(self.heir, sys::own_pid());
        if !self.heir_ends(patience) && !self.heir_is_dead() {
            // Its number is its own as long as it has not ended.
            let _ = sys::kill(self.heir, libc::SIGKILL);
            self.heir_ends(KILL_TIME);
        }
        Verdict::Serve(Error::new(ErrorKind::State, why))
    }

    /// Whether it is known to have ended, whoever holds the pipe.
    fn heir_is_dead(&self) -> bool {
        let asked = sys::kill(self.heir, 0);
        asked.is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH)) || sys::is_zombie(self.heir)
    }

    fn heir_ends(&self, time: Duration) -> bool {
        self.end_of_heir(time).is_some()
    }

    /// If the heir is gone within that time, the exit status that it has said before, if any.
    fn end_of_heir(&self, time: Duration) -> Option<Option<u8>> {
        let (mut until, mut status) = (Instant::now() + time, None);
        while sys::wait_readable(&self.commit, until.saturating_duration_since(Instant::now()))
            .unwrap_or(false)
        {
            let mut said = [0; 2];
            match (&self.commit).read(&mut said) {
                Ok(0) | Err(_) => return Some(status),
                Ok(2) if said[0] == END => {
                    (until, status) = (Instant::now() + END_TIME, Some(said[1]));
                }
                Ok(_) => {}
            }
        }
        None
    }
}

/// What the standby is told: the heir has committed; it gives up, and why; the one that serves ends, and with which
/// status; the image before goes on.
const COMMIT: u8 = b'C';
const GIVE_UP: u8 = b'E';
const END: u8 = b'D';
const DISMISS: u8 = b'Q';
/// The byte that there is one of.
const RIGHT: u8 = b'R';

/// Longest text about a failure.
pub(super) const TEXT_MAX: usize = 2048;
/// Between two looks where the system could not look.
const LOOK_TIME: Duration = Duration::from_millis(1);
/// Between two looks whether a process lives.
const LIFE_TIME: Duration = Duration::from_secs(1);
/// Exit status of an heir that cannot take the right.
const NO_RIGHT: i32 = 70;
/// For the standby to say its number.
const FORK_TIME: Duration = Duration::from_secs(5);
/// For the standby to end when it is not needed: it tells the service manager before.
const DISMISS_TIME: Duration = Duration::from_secs(5);
/// For a process to end that has said so: it has still to write its log.
const END_TIME: Duration = Duration::from_secs(5);
/// For a process that is killed or was told to end.
const KILL_TIME: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// An heir that took the right and is gone, though a process that it has forked holds the pipe open.
    #[test]
    fn an_heir_that_dies_with_the_right_leaves_it_to_the_standby_whoever_holds_its_pipe() {
        // That process is this one; the heir is killed, and may be waited for already or not.
        for reaped in [false, true] {
            let (mut held, mut vigil) = link().unwrap();
            let mut heir = process();
            vigil.heir = heir.id().try_into().unwrap();
            vigil.begin().unwrap();
            held.meet().unwrap();
            assert!(held.take_right());
            heir.kill().unwrap();
            if reaped {
                heir.wait().unwrap();
            }
            let (tell, told) = mpsc::channel();
            thread::spawn(move || tell.send(vigil.wait(Duration::ZERO)));
            let verdict = told.recv_timeout(DEADLINE).expect("the standby does not wait for ever");
            assert!(matches!(verdict, Verdict::Serve(_)));
            heir.wait().unwrap();
        }
    }

    /// The same for one that was not dead: what it says counts.
    #[test]
    fn an_heir_that_lives_with_the_right_is_waited_for() {
        let (mut held, mut vigil) = link().unwrap();
        let mut heir = process();
        vigil.heir = heir.id().try_into().unwrap();
        vigil.begin().unwrap();
        held.meet().unwrap();
        assert!(held.take_right());
        thread::scope(|scope| {
            let waiting = scope.spawn(|| vigil.wait(Duration::ZERO));
            held.say(&[COMMIT]);
            assert!(matches!(waiting.join().unwrap(), Verdict::Leave { committed: true }));
        });
        heir.kill().unwrap();
        heir.wait().unwrap();
    }

    /// One that does nothing until it is killed.
    fn process() -> Child {
        Command::new("cat").stdin(Stdio::piped()).spawn().unwrap()
    }

    /// For what does not come.
    const DEADLINE: Duration = Duration::from_secs(30);
}
