// SPDX-License-Identifier: Apache-2.0
//! The upstream servers of a scenario: real sockets, answered by the scenario's steps.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A query that has come upstream.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) server: usize,
    pub(super) octets: Vec<u8>,
    reply: mpsc::UnboundedSender<Vec<u8>>,
}

impl Out {
    /// Sends an answer to it; nowhere, where the other side has gone.
    pub(super) fn reply(&self, message: &[u8]) {
        let mut frame = u16::try_from(message.len()).unwrap().to_be_bytes().to_vec();
        frame.extend(message);
        let _ = self.reply.send(frame);
    }
}

/// Queries that have come and are not yet checked, of all servers.
pub(super) type Came = Arc<Mutex<VecDeque<Out>>>;

/// One server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    index: usize,
    came: Came,
    serving: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) async fn new(index: usize, came: &Came) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut server = Self {
            address: listener.local_addr().unwrap(),
            index,
            came: Arc::clone(came),
            serving: None,
        };
        server.serve(listener);
        server
    }

    /// Takes connections.
    pub(super) fn up(&mut self) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        self.serve(socket.listen(64).unwrap());
    }

    /// Closes its connections and takes no more.
    pub(super) fn down(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }

    fn serve(&mut self, listener: TcpListener) {
        let (index, came) = (self.index, Arc::clone(&self.came));
        self.serving = Some(tokio::spawn(async move {
            // Its connections end with it.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(connection(index, stream, Arc::clone(&came)));
            }
        }));
    }
}

async fn connection(server: usize, stream: TcpStream, came: Came) {
    let (mut read, mut write) = stream.into_split();
    let (reply, mut replies) = mpsc::unbounded_channel::<Vec<u8>>();
    let writing = async move {
        while let Some(frame) = replies.recv().await {
            if write.write_all(&frame).await.is_err() {
                return;
            }
        }
    };
    let reading = async move {
        while let Ok(length) = read.read_u16().await {
            let mut octets = vec![0; usize::from(length)];
            if read.read_exact(&mut octets).await.is_err() {
                return;
            }
            came.lock().unwrap().push_back(Out {
                server,
                octets,
                reply: reply.clone(),
            });
        }
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
    }
}
