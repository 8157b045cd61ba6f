//! Replaces the definition of an experiment, and checks what may change after the start.

use super::{ChangeError, Experiment, KillTarget, Kills, RevisionCause, Status};
use crate::allocation::Arm;
use crate::definition::{ClockKind, Definition};
use crate::document::DefinitionDoc;
use crate::line::Width;
use crate::time::Timestamp;

impl Experiment {
    /// Replaces the definition. In a draft everything can change except the key and the kind of clock. After the start,
    /// everything that the allocation and the results depend on is fixed: the unit, the salt, the tick, and the
    /// existing variations and metrics with their order. Variations can be added at the end. They get their foothold
    /// from control, in a revision that takes effect at `effective_at`. A variation whose initial share is edited grows to
    /// it in the same revision; it is refused if it has more already. After a conclusion, initial shares apply to the next
    /// run only.
    pub fn update(
        &mut self,
        mut definition: Definition,
        now: Timestamp,
        effective_at: Timestamp,
    ) -> Result<(), ChangeError> {
        let old = &self.definition;
        if definition.key != old.key {
            return fixed("key", "create another experiment");
        }
        if std::mem::discriminant(&definition.clock) != std::mem::discriminant(&old.clock) {
            return fixed("clock", "create another experiment");
        }
        if self.status == Status::Draft {
            self.update_draft(definition);
            return Ok(());
        }
        if matches!(self.status, Status::Archived { .. }) {
            return self.wrong_state("update", "archived experiments cannot change; create a new experiment");
        }
        if definition.clock == ClockKind::Manual(None) {
            definition.clock = old.clock;
        }
        self.check_fixed_fields(&definition)?;
        let mut requests = self.edited_shares(&definition)?;
        let (before, after) = (old.variations.len(), definition.variations.len());
        let cause = if after > before { RevisionCause::Added } else { RevisionCause::Grown };
        let added = (before..after).filter_map(Arm::new);
        requests.extend(added.map(|arm| (arm, definition.variations[arm.index()].foothold)));
        if !requests.is_empty() && self.generation().is_some() {
            let allocation = self.latest_allocation().grow(&requests, definition.policy.floor())?;
            self.push_revision(allocation, cause, now, effective_at)?;
        }
        self.definition = definition;
        Ok(())
    }

    /// The document with the initial shares that it leaves out: after the start, an existing variation keeps its own,
    /// instead of a default that depends on the number of variations.
    #[must_use]
    pub fn with_kept_shares(&self, mut doc: DefinitionDoc) -> DefinitionDoc {
        if self.status != Status::Draft {
            for (new, old) in doc.variations.iter_mut().zip(&self.definition.variations).skip(1) {
                if new.key == old.key.as_str() {
                    new.share = new.share.or(Some(old.foothold.share()));
                }
            }
        }
        doc
    }

    /// The growth that makes each variation reach its edited initial share.
    fn edited_shares(&self, new: &Definition) -> Result<Vec<(Arm, Width)>, ChangeError> {
        let mut requests = Vec::new();
        if !matches!(self.status, Status::Running | Status::Paused) {
            return Ok(requests);
        }
        let allocation = self.latest_allocation();
        for (index, (old, new_one)) in self.definition.variations.iter().zip(&new.variations).enumerate() {
            let Some(arm) = Arm::new(index).filter(|_| old.foothold != new_one.foothold) else { continue };
            let owned = allocation.width_of(arm);
            if new_one.foothold < owned {
                let (variation, share) = (old.key.to_string(), new_one.foothold.share());
                return Err(ChangeError::ShareCannotShrink { variation, share, current: owned.share() });
            }
            let width = new_one.foothold.saturating_sub(owned);
            if width > Width::ZERO {
                if self.kills.is_arm_killed(arm) {
                    return Err(ChangeError::VariationKilled(old.key.to_string()));
                }
                requests.push((arm, allocation.round_to_headroom(width, new.policy.floor())));
            }
        }
        Ok(requests)
    }

    fn update_draft(&mut self, definition: Definition) {
        let old = &self.definition;
        // A repeated declaration of the same start does not move the clock back.
        if let ClockKind::Manual(Some(start)) = definition.clock
            && definition.clock != old.clock
        {
            self.manual_now = Some(start);
        }
        // Kills apply to variations by key, so they move with a variation whose index changes.
        let killed = old
            .variations
            .iter()
            .enumerate()
            .filter(|(i, _)| Arm::new(*i).is_some_and(|a| self.kills.is_arm_killed(a)));
        let arms = killed.filter_map(|(_, variation)| definition.arm(variation.key.as_str()));
        let no_arms = Kills { arms: 0, ..self.kills };
        self.kills = arms.fold(no_arms, |kills, arm| kills.with_change(KillTarget::Variation(arm), true));
        self.definition = definition;
    }

    fn check_fixed_fields(&self, new: &Definition) -> Result<(), ChangeError> {
        let old = &self.definition;
        if new.unit != old.unit {
            return fixed("unit", "create another experiment, because every unit would get a new point");
        }
        if new.clock != old.clock {
            return fixed("clock.start", "leave it out or as it was, and advance simulated time instead");
        }
        let first_salt = self.generations.first().map(|g| &g.salt);
        if new.salt.is_some() && new.salt != old.salt && new.salt.as_ref() != first_salt {
            return fixed("salt", "leave it as it was, or restart the experiment to get a new salt");
        }
        if new.policy.tick() != old.policy.tick() {
            return fixed("policy.tick", "create another experiment, because the tick divides its results");
        }
        let count = old.variations.len();
        let keys = |d: &Definition| d.variations.iter().take(count).map(|v| v.key.clone()).collect::<Vec<_>>();
        if new.variations.len() < count || keys(old) != keys(new) {
            let remedy = "keep the existing ones in their order, and add new ones at the end; to remove one, kill it";
            return fixed("variations", remedy);
        }
        let metrics = |d: &Definition| {
            d.metrics.iter().map(|m| (m.key.clone(), m.event.clone(), m.kind.clone(), m.window)).collect::<Vec<_>>()
        };
        if !metrics(new).starts_with(&metrics(old)) {
            return fixed("metrics", "keep the existing ones in their order, and add new ones at the end");
        }
        Ok(())
    }
}

fn fixed(field: &'static str, remedy: &'static str) -> Result<(), ChangeError> {
    Err(ChangeError::FixedAfterStart { field, remedy })
}
