//! What both tokio servers begin with: `PROGRAM echo|broadcast 127.0.0.1:PORT|unix:PATH`, one thread, a task for every
//! connection.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, UnixListener};
use tokio::runtime::Builder;

/// What is done with a line.
#[derive(Clone, Copy)]
pub enum Mode {
    /// Back to who sent it.
    Echo,
    /// To everybody else.
    Broadcast,
}

/// A connection of either kind.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// What serves the connections; cheap to clone, one for each.
pub trait Service: Clone + Send + 'static {
    /// One connection from its beginning to its end.
    fn serve(self, stream: impl Stream) -> impl Future<Output = ()> + Send;
}

/// Serves as the command line says, until the process is ended.
pub fn run<S: Service>(service: impl FnOnce(Mode) -> S) -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (mode, addr) = match args.as_slice() {
        [mode, addr] if mode == "echo" => (Mode::Echo, addr),
        [mode, addr] if mode == "broadcast" => (Mode::Broadcast, addr),
        _ => return Err(io::Error::other("usage: echo|broadcast 127.0.0.1:PORT|unix:PATH")),
    };
    let service = service(mode);
    Builder::new_current_thread().enable_io().build()?.block_on(accept(addr, service))
}

async fn accept(addr: &str, service: impl Service) -> io::Result<()> {
    if let Some(path) = addr.strip_prefix("unix:") {
        let listener = UnixListener::bind(path)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(service.clone().serve(stream));
        }
    }
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    // On Linux the connections inherit it.
    socket.set_nodelay(true)?;
    socket.bind(addr.parse().map_err(io::Error::other)?)?;
    let listener = socket.listen(BACKLOG)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(service.clone().serve(stream));
    }
}

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;
