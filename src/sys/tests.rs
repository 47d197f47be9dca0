use super::*;

#[test]
fn the_descriptor_limit_is_raised_once_and_then_stays() {
    let first = raise_descriptor_limit();
    assert!(first >= 64, "{first}");
    assert_eq!(raise_descriptor_limit(), first);
}

#[test]
fn a_plain_number_is_a_user_and_a_group_and_nonsense_is_neither() {
    assert_eq!(user_id("4242").unwrap(), 4242);
    assert_eq!(group_id("4243").unwrap(), 4243);
    for text in ["", "-1", "4294967295", "no such name"] {
        assert_eq!(user_id(text).unwrap_err().kind(), io::ErrorKind::NotFound, "{text:?}");
        assert_eq!(group_id(text).unwrap_err().kind(), io::ErrorKind::NotFound, "{text:?}");
    }
}

#[cfg(feature = "daemon")]
#[test]
fn a_socket_is_writable_until_it_is_full() {
    use std::io::Write as _;
    let (mut ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(is_writable(&ours));
    ours.set_nonblocking(true).unwrap();
    while ours.write(&[0; 4096]).is_ok() {}
    assert!(!is_writable(&ours));
}

#[cfg(feature = "daemon")]
#[test]
fn a_name_is_looked_up_in_the_system() {
    assert_eq!(user_id("root").unwrap(), 0);
}

#[test]
fn a_tcp_socket_has_no_credentials() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_eq!(peer_credentials(&client), None);
}

#[cfg(feature = "daemon")]
mod handover {
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::os::fd::IntoRawFd as _;
    use std::time::Instant;

    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_with_threads_neither_forks_nor_changes_its_environment() {
        // A test runs in a thread beside the main one.
        let error = fork().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Deadlock);
        let text = error.to_string();
        assert!(text.starts_with("cannot fork in a process of ") && text.contains(" threads"), "{text}");
        let error = remove_env("LINEPLEX_NOT_THERE").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Deadlock);
    }

    #[test]
    fn nonsense_is_no_variable() {
        for name in ["", "A=B", "A\0B"] {
            assert_eq!(remove_env(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }

    /// One test for all that depends on which descriptors are close-on-exec: it belongs to the whole process.
    #[test]
    fn inherited_descriptors_are_close_on_exec_and_taken_once() {
        let is_cloexec = |number| descriptor_flags(number, None).unwrap() & libc::FD_CLOEXEC != 0;
        let (mut reading, writing) = pipe().map(|(one, other)| (File::from(one), other)).unwrap();
        let number = writing.into_raw_fd();
        assert_eq!(descriptor_flags(number, Some(0)).unwrap(), 0);
        assert!(!is_cloexec(number));

        let mut inherited = Inherited::at_start().unwrap();
        assert!(is_cloexec(number));
        let numbers: Vec<_> = inherited.numbers().collect();
        assert!(numbers.contains(&number) && !numbers.contains(&reading.as_raw_fd()), "{numbers:?}");
        assert!(numbers.iter().all(|number| *number >= 3) && numbers.is_sorted(), "{numbers:?}");

        let taken = inherited.take(number).unwrap();
        assert_eq!(taken.as_raw_fd(), number);
        for number in [number, reading.as_raw_fd(), 0, -1, 1 << 30] {
            let error = inherited.take(number).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
            assert!(error.to_string().contains(&format!("descriptor {number} was not")), "{error}");
        }

        // Somebody owns it now, and made it ready for an exec: that is not inheriting.
        set_cloexec(&taken, false).unwrap();
        assert!(!is_cloexec(number));
        let mut later = Inherited::at_start().unwrap();
        assert!(!later.numbers().any(|later| later == number));
        assert!(later.take(number).is_err());

        set_cloexec(&taken, true).unwrap();
        assert!(is_cloexec(number));
        File::from(taken).write_all(b"mine").unwrap();
        let mut text = String::new();
        reading.read_to_string(&mut text).unwrap();
        assert_eq!(text, "mine");

        assert!(descriptor_flags(-1, None).is_err());
    }

    /// `cargo test --release --lib sys -- --ignored --nocapture`
    #[test]
    #[ignore = "prints a time and checks nothing"]
    fn many_inherited_descriptors() {
        raise_descriptor_limit();
        let file = File::open("/dev/null").unwrap();
        let copies: Vec<_> = (0..15_000).map(|_| file.try_clone().unwrap()).collect();
        for number in copies.iter().map(|copy| copy.as_raw_fd()) {
            descriptor_flags(number, Some(0)).unwrap();
        }
        let begun = Instant::now();
        let inherited = Inherited::at_start().unwrap();
        println!("{} inherited: {:?}", inherited.numbers().count(), begun.elapsed());
    }
}
