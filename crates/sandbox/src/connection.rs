use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

#[derive(Default)]
struct Wire {
    cut: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Cuts one connection: from then on nothing is read from it or written to it, and the server
/// closes it.
#[derive(Clone)]
pub(crate) struct Scissors(Arc<Mutex<Wire>>);

impl Scissors {
    pub(crate) fn cut(&self) {
        let mut wire = lock(&self.0);
        wire.cut = true;
        let waiting = [wire.reader.take(), wire.writer.take()];
        drop(wire);
        waiting.into_iter().flatten().for_each(Waker::wake);
    }

    fn is_cut(&self, place: impl FnOnce(&mut Wire) -> &mut Option<Waker>, waker: &Waker) -> bool {
        let mut wire = lock(&self.0);
        if !wire.cut {
            *place(&mut wire) = Some(waker.clone());
        }
        wire.cut
    }
}

impl Connected<IncomingStream<'_, Connections>> for Scissors {
    fn connect_info(stream: IncomingStream<'_, Connections>) -> Self {
        stream.io().scissors.clone()
    }
}

/// All open connections.
#[derive(Clone, Default)]
pub(crate) struct AllScissors(Arc<Mutex<Vec<Weak<Mutex<Wire>>>>>);

impl AllScissors {
    pub(crate) fn cut(&self) {
        let all = std::mem::take(&mut *lock(&self.0));
        all.iter().filter_map(Weak::upgrade).for_each(|it| Scissors(it).cut());
    }

    fn add(&self, scissors: &Scissors) {
        let mut all = lock(&self.0);
        all.retain(|it| it.strong_count() > 0);
        all.push(Arc::downgrade(&scissors.0));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Accepts connections that can be cut.
pub(crate) struct Connections {
    pub(crate) listener: TcpListener,
    pub(crate) all: AllScissors,
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let scissors = Scissors(Arc::default());
                    self.all.add(&scissors);
                    return (Connection { stream, scissors }, address);
                }
                // One connection gone wrong, or no more file descriptors: wait for better times.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that can be cut.
pub(crate) struct Connection {
    stream: TcpStream,
    scissors: Scissors,
}

fn severed<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.scissors.is_cut(|it| &mut it.reader, context.waker()) {
            return severed();
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.scissors.is_cut(|it| &mut it.writer, context.waker()) {
            return severed();
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
