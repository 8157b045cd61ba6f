//! One run: what people, applications, clocks and the machine do, drawn from a seed.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use inroad_assignment::experiment::RevisionCause;
use inroad_assignment::{Arm, Status, Timestamp};
use inroad_server::ServerConfig;
use inroad_server::server_core::ServerCore;
use inroad_server::services::assignment::AssignmentHandler;
use inroad_server::services::event::EventHandler;
use inroad_server::services::experiment::ExperimentHandler;
use inroad_server::services::server::ServerHandler;
use inroad_server::shared::SharedState;
use inroad_store::{SqliteOptions, SqliteStore};
use inroad_wire::v1::assignment_service_server::AssignmentService;
use inroad_wire::v1::event_service_server::EventService;
use inroad_wire::v1::experiment_service_server::ExperimentService;
use inroad_wire::v1::grow_variation_request::Amount;
use inroad_wire::v1::server_service_server::ServerService;
use inroad_wire::v1::{self, ExposureMode};
use tonic::Request;

use crate::checks;
use crate::client::SimulatedClient;
use crate::faulty_store::{FaultRates, FaultyStore};
use crate::model::{Answer, Exposure, Model};
use crate::planted::Planted;
use crate::random::Random;
use crate::simulated_time::SimulatedTime;

/// A flag that people grow by hand, and an experiment whose policy decides each [`TICK`].
const FLAG: &str = "flag";
pub(crate) const BANDIT: &str = "bandit";
pub(crate) const EXPERIMENTS: [&str; 2] = [FLAG, BANDIT];
pub(crate) const TICK: Duration = Duration::from_secs(600);
/// The number of units.
pub(crate) const UNITS: u64 = 400;
/// The lives of a server in one run. The last one has no faults.
const LIVES: u64 = 5;
/// The steps of one life, unless it crashes before.
const STEPS: u64 = 40;
/// Longer than the time after which a jump of the clock is accepted.
const SETTLED: Duration = Duration::from_secs(400);

pub(crate) fn unit_key(unit: u64) -> String {
    format!("u{unit}")
}

/// What happened in a run, to show that nothing is missing from it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    steps: u64,
    crashes: u64,
    slow: u64,
    full: u64,
    jumps: u64,
    restarts: u64,
    cut_off: u64,
    kills: u64,
    growths: u64,
    decisions: u64,
    exposures: u64,
    outcomes: u64,
    duplicates: u64,
}

impl Record {
    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, (_, number)) in self.numbers_mut().into_iter().zip(other.numbers()) {
            *sum += number;
        }
    }

    fn numbers_mut(&mut self) -> [&mut u64; 13] {
        [
            &mut self.steps,
            &mut self.crashes,
            &mut self.slow,
            &mut self.full,
            &mut self.jumps,
            &mut self.restarts,
            &mut self.cut_off,
            &mut self.kills,
            &mut self.growths,
            &mut self.decisions,
            &mut self.exposures,
            &mut self.outcomes,
            &mut self.duplicates,
        ]
    }

    fn numbers(&self) -> [(&'static str, u64); 13] {
        [
            ("steps", self.steps),
            ("crashes", self.crashes),
            ("slow writes", self.slow),
            ("writes on a full disk", self.full),
            ("clock jumps", self.jumps),
            ("restarts", self.restarts),
            ("clients cut off", self.cut_off),
            ("kills", self.kills),
            ("revisions by people", self.growths),
            ("revisions by the policy", self.decisions),
            ("exposures", self.exposures),
            ("outcomes", self.outcomes),
            ("duplicates", self.duplicates),
        ]
    }

    /// A simulation in which something never happens proves nothing about it.
    pub(crate) fn assert_everything_happened(&self) {
        for (what, number) in self.numbers() {
            assert!(number > 0, "no {what} in any seed: {self}");
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.numbers().iter().map(|(what, number)| format!("{number} {what}")).collect();
        f.write_str(&texts.join(", "))
    }
}

/// Runs one seed; an error names the invariant that does not hold.
pub(crate) fn run(seed: u64, planted: Option<Planted>) -> Result<Record, String> {
    let folder = tempfile::TempDir::new().expect("a folder");
    let mut world = World {
        folder: folder.path().to_owned(),
        time: SimulatedTime::new(),
        random: Random::new(seed, 1),
        clients: vec![SimulatedClient::default(), SimulatedClient::default()],
        model: Model::default(),
        record: Record::default(),
        sent: Vec::new(),
        seed,
        planted,
    };
    for life in 0..LIVES {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).max_blocking_threads(1).build().expect("a runtime");
        // Dropping the runtime ends every task wherever it waits: that is the crash.
        let ended = runtime.block_on(world.live(life));
        drop(runtime);
        ended?;
        world.pass_downtime();
    }
    Ok(world.record)
}

