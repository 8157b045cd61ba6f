//! Cases of the client registry that are hard to cause over a network: late reports, wrong clocks, two streams of one
//! client.

use super::*;
use crate::clock::MachineTime;
use crate::config::MAX_STEPS_PER_STREAM;
use crate::publications::Publication;

const MILLI: i64 = 1_000;

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn identity(client_id: &str) -> ClientIdentity {
    ClientIdentity { client_id: client_id.to_owned(), client_name: "shop".to_owned(), ..ClientIdentity::default() }
}

struct TestRegistry {
    clients: Arc<Clients>,
    clock: Arc<WallClock>,
}

impl TestRegistry {
    fn new() -> Self {
        let clock = Arc::new(WallClock::start(Box::new(MachineTime), at(0), None));
        Self { clients: Arc::new(Clients::new(Arc::clone(&clock), Arc::default())), clock }
    }

    fn publish(&self, version: u64) -> Timestamp {
        let published = self.clock.now();
        let publication = Publication {
            first_version: version,
            version,
            at: published,
            experiment: "button".to_owned(),
            action: "kill".to_owned(),
        };
        self.clients.publications.add(publication);
        published
    }

    /// Waits until `when` and reports that a version was applied then.
    fn report_applied(&self, client_id: &str, version: u64, when: Timestamp) -> Option<Vec<Duration>> {
        while self.clock.now() < when {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.clients
            .record_report(client_id, &ClientReport { applied: vec![(version, when)], ..ClientReport::default() })
    }
}

#[test]
fn delays_count_only_clients_connected_at_publication() {
    let registry = TestRegistry::new();
    let streams = ["a", "b", "c"].map(|id| registry.clients.open_stream(identity(id)));
    let published = registry.publish(7);
    let before = registry.clients.version_reach(7);
    assert_eq!((before.connected, before.applied, before.not_yet, before.sent), (3, 0, 3, 0));
    assert_eq!((before.to_applied, before.to_sent), (None, None));
    let sent = published.plus(Duration::from_micros(100));
    streams.iter().for_each(|stream| stream.record_sent(7, sent));
    let late = registry.clients.open_stream(identity("late"));
    late.record_sent(7, registry.clock.now());
    for (client, millis) in [("a", 3), ("b", 1), ("c", 5)] {
        let fresh = registry.report_applied(client, 7, at(published.as_micros() + millis * MILLI));
        assert_eq!(fresh, Some(vec![Duration::from_millis(millis as u64)]));
    }
    assert_eq!(
        registry.report_applied("late", 7, published.plus(Duration::from_millis(9))),
        Some(vec![]),
        "no delay for a client that connected later"
    );
    let reach = registry.clients.version_reach(7);
    assert_eq!((reach.connected, reach.applied, reach.not_yet, reach.sent), (4, 4, 0, 4));
    assert_eq!((reach.experiment.as_str(), reach.action.as_str()), ("button", "kill"));
    let [one, three, five] = [1, 3, 5].map(Duration::from_millis);
    assert_eq!(reach.to_applied, Some(DelayQuantiles { count: 3, p50: three, p99: five, max: five }));
    assert!(one < three && reach.to_sent.is_some_and(|d| d.max == Duration::from_micros(100)), "{reach:?}");
    drop(streams);
    assert_eq!(registry.clients.version_reach(7).connected, 1, "the other streams are closed");
}

#[test]
fn applied_time_is_kept_between_sending_and_reporting() {
    let registry = TestRegistry::new();
    let stream = registry.clients.open_stream(identity("a"));
    let published = registry.publish(1);
    let sent = published.plus(Duration::from_micros(50));
    stream.record_sent(1, sent);
    let early = ClientReport { applied: vec![(1, at(0))], ..ClientReport::default() };
    assert_eq!(registry.clients.record_report("a", &early), Some(vec![Duration::from_micros(50)]));
    registry.publish(2);
    stream.record_sent(2, registry.clock.now());
    registry
        .clients
        .record_report("a", &ClientReport { applied: vec![(2, Timestamp::MAX)], ..ClientReport::default() });
    assert!(registry.clients.list()[0].applied_at.is_some_and(|at| at <= registry.clock.now()));
    registry.clients.record_report("a", &ClientReport { applied: vec![(99, at(0))], ..ClientReport::default() });
    assert_eq!(registry.clients.list()[0].applied_version, Some(2), "version 99 was never sent");
}

#[test]
fn newer_stream_of_a_client_replaces_the_older() {
    let registry = TestRegistry::new();
    let old = registry.clients.open_stream(identity("a"));
    let new = registry.clients.open_stream(identity("a"));
    assert_eq!(registry.clients.list().iter().map(|c| c.stream).collect::<Vec<_>>(), [2]);
    drop(old);
    new.record_sent(1, registry.clock.now());
    assert!(registry.clients.record_report("a", &ClientReport::default()).is_some());
    drop(new);
    assert!(registry.clients.record_report("a", &ClientReport::default()).is_none(), "no stream is open");
    assert_eq!(registry.clients.list(), []);
    assert!(lock(&registry.clients.registry).newest.is_empty());
}

#[test]
fn anonymous_watchers_are_listed_by_what_they_were_sent() {
    let registry = TestRegistry::new();
    let (one, _two) = (registry.clients.open_stream(identity("")), registry.clients.open_stream(identity("")));
    registry.publish(1);
    registry.publish(4);
    one.record_sent(1, registry.clock.now());
    one.record_sent(4, registry.clock.now());
    one.record_sent(4, Timestamp::MAX);
    let behind: Vec<u64> = registry.clients.list().iter().map(|c| c.versions_behind).collect();
    assert_eq!(behind, [0, 2]);
    let reach = registry.clients.version_reach(4);
    assert_eq!((reach.connected, reach.anonymous, reach.sent, reach.not_yet), (0, 2, 1, 0));
    assert!(registry.clients.record_report("", &ClientReport::default()).is_none());
    let (page, total) = registry.clients.list_after(1, 10);
    assert_eq!((page.len(), page[0].stream, total), (1, 2, 2));
}

#[test]
fn version_without_a_remembered_step_counts_but_has_no_delay() {
    let registry = TestRegistry::new();
    let stream = registry.clients.open_stream(identity("a"));
    let versions = MAX_STEPS_PER_STREAM as u64 + 1;
    for version in 1..=versions {
        registry.publish(version);
        stream.record_sent(version, registry.clock.now());
        registry.report_applied("a", version, registry.clock.now());
    }
    let (dropped, remembered) = (registry.clients.version_reach(1), registry.clients.version_reach(2));
    assert_eq!((dropped.applied, dropped.to_applied, dropped.to_sent), (1, None, None));
    assert_eq!((remembered.applied, remembered.to_applied.map(|d| d.count)), (1, Some(1)));
    let unknown = registry.clients.version_reach(versions + 1);
    assert_eq!((unknown.published_at, unknown.applied, unknown.not_yet), (None, 0, 1));
}
