//! Connections to the server.

use std::sync::Mutex;
use std::time::Duration;

use inroad_wire::v1::assignment_service_client::AssignmentServiceClient;
use inroad_wire::v1::event_service_client::EventServiceClient;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use crate::error::Error;
use crate::lock::lock;

/// The most bytes of a snapshot, in all its parts. A server of an earlier release sends it as one message.
pub(crate) const MAX_SNAPSHOT_BYTES: usize = 256 << 20;

/// The server's address, the token, and the connection for events.
#[derive(Debug)]
pub(crate) struct Transport {
    endpoint: Endpoint,
    token: Option<MetadataValue<Ascii>>,
    /// Shared by all event batches. Each stream of snapshots opens a connection of its own.
    event_channel: Mutex<Option<Channel>>,
}

impl Transport {
    pub(crate) fn new(address: &str, token: Option<&str>, connect_timeout: Duration) -> Result<Self, Error> {
        let invalid = |reason: String| Error::Address { address: address.to_owned(), reason };
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|e| invalid(e.to_string()))?;
        if endpoint.uri().scheme_str() != Some("http") {
            return Err(invalid("the scheme must be http. For TLS, use a proxy or a service mesh".to_owned()));
        }
        if endpoint.uri().host().is_none_or(str::is_empty) {
            return Err(invalid("the host is missing".to_owned()));
        }
        let bearer = |token: &str| MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| Error::Token);
        Ok(Self {
            endpoint: endpoint.connect_timeout(connect_timeout).tcp_nodelay(true),
            token: token.map(bearer).transpose()?,
            event_channel: Mutex::default(),
        })
    }

    /// A client on a new connection. After a silence the old connection may be dead, so it is not used again.
    pub(crate) fn new_assignment_client(&self) -> AssignmentServiceClient<Channel> {
        let client = AssignmentServiceClient::new(self.endpoint.connect_lazy());
        client.max_decoding_message_size(MAX_SNAPSHOT_BYTES)
    }

    /// A client on the shared connection for events.
    pub(crate) fn event_client(&self) -> EventServiceClient<Channel> {
        let mut channel = lock(&self.event_channel);
        EventServiceClient::new(channel.get_or_insert_with(|| self.endpoint.connect_lazy()).clone())
    }

    /// Drops the connection for events after it gave no answer. The next batch opens a new one.
    pub(crate) fn reset_event_channel(&self) {
        *lock(&self.event_channel) = None;
    }

    /// A request with the token, if there is one.
    pub(crate) fn authorize<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }
}