struct World {
    folder: std::path::PathBuf,
    time: SimulatedTime,
    random: Random,
    clients: Vec<SimulatedClient>,
    model: Model,
    record: Record,
    /// Outcomes that were sent, to send some of them again.
    sent: Vec<v1::Outcome>,
    seed: u64,
    planted: Option<Planted>,
}

/// The services of one life of the server.
struct Services {
    shared: Arc<SharedState>,
    experiments: ExperimentHandler,
    events: EventHandler,
    server: ServerHandler,
}

impl World {
    /// One life of the server: until it crashes, or its steps are done and it stops in order.
    async fn live(&mut self, life: u64) -> Result<(), String> {
        let is_last = life + 1 == LIVES;
        self.time.begin_life();
        let rates = if is_last { FaultRates::NONE } else { FaultRates { slow: 60, full: 120, crash: 400 } };
        let inner = SqliteStore::open(&self.folder, SqliteOptions::default()).expect("the store opens after a crash");
        let random = Random::new(self.seed, 100 + life);
        let store = Arc::new(FaultyStore::new(inner, random, rates, self.planted, life));
        let config = ServerConfig { folder: self.folder.clone(), ..ServerConfig::default() };
        let core = ServerCore::start(config, store.clone(), Box::new(self.time.clone())).await;
        let core = core.map_err(|error| format!("the server does not start: {error}"))?;
        let shared = Arc::clone(&core.shared);
        let services = Services {
            experiments: ExperimentHandler::new(Arc::clone(&shared)),
            events: EventHandler::new(Arc::clone(&shared)),
            server: ServerHandler::new(Arc::clone(&shared)),
            shared,
        };
        let assignments = Arc::new(AssignmentHandler::new(Arc::clone(&services.shared)));
        for (n, client) in self.clients.iter().enumerate() {
            let random = Random::new(self.seed, 1_000 + life * 10 + n as u64);
            tokio::spawn(client.clone().follow(Arc::clone(&assignments), random));
        }
        let violations = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(watch_publications(Arc::clone(&services.shared), Arc::clone(&store), Arc::clone(&violations)));

        let steps = async {
            for _ in 0..STEPS {
                self.record.steps += 1;
                self.step(&services, life).await?;
                tokio::time::sleep(Duration::from_millis(10 + self.random.below(2_000))).await;
            }
            if is_last { self.finish(&services).await } else { Ok(()) }
        };
        let crashed = tokio::select! {
            biased;
            () = store.wait_for_crash() => true,
            done = steps => { done?; false }
        };
        self.record.crashes += u64::from(crashed);
        self.record.slow += store.counts.slow.load(std::sync::atomic::Ordering::Relaxed);
        self.record.full += store.counts.full.load(std::sync::atomic::Ordering::Relaxed);
        if let Some(violation) = violations.lock().unwrap().first() {
            return Err(String::clone(violation));
        }
        if !crashed {
            self.record.restarts += 1;
            core.begin_stop();
            // Longer than any planted slowness, so that the store is closed before the next life opens it.
            let deadline = tokio::time::Instant::now() + Duration::from_secs(3_600);
            tokio::select! {
                biased;
                () = store.wait_for_crash() => self.record.crashes += 1,
                stopped = core.finish_stop(deadline) => stopped.map_err(|error| format!("the server does not stop: {error}"))?,
            }
        }
        self.time.end_life();
        Ok(())
    }

    fn pass_downtime(&mut self) {
        self.time.pass(Duration::from_secs(self.random.below(3_000)));
        if self.random.once_in(4) {
            self.time.boot();
        }
    }

    /// One thing that somebody does.
    async fn step(&mut self, services: &Services, life: u64) -> Result<(), String> {
        self.ensure_experiments(services).await;
        match self.random.below(100) {
            0..40 => self.visit(services).await?,
            40..58 => self.send_outcomes(services).await,
            58..66 => self.kill_or_restore(services).await,
            66..72 => self.grow(services).await,
            72..74 => self.pause_or_resume(services).await,
            74..79 => self.move_clock(life),
            79 => drop(services.server.accept_clock(Request::new(v1::AcceptClockRequest {})).await),
            80..84 => self.cut_off_or_reconnect(),
            _ => tokio::time::sleep(Duration::from_secs(self.random.below(2_000))).await,
        }
        self.check_clients_answers(services)
    }

