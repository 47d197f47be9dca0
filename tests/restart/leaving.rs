//! Who does not go along, and everything that is neither here nor there when a restart comes: drained, half closed,
//! lingering, denied, refused.

use std::net::IpAddr;

use crate::common::Client;
use crate::running::{Flow, says};

/// `count` numbers of four bytes from 0 up, as the command `pattern` writes them.
pub(crate) fn pattern(count: u32) -> Vec<u8> {
    (0..count).flat_map(u32::to_be_bytes).collect()
}

pub(crate) const PATIENT: [&str; 4] =
    ["--output_hard_bytes=64M", "--drain_seconds=600", "--linger_seconds=600", "--output_stall_seconds=600"];

/// Far more than the kernel takes at once: 8 MB.
pub(crate) const MUCH: u32 = 2_000_000;

// A33
#[test]
fn who_is_not_kept_is_told_so_and_hears_its_close_once() {
    let mut flow = Flow::start(&[]);
    let (mut kept, mut drained) = (flow.client(), flow.client());
    drained.send("drain\nsay-at-close we restart\n");
    says(&mut drained, "done");
    assert_eq!(
        flow.restart(),
        [
            "pre_server_close_hook: Handover",
            "close: #2 (handover)",
            "post_child_cleanup_hook",
            "restart_close_hook"
        ]
    );
    drained.expect("we restart\n");
    drained.expect_eof();
    kept.expect("we restart\n");
    says(&mut kept, "still here");
    drop(drained);
    says(&mut kept, "and still");
    flow.child.signal("TERM");
    assert_eq!(flow.ended().0, Some(0));
    let told = "pre_server_close_hook: Stop\nclose: #1 (shutdown)\npost_child_cleanup_hook\n";
    assert_eq!(String::from_utf8(flow.told.expect_to_eof()).unwrap(), told);
}

// A33
#[test]
fn who_is_not_kept_and_reads_slowly_is_sent_every_byte_after_the_restart() {
    let mut flow = Flow::start(&PATIENT);
    let mut client = flow.client();
    client.send(format!("drain\nsay-at-close the end\npattern {MUCH}\n"));
    client.expect(0_u32.to_be_bytes());
    for _ in 0..3 {
        flow.restart();
    }
    let mut expected = pattern(MUCH);
    expected.drain(..4);
    expected.extend_from_slice(b"the end\n");
    assert!(client.expect_to_eof() == expected, "not what was written");
    drop(client);
    flow.stop();
}

#[test]
fn whose_drain_time_was_running_is_cut_when_it_is_over() {
    let mut flow = Flow::start(&["--output_hard_bytes=64M", "--drain_seconds=0.3", "--log_level=3"]);
    let mut client = flow.client();
    client.send(format!("drain\npattern {MUCH}\n"));
    client.expect(0_u32.to_be_bytes());
    flow.restart();
    flow.child.wait_for("bytes unsent after the drain time");
    flow.stop();
}

#[test]
fn a_client_that_another_one_closes_in_its_farewell_leaves_with_it() {
    let mut flow = Flow::start(&[]);
    let (mut kept, mut closed, mut leaving) = (flow.client(), flow.client(), flow.client());
    closed.send("close-others-at-close\n");
    says(&mut closed, "done");
    leaving.send("drain\nclose-others-at-close\n");
    says(&mut leaving, "done");
    kept.send("name kept\n");
    let told = flow.restart();
    assert_eq!(
        told[1..4],
        ["close: #3 (handover)", "close: #1 (asked)", "close: #2 (asked)"],
        "all of them are told, in the image that knew them"
    );
    for client in [&mut kept, &mut closed, &mut leaving] {
        client.expect_eof();
    }
    flow.client();
    flow.stop();
}

#[test]
fn a_client_that_changes_its_mind_between_two_answers_leaves() {
    let mut flow = Flow::start(&[]);
    let (mut kept, mut turning) = (flow.client(), flow.client());
    // The fourth answer is the last one.
    turning.send("turn 4\n");
    says(&mut turning, "done");
    let told = flow.restart();
    assert_eq!(told[2..], ["restart_close_hook", "close: #2 (handover)"]);
    turning.expect_eof();
    says(&mut kept, "still here");
    flow.stop();
}

#[test]
fn a_stop_that_a_farewell_asks_for_comes_before_the_restart() {
    let mut flow = Flow::start(&[]);
    let (mut kept, mut leaving) = (flow.client(), flow.client());
    leaving.send("drain\nstop-at-close\n");
    says(&mut leaving, "done");
    flow.child.signal("HUP");
    let (status, log) = flow.ended();
    assert_eq!(status, Some(3), "{log}");
    assert!(!log.contains(" done; "), "{log}");
    kept.expect_eof();
    leaving.expect_eof();
    let told = String::from_utf8(flow.told.expect_to_eof()).unwrap();
    assert_eq!(told.matches("close: #2").count(), 1, "{told}");
    assert!(told.ends_with("pre_server_close_hook: Stop\nclose: #1 (shutdown)\npost_child_cleanup_hook\n"));
}

