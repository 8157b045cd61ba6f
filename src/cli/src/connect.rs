//! The way to a server: one channel, who is asking, and patience with a server that is busy or away.

use std::error::Error;
use std::future::Future;
use std::time::{Duration, Instant};

use clap::Args;
use inroad_wire::retry_delay;
use inroad_wire::v1::assignment_service_client::AssignmentServiceClient;
use inroad_wire::v1::event_service_client::EventServiceClient;
use inroad_wire::v1::experiment_service_client::ExperimentServiceClient;
use inroad_wire::v1::result_service_client::ResultServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::failure::usage;
use crate::parse;

/// The metadata in which a change says who makes it.
const ACTOR: &str = "inroad-actor";
/// A server that takes longer to take a connection is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that is silent for so long on an open connection is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The first pause before trying again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause before trying again.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The largest answer taken: a server's answers are larger than its callers' requests.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Which server, and who is asking.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    /// Where the server is
    #[arg(long, global = true, env = "INROAD_SERVER", default_value = "http://127.0.0.1:7070", value_name = "URL", value_parser = parse::server)]
    pub(crate) server: String,
    /// Who makes the change, for the audit log [default: $USER]
    #[arg(long, global = true, env = "INROAD_ACTOR", value_name = "NAME")]
    pub(crate) actor: Option<String>,
}

/// Says in every request who is asking.
#[derive(Debug, Clone)]
pub(crate) struct Actor(MetadataValue<Ascii>);

impl Interceptor for Actor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(ACTOR, self.0.clone());
        Ok(request)
    }
}

type Told = InterceptedService<Channel, Actor>;

/// A channel to a server; cheap to copy.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    channel: Channel,
    actor: Actor,
}

impl Connection {
    /// Connects now, so that a server that is not there is told apart from one that refuses.
    pub(crate) async fn open(args: &ServerArgs) -> anyhow::Result<Self> {
        let connection = Self::lazy(args)?;
        let channel = endpoint(&args.server)?.connect().await.map_err(|e| unreachable(&args.server, &e))?;
        Ok(Self { channel, ..connection })
    }

    /// Connects when first used, and again whenever the connection is lost.
    pub(crate) fn lazy(args: &ServerArgs) -> anyhow::Result<Self> {
        let name = args.actor.clone().or_else(|| std::env::var("USER").ok()).filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| "unknown".to_owned());
        let actor = name
            .parse()
            .map_err(|_| usage(format!("--actor {name:?} has characters beyond ASCII: write it without")))?;
        Ok(Self { channel: endpoint(&args.server)?.connect_lazy(), actor: Actor(actor) })
    }

    /// For assignments.
    pub(crate) fn assignments(&self) -> AssignmentServiceClient<Told> {
        let client = AssignmentServiceClient::with_interceptor(self.channel.clone(), self.actor.clone());
        client.max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// For events.
    pub(crate) fn events(&self) -> EventServiceClient<Told> {
        EventServiceClient::with_interceptor(self.channel.clone(), self.actor.clone())
    }

    /// For experiments.
    pub(crate) fn experiments(&self) -> ExperimentServiceClient<Told> {
        let client = ExperimentServiceClient::with_interceptor(self.channel.clone(), self.actor.clone());
        client.max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// For results.
    pub(crate) fn results(&self) -> ResultServiceClient<Told> {
        let client = ResultServiceClient::with_interceptor(self.channel.clone(), self.actor.clone());
        client.max_decoding_message_size(MAX_ANSWER_BYTES)
    }
}

fn endpoint(server: &str) -> anyhow::Result<Endpoint> {
    let endpoint = Endpoint::from_shared(server.to_owned()).map_err(|e| usage(format!("--server {server:?}: {e}")))?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    Ok(endpoint.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE))
}

