//! A server under a service manager: what it tells, and the listeners that it is passed.
//!
//! The manager is a socket of the test, which has `NOTIFY_SOCKET`; descriptors are passed through a shell, from the
//! standard input and output that the test gives it. What a real manager does with the messages is shown by the last
//! test, which boots one.

mod common;
#[path = "flow/running.rs"]
mod running;

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use common::served::{long_form, wait_until};
use common::{Child, Client, DEADLINE, TempDir, example, next_datagram};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use running::{Flow, says, server, unix};

/// A manager that reads what it is told. Descriptors that come with a message are closed, as they are not asked for; so a
/// barrier is answered when it is read.
struct Manager {
    socket: UnixDatagram,
    directory: TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = TempDir::new();
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("the path is free");
        socket.set_read_timeout(Some(DEADLINE)).expect("a read time-out is settable");
        Self { socket, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `command`, under this manager and no other.
    fn runs<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        for name in ["FDSTORE", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]
        {
            command.env_remove(name);
        }
        command.env("NOTIFY_SOCKET", self.path("notify"))
    }

    /// The next message.
    #[track_caller]
    fn next(&self) -> String {
        self.try_next().unwrap_or_else(|error| panic!("nothing is told: {error}"))
    }

    fn try_next(&self) -> io::Result<String> {
        next_datagram(&self.socket)
    }

    #[track_caller]
    fn expect(&self, message: &str) {
        assert_eq!(self.next(), message);
    }
}

/// The server, with descriptors passed as a manager does: 3 is `first`, 4 is `second`, if it is there.
fn activated(first: impl Into<OwnedFd>, second: Option<OwnedFd>, names: &str) -> Command {
    let count = 1 + usize::from(second.is_some());
    let mut script = "exec 3<&0 4<&1 </dev/null >/dev/null; ".to_owned();
    if count == 1 {
        script += "exec 4<&-; ";
    }
    script +=
        &format!("export LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES='{names}'; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(example("flow_server")).stdin(first.into());
    match second {
        Some(second) => command.stdout(second),
        None => command.stdout(Stdio::null()),
    };
    command
}

/// Starts it; only the server has what was passed.
#[track_caller]
fn start(mut command: Command) -> Child {
    Child::follow(&mut command)
}

/// A restart that stands still before the commit: the manager takes the standby for the server.
struct Succession {
    server: Child,
    addr: SocketAddr,
    standby: Pid,
    /// Where the server waits when it closes.
    ends: UnixListener,
}

impl Succession {
    /// What comes with it lets the heir commit when it is dropped.
    #[track_caller]
    fn begin(manager: &Manager) -> (Self, UnixStream) {
        let [starts, ends] =
            ["starts", "ends"].map(|name| UnixListener::bind(manager.path(name)).expect("the path is free"));
        let waits = |hook: &str, name: &str| format!("heir:{hook}=wait:{}", manager.path(name).display());
        let wishes = [waits("pre_loop_hook", "starts"), waits("pre_server_close_hook", "ends")].join(";");
        let mut command = server();
        let options = ["--port=127.0.0.1:0", "--commit_seconds=600"];
        let mut server = Child::spawn(manager.runs(&mut command).args(options).env("FLOW_AT", wishes));
        manager.expect("READY=1\nSTATUS=serving");
        let addr = server.wait_for_address();
        server.signal("HUP");
        assert!(manager.next().starts_with("RELOADING=1\n"));
        let told = manager.next();
        let standby = told.strip_prefix("MAINPID=").and_then(|pid| pid.parse().ok());
        let standby = Pid::from_raw(standby.unwrap_or_else(|| panic!("no standby: {told}")));
        manager.expect("BARRIER=1");
        let heir = starts.accept().expect("there is an heir").0;
        (Self { server, addr, standby, ends }, heir)
    }

    /// Nobody's child; it lives until the heir has committed.
    #[track_caller]
    fn standby(&self, signal: Signal) {
        kill(self.standby, signal).expect("it lives");
    }

    /// One that has ended may be listed until its new parent has looked.
    fn standby_lives(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.standby)).unwrap_or_default();
        kill(self.standby, None).is_ok() && !stat.contains(") Z ")
    }
}

/// A listening socket with an IP of its own: when it is closed, nobody else has its address.
fn tcp() -> (TcpListener, SocketAddr) {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let ip = [127, 0, 10, NEXT.fetch_add(1, Ordering::Relaxed)];
    let listener = TcpListener::bind(SocketAddr::from((ip, 0))).expect("there is a free port");
    let addr = listener.local_addr().expect("it is bound");
    (listener, addr)
}

