//! The design of tokio's own chat example (`examples/chat.rs` of its repository): lines through `Framed` and
//! `LinesCodec`, and for each connection an unbounded channel in a map that all share. Nobody has a name here, and a line
//! goes on as it came. The echo is the same `Framed` without the map.

mod listen;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{SinkExt, StreamExt};
use listen::{Mode, Service, Stream};
use tokio::sync::{Mutex, mpsc};
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

/// Where each connection takes what the others say.
type Channels = Arc<Mutex<HashMap<u64, mpsc::UnboundedSender<String>>>>;

#[derive(Clone)]
struct Chat {
    mode: Mode,
    channels: Channels,
}

fn main() -> io::Result<()> {
    listen::run(|mode| Chat { mode, channels: Channels::default() })
}

impl Service for Chat {
    async fn serve(self, stream: impl Stream) {
        let lines = Framed::new(stream, LinesCodec::new());
        // However a connection ends, only its own task does.
        let _ = match self.mode {
            Mode::Echo => echo(lines).await,
            Mode::Broadcast => broadcast(lines, &self.channels).await,
        };
    }
}

async fn echo(mut lines: Framed<impl Stream, LinesCodec>) -> Result<(), LinesCodecError> {
    while let Some(line) = lines.next().await {
        lines.send(line?).await?;
    }
    Ok(())
}

async fn broadcast(
    lines: Framed<impl Stream, LinesCodec>,
    channels: &Channels,
) -> Result<(), LinesCodecError> {
    // The example uses the address, which the connections of a Unix socket do not have.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let me = NEXT.fetch_add(1, Ordering::Relaxed);
    let (sender, others) = mpsc::unbounded_channel();
    channels.lock().await.insert(me, sender);
    let ended = relay(lines, others, channels, me).await;
    channels.lock().await.remove(&me);
    ended
}

async fn relay(
    mut lines: Framed<impl Stream, LinesCodec>,
    mut others: mpsc::UnboundedReceiver<String>,
    channels: &Channels,
    me: u64,
) -> Result<(), LinesCodecError> {
    loop {
        tokio::select! {
            Some(line) = others.recv() => lines.send(line).await?,
            line = lines.next() => {
                let Some(line) = line else { return Ok(()) };
                let line = line?;
                for (other, channel) in channels.lock().await.iter() {
                    if *other != me {
                        let _ = channel.send(line.clone());
                    }
                }
            }
        }
    }
}
