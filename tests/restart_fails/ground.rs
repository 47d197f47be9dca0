//! A running server of tests/restart_fails/server.rs with its clients, and how one sees that a restart has failed and
//! has harmed nobody.

#![allow(dead_code, reason = "each test file uses its part of this module")]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::served::wait_until;
use crate::common::{Child, Client, TempDir, example};

/// A server and two clients, over TCP and over a Unix socket, each of whom has sent half a line.
pub(crate) struct Ground {
    pub(crate) child: Child,
    pub(crate) told: Client,
    /// Who serves: the child, or the standby that has taken its place.
    pub(crate) pid: i32,
    tcp: String,
    speakers: Vec<Speaker>,
    /// What the server has counted.
    restarts: u32,
    refused: u32,
    directory: TempDir,
}

/// Short limits where a test waits for them, and long ones where only a busy machine could reach them.
pub(crate) const PATIENT: [&str; 2] = ["--probe_seconds=60", "--commit_seconds=60"];

impl Ground {
    /// With these options, and ports of its own.
    #[track_caller]
    pub(crate) fn new(options: &[&str]) -> Self {
        Self::start(TempDir::new(), &[options, &["--port=127.0.0.1:0", "--port=s|unix"]].concat())
    }

    /// With that configuration file, `conf.toml` in its directory.
    #[track_caller]
    pub(crate) fn configured(text: &str) -> Self {
        let directory = TempDir::new();
        fs::write(directory.path().join(CONF), text).expect("the directory is ours");
        Self::start(directory, &["--conf_file", CONF])
    }

    #[track_caller]
    fn start(directory: TempDir, options: &[&str]) -> Self {
        let path = |name: &str| directory.path().join(name);
        symlink(example("restart_fails_server"), path(SERVER)).expect("the directory is new");
        let mut command = Command::new(path(SERVER));
        command.env("FAULTS", path(FAULTS)).current_dir(directory.path()).args(options);
        let (child, mut told) = Child::spawn_told(&mut command);
        let line = told.expect_line();
        let tcp = line.split(' ').nth(1).expect("the first line is the addresses").to_owned();
        let pid = i32::try_from(child.id()).expect("a pid is an i32");
        let mut ground =
            Self { child, told, pid, tcp, speakers: Vec::new(), restarts: 0, refused: 0, directory };
        let socket = ground.path("s").display().to_string();
        ground.speakers = [&ground.tcp, &socket].map(Speaker::connect).into();
        ground.speakers.iter_mut().for_each(Speaker::begin);
        ground
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// From now on this fails: see the server.
    #[track_caller]
    pub(crate) fn plan(&self, faults: &str) {
        fs::write(self.path(FAULTS), faults).expect("the directory is ours");
    }

    #[track_caller]
    pub(crate) fn write_conf(&self, text: impl AsRef<[u8]>) {
        fs::write(self.path(CONF), text).expect("the directory is ours");
    }

    /// A restart with that configuration, which is refused.
    #[track_caller]
    pub(crate) fn is_refused_with(&mut self, text: &str, why: &str) {
        self.write_conf(text);
        self.is_refused(why);
    }

    /// A restart with that configuration, in which the application's word is `word`.
    #[track_caller]
    pub(crate) fn has_restarted_with(&mut self, text: &str, word: &str) {
        self.write_conf(text);
        self.restarts();
        assert_eq!(self.says("word"), word);
    }

    /// A client of another listener is served.
    #[track_caller]
    pub(crate) fn says_through(&self, address: &String) {
        let mut client = Speaker::connect(address);
        client.begin();
        client.end();
    }

    /// The next image is that file, which loses its name.
    #[track_caller]
    pub(crate) fn program_is(&self, name: &str) {
        let _ = fs::remove_dir(self.path(SERVER)).or_else(|_| fs::remove_file(self.path(SERVER)));
        fs::rename(self.path(name), self.path(SERVER)).expect("both are in one directory");
    }

    /// The next image is the right one again.
    #[track_caller]
    pub(crate) fn program_is_good(&self) {
        symlink(example("restart_fails_server"), self.path("good")).expect("it has lost its name");
        self.program_is("good");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).expect("it runs");
    }

    /// A restart that is refused before the next image has taken the place of this one: the same process goes on.
    #[track_caller]
    pub(crate) fn is_refused(&mut self, why: &str) {
        let before = self.pid;
        self.fails(why);
        assert_eq!(self.pid, before, "{why}: another process serves; {}", self.child);
    }

