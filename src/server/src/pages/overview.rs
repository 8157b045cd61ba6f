//! Every experiment: what fits the filter, as it stands.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use inroad_assignment::{Arm, Experiment, Status, Timestamp};
use inroad_dashboard::form::Form;
use inroad_dashboard::overview::{Filter, Overview, Row};
use inroad_dashboard::shell::Place;
use inroad_store::Event;

use super::guard::Caller;
use super::standing::Standing;
use super::{Pages, Sheet, Site, refused};
use crate::catalogue::Entry;
use crate::error::ServerError;

/// How long a first look waits for standings that nobody has asked for before; what is not ready by then follows.
const PATIENCE: Duration = Duration::from_millis(25);
const DAY: Duration = Duration::from_secs(86_400);
/// A temporary flag that has served everybody the same for so long is stale.
const STALE_AFTER: Duration = Duration::from_secs(14 * 86_400);

/// `GET /`
pub(super) async fn page(
    State(pages): Site,
    caller: Caller,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let asked = Form::parse(query.unwrap_or_default().as_bytes());
    let filter = Filter {
        text: asked.text("q").to_owned(),
        tag: asked.text("tag").to_owned(),
        owner: asked.text("owner").to_owned(),
        state: asked.text("state").to_owned(),
        prefix: asked.text("prefix").to_owned(),
    };
    let is_first = !headers.contains_key("inroad-part");
    match gather(&pages, filter, is_first).await {
        Ok(overview) => {
            Sheet::new("Experiments", Place::Overview, overview.render()).following("scope=overview").send(&caller)
        }
        Err(error) => refused(&caller, error),
    }
}

async fn gather(pages: &Arc<Pages>, filter: Filter, is_first: bool) -> Result<Overview, ServerError> {
    let shared = &pages.shared;
    let (state, folded) = (shared.catalogue.state(), shared.store.folded());
    let now = shared.clock.now();
    let index: HashMap<&str, usize> = state.entries.keys().enumerate().map(|(i, key)| (key.as_str(), i)).collect();
    let which = |event: &Event| match event {
        Event::Exposure(exposure) => index.get(exposure.experiment.as_str()).copied(),
        Event::Outcome(_) => None,
    };
    let rates = shared.recent.per_minute(shared, which, index.len()).await?;
    let mut standings: Vec<_> =
        state.entries.iter().map(|(key, entry)| pages.standings.get(key, entry, folded)).collect();
    if is_first && standings.iter().any(Option::is_none) {
        pages.standings.settle(PATIENCE).await;
        standings = state.entries.iter().map(|(key, entry)| pages.standings.get(key, entry, folded)).collect();
    }
    let all = state.entries.values().zip(standings).zip(rates);
    let rows = all.map(|((entry, standing), rate)| row(entry, standing.as_deref(), rate, now));
    let (mut tags, mut owners, mut kept) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for row in rows {
        tags.extend(row.tags.iter().cloned());
        if !row.owner.is_empty() {
            owners.insert(row.owner.clone());
        }
        if fits(&filter, &row) {
            kept.push(row);
        }
    }
    // What asks for somebody comes first, then what is under way.
    let order = |row: &Row| {
        let state = ["running", "paused", "draft", "concluded"].iter().position(|s| *s == row.state).unwrap_or(9);
        (row.alarms.is_empty(), state)
    };
    kept.sort_by_key(order);
    let total = state.entries.len();
    Ok(Overview { filter, rows: kept, total, tags: tags.into_iter().collect(), owners: owners.into_iter().collect() })
}

fn fits(filter: &Filter, row: &Row) -> bool {
    let text = filter.text.to_lowercase();
    let found = text.is_empty() || row.key.contains(&text) || row.description.to_lowercase().contains(&text);
    let state = match filter.state.as_str() {
        // What is put away is shown to those who ask for it.
        "" => row.state != "archived" || !filter.prefix.is_empty() || !filter.text.is_empty(),
        "killed" => row.killed || row.killed_arms.contains(&true),
        "alarm" => !row.alarms.is_empty(),
        "stale" => row.stale.is_some(),
        state => row.state == state,
    };
    let tag = filter.tag.is_empty() || row.tags.contains(&filter.tag);
    let owner = filter.owner.is_empty() || row.owner == filter.owner;
    found && state && tag && owner && row.key.starts_with(&filter.prefix)
}

fn row(entry: &Entry, standing: Option<&Standing>, exposures_per_minute: f64, now: Timestamp) -> Row {
    let experiment = &entry.experiment;
    let definition = &experiment.definition;
    let allocation = experiment.latest_allocation();
    let names: Vec<String> = definition.variations().iter().map(|v| v.key.to_string()).collect();
    let arms = (0..names.len()).filter_map(Arm::new);
    Row {
        key: definition.key().to_string(),
        description: definition.description().to_owned(),
        owner: definition.owner().to_owned(),
        tags: definition.tags().to_vec(),
        state: experiment.status.name(),
        killed: experiment.kills.everything,
        buckets: super::experiment::buckets(&allocation),
        killed_arms: arms.map(|arm| !arm.is_control() && experiment.kills.served(arm).is_control()).collect(),
        leader: standing.and_then(|s| s.leader).and_then(|(arm, p)| Some((names.get(arm)?.clone(), p))),
        headroom: matches!(experiment.status, Status::Running | Status::Paused)
            .then(|| allocation.headroom(definition.policy().floor()).share()),
        exposures_per_minute,
        units: standing.map(|s| s.units),
        created_at: experiment.created_at,
        age_days: now.since(experiment.created_at).as_secs() / DAY.as_secs(),
        alarms: standing.map(|s| s.alarms.clone()).unwrap_or_default(),
        // What is served changes by the experiment's own clock; a draft, by the wall's.
        stale: standing.and_then(|s| {
            let now = if experiment.generation().is_some() { experiment.now(now) } else { now };
            stale(experiment, s.changed_at?, now)
        }),
        names,
    }
}

/// Why a flag may be taken out of the code.
fn stale(experiment: &Experiment, changed_at: Timestamp, now: Timestamp) -> Option<String> {
    if !experiment.is_temporary() || now.since(changed_at) < STALE_AFTER {
        return None;
    }
    let name = |arm: Arm| experiment.definition.variation(arm).map(|v| v.key.to_string()).unwrap_or_default();
    let days = now.since(changed_at).as_secs() / DAY.as_secs();
    match experiment.status {
        Status::Concluded { shipped } => {
            Some(format!("everybody has had {} for {days} days, since it was concluded", name(shipped)))
        }
        Status::Running | Status::Paused if experiment.kills.everything => {
            Some(format!("everybody has had {} for {days} days, since it was killed", name(Arm::CONTROL)))
        }
        Status::Running | Status::Paused => {
            let allocation = experiment.latest_allocation();
            let arms = (0..experiment.definition.variations().len()).filter_map(Arm::new);
            let served: BTreeSet<Arm> = arms
                .filter(|arm| allocation.width_of(*arm).get() > 0)
                .map(|arm| experiment.kills.served(arm))
                .collect();
            let all = served.first().filter(|_| served.len() == 1)?;
            Some(format!("everybody has had {} for {days} days", name(*all)))
        }
        Status::Draft => Some(format!("a draft that nobody has touched for {days} days")),
        Status::Archived { .. } => None,
    }
}
