//! How a connection ends: drained, half-closed, lingering, cut.

mod common;
mod lab;

use std::time::{Duration, Instant};

use common::Missed;
use lab::{BOTH, Hand, Lab, Run};
use lineplex::config::Limits;

const MIB: usize = 1024 * 1024;

/// Room for long answers.
fn large() -> Limits {
    Limits { output_soft_bytes: 16 * MIB, output_hard_bytes: 16 * MIB, ..Limits::default() }
}

/// `count` bytes in which no two places look alike.
fn pattern(count: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0u32..).flat_map(u32::to_be_bytes).take(count).collect();
    bytes.shrink_to_fit();
    bytes
}

// A59
#[test]
fn eight_megabytes_reach_a_half_closed_slow_reader_whole_and_then_the_end() {
    for net in BOTH {
        let mut run = Run::on(net, large(), || {
            let lab = Lab::new().on_line(|ctx, _| {
                assert!(ctx.write(&pattern(8 * MIB)));
                Ok(())
            });
            lab.on_drained(|ctx| {
                ctx.server.tell("drained");
                Ok(())
            })
        });
        let mut client = run.client();
        client.send("go\n");
        client.half_close();
        // Reads nothing before the server has seen the end; then in pieces.
        run.wait_for("1 eof");
        assert!(client.expect_to_eof() == pattern(8 * MIB));
        run.wait_for("1 close eof");
        let told = run.told();
        let order = ["1 connection", "1 line go", "1 eof", "done 1 Served", "1 close eof"];
        let mut at = told.iter();
        assert!(order.iter().all(|event| at.any(|told| told == event)), "{told:?}");
    }
}

// A60
#[test]
fn reply_then_close_delivers_the_reply_and_then_only_close_is_called() {
    for net in BOTH {
        let mut run = Run::on(net, Limits::default(), || {
            Lab::new().on_line(|ctx, _| {
                ctx.write(b"reply\n");
                ctx.close();
                Ok(())
            })
        });
        let mut client = run.client();
        client.send("ask\n");
        client.expect("reply\n");
        client.expect_eof();
        client.half_close();
        run.wait_for("1 close asked");
        assert_eq!(
            run.told(),
            ["accepted 1", "1 connection", "1 line ask", "done 1 Served", "1 close asked"]
        );
    }
}

// A61
#[test]
fn abort_drops_what_is_unsent_and_only_close_is_called() {
    for net in BOTH {
        let mut run = Run::on(net, large(), || {
            Lab::new().on_line(|ctx, _| {
                ctx.write(b"never seen");
                ctx.abort();
                assert!(!ctx.write(b"neither"));
                Ok(())
            })
        });
        let mut client = run.client();
        client.send("go\n");
        client.expect_eof();
        run.wait_for("1 close aborted");
        assert_eq!(
            run.told(),
            ["accepted 1", "1 connection", "1 line go", "done 1 Served", "1 close aborted"]
        );
    }
}

#[test]
fn abort_of_a_peer_that_does_not_read_does_not_wait_for_it() {
    for net in BOTH {
        let mut run = Run::on(net, large(), || {
            Lab::new().on_line(|ctx, line| {
                if line == b"fill" {
                    ctx.write(&pattern(8 * MIB));
                } else {
                    let other = ctx.server.id("1");
                    ctx.conns.abort(other);
                }
                Ok(())
            })
        });
        let (one, two) = (run.client(), run.client());
        one.send("fill\n");
        run.wait_for("1 line fill");
        assert!(run.ask(|lab, room| room.conns.unsent(lab.id("1"))) > 0);
        two.send("cut\n");
        run.wait_for("1 close aborted");
        assert!(run.ask(|_, room| room.conns.metrics().bytes_out) < 8 * MIB as u64);
    }
}

// A62
#[test]
fn our_half_close_shows_the_peer_the_end_while_its_input_goes_on() {
    for net in BOTH {
        let mut run = Run::on(net, Limits::default(), || {
            Lab::new().on_line(|ctx, line| {
                if line == b"half" {
                    assert!(ctx.write(b"last\n"));
                    ctx.shutdown_write();
                }
                assert!(!ctx.write(b"after"));
                assert!(ctx.conns.is_open(ctx.id));
                Ok(())
            })
        });
        let mut client = run.client();
        client.send("half\n");
        client.expect("last\n");
        client.expect_eof();
        for n in 0..3 {
            client.send(format!("still {n}\n"));
            run.wait_for(&format!("1 line still {n}"));
        }
        client.half_close();
        run.wait_for("1 eof");
        run.wait_for("1 close eof");
        assert_eq!(run.metrics().panics, 0);
    }
}

// A63
#[test]
fn discarded_output_is_never_sent_and_the_connection_stays() {
    for net in BOTH {
        let run = Run::on(net, Limits::default(), || {
            Lab::new().on_line(|ctx, _| {
                ctx.write(b"discarded");
                assert_eq!(ctx.conns.unsent(ctx.id), 9);
                assert_eq!(ctx.conns.discard_output(ctx.id), 9);
                assert_eq!((ctx.conns.discard_output(ctx.id), ctx.conns.unsent(ctx.id)), (0, 0));
                ctx.write(b"kept\n");
                Ok(())
            })
        });
        let mut client = run.client();
        client.send("1\n");
        client.expect("kept\n");
        client.send("2\n");
        client.expect("kept\n");
        assert_eq!(run.metrics().panics, 0);
    }
}