    /// A restart whose image dies or is killed in the process of this one: the standby goes on.
    #[track_caller]
    pub(crate) fn is_rolled_back(&mut self, why: &str) {
        let before = self.pid;
        self.fails(why);
        assert_ne!(self.pid, before, "{why}: the same process serves; {}", self.child);
    }

    /// A restart that fails, one way or the other, and says why: one of the reasons between bars.
    #[track_caller]
    pub(crate) fn fails(&mut self, why: &str) {
        self.signal(Signal::SIGHUP);
        self.has_failed(why);
    }

    /// The same after the signal.
    #[track_caller]
    pub(crate) fn has_failed(&mut self, why: &str) {
        let mut newcomer = Speaker::connect(&self.tcp);
        newcomer.begin();
        let told = self.told.next_line();
        let Ok(told) = told else { panic!("{why}: the server is gone; {}", self.log()) };
        let told = String::from_utf8_lossy(&told).into_owned();
        let refused = told.strip_prefix("refused ");
        let refused = refused.unwrap_or_else(|| panic!("not refused for {why}, but: {told}; {}", self.log()));
        let fits = |text: &str| why.split('|').any(|why| text.contains(why));
        assert!(fits(refused), "not refused for {why}, but: {told}; {}", self.log());
        let line = self.child.wait_for("restart failed, this image goes on: ");
        assert!(fits(&line), "{line}");
        self.refused += 1;
        newcomer.end();
        newcomer.leave();
        self.is_well();
    }

    /// A restart that goes well: the same process as before serves in the end, and the next image in it.
    #[track_caller]
    pub(crate) fn restarts(&mut self) {
        let before = self.pid;
        self.signal(Signal::SIGHUP);
        self.has_restarted();
        assert_eq!(self.pid, before, "{}", self.child);
    }

    /// The same after the signal.
    #[track_caller]
    pub(crate) fn has_restarted(&mut self) {
        let mut newcomer = Speaker::connect(&self.tcp);
        newcomer.begin();
        let told = self.told.next_line();
        let Ok(told) = told else { panic!("the server is gone; {}", self.log()) };
        assert!(told.starts_with(b"ready "), "{}; {}", String::from_utf8_lossy(&told), self.child);
        self.restarts += 1;
        newcomer.end();
        newcomer.leave();
        self.is_well();
    }

    /// A good restart under limits that a busy machine may reach: it is tried until one goes well.
    #[track_caller]
    pub(crate) fn restarts_in_the_end(&mut self) {
        while !self.restarts_or_fails(" within ") {}
    }

    /// A restart that goes well, or fails for this reason; whether it went well.
    #[track_caller]
    pub(crate) fn restarts_or_fails(&mut self, why: &str) -> bool {
        let before = self.restarts;
        self.signal(Signal::SIGHUP);
        let line = self.child.wait_for_one_of(&["restart failed, this image goes on: ", RESTARTED]);
        // An heir is ready before it commits.
        let mut told = self.told.expect_line();
        if line.contains(RESTARTED) {
            assert!(told.starts_with("ready "), "{told}");
            self.restarts += 1;
        } else {
            if told.starts_with("ready ") {
                told = self.told.expect_line();
            }
            assert!(told.starts_with("refused ") && told.contains(why), "{told}");
            self.refused += 1;
        }
        self.is_well();
        self.restarts > before
    }

    /// Every client gets every byte of its answers, the server has forgotten nothing, and nobody else is there. Learns
    /// who serves.
    #[track_caller]
    pub(crate) fn is_well(&mut self) {
        self.speakers.iter_mut().for_each(Speaker::end);
        let answer = self.speakers[0].ask("pid");
        let words: Vec<&str> = answer.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let &["pid", pid, restarts, "restarts", refused, "refused"] = words.as_slice() else {
            panic!("{answer}")
        };
        self.pid = pid.parse().expect("a number");
        let counted = (restarts.parse(), refused.parse());
        assert_eq!(counted, (Ok(self.restarts), Ok(self.refused)), "{answer}; {}", self.child);
        self.speakers.iter_mut().for_each(Speaker::begin);
        wait_until("only the one that serves is left", || self.processes() == [self.pid]);
    }

    /// The answer to a line of the first client.
    #[track_caller]
    pub(crate) fn says(&mut self, line: &str) -> String {
        self.speakers[0].end();
        let answer = self.speakers[0].ask(line);
        self.speakers[0].begin();
        answer
    }

    /// Ends it: nothing is left of it, and its clients read their ends.
    #[track_caller]
    pub(crate) fn stops(&mut self) {
        self.stops_at(Signal::SIGTERM);
    }

