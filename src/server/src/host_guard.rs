//! Rejects page requests whose host name is not this server's. A site can give its own name the address of this server
//! (DNS rebinding): to a browser, this server's pages then belong to that site, which could read them and kill an
//! experiment. The browser still sends the site's name as `Host`, so the name shows it. An IP address cannot be rebound.
//!
//! gRPC needs no such check: it refuses browsers as a whole ([`crate::browser_guard`]).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// The name of this machine for itself.
const LOCALHOST: &str = "localhost";
/// Paths without content that a site could use; probes may name the server as they like.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// A DNS name, in lower case and without the final dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

impl HostName {
    /// Reads a host name.
    ///
    /// # Errors
    /// A message for people, if it is not a host name: for example if it has a port or a scheme.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let is_label = |label: &str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            (1..=63).contains(&label.len()) && label.bytes().all(allowed)
        };
        if name.len() > 253 || !name.split('.').all(is_label) {
            return Err(format!("{text:?} is not a host name. Give the name alone, like inroad.example.com"));
        }
        Ok(Self(name))
    }
}

/// Middleware: answers only requests for an IP address, for `localhost`, or for one of these names.
pub(crate) async fn reject_other_hosts(State(names): State<Arc<[HostName]>>, request: Request, next: Next) -> Response {
    if PROBES.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    // HTTP/2 sends the host in the request line, HTTP/1 in a header.
    let in_header = || request.headers().get(header::HOST).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let host = request.uri().authority().map(|authority| authority.as_str().into()).or_else(in_header);
    // Every browser sends a host.
    let Some(host) = host.filter(|host| !is_allowed(host, &names)) else { return next.run(request).await };
    let shown: String = host.chars().take(100).collect();
    let text = format!(
        "This server has no name {shown:?}. Open it under its IP address, or start it with --host NAME to allow a name.\n"
    );
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

/// Whether a host, with or without a port, is an IP address, `localhost` or one of `names`.
fn is_allowed(host: &str, names: &[HostName]) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok());
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if name.parse::<Ipv4Addr>().is_ok() {
        return true;
    }
    HostName::parse(name).is_ok_and(|name| name.0 == LOCALHOST || names.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_localhost_and_given_names_are_allowed() {
        let names = [HostName::parse("Inroad.Example.com").unwrap()];
        for host in ["127.0.0.1:7070", "10.1.2.3", "[::1]:7070", "[::1]", "localhost", "LOCALHOST:80", "localhost."] {
            assert!(is_allowed(host, &names), "{host}");
        }
        for host in ["inroad.example.com", "inroad.example.com.:7070", "INROAD.EXAMPLE.COM"] {
            assert!(is_allowed(host, &names) && !is_allowed(host, &[]), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[evil]", "[::1", "", ":80"] {
            assert!(!is_allowed(host, &names), "{host}");
        }
    }

    #[test]
    fn host_names_have_no_port_scheme_or_path() {
        for text in ["", ".", "a..b", "http://a", "a:80", "a/b", "a b", "*.a"] {
            assert!(HostName::parse(text).is_err(), "{text}");
        }
        assert_eq!(HostName::parse("A.b."), HostName::parse("a.B"));
    }
}
