//! A port where connecting hangs.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A listener that accepts nothing, with a full backlog. All of it is released when it is dropped.
pub(crate) struct Backlog {
    listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Backlog {
    pub(crate) async fn fill() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let mut waiting = Vec::new();
        loop {
            let connect = TcpStream::connect(listener.local_addr().unwrap());
            // On the loopback, a connection is there at once or not at all.
            match tokio::time::timeout(Duration::from_millis(300), connect).await {
                Ok(connected) => waiting.push(connected.unwrap()),
                Err(_) => return Self { listener, _waiting: waiting },
            }
            assert!(waiting.len() < 64, "there is no end to the backlog");
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Accepts one of the waiting connections, which frees a slot in the backlog.
    pub(crate) async fn accept_one(&self) -> io::Result<TcpStream> {
        Ok(self.listener.accept().await?.0)
    }
}

#[cfg(test)]
mod tests {
    use centrifugo_api::message::InfoRequest;
    use centrifugo_api::{Client, Config, ErrorKind};

    use super::*;
    use crate::support::soon;

    #[tokio::test]
    async fn a_connect_to_a_full_backlog_hangs_and_is_refused_once_it_is_dropped() {
        let backlog = Backlog::fill().await;
        let bound = Duration::from_millis(100);
        for config in crate::support::both(Config::grpc(backlog.url()), Config::http(format!("{}/api", backlog.url())))
        {
            let client = Client::new(config.connect_timeout(bound)).unwrap();
            let error = soon(client.info(InfoRequest::new())).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Connect, "{error:?}");
            assert!(!error.may_have_run());
        }
        let address = backlog.address();
        drop(backlog);
        assert_eq!(TcpStream::connect(address).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_hanging_connect_succeeds_when_the_backlog_has_a_free_slot() {
        let backlog = Backlog::fill().await;
        let connect = tokio::spawn(TcpStream::connect(backlog.address()));
        // The kernel asks again after a second.
        let _first = backlog.accept_one().await.unwrap();
        soon(connect).await.unwrap().unwrap();
    }
}
