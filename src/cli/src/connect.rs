//! Connections to a server: one channel, the name of the caller, and retries while the server is busy or unreachable.

use std::error::Error;
use std::future::Future;
use std::time::{Duration, Instant};

use clap::Args;
use inroad_wire::retry_delay;
use inroad_wire::v1::assignment_service_client::AssignmentServiceClient;
use inroad_wire::v1::event_service_client::EventServiceClient;
use inroad_wire::v1::experiment_service_client::ExperimentServiceClient;
use inroad_wire::v1::result_service_client::ResultServiceClient;
use inroad_wire::v1::server_service_client::ServerServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::failure::usage_error;
use crate::parse;

/// The metadata key that carries the caller's name; the audit log records it with each change.
const ACTOR: &str = "inroad-actor";
/// The environment variable that sets the caller's name.
const ACTOR_VARIABLE: &str = "INROAD_ACTOR";
/// The most characters of a caller's name that the server accepts.
const MAX_ACTOR_LENGTH: usize = 128;
/// The longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an open connection may be silent before it counts as lost.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The pause before the first retry; doubled before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause before a retry.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The largest response accepted, in bytes: servers of earlier releases send more than tonic's default of 4 MiB.
const MAX_RESPONSE_BYTES: usize = 64 * 1024 * 1024;

/// The server to call.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    /// Address of the server
    #[arg(
        long,
        global = true,
        // Without this, the flag would be listed under the last heading of the command's own flags.
        help_heading = None::<&'static str>,
        overrides_with = "server",
        env = "INROAD_SERVER",
        default_value = "http://127.0.0.1:7070",
        value_name = "URL"
    )]
    // Checked when it is used, so that the flag can replace an invalid variable.
    pub(crate) server: String,
}

impl ServerArgs {
    /// The server's URL.
    ///
    /// # Errors
    ///
    /// When the address is not valid.
    pub(crate) fn url(&self) -> anyhow::Result<String> {
        parse::server(&self.server).map_err(|e| usage_error(format!("{e} It comes from --server or INROAD_SERVER.")))
    }
}

/// The name that the audit log records for a change.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ActorArgs {
    /// Your name, for the audit log [default: $USER]
    #[arg(long, overrides_with = "actor", env = ACTOR_VARIABLE, value_name = "NAME")]
    pub(crate) actor: Option<String>,
}

/// Adds the caller's name to every request.
#[derive(Debug, Clone)]
pub(crate) struct Actor(MetadataValue<Ascii>);

impl Interceptor for Actor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(ACTOR, self.0.clone());
        Ok(request)
    }
}

type ActorChannel = InterceptedService<Channel, Actor>;

/// A channel to a server; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    channel: Channel,
    actor: Actor,
}

impl Connection {
    /// Connects for a command that changes nothing.
    ///
    /// # Errors
    ///
    /// When there is no server at the address.
    pub(crate) async fn open(server: &ServerArgs) -> anyhow::Result<Self> {
        // An invalid name does not matter here, because nothing records it.
        let actor = actor_of(&ActorArgs { actor: std::env::var(ACTOR_VARIABLE).ok() }).or_else(|_| unnamed())?;
        Self::connect(server, actor).await
    }

    /// Connects for changes that the audit log records under the caller's name.
    ///
    /// # Errors
    ///
    /// When there is no server at the address, or the name is not valid.
    pub(crate) async fn open_as(server: &ServerArgs, actor: &ActorArgs) -> anyhow::Result<Self> {
        let actor = actor_of(actor)?;
        Self::connect(server, actor).await
    }

    async fn connect(server: &ServerArgs, actor: Actor) -> anyhow::Result<Self> {
        // Connecting now separates a server that is not there from one that refuses the call.
        let url = server.url()?;
        let channel = endpoint(&url)?.connect().await.map_err(|e| unreachable_error(&url, &e))?;
        Ok(Self { channel, actor })
    }