    /// Creates and starts the experiments, unless that has happened. It may fail, and is tried again at the next step.
    async fn ensure_experiments(&mut self, services: &Services) {
        for key in EXPERIMENTS {
            let status = services.shared.catalogue.state().get(key).ok().map(|entry| entry.experiment.status);
            if status.is_none() {
                let experiment = Some(definition(key));
                let request = v1::CreateExperimentRequest { experiment, ..v1::CreateExperimentRequest::default() };
                let _ = services.experiments.create_experiment(Request::new(request)).await;
            } else if status == Some(Status::Draft) {
                let request = v1::StartExperimentRequest { key: key.to_owned(), etag: String::new() };
                let _ = services.experiments.start_experiment(Request::new(request)).await;
            }
        }
    }

    /// Units see an experiment, and those that see variation `a` buy most often, so that the policy has a reason to grow
    /// it.
    async fn visit(&mut self, services: &Services) -> Result<(), String> {
        let mut outcomes = Vec::new();
        for _ in 0..20 {
            let (experiment, unit) = (*self.random.pick(&EXPERIMENTS), unit_key(self.random.below(UNITS)));
            let mode = if self.random.once_in(2) { ExposureMode::Durable } else { ExposureMode::Unspecified };
            let Some(answer) = assign(&services.shared, experiment, &unit, mode, &mut self.model).await? else {
                continue;
            };
            self.record.exposures += 1;
            let buys = if answer.arm.index() == 1 { self.random.below(10) < 6 } else { self.random.once_in(12) };
            if buys {
                outcomes.push(self.new_outcome(unit, services.shared.clock.now()));
            }
        }
        self.send(services, outcomes).await;
        Ok(())
    }

    /// Outcomes that come late, early or again.
    async fn send_outcomes(&mut self, services: &Services) {
        let mut outcomes = Vec::new();
        for _ in 0..1 + self.random.below(5) {
            if self.random.once_in(4) && !self.sent.is_empty() {
                outcomes.push(self.random.pick(&self.sent).clone());
                self.record.duplicates += 1;
                continue;
            }
            let now = services.shared.clock.now();
            let late = Duration::from_secs(if self.random.once_in(3) { self.random.below(4_000) } else { 0 });
            let unit = unit_key(self.random.below(UNITS));
            outcomes.push(self.new_outcome(unit, now.minus(late)));
        }
        self.send(services, outcomes).await;
    }

    fn new_outcome(&mut self, unit: String, at: Timestamp) -> v1::Outcome {
        let outcome = v1::Outcome {
            units: [("targetingKey".to_owned(), unit)].into(),
            event: "purchase".to_owned(),
            value: self.random.below(10_000) as f64 / 100.0,
            event_id: format!("o{}", self.sent.len()),
            occurred_at: Some(inroad_wire::timestamp_to_wire(at)),
            ..v1::Outcome::default()
        };
        self.sent.push(outcome.clone());
        outcome
    }

    async fn send(&mut self, services: &Services, outcomes: Vec<v1::Outcome>) {
        let ids: Vec<String> = outcomes.iter().map(|outcome| outcome.event_id.clone()).collect();
        let request = v1::RecordRequest { outcomes, ..v1::RecordRequest::default() };
        if let Ok(response) = services.events.record(Request::new(request)).await {
            let response = response.into_inner();
            let refused: Vec<usize> = response.rejections.iter().map(|rejection| rejection.index as usize).collect();
            let accepted = ids.into_iter().enumerate().filter(|(index, _)| !refused.contains(index));
            self.model.outcomes.extend(accepted.map(|(_, id)| id));
            self.record.outcomes += u64::from(response.accepted);
        }
    }

    async fn kill_or_restore(&mut self, services: &Services) {
        let key = *self.random.pick(&EXPERIMENTS);
        let (target, variation) = *self.random.pick(&[(0, ""), (1, "a"), (2, "b")]);
        let target = Arm::new(target).expect("an arm");
        let (owned_key, variation) = (key.to_owned(), variation.to_owned());
        let kills = self.random.once_in(2);
        // The caller may never hear that it happened.
        self.model.set_killed(key, target, kills, false);
        let done = if kills {
            let request = v1::KillRequest { key: owned_key, variation };
            services.experiments.kill(Request::new(request)).await
        } else {
            let request = v1::RestoreRequest { key: owned_key, variation };
            services.experiments.restore(Request::new(request)).await
        };
        self.model.set_killed(key, target, kills, done.is_ok());
        self.record.kills += u64::from(kills && done.is_ok());
    }