    /// The same by another signal.
    #[track_caller]
    pub(crate) fn stops_at(&mut self, signal: Signal) {
        self.signal(signal);
        self.child.wait_for("closing; clients told goodbye");
        self.child.expect_exit();
        wait_until("nobody is left", || self.processes().is_empty());
        self.speakers.iter_mut().for_each(|speaker| speaker.client.expect_eof());
        assert!(!self.path("s").exists(), "the path of the socket stays");
    }

    /// The numbers of the open descriptors of the one that serves, sorted, when it has no pipe to a standby any more.
    #[track_caller]
    pub(crate) fn descriptors(&self) -> Vec<u32> {
        let folder = PathBuf::from(format!("/proc/{}/fd", self.pid));
        let log = fs::read_link(folder.join("2")).expect("it runs");
        let mut numbers: Vec<u32> = Vec::new();
        wait_until("its standby is forgotten", || {
            let list = fs::read_dir(&folder).expect("it runs");
            numbers = list.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
            numbers.sort_unstable();
            // What it has inherited itself stands far behind.
            let linked = numbers.iter().filter(|number| (3..100).contains(*number));
            let mut targets = linked.filter_map(|number| fs::read_link(folder.join(number.to_string())).ok());
            !targets.any(|target| target != log && target.to_string_lossy().starts_with("pipe:"))
        });
        numbers
    }

    /// Its memory.
    #[track_caller]
    pub(crate) fn resident_kib(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Every living process of this server: all are started under its own path.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let program = self.path(SERVER);
        let is_ours = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // An interpreter stands before its script.
            line.split(|byte| *byte == 0).take(2).any(|word| word == program.as_os_str().as_bytes())
        };
        let entries = fs::read_dir("/proc").expect("this is Linux");
        let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        numbers.filter(is_ours).collect()
    }

    /// Everything it has logged, once it is gone.
    #[track_caller]
    fn log(&mut self) -> String {
        self.end();
        let _ = self.child.expect_log();
        self.child.to_string()
    }

    fn end(&self) {
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

impl Drop for Ground {
    /// A standby is no child of ours, and who hangs does not end by itself. A test that has failed is told what they
    /// were doing.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for pid in self.processes() {
                let fact = |name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
                let state = fact("stat").rsplit(") ").next().and_then(|rest| rest.chars().next());
                let (wchan, call) = (fact("wchan"), fact("syscall"));
                println!("process {pid}: state {state:?}, waits in {wchan}, system call {call}");
            }
        }
        self.end();
    }
}

/// A client that counts its lines as the server does.
pub(crate) struct Speaker {
    client: Client,
    lines: u64,
    /// The line that it has sent half of.
    line: String,
}

impl Speaker {
    #[track_caller]
    fn connect(address: &String) -> Self {
        Self::of(Client::connect(address))
    }

    pub(crate) fn of(client: Client) -> Self {
        Self { client, lines: 0, line: String::new() }
    }

    /// Sends half a line.
    #[track_caller]
    pub(crate) fn begin(&mut self) {
        self.lines += 1;
        self.line = format!("this is line {} of this client", self.lines);
        self.client.send(&self.line[..HALF]);
    }

    /// Sends the other half, and expects the line back, and nothing else.
    #[track_caller]
    pub(crate) fn end(&mut self) {
        self.client.send(&self.line[HALF..]);
        self.client.send("\n");
        self.client.expect(format!("{} {}\n", self.lines, self.line));
    }

    /// When this and one more exchange are over, the server has nothing left of it.
    #[track_caller]
    fn leave(mut self) {
        self.client.half_close();
        self.client.expect_eof();
    }

    /// The answer to a line.
    #[track_caller]
    fn ask(&mut self, line: &str) -> String {
        self.lines += 1;
        self.client.send(format!("{line}\n"));
        let answer = self.client.expect_line();
        let (number, answer) = answer.split_once(' ').expect("an answer has a number");
        assert_eq!(number, self.lines.to_string(), "{answer}");
        answer.to_owned()
    }
}

/// A source of chance whose seed is printed, or given.
pub(crate) fn random() -> fastrand::Rng {
    let given = std::env::var("LINEPLEX_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("LINEPLEX_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Names in the directory of a server.
pub(crate) const SERVER: &str = "server";
pub(crate) const CONF: &str = "conf.toml";
const FAULTS: &str = "faults";
/// What the log says about a restart that went well.
const RESTARTED: &str = "connections go on";
/// Bytes of a line that come first.
const HALF: usize = 10;
