//! I4 and I8 with many clients: 50 SDK clients evaluate all units continuously against the real binary while variations
//! grow and are killed and restored. No client may ever see a unit move from one variation to another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use inroad_sdk::{Client, Context, Reason};
use inroad_wire::v1;

use crate::harness::{
    Api, Server, Setup, eventually, flag, metric, micros, now_micros, outcome, with_conversion_metrics,
    with_thompson_policy,
};

const KEY: &str = "button";
const CLIENTS: usize = 50;
const UNITS: usize = 2_000;
/// The longest delay of a client in microseconds. Generous, because the machine is busy; the bench `fanout` measures
/// the real delays.
const MAX_DELAY_MICROS: i64 = 10_000_000;
/// The largest difference between two readings of one clock, in microseconds.
const SKEW_MICROS: i64 = 20_000;
/// The unit has not been served a variation yet.
const NO_ARM: u8 = u8::MAX;

/// What all clients together have observed, and which variations may be killed.
struct Observations {
    contexts: Vec<Context>,
    /// The variation that each unit was served by any client, other than control.
    served_arms: Vec<AtomicU8>,
    /// One bit per arm that may be killed at the moment.
    maybe_killed: AtomicU64,
    stop: AtomicBool,
    /// How often each client has evaluated all units.
    rounds: Vec<AtomicU64>,
}