    async fn grow(&mut self, services: &Services) {
        let request = v1::GrowVariationRequest {
            key: FLAG.to_owned(),
            variation: (*self.random.pick(&["a", "b"])).to_owned(),
            amount: Some(Amount::ByShare(0.01 + self.random.below(5) as f64 / 100.0)),
            etag: String::new(),
        };
        let done = services.experiments.grow_variation(Request::new(request)).await;
        self.record.growths += u64::from(done.is_ok());
    }

    async fn pause_or_resume(&mut self, services: &Services) {
        let key = (*self.random.pick(&EXPERIMENTS)).to_owned();
        let pause = v1::PauseExperimentRequest { key: key.clone(), etag: String::new() };
        if services.experiments.pause_experiment(Request::new(pause)).await.is_err() {
            let resume = v1::ResumeExperimentRequest { key, etag: String::new() };
            let _ = services.experiments.resume_experiment(Request::new(resume)).await;
        }
    }

    /// Sets the wall clock wrong, by seconds or by weeks, or right again.
    fn move_clock(&mut self, life: u64) {
        if !self.time.is_right() || life + 1 == LIVES {
            self.time.set_right();
            return;
        }
        let seconds = *self.random.pick(&[2, 40, 700, 7_200, 30 * 86_400]);
        let direction = if self.random.once_in(2) { 1 } else { -1 };
        self.time.jump(direction * (seconds + self.random.below(5) as i64) * 1_000_000);
        self.record.jumps += 1;
    }

    fn cut_off_or_reconnect(&mut self) {
        let client = self.random.pick(&self.clients).clone();
        let mut view = client.view();
        view.is_cut_off = !view.is_cut_off;
        self.record.cut_off += u64::from(view.is_cut_off);
    }

    /// No client ever serves another variation to a unit that has seen one, however old its snapshot is.
    fn check_clients_answers(&mut self, services: &Services) -> Result<(), String> {
        let now = services.shared.clock.now();
        for client in &self.clients {
            let (experiment, unit) = (*self.random.pick(&EXPERIMENTS), unit_key(self.random.below(UNITS)));
            if let Some((arm, generation, _)) = client.assign(experiment, &unit, now) {
                self.model.check_answer(Answer { experiment, unit: &unit, generation, arm })?;
            }
        }
        Ok(())
    }

    /// Brings everything in order, and checks it.
    async fn finish(&mut self, services: &Services) -> Result<(), String> {
        let shared = &services.shared;
        self.time.set_right();
        self.clients.iter().for_each(|client| client.view().is_cut_off = false);
        // The clock is read now and again, as by a server with callers.
        for _ in 0..20 {
            tokio::time::sleep(SETTLED / 20).await;
        }
        tokio::time::sleep(3 * TICK).await;
        let version = shared.catalogue.state().version;
        if !shared.fold.wait_until_caught_up(version, Duration::from_secs(60)).await {
            return Err("the events are not counted within a minute".to_owned());
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        let state = shared.catalogue.state();
        let revisions =
            state.entries.values().flat_map(|entry| &entry.experiment.generations).flat_map(|g| &g.revisions);
        self.record.decisions += revisions.filter(|revision| revision.cause == RevisionCause::Policy).count() as u64;
        checks::check_all(shared, &self.clients, &mut self.model, &mut self.random).await
    }
}

/// Requests an assignment from the server, checks the answer and remembers an acknowledged exposure; `None` if the
/// experiment is not started, or the call failed.
pub(crate) async fn assign(
    shared: &Arc<SharedState>,
    experiment: &str,
    unit: &str,
    mode: ExposureMode,
    model: &mut Model,
) -> Result<Option<OwnedAnswer>, String> {
    let handler = AssignmentHandler::new(Arc::clone(shared));
    let kind = Some(prost_types::value::Kind::StringValue(unit.to_owned()));
    let fields = [("targetingKey".to_owned(), prost_types::Value { kind })].into();
    let request = v1::AssignRequest {
        experiment: experiment.to_owned(),
        context: Some(prost_types::Struct { fields }),
        exposure: mode.into(),
    };
    let Ok(response) = handler.assign(Request::new(request)).await else { return Ok(None) };
    let response = response.into_inner();
    let state = shared.catalogue.state();
    let Ok(entry) = state.get(experiment) else { return Ok(None) };
    let Some(arm) = entry.experiment.definition.arm(&response.variation) else { return Ok(None) };
    let (generation, revision) = (response.generation, response.revision);
    if generation == 0 {
        return Ok(None);
    }
    model.check_server_answer(Answer { experiment, unit, generation, arm }, &entry.experiment)?;
    if response.exposure_recorded && mode == ExposureMode::Durable {
        // A unit that was recorded before under another revision is not recorded again.
        let is_same =
            |e: &Exposure| (e.0.as_str(), e.1, e.2.as_str(), e.3) == (experiment, generation, unit, arm.index());
        if !model.exposures.iter().any(is_same) {
            model.exposures.insert((experiment.to_owned(), generation, unit.to_owned(), arm.index(), revision));
        }
    }
    Ok(Some(OwnedAnswer { arm, generation, revision }))
}

/// What the server answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnedAnswer {
    pub(crate) arm: Arm,
    pub(crate) generation: u32,
    pub(crate) revision: u32,
}

