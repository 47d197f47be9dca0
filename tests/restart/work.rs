//! What is under way when a restart comes: jobs on other threads, look-ups, connections being opened.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use socket2::{Domain, Socket, Type};

use crate::common::TempDir;
use crate::running::{Flow, patient, quiet, says};

/// A place where jobs wait until they are let go.
struct Jobs {
    directory: TempDir,
    listener: UnixListener,
}

impl Jobs {
    #[track_caller]
    fn new() -> Self {
        let directory = TempDir::new();
        let listener = UnixListener::bind(directory.path().join("jobs")).expect("a fresh path can be bound");
        Self { directory, listener: patient(listener) }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("jobs")
    }

    /// A job has come; it goes on when this is dropped.
    #[track_caller]
    fn running(&self) -> UnixStream {
        self.listener.accept().expect("a job comes").0
    }
}

#[test]
fn a_job_that_runs_delays_the_restart_and_its_result_comes_before_it() {
    let jobs = Jobs::new();
    let mut flow = Flow::start(&["--quiesce_seconds=600"]);
    let (mut client, mut other) = (flow.client(), flow.client());
    client.send(format!("offload {}\n", jobs.path().display()));
    let job = jobs.running();
    flow.child.signal("HUP");
    flow.child.wait_for("restart: waiting for work under way, at most quiesce_seconds = 600");
    // What comes now is for the next image.
    other.send("name of the other\nwho\n");
    drop(job);
    let told = flow.restarted();
    assert_eq!(told[..2], ["offloaded: #1", "pre_server_close_hook: Handover"]);
    client.expect("offloaded 0\n");
    assert!(other.expect_line().contains("of the other"), "{other}");
    says(&mut client, "still here");
    quiet(&flow.stop());
}

#[test]
fn a_job_that_takes_too_long_costs_its_client_and_no_other() {
    let jobs = Jobs::new();
    // The second job waits for the thread of the first.
    let mut flow = Flow::start(&["--quiesce_seconds=0.1", "--offload_threads=1"]);
    let (mut one, mut two, mut other) = (flow.client(), flow.client(), flow.client());
    one.send(format!("before\noffload {}\n", jobs.path().display()));
    let mut job = jobs.running();
    two.send(format!("before\noffload {}\n", jobs.path().display()));
    for client in [&mut one, &mut two] {
        client.expect("before\n");
    }
    let told = flow.restart();
    assert_eq!(told[1..3], ["close: #1 (handover)", "close: #2 (handover)"]);
    for client in [&mut one, &mut two] {
        client.expect_eof();
    }
    assert_eq!(job.read(&mut [0]).unwrap(), 0, "the job has ended with its image");
    says(&mut other, "still here");
    let log = flow.stop();
    assert!(
        log.contains("warn  restart 1 had no standby to go back to: other threads were running"),
        "{log}"
    );
    jobs.listener.set_nonblocking(true).unwrap();
    assert!(jobs.listener.accept().is_err(), "the second job was never begun");
}

#[test]
fn a_server_that_has_offloaded_has_its_standby_at_each_restart() {
    let jobs = Jobs::new();
    let mut flow = Flow::start(&["--offload_threads=3"]);
    let mut clients = [flow.client(), flow.client(), flow.client()];
    for _ in 0..10 {
        for client in &clients {
            client.send(format!("offload {}\n", jobs.path().display()));
        }
        let running = [jobs.running(), jobs.running(), jobs.running()];
        drop(running);
        clients.iter_mut().for_each(|client| client.expect("offloaded 0\n"));
        flow.restart();
    }
    quiet(&flow.stop());
}

#[test]
fn a_server_with_threads_of_its_own_restarts_without_a_standby() {
    let mut flow = Flow::start(&[]);
    let mut client = flow.client();
    client.send("thread\n");
    says(&mut client, "it runs");
    flow.restart();
    flow.child.wait_for("restart 1 had no standby to go back to");
    says(&mut client, "still here");
    // The thread has ended with its image.
    flow.restart();
    says(&mut client, "still here");
    let log = flow.stop();
    assert!(!log.contains("restart 2 had no standby"), "{log}");
}

#[test]
fn an_outgoing_connection_that_is_looked_up_or_begun_comes_to_be_open() {
    let listener = patient(TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    let mut flow = Flow::start(&["--quiesce_seconds=600"]);
    let client = flow.client();
    let mut theirs = Vec::new();
    for _ in 0..10 {
        client.send(format!("connect localhost:{port}\nconnect 127.0.0.1:{port}\n"));
        // They are the server's, or still in its buffers: both is well.
        let told = flow.restart();
        assert!(!told.iter().any(|line| line.starts_with("close")), "{told:?}");
        theirs.extend([listener.accept().unwrap().0, listener.accept().unwrap().0]);
        let opened = told.iter().filter(|line| *line == "outgoing: open").count();
        for _ in opened..2 {
            assert_eq!(flow.told.expect_line(), "outgoing: open");
        }
    }
    assert_eq!(theirs.len(), 20);
    quiet(&flow.stop());
}

#[cfg(target_os = "linux")]
#[test]
fn an_outgoing_connection_comes_to_be_open_while_the_restart_waits() {
    // One place in the queue, which is taken: the next one is answered when that is free.
    let listener = patient(Socket::new(Domain::IPV4, Type::STREAM, None).unwrap());
    listener.bind(&SocketAddr::from((Ipv4Addr::new(127, 77, 2, 1), 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let first = std::net::TcpStream::connect(address).unwrap();
    let mut flow = Flow::start(&["--quiesce_seconds=600", "--connect_seconds=600"]);
    let mut client = flow.client();
    client.send(format!("connect {address}\n"));
    says(&mut client, "begun");
    flow.child.signal("HUP");
    flow.child.wait_for("restart: waiting for work under way");
    drop((listener.accept().unwrap(), first));
    let told = flow.restarted();
    assert_eq!(told[..2], ["outgoing: open", "pre_server_close_hook: Handover"]);
    let (mut theirs, _) = listener.accept().unwrap();
    std::io::Write::write_all(&mut theirs, b"a line\n").unwrap();
    assert_eq!(flow.told.expect_line(), "outgoing: a line");
    says(&mut client, "still here");
    quiet(&flow.stop());
}

#[cfg(target_os = "linux")]
#[test]
fn an_outgoing_connection_that_does_not_come_to_be_open_is_over_with_its_image() {
    let listener = patient(Socket::new(Domain::IPV4, Type::STREAM, None).unwrap());
    listener.bind(&SocketAddr::from((Ipv4Addr::new(127, 77, 2, 2), 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let _first = std::net::TcpStream::connect(address).unwrap();
    let mut flow = Flow::start(&["--quiesce_seconds=0.1", "--connect_seconds=600"]);
    let mut client = flow.client();
    client.send(format!("connect {address}\n"));
    says(&mut client, "begun");
    let told = flow.restart();
    assert_eq!(told[1], "close: #0 (connect-failed: the server restarts)");
    says(&mut client, "still here");
    quiet(&flow.stop());
}