#[test]
fn what_is_asked_of_the_loop_before_the_end_of_an_image_is_done_by_it() {
    let mut flow = Flow::start(&[]);
    let mut client = flow.client();
    client.send("ask-at-close quickly\n");
    says(&mut client, "done");
    assert_eq!(flow.restart()[..2], ["pre_server_close_hook: Handover", "asked: quickly"]);
    flow.stop();
}

// A33
#[test]
fn a_client_that_has_ended_its_side_and_is_held_open_is_written_to_after_the_restart() {
    let mut flow = Flow::start(&[]);
    let (mut held, mut other) = (flow.client(), flow.client());
    held.send("name tells-eof\nhold-open\n");
    held.half_close();
    assert_eq!(flow.told.expect_line(), "eof: #1");
    for _ in 0..2 {
        let told = flow.restart();
        assert!(!told.iter().any(|line| line.starts_with("eof")), "{told:?}");
        other.send("tell something\n");
        held.expect("something\n");
        other.expect("something\n");
    }
    flow.child.signal("TERM");
    let told = String::from_utf8(flow.told.expect_to_eof()).unwrap();
    assert!(!told.contains("eof: "), "{told}");
    held.expect_eof();
}

// A33
#[test]
fn a_client_whose_writing_side_was_shut_is_read_after_the_restart() {
    let mut flow = Flow::start(&[]);
    let mut client = flow.client();
    client.send("name tells-eof\nshut\n");
    client.expect_eof();
    flow.restart();
    client.send("log info read after the restart\n");
    flow.child.wait_for("read after the restart");
    client.half_close();
    assert_eq!(flow.told.expect_line(), "eof: #1");
    assert_eq!(flow.told.expect_line(), "close: #1 (eof)");
    flow.stop();
}

// A33
#[test]
fn a_lingering_connection_goes_along_and_ends_without_a_reset() {
    let mut flow = Flow::start(&["--linger_seconds=600"]);
    let mut client = flow.client();
    client.send("last words\nclose\n");
    client.expect("last words\n");
    client.expect_eof();
    flow.child.signal("HUP");
    let line = flow.wait_for_restart();
    assert!(line.contains("; 1 connections go on"), "{line}");
    assert!(flow.told_until_ready().contains(&"close: #1 (asked)".to_owned()));
    // It is read and thrown away.
    client.send("nobody hears this\n");
    client.expect_eof();
    drop(client);
    flow.client();
    flow.child.signal("TERM");
    assert_eq!(flow.ended().0, Some(0));
    let told = String::from_utf8(flow.told.expect_to_eof()).unwrap();
    assert!(!told.contains("close: #1"), "{told}");
}

// A33
#[test]
fn a_denied_peer_reads_its_farewell_after_the_restart_and_is_over_once() {
    let mut flow = Flow::start(&["--deny=127.0.0.2", "--allow=127.0.0.0/8", "--linger_seconds=600"]);
    let mut client = flow.client();
    let denied_from: IpAddr = "127.0.0.2".parse().unwrap();
    let mut denied = Client::connect_from(denied_from, flow.addrs[0].parse().unwrap());
    flow.child.wait_for("denied 127.0.0.2");
    let told = flow.restart();
    assert!(!told.iter().any(|line| line.starts_with("denied")), "{told:?}");
    denied.expect("not you\n");
    denied.expect_eof();
    drop(denied);
    assert_eq!(flow.told.expect_line(), "denied: #2");
    says(&mut client, "still here");
    flow.stop();
}

// A33
#[test]
fn refused_peers_go_along_beside_the_limit_that_refused_them() {
    let mut flow = Flow::start(&["--max_connections=2", "--linger_seconds=600"]);
    let (mut one, other) = (flow.client(), flow.client());
    let mut refused = Client::connect(&flow.addrs[0]);
    refused.expect("Too many connections, try again later.\r\n");
    refused.expect_eof();
    flow.child.signal("HUP");
    let line = flow.wait_for_restart();
    assert!(line.contains("; 3 connections go on"), "{line}");
    flow.told_until_ready();
    // The limit holds, and the refused peer does not count against it.
    Client::connect(&flow.addrs[0]).expect("Too many connections, try again later.\r\n");
    drop(other);
    assert_eq!(flow.told.expect_line(), "close: #2 (eof)");
    flow.client();
    says(&mut one, "still here");
    flow.stop();
}

#[test]
fn the_limit_for_an_address_counts_who_was_there_before_the_restart() {
    let mut flow = Flow::start(&["--max_per_address=2"]);
    let (mut one, two) = (flow.client(), flow.client());
    flow.restart();
    Client::connect(&flow.addrs[0]).expect("Too many connections, try again later.\r\n");
    drop(two);
    assert_eq!(flow.told.expect_line(), "close: #2 (eof)");
    let mut three = flow.client();
    flow.restart();
    Client::connect(&flow.addrs[0]).expect("Too many connections, try again later.\r\n");
    says(&mut one, "still here");
    says(&mut three, "too");
    flow.stop();
}
