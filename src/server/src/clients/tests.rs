//! What the list of clients says where no network can make it happen on purpose: late reports, wrong clocks, two
//! streams of one client.

use super::*;
use crate::publications::Publication;

const MILLI: i64 = 1_000;

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn who(client_id: &str) -> Who {
    Who { client_id: client_id.to_owned(), client_name: "shop".to_owned(), ..Who::default() }
}

struct World {
    clients: Arc<Clients>,
    clock: Arc<WallClock>,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(WallClock::starting_at(at(0)));
        Self { clients: Arc::new(Clients::new(Arc::clone(&clock), Arc::default())), clock }
    }

    fn publish(&self, version: u64) -> Timestamp {
        let published = self.clock.now();
        let publication =
            Publication { version, at: published, experiment: "button".to_owned(), action: "kill".to_owned() };
        self.clients.publications.add(publication);
        published
    }

    /// Says that a version was applied `after` its publication; the clock goes on to then.
    fn says(&self, client_id: &str, version: u64, when: Timestamp) -> Option<Vec<Duration>> {
        while self.clock.now() < when {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.clients.report(client_id, &Said { applied: vec![(version, when)], ..Said::default() })
    }
}

#[test]
fn reach_is_from_publication_to_application_of_the_clients_that_were_there() {
    let world = World::new();
    let streams = ["a", "b", "c"].map(|id| world.clients.open(who(id)));
    let published = world.publish(7);
    let nobody = world.clients.reached(7);
    assert_eq!((nobody.connected, nobody.applied, nobody.not_yet, nobody.sent), (3, 0, 3, 0));
    assert_eq!((nobody.to_applied, nobody.to_sent), (None, None));
    let sent = published.plus(Duration::from_micros(100));
    streams.iter().for_each(|stream| stream.sent(7, sent));
    let late = world.clients.open(who("late"));
    late.sent(7, world.clock.now());
    for (client, millis) in [("a", 3), ("b", 1), ("c", 5)] {
        let fresh = world.says(client, 7, at(published.as_micros() + millis * MILLI));
        assert_eq!(fresh, Some(vec![Duration::from_millis(millis as u64)]));
    }
    assert_eq!(world.says("late", 7, published.plus(Duration::from_millis(9))), Some(vec![]), "no delay to speak of");
    let reach = world.clients.reached(7);
    assert_eq!((reach.connected, reach.applied, reach.not_yet, reach.sent), (4, 4, 0, 4));
    assert_eq!((reach.experiment.as_str(), reach.action.as_str()), ("button", "kill"));
    let [one, three, five] = [1, 3, 5].map(Duration::from_millis);
    assert_eq!(reach.to_applied, Some(Delays { count: 3, p50: three, p99: five, max: five }));
    assert!(one < three && reach.to_sent.is_some_and(|d| d.max == Duration::from_micros(100)), "{reach:?}");
    drop(streams);
    assert_eq!(world.clients.reached(7).connected, 1, "the others are gone");
}

#[test]
fn a_wrong_clock_is_held_between_sending_and_telling() {
    let world = World::new();
    let stream = world.clients.open(who("a"));
    let published = world.publish(1);
    let sent = published.plus(Duration::from_micros(50));
    stream.sent(1, sent);
    let early = Said { applied: vec![(1, at(0))], ..Said::default() };
    assert_eq!(world.clients.report("a", &early), Some(vec![Duration::from_micros(50)]));
    world.publish(2);
    stream.sent(2, world.clock.now());
    world.clients.report("a", &Said { applied: vec![(2, Timestamp::MAX)], ..Said::default() });
    assert!(world.clients.list()[0].applied_at.is_some_and(|at| at <= world.clock.now()));
    world.clients.report("a", &Said { applied: vec![(99, at(0))], ..Said::default() });
    assert_eq!(world.clients.list()[0].applied_version, Some(2), "it was never sent 99");
}

#[test]
fn of_two_streams_of_a_client_the_newer_counts_and_the_older_may_end_later() {
    let world = World::new();
    let old = world.clients.open(who("a"));
    let new = world.clients.open(who("a"));
    assert_eq!(world.clients.list().iter().map(|c| c.stream).collect::<Vec<_>>(), [2]);
    drop(old);
    new.sent(1, world.clock.now());
    assert!(world.clients.report("a", &Said::default()).is_some());
    drop(new);
    assert!(world.clients.report("a", &Said::default()).is_none(), "nobody is there");
    assert_eq!(world.clients.list(), []);
    assert!(lock(&world.clients.open).newest.is_empty());
}

#[test]
fn anonymous_watchers_are_listed_and_judged_by_what_they_were_sent() {
    let world = World::new();
    let (one, _two) = (world.clients.open(who("")), world.clients.open(who("")));
    world.publish(1);
    world.publish(4);
    one.sent(1, world.clock.now());
    one.sent(4, world.clock.now());
    one.sent(4, Timestamp::MAX);
    let behind: Vec<u64> = world.clients.list().iter().map(|c| c.versions_behind).collect();
    assert_eq!(behind, [0, 2]);
    let reach = world.clients.reached(4);
    assert_eq!((reach.connected, reach.anonymous, reach.sent, reach.not_yet), (0, 2, 1, 0));
    assert!(world.clients.report("", &Said::default()).is_none());
    let (page, total) = world.clients.list_after(1, 10);
    assert_eq!((page.len(), page[0].stream, total), (1, 2, 2));
}

#[test]
fn what_a_client_has_forgotten_the_times_of_is_counted_and_not_timed() {
    let world = World::new();
    let stream = world.clients.open(who("a"));
    let versions = REMEMBERED_STEPS as u64 + 1;
    for version in 1..=versions {
        world.publish(version);
        stream.sent(version, world.clock.now());
        world.says("a", version, world.clock.now());
    }
    let (old, kept) = (world.clients.reached(1), world.clients.reached(2));
    assert_eq!((old.applied, old.to_applied, old.to_sent), (1, None, None));
    assert_eq!((kept.applied, kept.to_applied.map(|d| d.count)), (1, Some(1)));
    let unknown = world.clients.reached(versions + 1);
    assert_eq!((unknown.published_at, unknown.applied, unknown.not_yet), (None, 0, 1));
}
