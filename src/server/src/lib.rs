//! The Inroad server: every part that has a clock, a socket or a task. The rules themselves are in `inroad-assignment`
//! and `inroad-policy`, which have neither.
//!
//! ```text
//!  assign   client ──► services::assignment ──► snapshot in memory ──► answer
//!                                           └─► exposure_queue ──► log
//!  record   client ──► services::event ──► ingest ──► log ──► fold ──► counts ──► retention deletes raw events
//!  change   client ──► services::experiment ──► catalogue ──► store, then publish ──► snapshot streams
//!  decide   reallocator ──► tick ──► policy ──► catalogue ──► store, then publish ──► snapshot streams
//!  read     client, page ──► services::result, funnel ──► counts ──► report ──► verdict
//! ```
//!
//! Where to look:
//!
//! - **Where is "which variation?" answered?** `AssignmentHandler::answer` in [`services::assignment`], from the
//!   [`catalogue`]'s snapshot. The exposure goes through [`exposure_queue`], or to disk first if the caller asked for
//!   that.
//! - **Where is an event refused?** [`ingest::check_exposure`] and [`ingest::check_outcome`], one reason code per
//!   check. A whole batch is refused in [`services::event`]: too many events, or a full backlog.
//! - **Where does a kill reach clients?** [`catalogue::Catalogue::change`] publishes it, and each snapshot stream in
//!   `services::snapshot_stream` sends it at once. [`clients`] records which client has it and since when.
//! - **Where does a number on a page come from?** The [`fold`] counts, [`tallies`] converts the counts for the policy's
//!   estimators, [`report`] runs them, and `verdict` and [`explain`] put the result into words. `pages` only arranges
//!   it.
//! - **Where do boundaries move?** [`reallocator`] decides when, [`tick`] runs the policy and applies its decision.
//! - **Where does an error become a gRPC status?** [`error`].
//! - **Where are connections accepted?** `transport`, and what a snapshot stream sends: `encoded_snapshot`.
//! - **Where are the bytes of requests limited?** `request_bytes`.
//! - **Where are the spans of traces?** [`traces`].
//! - **Where are the limits?** [`config`].

mod audience_change;
mod audience_report;
mod audit_sentence;
pub mod audit_verification;
pub mod backup;
mod browser_guard;
pub mod catalogue;
pub mod clients;
pub mod clock;
mod clock_guard;
pub mod config;
mod encoded_snapshot;
mod ended_run;
pub mod error;
mod estimates;
mod event_uses;
pub mod explain;
pub mod exposure_queue;
pub mod fold;
pub mod funnel;
mod host_guard;
pub mod http;
pub mod ingest;
mod kill_results;
mod kill_texts;
pub mod metrics;
mod number_notes;
mod open_files;
mod pages;
mod pool_waits;
pub mod publications;
pub mod queries;
pub mod reallocator;
pub mod recent_contexts;
pub mod recent_events;
pub mod report;
mod request_bytes;
pub mod retention;
pub mod server_core;
pub mod services;
pub mod shared;
mod shared_results;
pub mod tallies;
pub mod tick;
pub mod traces;
mod transport;
mod verdict;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::{from_fn, from_fn_with_state};
use inroad_store::{SqliteOptions, SqliteStore, Store};
use inroad_wire::v1::assignment_service_server::AssignmentServiceServer;
use inroad_wire::v1::event_service_server::EventServiceServer;
use inroad_wire::v1::experiment_service_server::ExperimentServiceServer;
use inroad_wire::v1::result_service_server::ResultServiceServer;
use inroad_wire::v1::server_service_server::ServerServiceServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::service::Routes;

pub use backup::backup;
pub use config::ServerConfig;
pub use error::ServerError;
pub use host_guard::HostName;
pub use traces::{TRACE_TARGET, TraceExport};

use crate::clock::MachineTime;
use crate::config::{MAX_CONNECTIONS, MAX_MESSAGE_BYTES, MAX_RESPONSE_BYTES, RESERVED_FILES, TIME_TO_FINISH};
use crate::server_core::ServerCore;
use crate::shared::SharedState;

/// Starts servers.
pub struct Server;

impl Server {
    /// Opens the store, binds the port and starts serving. Returns as soon as calls are answered.
    ///
    /// # Errors
    /// [`ServerError::Listen`] if the address is in use; errors of opening the store.
    pub async fn start(config: ServerConfig) -> Result<RunningServer, ServerError> {
        // The port first: if it is taken, the store is not touched.
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|e| ServerError::Listen { address: config.listen, detail: e.to_string() })?;
        let address =
            listener.local_addr().map_err(|e| ServerError::Listen { address: config.listen, detail: e.to_string() })?;
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&config.folder, SqliteOptions::default())?);
        let core = ServerCore::start(config, store, Box::new(MachineTime)).await?;
        tokio::spawn(pool_waits::measure(Arc::clone(&core.shared.metrics), core.stopping()));
        let open_files = open_files::raise_limit();
        core.shared
            .metrics
            .open_files_limit
            .set(open_files.map_or(0, |limit| i64::try_from(limit).unwrap_or(i64::MAX)));
        let for_connections =
            |limit| usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(RESERVED_FILES).max(1);
        let max_connections = open_files.map_or(MAX_CONNECTIONS, for_connections).min(MAX_CONNECTIONS);
        let serving = tokio::spawn(listen(Arc::clone(&core.shared), listener, max_connections, core.stopping())?);
        let folder = core.shared.config.folder.display().to_string();
        tracing::info!(%address, folder, open_files, max_connections, "serving");
        Ok(RunningServer { address, core, serving })
    }
}