impl Observations {
    fn new() -> Self {
        Self {
            contexts: (0..UNITS).map(|i| Context::new(format!("unit-{i}"))).collect(),
            served_arms: (0..UNITS).map(|_| AtomicU8::new(NO_ARM)).collect(),
            maybe_killed: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            rounds: (0..CLIENTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Checks one client's answer for one unit against its previous answer and the answers of all clients.
    fn check(&self, client: usize, unit: usize, before: u8, now: u8) {
        if now != 0 {
            let earlier = self.served_arms[unit].compare_exchange(NO_ARM, now, Ordering::SeqCst, Ordering::SeqCst);
            assert!(
                earlier.is_ok() || earlier == Err(now),
                "client {client}: unit {unit} got arm {now} and was served arm {earlier:?} before"
            );
        } else if before != 0 {
            let killed = self.maybe_killed.load(Ordering::SeqCst) >> before & 1 == 1;
            assert!(
                killed,
                "client {client}: unit {unit} went from arm {before} to control, although arm {before} was not killed"
            );
        }
    }
}

/// Evaluates all units continuously until `stop` is set.
fn evaluate_all(client: Client, number: usize, observations: Arc<Observations>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut last = vec![0u8; UNITS];
        while !observations.stop.load(Ordering::SeqCst) {
            for (unit, context) in observations.contexts.iter().enumerate() {
                // Five of the clients record exposures.
                let decision = if number < 5 { client.assign(KEY, context) } else { client.evaluate(KEY, context) };
                assert!(matches!(decision.reason(), Reason::Split | Reason::Killed), "{decision:?}");
                let arm = decision.arm().index() as u8;
                observations.check(number, unit, last[unit], arm);
                last[unit] = arm;
                if unit % 500 == 499 {
                    tokio::task::yield_now().await;
                }
            }
            observations.rounds[number].fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

/// Waits until a client assigns an arm to a unit, and returns the time.
fn wait_for_arm(client: &Client, context: &Context, arm: u8) -> tokio::task::JoinHandle<i64> {
    let (client, context) = (client.clone(), context.clone());
    tokio::spawn(async move {
        let started = now_micros();
        loop {
            if client.evaluate(KEY, &context).arm().index() as u8 == arm {
                return now_micros();
            }
            assert!(now_micros() < started + 20_000_000, "the unit did not get arm {arm} within 20 s");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

async fn connect_clients(server: &Server) -> Vec<Client> {
    let mut clients = Vec::new();
    for i in 0..CLIENTS {
        let client = Client::builder(server.url()).client_name(format!("client-{i}")).queue_capacity(100_000);
        clients.push(client.build().expect("a client"));
    }
    for client in &clients {
        assert!(client.ready(Duration::from_secs(20)).await, "{:?}", client.status());
    }
    clients
}

/// The arms of all units in the snapshot of a client.
fn arms(observations: &Observations, client: &Client) -> Vec<u8> {
    let pinned = client.snapshot();
    observations.contexts.iter().map(|context| pinned.evaluate(KEY, context).arm.index() as u8).collect()
}

/// The first unit that moves from control to `arm` with the newest revision.
async fn find_crossover(api: &Api, observations: &Observations, arm: u8) -> usize {
    let revisions = api.revisions(KEY).await;
    let key = inroad_assignment::ExperimentKey::parse(KEY).expect("a key");
    let salt = inroad_assignment::Salt::parse(&api.get(KEY).await.generation_salt).expect("a salt");
    let hasher = inroad_assignment::UnitHasher::new(&key, &salt);
    let [.., old, new] = revisions.as_slice() else { panic!("there are two revisions") };
    let owner = |revision: &v1::Revision, unit: usize| {
        let allocation = inroad_wire::allocation_from_wire(&revision.buckets).expect("an allocation");
        let name = observations.contexts[unit].targeting_key().expect("a key");
        let unit = inroad_assignment::UnitKey::parse(name).expect("a unit");
        allocation.owner(hasher.digest(unit).point()).index() as u8
    };
    (0..UNITS).find(|unit| owner(old, *unit) == 0 && owner(new, *unit) == arm).expect("a unit moves from control")
}

/// Grows a variation and checks that every client switches when the revision takes effect, and not earlier.
async fn grow_and_check(api: &Api, observations: &Observations, clients: &[Client], variation: &str, arm: u8, to: f64) {
    let grown = api.grow(KEY, variation, to).await;
    let effective = micros(&grown.effective_at);
    assert!(now_micros() < effective, "I4: published before it takes effect");
    let unit = find_crossover(api, observations, arm).await;
    let waiting: Vec<_> =
        clients.iter().map(|client| wait_for_arm(client, &observations.contexts[unit], arm)).collect();
    for (i, client) in waiting.into_iter().enumerate() {
        let switched = client.await.expect("the client switches");
        assert!(switched >= effective - SKEW_MICROS, "I4: client {i} switched {} µs early", effective - switched);
        assert!(switched <= effective + MAX_DELAY_MICROS, "I4: client {i} switched {} µs late", switched - effective);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_switch_together_apply_kills_immediately_and_never_move_a_unit_between_variations() {
    let server = Server::with(Setup::lead("2500ms")).await;
    let api = server.api();
    let mut experiment = with_conversion_metrics(flag(KEY, &[("a", 0.1), ("b", 0.1)]));
    experiment = with_thompson_policy(experiment, 86_400);
    api.launch(experiment).await;
    let clients = connect_clients(&server).await;
    let observations = Arc::new(Observations::new());
    let evaluating: Vec<_> = clients
        .iter()
        .cloned()
        .enumerate()
        .map(|(i, client)| evaluate_all(client, i, Arc::clone(&observations)))
        .collect();

    grow_and_check(&api, &observations, &clients, "a", 1, 0.25).await;
    grow_and_check(&api, &observations, &clients, "b", 2, 0.2).await;

    // I8: `a` is killed while a growth is pending. All clients serve control long before the growth takes effect.
    let arms_before_kill = arms(&observations, &clients[0]);
    let unit_of_a = arms_before_kill.iter().position(|arm| *arm == 1).expect("a unit is in a");
    let pending = api.grow(KEY, "b", 0.3).await;
    observations.maybe_killed.store(1 << 1, Ordering::SeqCst);
    let waiting: Vec<_> =
        clients.iter().map(|client| wait_for_arm(client, &observations.contexts[unit_of_a], 0)).collect();
    let killed_at = now_micros();
    api.kill(KEY, "a").await;
    for (i, client) in waiting.into_iter().enumerate() {
        let applied = client.await.expect("the client applies the kill");
        assert!(
            applied <= killed_at + MAX_DELAY_MICROS,
            "I8: client {i} applied the kill after {} µs",
            applied - killed_at
        );
        assert!(applied < micros(&pending.effective_at), "I8: client {i} waited for the next effective_at");
    }
    // After the restore, every client assigns the same units to `a`.
    api.restore(KEY, "a").await;
    let waiting: Vec<_> =
        clients.iter().map(|client| wait_for_arm(client, &observations.contexts[unit_of_a], 1)).collect();
    for client in waiting {
        client.await.expect("the client applies the restore");
    }
    for (i, client) in clients.iter().enumerate() {
        for (unit, arm) in arms(&observations, client).into_iter().enumerate() {
            assert!(arms_before_kill[unit] != 1 || arm == 1, "client {i}: unit {unit} did not return to a");
        }
    }
    // From here on, a unit that moves from `a` to control is an error again. All clients have to see the restore first.
    wait_for_full_evaluations(&observations).await;
    observations.maybe_killed.store(0, Ordering::SeqCst);

    // Record outcomes and let the policy decide. Its cap leaves control traffic for the growth at the end.
    let buyers: Vec<v1::Outcome> = (0..UNITS)
        .filter(|i| i % (if arms_before_kill[*i] == 1 { 2 } else { 12 }) == 0)
        .map(|i| outcome(&format!("unit-{i}"), 1.0, "order-1"))
        .collect();
    for client in clients.iter().take(5) {
        let flushed = client.flush(Duration::from_secs(30)).await;
        assert!(flushed.is_complete() && flushed.rejected == 0 && flushed.dropped == 0, "{flushed:?}");
    }
    api.record(vec![], buyers).await;
    let request = v1::ReallocateRequest { key: KEY.to_owned() };
    let response = api.experiments().reallocate(request).await.expect("the policy decides").into_inner();
    let now = response.experiment.expect("the experiment");
    if now_micros() < micros(&now.effective_at) {
        let wait = u64::try_from(micros(&now.effective_at) - now_micros()).unwrap_or(0);
        tokio::time::sleep(Duration::from_micros(wait)).await;
    }

    // Kill and restore the whole experiment.
    observations.maybe_killed.store(0b110, Ordering::SeqCst);
    let killed_at = now_micros();
    let unit_of_b = arms(&observations, &clients[0]).iter().position(|arm| *arm == 2).expect("a unit is in b");
    let waiting: Vec<_> =
        clients.iter().map(|client| wait_for_arm(client, &observations.contexts[unit_of_b], 0)).collect();
    api.kill(KEY, "").await;
    for client in waiting {
        assert!(client.await.expect("the client applies the kill") <= killed_at + MAX_DELAY_MICROS);
    }
    api.restore(KEY, "").await;
    let waiting: Vec<_> =
        clients.iter().map(|client| wait_for_arm(client, &observations.contexts[unit_of_b], 2)).collect();
    for client in waiting {
        client.await.expect("the client applies the restore");
    }
    wait_for_full_evaluations(&observations).await;
    observations.maybe_killed.store(0, Ordering::SeqCst);
    grow_and_check(&api, &observations, &clients, "a", 1, 0.45).await;
    wait_for_full_evaluations(&observations).await;

    observations.stop.store(true, Ordering::SeqCst);
    for client in evaluating {
        client.await.expect("no client observed an error");
    }
    let expected = arms(&observations, &clients[0]);
    for client in &clients {
        assert_eq!(arms(&observations, client), expected, "all clients agree");
        let status = client.status();
        assert!(status.refusals == 0 && status.rejected.is_empty() && status.dropped == 0, "{status:?}");
        let _ = client.shutdown(Duration::from_secs(20)).await;
        assert_eq!(client.status().queue_depth, 0, "{:?}", client.status());
    }
    let results = api.results(KEY).await;
    assert_eq!(results.units_moved, 0, "{results:?}");
    assert!(results.crossovers > 0, "{results:?}");
    let mut units_by_arm: BTreeMap<u8, u64> = BTreeMap::new();
    expected.iter().for_each(|arm| *units_by_arm.entry(*arm).or_default() += 1);
    for (arm, variation) in [(1, "a"), (2, "b")] {
        let found = results.arms[usize::from(arm)].units;
        assert_eq!((&results.arms[usize::from(arm)].variation, found), (&variation.to_owned(), units_by_arm[&arm]));
        assert!(metric(&results, variation, "bought").outcomes > 0);
    }
}

/// Waits until every client has started and finished an evaluation of all units. Two rounds are needed, because the
/// current round may have started earlier.
async fn wait_for_full_evaluations(observations: &Observations) {
    let from: Vec<u64> = observations.rounds.iter().map(|rounds| rounds.load(Ordering::SeqCst)).collect();
    eventually("all clients have evaluated all units", async || {
        observations
            .rounds
            .iter()
            .zip(&from)
            .all(|(rounds, from)| rounds.load(Ordering::SeqCst) >= from + 2)
            .then_some(())
    })
    .await;
}