// ── what the manager is told ──

#[test]
fn it_is_ready_when_clients_are_served_and_says_that_it_stops() {
    let manager = Manager::new();
    let path = manager.path("s");
    let flow = Flow::started(manager.runs(server().arg(unix(&path))));
    manager.expect("READY=1\nSTATUS=serving");
    let mut client = Client::connect(path.display());
    says(&mut client, "served");
    assert!(!flow.stop().contains("error"));
    manager.expect("STOPPING=1");
}

#[test]
fn a_start_that_fails_says_why_and_is_never_ready() {
    let manager = Manager::new();
    let (busy, addr) = tcp();
    let (status, log) = running::refused(manager.runs(server().arg(format!("--port={addr}"))));
    assert_eq!(status, Some(1), "{log}");
    let told = manager.next();
    assert!(told.starts_with(&format!("STATUS=cannot listen on {addr}: another program")), "{told}");
    drop(busy);
    // Its end is the last thing that it says.
    manager.socket.set_nonblocking(true).unwrap();
    assert!(manager.try_next().is_err());
}

#[test]
fn a_manager_that_is_not_there_is_no_reason_not_to_serve() {
    let directory = TempDir::new();
    for address in [directory.path().join("nobody"), "nonsense".into(), "".into()] {
        let flow = Flow::started(server().arg("--port=127.0.0.1:0").env("NOTIFY_SOCKET", address));
        says(&mut flow.client(), "served");
        flow.stop();
    }
}