fn unreachable(server: &str, error: &tonic::transport::Error) -> anyhow::Error {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    anyhow::anyhow!(
        "cannot reach a server at {server} ({cause}): start one with `inroad serve`, or name another with --server"
    )
}

/// Whether the same call may go better later: the server is busy or away, or the connection broke under it. Statuses
/// that the server sent have no source; those that the transport made have.
pub(crate) fn may_pass(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => true,
        Code::Unknown | Code::Internal | Code::Cancelled => status.source().is_some(),
        _ => false,
    }
}

/// How long to go on trying, and who wants to hear of each pause.
pub(crate) struct Patience<'a> {
    /// How long a server may be busy or away before the call fails.
    pub(crate) limit: Duration,
    /// Hears why there is a pause.
    pub(crate) pausing: &'a (dyn Fn(&Status) + Sync),
}

/// Calls until it succeeds, fails for good, or patience ends. Only for calls that may be repeated.
pub(crate) async fn retrying<T, F, C>(patience: &Patience<'_>, mut call: C) -> Result<T, Status>
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
        if !may_pass(&status) || since.elapsed() + wait > patience.limit {
            return Err(status);
        }
        (patience.pausing)(&status);
        tokio::time::sleep(wait).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    async fn run(limit: Duration, answers: Vec<Result<u32, Status>>) -> (Result<u32, Code>, usize) {
        let calls = AtomicUsize::new(0);
        let patience = Patience { limit, pausing: &|_| {} };
        let result = retrying(&patience, || {
            let i = calls.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1);
            let answer = answers[i].clone().map(Response::new);
            async move { answer }
        });
        let result = result.await.map_err(|s| s.code());
        (result, calls.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_server_that_comes_back_is_waited_for() {
        let away = || Err(Status::unavailable("away"));
        assert_eq!(run(Duration::from_secs(60), vec![away(), away(), Ok(7)]).await, (Ok(7), 3));
    }

    #[tokio::test]
    async fn a_refusal_is_final() {
        let refused = Err(Status::failed_precondition("paused"));
        assert_eq!(run(Duration::from_secs(60), vec![refused, Ok(7)]).await, (Err(Code::FailedPrecondition), 1));
        let unknown = Err(Status::unknown("the server says so"));
        assert_eq!(run(Duration::from_secs(60), vec![unknown, Ok(7)]).await, (Err(Code::Unknown), 1));
    }

    #[tokio::test]
    async fn patience_ends() {
        let away = vec![Err(Status::unavailable("away"))];
        assert_eq!(run(Duration::ZERO, away.clone()).await, (Err(Code::Unavailable), 1));
        let (result, calls) = run(Duration::from_millis(120), away).await;
        assert_eq!((result, calls), (Err(Code::Unavailable), 2));
    }

    /// A server that reads so many bytes of each connection and then drops it, as a killed one does.
    async fn dying(after: usize) -> Connection {
        use tokio::io::AsyncReadExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = vec![0; after];
                let _ = stream.read_exact(&mut bytes).await;
            }
        });
        Connection::lazy(&ServerArgs { server, actor: Some("test".to_owned()) }).unwrap()
    }

    #[tokio::test]
    async fn a_connection_that_breaks_is_no_answer() {
        // Before anything was read, within the greeting, and within the request.
        for after in [0, 30, 120] {
            let mut client = dying(after).await.experiments();
            let status = client.get_experiment(inroad_wire::v1::GetExperimentRequest::default()).await.unwrap_err();
            assert!(may_pass(&status), "after {after} bytes: {status:?}");
        }
    }

    #[tokio::test]
    async fn the_pause_that_the_server_asks_for_is_kept() {
        let busy = inroad_wire::status::busy("FULL", "full", Duration::from_millis(200));
        let begun = Instant::now();
        assert_eq!(run(Duration::from_secs(5), vec![Err(busy), Ok(1)]).await, (Ok(1), 2));
        assert!(begun.elapsed() >= Duration::from_millis(200));
    }
}
