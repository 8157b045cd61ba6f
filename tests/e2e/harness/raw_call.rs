//! gRPC calls written byte by byte, for clients that no library provides: one that never reads, and one that sends half of
//! a request and stops.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

/// An open HTTP/2 connection with calls on it. Nothing is ever read from it.
pub(crate) struct RawCalls {
    stream: TcpStream,
    next_stream_id: u32,
}

impl RawCalls {
    /// Connects, and allows the server to send as much as HTTP/2 can express.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        let mut calls = Self { stream, next_stream_id: 1 };
        let mut start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // SETTINGS_INITIAL_WINDOW_SIZE, then the window of the connection, which begins at 65,535 bytes.
        let window = [&4_u16.to_be_bytes()[..], &(i32::MAX as u32).to_be_bytes()].concat();
        start.extend(frame(4, 0, 0, &window));
        start.extend(frame(8, 0, 0, &(i32::MAX as u32 - 65_535).to_be_bytes()));
        calls.write(&start);
        calls
    }

    /// Begins a call with these bytes of its request, which end the request if `is_complete`.
    pub(crate) fn begin(&mut self, path: &str, body: &[u8], is_complete: bool) {
        let id = self.next_stream_id;
        self.next_stream_id += 2;
        // HPACK: POST, http, then literals that are not indexed.
        let mut headers = vec![0x83, 0x86];
        for (index, name, value) in
            [(4, "", path), (1, "", "localhost"), (0, "content-type", "application/grpc"), (0, "te", "trailers")]
        {
            headers.push(index);
            if index == 0 {
                headers.push(name.len() as u8);
                headers.extend(name.as_bytes());
            }
            headers.push(value.len() as u8);
            headers.extend(value.as_bytes());
        }
        let mut bytes = frame(1, 4, id, &headers);
        let chunks: Vec<&[u8]> = if body.is_empty() { vec![body] } else { body.chunks(16_384).collect() };
        for (i, chunk) in chunks.iter().enumerate() {
            let is_last = is_complete && i + 1 == chunks.len();
            bytes.extend(frame(0, u8::from(is_last), id, chunk));
        }
        self.write(&bytes);
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server accepts bytes");
    }
}

/// A gRPC message with the length that it claims to have.
pub(crate) fn message_prefix(length: u32) -> Vec<u8> {
    [&[0][..], &length.to_be_bytes()].concat()
}

fn frame(kind: u8, flags: u8, stream_id: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream_id.to_be_bytes(), payload].concat()
}
