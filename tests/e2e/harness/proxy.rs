//! A proxy between a client and its server, to test broken connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Forwards bytes until it is disconnected. Then it closes every new connection immediately.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    disconnects: watch::Sender<u64>,
    is_open: Arc<AtomicBool>,
    accept_task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("the local address");
        let disconnects = watch::Sender::new(0);
        let is_open = Arc::new(AtomicBool::new(true));
        let accept_task = tokio::spawn(accept(listener, server, disconnects.clone(), Arc::clone(&is_open)));
        Self { address, disconnects, is_open, accept_task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Breaks every connection, and those that are opened from now on.
    pub(crate) fn disconnect(&self) {
        self.is_open.store(false, Ordering::SeqCst);
        self.disconnects.send_modify(|count| *count += 1);
    }

    /// Forwards new connections again.
    pub(crate) fn reconnect(&self) {
        self.is_open.store(true, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept_task.abort();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, disconnects: watch::Sender<u64>, is_open: Arc<AtomicBool>) {
    loop {
        let mut disconnected = disconnects.subscribe();
        let Ok((mut client, _)) = listener.accept().await else { return };
        if !is_open.load(Ordering::SeqCst) {
            continue;
        }
        tokio::spawn(async move {
            let Ok(mut upstream) = TcpStream::connect(server).await else { return };
            // If either side closes its connection, the other connection is closed too.
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut upstream) => {}
                _ = disconnected.changed() => {}
            }
        });
    }
}
