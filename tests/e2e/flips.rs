//! I4 and I8 with many clients, each in its own process' place: real SDKs against the real binary, evaluating without
//! a pause while boundaries grow and variations are killed and restored. No client may ever see a unit go from one
//! variation to another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use inroad_sdk::{Client, Context, Reason};
use inroad_wire::v1;

use crate::harness::{
    Api, Server, Setup, conversions, eventually, flag, metric, micros, now_micros, outcome, thompson,
};

const KEY: &str = "button";
const CLIENTS: usize = 50;
const UNITS: usize = 2_000;
/// How much later than it should a client may be on a machine that is busy with all the others: how fast they are is
/// for the bench `fanout` to say.
const LATE: i64 = 10_000_000;
/// How far two readings of one clock may be apart.
const SKEW: i64 = 20_000;
/// Nobody has been seen there yet.
const NOBODY: u8 = u8::MAX;

/// What all clients together have seen, and whether a kill may be the reason for what they see.
struct Seen {
    contexts: Vec<Context>,
    /// The one variation that each unit was ever served beside control, by whichever client.
    homes: Vec<AtomicU8>,
    /// The arms that are, or may already be, or may still be, killed: a bit each.
    killable: AtomicU64,
    stop: AtomicBool,
    /// How often each client has swept over all units.
    sweeps: Vec<AtomicU64>,
}