    /// Connects on first use.
    #[cfg(test)]
    fn connect_lazily(server: &ServerArgs) -> anyhow::Result<Self> {
        Ok(Self { channel: endpoint(&server.url()?)?.connect_lazy(), actor: actor_of(&ActorArgs::default())? })
    }

    /// The client for assignments.
    pub(crate) fn assignments(&self) -> AssignmentServiceClient<ActorChannel> {
        let client = AssignmentServiceClient::with_interceptor(self.channel.clone(), self.actor.clone());
        client.max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    /// The client for events.
    pub(crate) fn events(&self) -> EventServiceClient<ActorChannel> {
        EventServiceClient::with_interceptor(self.channel.clone(), self.actor.clone())
    }

    /// The client for experiments.
    pub(crate) fn experiments(&self) -> ExperimentServiceClient<ActorChannel> {
        let client = ExperimentServiceClient::with_interceptor(self.channel.clone(), self.actor.clone());
        client.max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    /// The client for results.
    pub(crate) fn results(&self) -> ResultServiceClient<ActorChannel> {
        let client = ResultServiceClient::with_interceptor(self.channel.clone(), self.actor.clone());
        client.max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    /// The client for the server itself.
    pub(crate) fn server(&self) -> ServerServiceClient<ActorChannel> {
        ServerServiceClient::with_interceptor(self.channel.clone(), self.actor.clone())
    }
}

fn actor_of(args: &ActorArgs) -> anyhow::Result<Actor> {
    let name = args.actor.clone().or_else(|| std::env::var("USER").ok()).filter(|name| !name.is_empty());
    let Some(name) = name else { return unnamed() };
    let is_valid = name.len() <= MAX_ACTOR_LENGTH && name.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let value = name.parse().ok().filter(|_| is_valid).map(Actor);
    value.ok_or_else(|| {
        usage_error(format!(
            "the name {name:?} cannot be recorded. Set --actor to 1 to {MAX_ACTOR_LENGTH} printable ASCII characters."
        ))
    })
}

/// The name that is recorded if the caller has none.
fn unnamed() -> anyhow::Result<Actor> {
    Ok(Actor("unknown".parse()?))
}

fn endpoint(server: &str) -> anyhow::Result<Endpoint> {
    let endpoint =
        Endpoint::from_shared(server.to_owned()).map_err(|e| usage_error(format!("--server {server:?}: {e}")))?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    Ok(endpoint.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE))
}

fn unreachable_error(server: &str, error: &tonic::transport::Error) -> anyhow::Error {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    anyhow::anyhow!(
        "cannot reach a server at {server} ({cause}). Start one with `inroad serve`, or give another address with --server."
    )
}

/// Whether the same call may succeed later: the server is busy or unreachable, or the connection broke. A status that the
/// server sent has no source; a status that the transport made has one.
pub(crate) fn is_transient(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => true,
        Code::Unknown | Code::Internal | Code::Cancelled => status.source().is_some(),
        _ => false,
    }
}

/// How long to retry a call.
pub(crate) struct RetryPolicy<'a> {
    /// How long a server may be busy or unreachable before the call fails.
    pub(crate) limit: Duration,
    /// Called before each pause, with the reason for it.
    pub(crate) on_pause: &'a (dyn Fn(&Status) + Sync),
}

