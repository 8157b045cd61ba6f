//! HTTP requests that no page of the dashboard makes: any method, any header.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An HTTP response.
pub(crate) struct RawResponse {
    pub(crate) code: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl RawResponse {
    /// The value of a header; the name is in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Sends a request. The body is a form unless a header sets another content type.
pub(crate) async fn send(address: SocketAddr, line: &str, headers: &[(&str, &str)], body: &str) -> RawResponse {
    send_to_host(address, &address.to_string(), line, headers, body).await
}

/// The same with another host name than the address, as after DNS rebinding.
pub(crate) async fn send_to_host(
    address: SocketAddr,
    host: &str,
    line: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> RawResponse {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    let mut request = format!("{line} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        let length = body.len();
        if headers.iter().all(|(name, _)| *name != "content-type") {
            request += "content-type: application/x-www-form-urlencoded\r\n";
        }
        request += &format!("content-length: {length}\r\n");
    }
    stream.write_all(format!("{request}\r\n").as_bytes()).await.expect("send the head");
    // The server may close the connection early; its response still counts.
    let _ = stream.write_all(body.as_bytes()).await;
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response).await;
    let response = String::from_utf8_lossy(&response).into_owned();
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{line}: no response in {response:?}"));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status code");
    RawResponse { code, head: head.to_owned(), body: body.to_owned() }
}