impl Seen {
    fn new() -> Self {
        Self {
            contexts: (0..UNITS).map(|i| Context::new(format!("unit-{i}"))).collect(),
            homes: (0..UNITS).map(|_| AtomicU8::new(NOBODY)).collect(),
            killable: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            sweeps: (0..CLIENTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// One client's answer for one unit, after its answer before.
    fn check(&self, client: usize, unit: usize, before: u8, now: u8) {
        if now != 0 {
            let home = self.homes[unit].compare_exchange(NOBODY, now, Ordering::SeqCst, Ordering::SeqCst);
            assert!(
                home.is_ok() || home == Err(now),
                "client {client}: unit {unit} got arm {now}, and was served arm {home:?} before"
            );
        } else if before != 0 {
            let killed = self.killable.load(Ordering::SeqCst) >> before & 1 == 1;
            assert!(killed, "client {client}: unit {unit} went from arm {before} to control, and nobody killed it");
        }
    }
}

/// Sweeps over all units without a pause, until told to stop.
fn sweep(client: Client, number: usize, seen: Arc<Seen>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut last = vec![0u8; UNITS];
        while !seen.stop.load(Ordering::SeqCst) {
            for (unit, context) in seen.contexts.iter().enumerate() {
                // A few of them show what they evaluate, and so record exposures.
                let decision = if number < 5 { client.assign(KEY, context) } else { client.evaluate(KEY, context) };
                assert!(matches!(decision.reason(), Reason::Split | Reason::Killed), "{decision:?}");
                let arm = decision.arm().index() as u8;
                seen.check(number, unit, last[unit], arm);
                last[unit] = arm;
                if unit % 500 == 499 {
                    tokio::task::yield_now().await;
                }
            }
            seen.sweeps[number].fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

/// Waits until a client gives a unit an arm: when that was.
fn watch(client: &Client, context: &Context, arm: u8) -> tokio::task::JoinHandle<i64> {
    let (client, context) = (client.clone(), context.clone());
    tokio::spawn(async move {
        let begun = now_micros();
        loop {
            if client.evaluate(KEY, &context).arm().index() as u8 == arm {
                return now_micros();
            }
            assert!(now_micros() < begun + 20_000_000, "20 s went by before it got arm {arm}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

async fn clients(server: &Server) -> Vec<Client> {
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

/// The arms of all units, by an allocation in effect.
fn arms(seen: &Seen, client: &Client) -> Vec<u8> {
    let pinned = client.snapshot();
    seen.contexts.iter().map(|context| pinned.evaluate(KEY, context).arm.index() as u8).collect()
}

/// The first unit that goes from control to `arm` with the newest revision.
async fn crosses(api: &Api, seen: &Seen, arm: u8) -> usize {
    let revisions = api.revisions(KEY).await;
    let key = inroad_assignment::ExperimentKey::parse(KEY).expect("a key");
    let salt = inroad_assignment::Salt::parse(&api.get(KEY).await.generation_salt).expect("a salt");
    let hasher = inroad_assignment::UnitHasher::new(&key, &salt);
    let [.., old, new] = revisions.as_slice() else { panic!("two revisions") };
    let owner = |revision: &v1::Revision, unit: usize| {
        let allocation = inroad_wire::allocation_from_wire(&revision.buckets).expect("an allocation");
        let name = seen.contexts[unit].targeting_key().expect("a key");
        let unit = inroad_assignment::UnitKey::parse(name).expect("a unit");
        allocation.owner(hasher.digest(unit).point()).index() as u8
    };
    (0..UNITS).find(|unit| owner(old, *unit) == 0 && owner(new, *unit) == arm).expect("somebody crosses over")
}

/// Grows, and checks that every client flips at the instant that the revision names, and none before it.
async fn grow_together(api: &Api, seen: &Seen, clients: &[Client], variation: &str, arm: u8, to: f64) {
    let grown = api.grow(KEY, variation, to).await;
    let effective = micros(&grown.effective_at);
    assert!(now_micros() < effective, "I4: published before it takes effect");
    let unit = crosses(api, seen, arm).await;
    let watching: Vec<_> = clients.iter().map(|client| watch(client, &seen.contexts[unit], arm)).collect();
    for (i, watching) in watching.into_iter().enumerate() {
        let flipped = watching.await.expect("it flips");
        assert!(flipped >= effective - SKEW, "I4: client {i} flipped {} µs early", effective - flipped);
        assert!(flipped <= effective + LATE, "I4: client {i} flipped {} µs late", flipped - effective);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_flip_together_obey_a_kill_at_once_and_never_see_a_unit_change_its_variation() {
    let server = Server::with(Setup::lead("2500ms")).await;
    let api = server.api();
    let mut experiment = conversions(flag(KEY, &[("a", 0.1), ("b", 0.1)]));
    experiment = thompson(experiment, 86_400);
    api.launch(experiment).await;
    let clients = clients(&server).await;
    let seen = Arc::new(Seen::new());
    let sweeping: Vec<_> =
        clients.iter().cloned().enumerate().map(|(i, client)| sweep(client, i, Arc::clone(&seen))).collect();

    grow_together(&api, &seen, &clients, "a", 1, 0.25).await;
    grow_together(&api, &seen, &clients, "b", 2, 0.2).await;

    // I8: while another growth is on its way, `a` is killed; everybody serves control long before that takes effect.
    let homes_of_a = arms(&seen, &clients[0]);
    let unit_of_a = homes_of_a.iter().position(|arm| *arm == 1).expect("somebody lives in a");
    let pending = api.grow(KEY, "b", 0.3).await;
    seen.killable.store(1 << 1, Ordering::SeqCst);
    let watching: Vec<_> = clients.iter().map(|client| watch(client, &seen.contexts[unit_of_a], 0)).collect();
    let killed_at = now_micros();
    api.kill(KEY, "a").await;
    for (i, watching) in watching.into_iter().enumerate() {
        let obeyed = watching.await.expect("it obeys");
        assert!(obeyed <= killed_at + LATE, "I8: client {i} obeyed {} µs after the kill", obeyed - killed_at);
        assert!(obeyed < micros(&pending.effective_at), "I8: client {i} waited for the next effective_at");
    }
    // Restored: the same units, at every client.
    api.restore(KEY, "a").await;
    let watching: Vec<_> = clients.iter().map(|client| watch(client, &seen.contexts[unit_of_a], 1)).collect();
    for watching in watching {
        watching.await.expect("it comes back");
    }
    for (i, client) in clients.iter().enumerate() {
        for (unit, arm) in arms(&seen, client).into_iter().enumerate() {
            assert!(homes_of_a[unit] != 1 || arm == 1, "client {i}: unit {unit} did not get a back");
        }
    }
    // From here on a unit that leaves `a` for control is a fault again. The sweeps have to see the restore first.
    settle(&seen).await;
    seen.killable.store(0, Ordering::SeqCst);

    // Outcomes, and the policy decides: with a cap that leaves it something to take.
    let buyers: Vec<v1::Outcome> = (0..UNITS)
        .filter(|i| i % (if homes_of_a[*i] == 1 { 2 } else { 12 }) == 0)
        .map(|i| outcome(&format!("unit-{i}"), 1.0, "order-1"))
        .collect();
    for client in clients.iter().take(5) {
        let flushed = client.flush(Duration::from_secs(30)).await;
        assert!(flushed.is_complete() && flushed.rejected == 0 && flushed.dropped == 0, "{flushed:?}");
    }
    api.record(vec![], buyers).await;
    let request = v1::ReallocateRequest { key: KEY.to_owned() };
    let response = api.experiments().reallocate(request).await.expect("a decision").into_inner();
    let now = response.experiment.expect("the experiment");
    if now_micros() < micros(&now.effective_at) {
        let wait = u64::try_from(micros(&now.effective_at) - now_micros()).unwrap_or(0);
        tokio::time::sleep(Duration::from_micros(wait)).await;
    }

    // And everything is killed, for everybody, and restored.
    seen.killable.store(0b110, Ordering::SeqCst);
    let killed_at = now_micros();
    let unit_of_b = arms(&seen, &clients[0]).iter().position(|arm| *arm == 2).expect("somebody lives in b");
    let watching: Vec<_> = clients.iter().map(|client| watch(client, &seen.contexts[unit_of_b], 0)).collect();
    api.kill(KEY, "").await;
    for watching in watching {
        assert!(watching.await.expect("it obeys") <= killed_at + LATE);
    }
    api.restore(KEY, "").await;
    let watching: Vec<_> = clients.iter().map(|client| watch(client, &seen.contexts[unit_of_b], 2)).collect();
    for watching in watching {
        watching.await.expect("it comes back");
    }
    settle(&seen).await;
    seen.killable.store(0, Ordering::SeqCst);
    grow_together(&api, &seen, &clients, "a", 1, 0.45).await;
    settle(&seen).await;

    seen.stop.store(true, Ordering::SeqCst);
    for sweeping in sweeping {
        sweeping.await.expect("no client saw anything wrong");
    }
    let expected = arms(&seen, &clients[0]);
    for client in &clients {
        assert_eq!(arms(&seen, client), expected, "all agree");
        let status = client.status();
        assert!(status.refusals == 0 && status.rejected.is_empty() && status.dropped == 0, "{status:?}");
        let _ = client.shutdown(Duration::from_secs(20)).await;
        assert_eq!(client.status().queue_depth, 0, "{:?}", client.status());
    }
    let results = api.results(KEY).await;
    assert_eq!(results.units_moved, 0, "{results:?}");
    assert!(results.crossovers > 0, "{results:?}");
    let mut residents: BTreeMap<u8, u64> = BTreeMap::new();
    expected.iter().for_each(|arm| *residents.entry(*arm).or_default() += 1);
    for (arm, variation) in [(1, "a"), (2, "b")] {
        let found = results.arms[usize::from(arm)].units;
        assert_eq!((&results.arms[usize::from(arm)].variation, found), (&variation.to_owned(), residents[&arm]));
        assert!(metric(&results, variation, "bought").outcomes > 0);
    }
}

/// Waits until every client has begun and ended a sweep over all units: one that was on its way may have begun earlier.
async fn settle(seen: &Seen) {
    let from: Vec<u64> = seen.sweeps.iter().map(|sweeps| sweeps.load(Ordering::SeqCst)).collect();
    eventually("all clients have swept over all units", async || {
        seen.sweeps.iter().zip(&from).all(|(sweeps, from)| sweeps.load(Ordering::SeqCst) >= from + 2).then_some(())
    })
    .await;
}