#[test]
fn listeners_are_stored_before_it_is_ready_and_unix_ones_taken_back_at_the_end() {
    let manager = Manager::new();
    let path = manager.path("s");
    let mut command = server();
    let flow = Flow::started(
        manager.runs(&mut command).env("FDSTORE", "8").args(["--port=127.0.0.1:0|tcp", &unix(&path)]),
    );
    manager.expect("FDSTORE=1\nFDPOLL=0\nFDNAME=kept-127.0.0.1%3A0|tcp");
    let stored = format!("kept-{}|unix", path.display());
    manager.expect(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={stored}"));
    manager.expect("READY=1\nSTATUS=serving");
    flow.stop();
    manager.expect("STOPPING=1");
    manager.expect(&format!("FDSTOREREMOVE=1\nFDNAME={stored}"));
}

#[test]
fn the_loop_tells_the_watchdog_that_it_lives_and_a_callback_that_hangs_does_not() {
    let manager = Manager::new();
    let mut command = server();
    let mut flow =
        Flow::started(manager.runs(command.arg("--port=127.0.0.1:0")).env("WATCHDOG_USEC", "20000"));
    manager.expect("READY=1\nSTATUS=serving");
    for _ in 0..3 {
        manager.expect("WATCHDOG=1");
    }
    let path = manager.path("wait");
    let waits = UnixListener::bind(&path).unwrap();
    let mut client = flow.client();
    client.send(format!("wait {}\n", path.display()));
    let (hold, _) = waits.accept().unwrap();
    manager.socket.set_nonblocking(true).unwrap();
    while manager.try_next().is_ok() {}
    // Long enough for many; on a machine however slow, none may come.
    manager.socket.set_nonblocking(false).unwrap();
    manager.socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(manager.try_next().is_err(), "the loop hangs and says that it lives");
    drop(hold);
    manager.socket.set_read_timeout(Some(DEADLINE)).unwrap();
    manager.expect("WATCHDOG=1");
    says(&mut client, "and on");
    // Its last words find room only if those before are read.
    flow.child.signal("TERM");
    while manager.next() != "STOPPING=1" {}
    assert_eq!(flow.ended().0, Some(0));
}

#[test]
fn the_watchdog_of_another_process_is_none_of_ours() {
    let manager = Manager::new();
    let mut command = server();
    let command = manager.runs(command.arg("--port=127.0.0.1:0"));
    let flow = Flow::started(command.env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1"));
    manager.expect("READY=1\nSTATUS=serving");
    for _ in 0..100 {
        says(&mut flow.client(), "some turns");
    }
    flow.stop();
    manager.expect("STOPPING=1");
}

// ── what it is passed ──

#[test]
fn passed_listeners_are_used_by_name_and_by_address_and_a_path_of_the_managers_stays() {
    let manager = Manager::new();
    let path = manager.path("s");
    let (listener, addr) = tcp();
    let passed = UnixListener::bind(&path).unwrap();
    // Whoever comes before the start waits.
    let mut early = Client::connect(addr);
    let mut command = activated(listener, Some(passed.into()), "chat:samplechat.socket");
    // A port of 0 has no address to be found by.
    let conf = manager.path("chat.toml");
    let chat = format!("{{ port = 0, host = '{}', name = 'chat' }}", addr.ip());
    fs::write(&conf, format!("port = [{chat}, '{}|unix']", path.display())).unwrap();
    manager.runs(&mut command).arg("--conf_file").arg(&conf);
    let mut child = start(command);
    manager.expect("READY=1\nSTATUS=serving");
    says(&mut early, "early");
    says(&mut Client::connect(addr), "late");
    says(&mut Client::connect(path.display()), "by path");
    child.signal("TERM");
    assert_eq!(child.expect_exit().code(), Some(0), "{child}");
    assert!(path.exists());
    assert!(TcpStream::connect(addr).is_err(), "nobody else had it");
}

#[test]
fn what_nobody_asked_for_is_closed_with_a_warning_and_the_rest_is_opened() {
    let manager = Manager::new();
    let (listener, addr) = tcp();
    let mut command = activated(listener, None, "other");
    let path = manager.path("s");
    manager.runs(&mut command).arg(unix(&path));
    let mut child = start(command);
    manager.expect("READY=1\nSTATUS=serving");
    child.wait_for(&format!("passed \"other\", {addr}, which no listener is: closed"));
    assert!(TcpStream::connect(addr).is_err());
    says(&mut Client::connect(path.display()), "opened");
    child.signal("TERM");
    assert_eq!(child.expect_exit().code(), Some(0), "{child}");
}

#[test]
fn a_socket_of_the_wrong_kind_ends_the_start_with_status_1() {
    let manager = Manager::new();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let mut command = activated(socket, None, "samplechat.socket");
    manager.runs(&mut command).arg(format!("--port={addr}"));
    let mut child = start(command);
    assert_eq!(child.expect_exit().code(), Some(1), "{child}");
    child.wait_for(&format!("the inherited descriptor for {addr} is not a stream socket"));
    assert!(manager.next().starts_with("STATUS=the inherited descriptor"));
}

#[test]
fn what_is_meant_for_another_process_is_not_taken() {
    let manager = Manager::new();
    let (listener, addr) = tcp();
    let mut command = Command::new("sh");
    let script = "exec 3<&0 </dev/null; export LISTEN_PID=1 LISTEN_FDS=1; exec \"$0\" \"$@\"";
    command.args(["-c", script]).arg(example("flow_server")).stdin(OwnedFd::from(listener));
    manager.runs(&mut command).arg(format!("--port={addr}")).stdout(Stdio::null());
    let mut child = start(command);
    assert_eq!(child.expect_exit().code(), Some(1), "{child}");
    child.wait_for("another program listens there");
}

// ── a restart ──

#[test]
fn a_restart_is_told_from_its_beginning_to_its_end_and_keeps_what_was_passed() {
    let manager = Manager::new();
    let (listener, addr) = tcp();
    let mut command = activated(listener, None, "chat");
    // Half a minute is longer than the test: the sign of life that comes is the first of each image.
    manager.runs(&mut command).arg(format!("--port={addr}")).env("WATCHDOG_USEC", "60000000");
    let mut child = start(command);
    manager.expect("READY=1\nSTATUS=serving");
    manager.expect("WATCHDOG=1");
    for generation in 1..=3 {
        child.signal("HUP");
        let begins = manager.next();
        assert!(begins.starts_with("RELOADING=1\nSTATUS="), "{begins}");
        assert!(begins.contains("\nMONOTONIC_USEC="), "{begins}");
        // The last one of this image.
        manager.expect("WATCHDOG=1");
        // The standby is announced, and hands back.
        let standby = manager.next();
        assert!(standby.starts_with("MAINPID=") && standby != format!("MAINPID={}", child.id()), "{standby}");
        manager.expect("BARRIER=1");
        manager.expect(&format!("MAINPID={}\nREADY=1", child.id()));
        manager.expect("BARRIER=1");
        manager.expect(&format!("READY=1\nSTATUS=serving, after restart {generation}"));
        // Not before: the manager took the standby for the server.
        manager.expect("WATCHDOG=1");
        says(&mut Client::connect(addr), "still the same socket");
    }
    child.signal("TERM");
    assert_eq!(child.expect_exit().code(), Some(0), "{child}");
    manager.expect("STOPPING=1");
}

#[test]
fn a_stop_that_the_standby_is_told_is_the_servers_and_the_standby_ends_last() {
    let manager = Manager::new();
    let (mut succession, heir) = Succession::begin(&manager);
    // The manager stops the server: to it that is the standby, whose word for another it does not take any more.
    succession.standby(Signal::SIGTERM);
    drop(heir);
    manager.expect(&format!("MAINPID={}\nREADY=1", succession.server.id()));
    manager.expect("BARRIER=1");
    let closing = succession.ends.accept().expect("the server closes").0;
    assert!(succession.standby_lives(), "the manager would kill the server now");
    drop(closing);
    assert_eq!(succession.server.expect_exit().code(), Some(0), "{}", succession.server);
    wait_until("the standby is gone", || !succession.standby_lives());
    let log = succession.server.expect_log().join("\n");
    assert!(log.contains("closing; clients told goodbye") && !log.contains("died"), "{log}");
    // Nor would it take this.
    manager.socket.set_nonblocking(true).unwrap();
    assert!(manager.try_next().is_err(), "the server says nothing while it is not the main process");
}

#[test]
fn a_server_that_dies_before_the_manager_knows_it_has_not_ended_well() {
    let manager = Manager::new();
    let (mut succession, heir) = Succession::begin(&manager);
    succession.standby(Signal::SIGSTOP);
    drop(heir);
    says(&mut Client::connect(succession.addr), "it serves");
    succession.server.signal("KILL");
    succession.server.expect_exit();
    succession.standby(Signal::SIGCONT);
    manager.expect(&format!("MAINPID={}\nREADY=1", succession.server.id()));
    manager.expect("BARRIER=1");
    succession.server.wait_for("the new image died when it had just taken over");
    wait_until("the standby is gone", || !succession.standby_lives());
}

#[test]
fn the_manager_knows_how_a_reload_went_before_the_one_that_waits_for_it() {
    let manager = Manager::new();
    let [conf, pid] = ["conf", "pid"].map(|name| manager.path(name));
    let options = [format!("--conf_file={}", conf.display()), format!("--pid_file={}", pid.display())];
    let reload = || server().args(&options).args(["--reload", "--wait"]).output().unwrap().status.code();
    // What has arrived already, and the last of it.
    let told = || std::iter::from_fn(|| manager.try_next().ok()).last().unwrap_or_default();
    manager.socket.set_nonblocking(true).unwrap();
    let (busy, addr) = tcp();
    let here = format!("'{}|unix'", manager.path("s").display());
    for (on_hup, done, status) in [
        ("reload", Some(0), "serving; the configuration was read again"),
        ("handover", Some(1), "serving; the last restart failed: cannot listen"),
    ] {
        fs::write(&conf, format!("on_hup = '{on_hup}'\nport = {here}\n")).unwrap();
        let flow = Flow::started(manager.runs(&mut server()).args(&options));
        fs::write(&conf, format!("on_hup = '{on_hup}'\nport = [{here}, '{addr}']\n")).unwrap();
        assert_eq!(reload(), done);
        let last = told();
        assert!(last.starts_with(&format!("READY=1\nSTATUS={status}")), "{last}");
        flow.stop();
    }
    drop(busy);
}

#[test]
fn a_manager_that_asks_for_a_reload_is_answered_when_that_is_no_restart() {
    for (on_hup, done) in [
        ("reload", "serving; the configuration was read again"),
        ("ignore", "serving; SIGHUP is ignored, as on_hup says"),
    ] {
        let manager = Manager::new();
        let mut command = server();
        command.args(["--port=127.0.0.1:0", "--on_hup", on_hup]);
        let flow = Flow::started(manager.runs(&mut command));
        manager.expect("READY=1\nSTATUS=serving");
        flow.child.signal("HUP");
        let begins = manager.next();
        assert!(
            begins.starts_with("RELOADING=1\nSTATUS=") && begins.contains("\nMONOTONIC_USEC="),
            "{begins}"
        );
        manager.expect(&format!("READY=1\nSTATUS={done}"));
        flow.stop();
        manager.expect("STOPPING=1");
    }
}

// ── the unit files ──

#[test]
fn the_unit_files_are_right_for_the_systemd_at_hand() {
    let Some(version) = systemd_version() else {
        println!("skipped: systemd-analyze is not here");
        return;
    };
    let program = example("samplechat").display().to_string();
    let (service, older) = services(&program);
    let with_signal = service.replace("\n#KillSignal=", "\nKillSignal=");
    let directory = TempDir::new();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("samplechat.socket"), unit_file("samplechat.socket")).unwrap();
    let services = if version < 253 { vec![older] } else { vec![service, with_signal, older] };
    for service in services {
        fs::write(path("samplechat.service"), &service).unwrap();
        let verified = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .args([path("samplechat.service"), path("samplechat.socket")])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&verified.stderr).into_owned();
        assert!(verified.status.success() && !told.contains("samplechat"), "{told}\n{service}");
    }
}

