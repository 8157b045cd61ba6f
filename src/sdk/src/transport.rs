//! Connections to the server.

use std::sync::Mutex;
use std::time::Duration;

use inroad_wire::v1::assignment_service_client::AssignmentServiceClient;
use inroad_wire::v1::event_service_client::EventServiceClient;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use crate::error::Error;
use crate::report::lock;

/// A snapshot of everything is one message; nobody should have to shard experiments because of a default of 4 MiB.
const MAX_SNAPSHOT_BYTES: usize = 256 << 20;

/// Where the server is, and how to speak to it.
#[derive(Debug)]
pub(crate) struct Transport {
    endpoint: Endpoint,
    token: Option<MetadataValue<Ascii>>,
    /// The channel for events; snapshots have one of their own each time.
    events: Mutex<Option<Channel>>,
}

impl Transport {
    pub(crate) fn new(address: &str, token: Option<&str>, connect_timeout: Duration) -> Result<Self, Error> {
        let fault = |reason: String| Error::Address { address: address.to_owned(), reason };
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|e| fault(e.to_string()))?;
        if endpoint.uri().scheme_str() != Some("http") {
            return Err(fault("the scheme must be http; for TLS, put a proxy or a service mesh between".to_owned()));
        }
        if endpoint.uri().host().is_none_or(str::is_empty) {
            return Err(fault("it names no host".to_owned()));
        }
        let bearer = |token: &str| MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| Error::Token);
        Ok(Self {
            endpoint: endpoint.connect_timeout(connect_timeout).tcp_nodelay(true),
            token: token.map(bearer).transpose()?,
            events: Mutex::default(),
        })
    }

    /// A new connection each time: after a silence, the old one may be one that nobody answers any more.
    pub(crate) fn snapshots(&self) -> AssignmentServiceClient<Channel> {
        let client = AssignmentServiceClient::new(self.endpoint.connect_lazy());
        client.max_decoding_message_size(MAX_SNAPSHOT_BYTES)
    }

    /// The connection for events, which is kept.
    pub(crate) fn events(&self) -> EventServiceClient<Channel> {
        let mut channel = lock(&self.events);
        EventServiceClient::new(channel.get_or_insert_with(|| self.endpoint.connect_lazy()).clone())
    }

    /// Lets go of the connection for events: nobody answered on it.
    pub(crate) fn renew_events(&self) {
        *lock(&self.events) = None;
    }

    /// A request that says who asks.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }
}
