//! The message server: what a ping costs beside an echo of as many bytes on the same loop, and what logins do to the loop.
//!
//!     cargo bench --features auth --bench message
//!
//! Both servers run in threads of this process, each measured by the CPU time of its own thread; rounds are interleaved, so
//! the ratio is of one run. `-- --test` runs everything for a blink and judges nothing.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use lineplex::codec::message::{Elements, write_array, write_scalar};
use lineplex::config::{Limits, ListenAt};
use lineplex::personality::message::{
    ClientContext, Credential, Handler, MessageHost, MessageServer, Penalties, Processed, Rights,
};
use lineplex::{Context, Input, Mux, MuxCallback, Peer, Server};
use nix::time::{ClockId, clock_gettime};

struct Ping;

impl Handler for Ping {
    type Context = usize;

    fn new_client(&mut self, _: &mut ClientContext<'_>) -> io::Result<Option<usize>> {
        Ok(Some(0))
    }

    fn process_message(
        &mut self,
        client: &mut ClientContext<'_>,
        count: Option<&mut usize>,
        message: Elements<'_>,
    ) -> io::Result<Processed> {
        let (Some(b"ping"), Some(count)) = (message.get(0), count) else { return Ok(Processed::NotMine) };
        client.reply(&[b"pong".as_slice(), &[DIGITS[*count % 10]]])?;
        *count += 1;
        Ok(Processed::Done)
    }
}

/// As many bytes in and out, without a login and without a look at them.
struct Echo;

struct EchoClient;

impl Server for Echo {
    type Client = EchoClient;

    fn client(&mut self, _: &Peer) -> EchoClient {
        EchoClient
    }
}

impl MuxCallback<Echo> for EchoClient {
    fn input(&mut self, ctx: &mut Context<'_, Echo>, input: &mut Input) -> io::Result<()> {
        while input.take(PING.len()).is_some() {
            ctx.write(PONG);
        }
        Ok(())
    }
}

const PING: &[u8] = b"\0\x05ping\0";
const PONG: &[u8] = b"\0\x07pong\x000\0";
/// How often this client had it, without the cost of making a number a text, which is not ours.
const DIGITS: [u8; 10] = *b"0123456789";

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a thread has a clock");
    Duration::from(time)
}

/// A server in a thread, and a way to ask that thread what it has used.
struct Running {
    addr: SocketAddr,
    cpu: Box<dyn Fn() -> Duration>,
}

fn run<S: Server>(make: impl FnOnce() -> S + Send + 'static) -> Running {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut mux = Mux::new(make(), Limits::default()).expect("a loop can be made");
        let addr = mux.listen(&ListenAt::tcp("127.0.0.1", 0)).expect("a port is free");
        sender.send((addr, mux.handle())).expect("it is waited for");
        mux.run().expect("it runs until the end");
    });
    let (addr, handle) = receiver.recv().expect("it starts");
    let cpu = Box::new(move || {
        let (sender, receiver) = mpsc::channel();
        handle.run(move |_, _| sender.send(thread_cpu()).expect("it is waited for")).expect("it runs");
        receiver.recv().expect("it answers")
    });
    Running { addr: addr.to_string().parse().expect("an address"), cpu }
}

fn message_server() -> MessageServer {
    let mut server = MessageServer::new("bench");
    // The last of many waits for all the others.
    server.set_login_timeout(Duration::from_secs(60));
    let token = Credential::token(TOKEN).expect("it is long enough");
    server.accounts().add(b"bench", token, Rights::ALL);
    let hash = Credential::hash(b"secret").expect("it can be hashed");
    server.accounts().add(b"hashed", hash, Rights::ALL);
    server.add_handler(Ping);
    server
}

const TOKEN: &[u8] = b"0123456789abcdef0123456789abcdef";

fn login(name: &[u8], secret: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_scalar(&mut bytes, name).expect("it is short");
    write_scalar(&mut bytes, secret).expect("it is short");
    bytes
}

fn connect(addr: SocketAddr, logged_in: bool) -> TcpStream {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.set_nodelay(true).expect("it is TCP");
    if logged_in {
        stream.write_all(&login(b"bench", TOKEN)).expect("it reads");
        let mut expected = Vec::new();
        write_array(&mut expected, &["version", "1"]).expect("it is short");
        write_array(&mut expected, &["ok"]).expect("it is short");
        let mut got = vec![0; expected.len()];
        stream.read_exact(&mut got).expect("it answers");
        assert_eq!(got, expected);
    }
    stream
}