#[test]
fn discarding_the_output_of_a_blocked_peer_lets_it_be_written_to_again() {
    for net in BOTH {
        let mut hand = Hand::on(net, Limits { output_soft_bytes: MIB, ..large() }, Lab::new());
        let mut client = hand.client();
        let id = hand.id("1");
        assert!(hand.mux.conns().write(id, &[b'x'; 8 * MIB]));
        hand.turn();
        let dropped = hand.mux.conns().discard_output(id);
        assert!(dropped > 0 && hand.mux.conns().unsent(id) == 0);
        assert!(hand.mux.conns().write(id, b"\nend\n"));
        // Over the soft limit it was not read; now it is again, and the end comes behind what the kernel had taken.
        client.send("echo\n");
        let reader = std::thread::spawn(move || {
            let filler = client.expect_line();
            (filler.len(), client.expect_line(), client.expect_line())
        });
        hand.until(|_| reader.is_finished());
        assert_eq!(reader.join().unwrap(), (8 * MIB - dropped, "end".into(), "echo".into()));
    }
}

#[test]
fn the_drain_deadline_cuts_a_closing_peer_that_does_not_read_and_below_it_nobody() {
    for net in BOTH {
        let limits = Limits { drain_time: Duration::from_millis(30), ..large() };
        let mut hand = Hand::on(net, limits, Lab::new());
        let (holder, mut reader) = (hand.client(), hand.client());
        let (holding, reading) = (hand.id("1"), hand.id("2"));
        let begun = Instant::now();
        hand.mux.conns().write(holding, &pattern(8 * MIB));
        hand.mux.conns().write(reading, b"short\n");
        hand.mux.conns().close(holding);
        hand.mux.conns().close(reading);
        hand.wait_for("1 close asked");
        assert!(begun.elapsed() >= Duration::from_millis(30));
        reader.expect("short\n");
        reader.expect_eof();
        assert!(hand.metrics().bytes_out < 8 * MIB as u64);
        drop(holder);
    }
}

// B7
#[test]
fn a_megabyte_arrives_whole_although_the_peer_had_sent_what_nobody_read() {
    let minute = Duration::from_secs(60);
    let patient = Limits { linger_time: minute, linger_max_time: minute, ..large() };
    for net in BOTH {
        let mut run = Run::on(net, patient.clone(), || {
            Lab::new().on_input(|ctx, _| {
                assert!(ctx.write(&pattern(MIB)));
                ctx.close();
                Ok(())
            })
        });
        let mut client = run.client();
        client.send("ten bytes\n");
        run.wait_for("1 connection");
        // More that is never read, before and while the answer comes.
        let _ = client.try_send([b'u'; 1000]);
        client.expect(pattern(500_000));
        let _ = client.try_send([b'u'; 1000]);
        let rest = client.expect_to_eof();
        assert!(rest == pattern(MIB)[500_000..]);
        assert!(run.metrics().open == 1, "it lingers until the peer has ended its side, too");
        drop(client);
        run.wait_for("1 close asked");
    }
}

#[test]
fn lingering_ends_after_the_silence_in_all_after_its_bytes_or_at_once_without_time() {
    let ms = Duration::from_millis;
    let silent = Limits { linger_time: ms(30), ..Limits::default() };
    let in_all = Limits { linger_time: ms(20_000), linger_max_time: ms(30), ..Limits::default() };
    let none = Limits { linger_time: Duration::ZERO, ..Limits::default() };
    for net in BOTH {
        for (limits, least) in [(&silent, 30), (&in_all, 30), (&none, 0)] {
            let mut hand = Hand::on(net, limits.clone(), Lab::new());
            let mut client = hand.client();
            let id = hand.id("1");
            let begun = Instant::now();
            hand.mux.conns().close(id);
            hand.wait_for("1 close asked");
            assert!(begun.elapsed() >= ms(least));
            client.expect_eof();
        }
        let few = Limits { linger_max_bytes: 100, linger_time: ms(20_000), ..Limits::default() };
        let mut hand = Hand::on(net, few, Lab::new());
        let client = hand.client();
        let id = hand.id("1");
        hand.mux.conns().close(id);
        hand.turn();
        client.send([b'x'; 100]);
        hand.until(|mux| mux.conns().metrics().bytes_in == 100);
        assert_eq!(hand.metrics().open, 1, "at the limit it goes on");
        client.send([b'x'; 1]);
        hand.wait_for("1 close asked");
    }
}

// B8
#[test]
fn a_peer_that_half_closes_at_once_still_gets_every_reply() {
    for net in BOTH {
        let mut run = Run::on(net, Limits::default(), Lab::new);
        let mut client = run.client();
        let lines: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        client.send(&lines);
        client.half_close();
        assert!(client.expect_to_eof() == lines.as_bytes());
        run.wait_for("1 close eof");
    }
}