/// Calls until the call succeeds, fails permanently, or the time for retries ends. Only for calls that are safe to repeat.
pub(crate) async fn call_with_retries<T, F, C>(retry: &RetryPolicy<'_>, mut call: C) -> Result<T, Status>
where
    F: Future<Output = Result<Response<T>, Status>>,
    C: FnMut() -> F,
{
    let mut pause = FIRST_PAUSE;
    let mut failing_since: Option<Instant> = None;
    loop {
        let status = match call().await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) => status,
        };
        let since = *failing_since.get_or_insert_with(Instant::now);
        let wait = retry_delay(&status).unwrap_or(pause);
        if !is_transient(&status) || since.elapsed() + wait > retry.limit {
            return Err(status);
        }
        (retry.on_pause)(&status);
        tokio::time::sleep(wait).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn name_that_the_server_would_refuse_is_a_usage_error() {
        let actor = |name: &str| actor_of(&ActorArgs { actor: Some(name.to_owned()) });
        assert!(actor("Ann Smith <ann@example.com>").is_ok() && actor(&"x".repeat(128)).is_ok());
        for invalid in ["Zoë", "a\nb", &"x".repeat(129)] {
            let error = actor(invalid).unwrap_err();
            assert!(error.is::<crate::failure::UsageError>() && error.to_string().contains("--actor"), "{error}");
        }
    }

    #[test]
    fn invalid_address_names_its_origins() {
        for server in ["", "x y", "https://x"] {
            let error = ServerArgs { server: server.to_owned() }.url().unwrap_err();
            assert!(error.is::<crate::failure::UsageError>() && error.to_string().contains("INROAD_SERVER"), "{error}");
        }
    }

    async fn run(limit: Duration, answers: Vec<Result<u32, Status>>) -> (Result<u32, Code>, usize) {
        let calls = AtomicUsize::new(0);
        let retry = RetryPolicy { limit, on_pause: &|_| {} };
        let result = call_with_retries(&retry, || {
            let i = calls.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1);
            let answer = answers[i].clone().map(Response::new);
            async move { answer }
        });
        let result = result.await.map_err(|s| s.code());
        (result, calls.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn call_is_retried_until_the_server_is_back() {
        let unavailable = || Err(Status::unavailable("restarting"));
        assert_eq!(run(Duration::from_secs(60), vec![unavailable(), unavailable(), Ok(7)]).await, (Ok(7), 3));
    }

    #[tokio::test]
    async fn refused_call_is_not_retried() {
        let refused = Err(Status::failed_precondition("paused"));
        assert_eq!(run(Duration::from_secs(60), vec![refused, Ok(7)]).await, (Err(Code::FailedPrecondition), 1));
        let unknown = Err(Status::unknown("sent by the server"));
        assert_eq!(run(Duration::from_secs(60), vec![unknown, Ok(7)]).await, (Err(Code::Unknown), 1));
    }

    #[tokio::test]
    async fn retries_end_at_the_limit() {
        let unavailable = vec![Err(Status::unavailable("restarting"))];
        assert_eq!(run(Duration::ZERO, unavailable.clone()).await, (Err(Code::Unavailable), 1));
        let (result, calls) = run(Duration::from_millis(120), unavailable).await;
        assert_eq!((result, calls), (Err(Code::Unavailable), 2));
    }

    /// A server that reads `after` bytes of each connection and then drops it, as a killed server does.
    async fn server_that_drops_connections(after: usize) -> Connection {
        use tokio::io::AsyncReadExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = vec![0; after];
                let _ = stream.read_exact(&mut bytes).await;
            }
        });
        Connection::connect_lazily(&ServerArgs { server }).unwrap()
    }

    #[tokio::test]
    async fn dropped_connection_is_transient() {
        // Before any byte is read, within the HTTP/2 preface, and within the request.
        for after in [0, 30, 120] {
            let mut client = server_that_drops_connections(after).await.experiments();
            let status = client.get_experiment(inroad_wire::v1::GetExperimentRequest::default()).await.unwrap_err();
            assert!(is_transient(&status), "after {after} bytes: {status:?}");
        }
    }

    #[tokio::test]
    async fn retry_waits_as_long_as_the_server_asks() {
        let busy = inroad_wire::status::resource_exhausted("FULL", "full", Duration::from_millis(200));
        let begun = Instant::now();
        assert_eq!(run(Duration::from_secs(5), vec![Err(busy), Ok(1)]).await, (Ok(1), 2));
        assert!(begun.elapsed() >= Duration::from_millis(200));
    }
}