/// CPU of the server's thread for each ping, in nanoseconds: `CLIENTS` clients with `deep` pings each under way.
fn each(server: &Running, clients: &mut [TcpStream], deep: usize, rounds: usize) -> f64 {
    let (pings, mut pongs) = (PING.repeat(deep), vec![0; PONG.len() * deep]);
    let before = (server.cpu)();
    for _ in 0..rounds {
        clients.iter_mut().for_each(|client| client.write_all(&pings).expect("it reads"));
        for client in clients.iter_mut() {
            client.read_exact(&mut pongs).expect("it answers");
        }
    }
    let used = (server.cpu)() - before;
    used.as_nanos() as f64 / (rounds * deep * clients.len()) as f64
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn pings(test: bool) {
    let servers = [run(|| Echo), run(message_server), run(|| Echo)];
    let mut clients: Vec<Vec<TcpStream>> = servers
        .iter()
        .zip([false, true, false])
        .map(|(server, logged_in)| (0..CLIENTS).map(|_| connect(server.addr, logged_in)).collect())
        .collect();
    for deep in [1, 16] {
        let (repeats, rounds) = if test { (1, 2) } else { (15, 2000 / deep) };
        let (mut ratios, mut control) = (Vec::new(), Vec::new());
        for _ in 0..repeats {
            let of: Vec<f64> = servers
                .iter()
                .zip(&mut clients)
                .map(|(server, clients)| each(server, clients, deep, rounds))
                .collect();
            ratios.push(2.0 * of[1] / (of[0] + of[2]));
            control.push(of[2] / of[0]);
        }
        let (ratio, control) = (median(&mut ratios), median(&mut control));
        println!(
            "ping, {CLIENTS} clients, {deep} under way: CPU {ratio:.2} of an echo (goal 1.15); echo against itself {control:.2}"
        );
    }
}

/// A hundred clients log in at once with a hashed password: the most CPU that one turn of the loop used.
fn logins(test: bool) {
    let mut mux = Mux::new(message_server(), Limits::default()).expect("a loop can be made");
    let addr = mux.listen(&ListenAt::tcp("127.0.0.1", 0)).expect("a port is free");
    let addr: SocketAddr = addr.to_string().parse().expect("an address");
    let count = if test { 4 } else { 100 };
    let mut clients: Vec<TcpStream> = (0..count).map(|_| connect(addr, false)).collect();
    let mut worst = Duration::ZERO;
    let mut rss = 0;
    let begun = Instant::now();
    clients
        .iter_mut()
        .for_each(|client| client.write_all(&login(b"hashed", b"secret")).expect("there is room"));
    let before = resident();
    while mux.server().messages().counters().logins < count as u64 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the logins do not succeed");
        let cpu = thread_cpu();
        mux.turn(Some(Duration::from_secs(10))).expect("it turns");
        worst = worst.max(thread_cpu() - cpu);
        rss = rss.max(resident());
    }
    println!(
        "{count} logins at once: {:.2} s, most CPU of one turn {:.2} ms (goal 2), resident memory +{:.1} MiB (goal 39.9)",
        begun.elapsed().as_secs_f64(),
        worst.as_secs_f64() * 1000.0,
        rss.saturating_sub(before) as f64 / 1024.0,
    );
}

/// KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// How long a login takes through a socket, until it is refused, for names that are known and for such that are not: many of
/// both, each once, in any order, since each name has its own small part of the delay. Whoever can tell the two kinds apart by
/// that, knows who has an account.
fn names(test: bool, delay: Duration) {
    let count = if test { 2 } else { 200 };
    let server = run(move || {
        let mut server = message_server();
        // The first failure costs as much as all that follow.
        server.messages().set_penalties(Penalties::new(delay, delay));
        for number in 0..count {
            let hash = Credential::hash(b"secret").expect("it can be hashed");
            server.accounts().add(format!("known-{number:03}").as_bytes(), hash, Rights::ALL);
        }
        server
    });
    let mut random = fastrand::Rng::with_seed(1);
    let mut names: Vec<(usize, String)> = (0..count)
        .flat_map(|number| [(0, format!("known-{number:03}")), (1, format!("other-{number:03}"))])
        .collect();
    random.shuffle(&mut names);
    let mut times: [Vec<f64>; 2] = Default::default();
    for (kind, name) in names {
        let mut stream = connect(server.addr, false);
        let mut banner = [0; 12];
        stream.read_exact(&mut banner).expect("it greets");
        let begun = Instant::now();
        stream.write_all(&login(name.as_bytes(), b"wrong")).expect("it reads");
        let mut verdict = Vec::new();
        stream.read_to_end(&mut verdict).expect("it answers");
        times[kind].push(begun.elapsed().as_secs_f64() * 1000.0);
        assert!(verdict.starts_with(b"\0\x1eInvalid"), "{verdict:?}");
    }
    let p = mann_whitney(&times[0], &times[1]);
    let [known, other] = times.each_mut().map(|times| median(times));
    println!(
        "refused logins, {} ms of delay: {known:.2} ms for a known name, {other:.2} ms for an unknown one, ratio {:.3} \
         (goal 0.98..1.02), Mann-Whitney p = {p:.3} (goal above 0.01)",
        delay.as_millis(),
        known / other
    );
}

/// The probability that two samples of the same kind differ as much as these do: the U test of Mann and Whitney (1947), both
/// sides, with the normal approximation.
fn mann_whitney(one: &[f64], other: &[f64]) -> f64 {
    let greater = |a: &f64| other.iter().map(|b| f64::from(a > b) + f64::from(a == b) / 2.0).sum::<f64>();
    let u: f64 = one.iter().map(greater).sum();
    let (n, m) = (one.len() as f64, other.len() as f64);
    let z = (u - n * m / 2.0).abs() / (n * m * (n + m + 1.0) / 12.0).sqrt();
    // Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.2.17.
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let series = [1.330_274_429, -1.821_255_978, 1.781_477_937, -0.356_563_782, 0.319_381_530];
    let sum = series.iter().fold(0.0, |sum, factor| (sum + factor) * t);
    2.0 * sum * (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// Values that tables have.
fn check_mann_whitney() {
    let low: Vec<f64> = (0..10).map(f64::from).collect();
    let high: Vec<f64> = (0..10).map(|value| f64::from(value) + 5.0).collect();
    for (other, expected) in [(&low, 1.0), (&high, 0.004_9)] {
        let p = mann_whitney(&low, other);
        assert!((p - expected).abs() < 1e-3, "{p}");
    }
}

fn main() {
    let test = std::env::args().any(|word| word == "--test");
    pings(test);
    logins(test);
    check_mann_whitney();
    names(test, Duration::ZERO);
    names(test, Penalties::default().first());
}

const CLIENTS: usize = 50;