#[test]
fn hold_open_keeps_our_side_after_the_peers_end_until_it_is_closed() {
    for net in BOTH {
        let mut run = Run::on(net, Limits::default(), || {
            let lab = Lab::new().on_eof(|ctx, _| {
                ctx.hold_open();
                ctx.conns.after(Duration::from_millis(5), 1);
                Ok(())
            });
            lab.on_due(|room, key| {
                assert_eq!(room.conns.broadcast(format!("later {key}\n").as_bytes(), |_| true), 1);
                match key {
                    3 => room.conns.all().collect::<Vec<_>>().into_iter().for_each(|id| room.conns.close(id)),
                    _ => room.conns.after(Duration::from_millis(5), key + 1),
                }
            })
        });
        let mut client = run.client();
        client.half_close();
        client.expect("later 1\nlater 2\nlater 3\n");
        client.expect_eof();
        run.wait_for("1 close asked");
        assert_eq!(run.metrics().panics, 0);
    }
}

// B9
#[test]
fn every_byte_before_the_end_is_delivered_and_an_unfinished_line_is_given_to_eof() {
    for net in BOTH {
        let mut run = Run::on(net, Limits::default(), || {
            let lab = Lab::new().on_line(|_, _| Ok(()));
            lab.on_eof(|ctx, input| {
                let rest = String::from_utf8(input.rest().to_vec()).unwrap();
                ctx.server.tell(format!("rest {rest}"));
                write!(ctx, "rest {rest}");
                Ok(())
            })
        });
        for n in 1..=100 {
            let mut client = run.client();
            client.send(format!("whole {n}\nhalf {n}"));
            client.half_close();
            assert_eq!(client.expect_to_eof(), format!("rest half {n}").as_bytes());
            run.wait_for(&format!("{n} line whole {n}"));
            run.wait_for(&format!("{n} close eof"));
        }
    }
}

// B10
#[test]
fn what_was_sent_before_the_peer_closed_is_read_to_the_last_byte() {
    for net in BOTH {
        let mut run = Run::on(net, Limits::default(), || {
            Lab::new().on_input(|_, input| {
                input.rest();
                Ok(())
            })
        });
        let client = run.client();
        client.send(pattern(MIB));
        drop(client);
        run.wait_for("1 eof");
        run.wait_for("1 close eof");
        assert_eq!(run.metrics().bytes_in, MIB as u64);
    }
}

// B5
#[test]
fn a_reset_closes_that_connection_once_with_its_reason() {
    let mut run = Run::start(Limits::default(), Lab::new);
    let mut other = run.client();
    run.wait_for("1 connection");
    let client = run.client();
    run.wait_for("2 connection");
    client.reset();
    run.wait_for("2 close io");
    other.send("unharmed\n");
    other.expect("unharmed\n");
    assert_eq!(run.told().iter().filter(|event| event.starts_with("2 close")).count(), 1);
}

// B5
#[test]
fn a_peer_that_is_gone_while_we_write_closes_with_io_or_its_end() {
    for net in BOTH {
        let mut hand = Hand::on(net, large(), Lab::new());
        let client = hand.client();
        let id = hand.id("1");
        hand.mux.conns().write(id, &pattern(8 * MIB));
        hand.turn();
        drop(client);
        hand.until(|mux| mux.conns().metrics().open == 0);
        let told = hand.told();
        let reason = told.iter().find(|event| event.starts_with("1 close")).expect("it closes");
        assert!(["1 close io", "1 close eof"].contains(&reason.as_str()), "{reason}");
    }
}

// B3, chunk-invariance through a real socket.
#[test]
fn the_same_bytes_in_any_pieces_give_the_same_replies() {
    let bytes = b"one\r\n\ntwo \r three\nnul \0 ff \xff\r\n\r\r\nlast one\n".repeat(3);
    let mut expected = Vec::new();
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap();
        expected.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        expected.push(b'\n');
    }
    for net in BOTH {
        for lines_per_turn in [1, 3, 128] {
            let run = Run::on(net, Limits { lines_per_turn, ..Limits::default() }, Lab::new);
            let mut random = fastrand::Rng::with_seed(7);
            for _ in 0..20 {
                let mut client = run.client();
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let (piece, after) = rest.split_at(random.usize(1..=rest.len().min(12)));
                    client.send(piece);
                    rest = after;
                }
                client.half_close();
                assert_eq!(
                    client.expect_to_eof().escape_ascii().to_string(),
                    expected.escape_ascii().to_string()
                );
            }
        }
    }
}

#[test]
fn an_unread_reset_of_a_closing_peer_is_no_failure_for_the_others() {
    for net in BOTH {
        let mut run = Run::on(net, Limits::default(), || {
            Lab::new().on_line(|ctx, _| {
                ctx.close();
                Ok(())
            })
        });
        let client = run.client();
        client.send("close\n");
        run.wait_for("1 line close");
        client.reset();
        run.wait_for("1 close asked");
        let mut other = run.client();
        other.send("x\n");
        assert!(matches!(other.next_line(), Err(Missed::Eof)));
    }
}