/// 100 restarts, 20 SIGKILLs, a wrong configuration, the socket unit, a process that stands still: see boot.sh.
#[test]
fn a_real_systemd_restarts_it_keeps_its_listeners_and_watches_it() {
    let there = Command::new("systemd-nspawn").arg("--version").stdout(Stdio::null()).status();
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    let version = systemd_version().filter(|_| there.is_ok_and(|status| status.success()) && root);
    let Some(version) = version.filter(|_| long_form()) else {
        println!("skipped: this needs LINEPLEX_LONG=1, root and systemd-nspawn");
        return;
    };
    let directory = TempDir::new();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("samplechat.toml"), "host = '127.0.0.1'\n").unwrap();
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/systemd/boot.sh"), path("boot.sh")).unwrap();
    let (newer, older) = services("/opt/samplechat");
    let service = if version < 253 { older } else { newer };
    let service = service
        .replace("/etc/samplechat.toml", "/out/samplechat.toml")
        .replace("StartLimitBurst=10", "StartLimitBurst=100");
    let units = [
        ("samplechat.service", service),
        ("samplechat.socket", unit_file("samplechat.socket")),
        ("boot.target", "[Unit]\nRequires=basic.target\nAfter=basic.target\nWants=boot.service\n".to_owned()),
        (
            "boot.service",
            "[Unit]\nAfter=basic.target\nSuccessAction=poweroff\nFailureAction=poweroff\n\
             [Service]\nType=oneshot\nTimeoutStartSec=120\nExecStart=/bin/bash /out/boot.sh\n\
             StandardOutput=append:/out/log\nStandardError=append:/out/log\n"
                .to_owned(),
        ),
        ("none.preset", "disable *\n".to_owned()),
    ];
    // The root of this machine, read-only, with nothing in /etc and /var.
    let mut command = Command::new("systemd-nspawn");
    command.args(["-q", "-D", "/", "--volatile=yes", "--register=no", "--keep-unit", "--private-network"]);
    command.arg(format!("--bind={}:/out", directory.path().display()));
    command.arg(format!("--bind-ro={}:/opt/samplechat", example("samplechat").display()));
    for (name, text) in &units {
        fs::write(path(name), text).unwrap();
        let place = if name.ends_with(".preset") { "system-preset" } else { "system" };
        command.arg(format!("--bind-ro={}:/etc/systemd/{place}/{name}", path(name).display()));
    }
    command.args(["--boot", "systemd.unit=boot.target", "systemd.firstboot=off"]);
    let console = command.stdin(Stdio::null()).output().unwrap();
    let log = fs::read_to_string(path("log")).unwrap_or_default();
    let console = String::from_utf8_lossy(&console.stdout).into_owned();
    assert!(log.ends_with("done\n"), "{log}\n{console}");
    let wrong: Vec<&str> = log.lines().filter(|line| !line.starts_with("ok ") && *line != "done").collect();
    assert_eq!(wrong, [""; 0], "{log}");
    println!("systemd {version}: {} things hold", log.lines().count() - 1);
}

fn systemd_version() -> Option<u32> {
    let output = Command::new("systemd-analyze").arg("--version").output().ok()?;
    String::from_utf8_lossy(&output.stdout).split_whitespace().nth(1)?.parse().ok()
}

fn unit_file(name: &str) -> String {
    let path = format!("{}/config/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The service that runs `program`, and the same as its comment says for a version that does not know the newer type.
fn services(program: &str) -> (String, String) {
    let service = unit_file("samplechat.service").replace("/usr/local/bin/samplechat", program);
    let older = service
        .replace("\nType=notify-reload\n", "\n")
        .replace("\n#Type=", "\nType=")
        .replace("\n#ExecReload=", "\nExecReload=");
    assert!(older.contains("\nType=notify\n") && older.contains(" --reload --wait\n"));
    (service, older)
}