/// I4: a revision is published before it takes effect, unless the disk was slow.
async fn watch_publications(shared: Arc<SharedState>, store: Arc<FaultyStore>, violations: Arc<Mutex<Vec<String>>>) {
    let mut changes = shared.catalogue.subscribe();
    let newest = |shared: &SharedState| {
        let state = shared.catalogue.state();
        let experiments = state.entries.values().map(|entry| Arc::clone(&entry.experiment));
        experiments.collect::<Vec<_>>()
    };
    let mut known: std::collections::BTreeMap<String, u32> = std::collections::BTreeMap::new();
    for experiment in newest(&shared) {
        let latest = experiment.generation().and_then(|generation| generation.latest());
        known.insert(experiment.definition.key().to_string(), latest.map_or(0, |revision| revision.number));
    }
    while changes.changed().await.is_ok() {
        let was_slow = store.take_was_slow();
        let now = shared.clock.now();
        for experiment in newest(&shared) {
            let Some(latest) = experiment.generation().and_then(|generation| generation.latest()) else { continue };
            let key = experiment.definition.key().to_string();
            let before = known.insert(key.clone(), latest.number).unwrap_or(0);
            let is_new = latest.number > before && latest.cause != RevisionCause::Start;
            if is_new && latest.effective_at < experiment.now(now) && !was_slow {
                let text = format!(
                    "I4: revision {} of {key} takes effect at {:?} and was published at {now:?}",
                    latest.number, latest.effective_at
                );
                violations.lock().unwrap().push(text);
            }
        }
    }
}

fn definition(key: &str) -> v1::Experiment {
    let variation = |key: &str, initial_share| v1::Variation {
        key: key.to_owned(),
        payload: Some(v1::Payload { value: Some(v1::payload::Value::StringValue(key.to_owned())) }),
        initial_share,
        ..v1::Variation::default()
    };
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let thompson = v1::ThompsonPolicy {
        tick: seconds(TICK.as_secs() as i64),
        burn_in: seconds(0),
        burn_in_units: Some(1),
        burn_in_conversions: Some(1),
        daily_cap: Some(1.0),
        daily_cap_conclude: Some(1.0),
        min_step: Some(0.0),
        ..v1::ThompsonPolicy::default()
    };
    let kind = match key {
        BANDIT => v1::policy::Kind::Thompson(thompson),
        _ => v1::policy::Kind::Manual(v1::ManualPolicy { floor: 0.05, tick: None }),
    };
    let metric = |key: &str, kind: v1::MetricKind, decision| v1::Metric {
        key: key.to_owned(),
        event: "purchase".to_owned(),
        kind: kind.into(),
        window: seconds(3_600),
        decision,
        ..v1::Metric::default()
    };
    v1::Experiment {
        key: key.to_owned(),
        // The same salt in each run of a seed.
        salt: format!("salt{key}"),
        variations: vec![variation("control", None), variation("a", Some(0.2)), variation("b", Some(0.2))],
        policy: Some(v1::Policy { kind: Some(kind) }),
        metrics: vec![metric("bought", v1::MetricKind::Conversion, true), metric("spent", v1::MetricKind::Mean, false)],
        ..v1::Experiment::default()
    }
}