fn listen(
    shared: Arc<SharedState>,
    listener: TcpListener,
    max_connections: usize,
    mut stopping: watch::Receiver<bool>,
) -> Result<impl Future<Output = ()>, ServerError> {
    let reflection = |v1: bool| {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(inroad_wire::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        (builder, v1)
    };
    let transport_error = |e: tonic_reflection::server::Error| ServerError::Transport(e.to_string());
    let (mut reporter, health) = tonic_health::server::health_reporter();
    let calls = Routes::from(services::snapshot_route::routes(Arc::clone(&shared)))
        .add_service(health)
        .add_service(reflection(true).0.build_v1().map_err(transport_error)?)
        .add_service(reflection(false).0.build_v1alpha().map_err(transport_error)?)
        .add_service(
            AssignmentServiceServer::new(services::assignment::AssignmentHandler::new(Arc::clone(&shared)))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_RESPONSE_BYTES),
        )
        .add_service(
            EventServiceServer::new(services::event::EventHandler::new(Arc::clone(&shared)))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_RESPONSE_BYTES),
        )
        .add_service(
            ExperimentServiceServer::new(services::experiment::ExperimentHandler::new(Arc::clone(&shared)))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_RESPONSE_BYTES),
        )
        .add_service(ServerServiceServer::new(services::server::ServerHandler::new(Arc::clone(&shared))))
        .add_service(
            ResultServiceServer::new(services::result::ResultHandler::new(Arc::clone(&shared)))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_RESPONSE_BYTES),
        );
    let calls = calls
        .into_axum_router()
        .route_layer(from_fn_with_state(shared.config.request_timeout, browser_guard::reject_browsers));
    let hosts: Arc<[HostName]> = shared.config.hosts.as_slice().into();
    let pages = http::routes(Arc::clone(&shared))
        .merge(pages::routes(Arc::clone(&shared)))
        .layer(from_fn_with_state(shared.config.request_timeout, http::limit_time))
        .layer(from_fn_with_state(hosts, host_guard::reject_other_hosts));
    let routes = pages.merge(calls).layer(from_fn(http::explain_not_found));
    let routes = match shared.config.traces {
        Some(_) => routes.layer(from_fn(traces::trace_call)),
        None => routes,
    };
    let serving = transport::serve(listener, routes, max_connections, Arc::clone(&shared.metrics), stopping.clone());
    let stopped = async move {
        let _ = stopping.wait_for(|stop| *stop).await;
        reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        // Health watchers have received the change by now. This ends their streams, which would delay the stop.
        reporter.clear_service_status("").await;
    };
    Ok(async move {
        tokio::join!(serving, stopped);
    })
}

/// A running server.
pub struct RunningServer {
    address: SocketAddr,
    core: ServerCore,
    serving: JoinHandle<()>,
}

impl RunningServer {
    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The longest that [`Self::shutdown`] takes.
    pub fn drain_timeout(&self) -> Duration {
        self.core.shared.config.drain_timeout
    }

    /// Waits until the transport ends, which happens only if it fails or the server stops.
    pub async fn wait(&mut self) -> Result<(), ServerError> {
        (&mut self.serving).await.map_err(|error| ServerError::Transport(error.to_string()))
    }

    /// Accepts no new calls, lets those in progress finish, writes queued exposures to disk and closes the store. It takes
    /// no longer than the drain timeout in all, also under load: what does not end in time is abandoned. That loses
    /// no acknowledged event; the store is complete after each of its commits.
    pub async fn shutdown(mut self) -> Result<(), ServerError> {
        self.core.begin_stop();
        let drain_timeout = self.drain_timeout();
        let deadline = Instant::now() + drain_timeout;
        let end_of_calls = deadline - TIME_TO_FINISH.min(drain_timeout / 2);
        if !self.serving.is_finished() && tokio::time::timeout_at(end_of_calls, &mut self.serving).await.is_err() {
            tracing::warn!("aborted calls that were still in progress near the end of the drain timeout");
            self.serving.abort();
            let _ = tokio::time::timeout_at(deadline, &mut self.serving).await;
        }
        let traces = self.core.shared.config.traces.clone();
        let stopped = self.core.finish_stop(deadline).await;
        if let Some(traces) = traces {
            traces.finish(deadline).await;
        }
        stopped?;
        tracing::info!("stopped");
        Ok(())
    }
}
