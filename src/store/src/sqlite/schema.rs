//! The tables of the three databases, as numbered migration steps. A released step is never edited: a schema change is a
//! new step. In the file's header, `user_version` is the number of steps taken and `application_id` marks the file as
//! Inroad's.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

/// One of the three files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Schema {
    /// The file's name in the store's folder.
    pub(crate) file: &'static str,
    /// Marks the file as Inroad's, in its header.
    application_id: i32,
    steps: &'static [&'static str],
}

/// The catalogue with its audit log and decisions. The application id is "InrS" in ASCII.
pub(crate) const STATE: Schema = Schema {
    file: "inroad.db",
    application_id: 0x496e_7253,
    steps: &[STATE_1, STATE_2, STATE_3, STATE_4, STATE_5, STATE_6, STATE_7, STATE_8, STATE_9, STATE_10],
};
/// The version of [`STATE`] that was the last to contain the counts.
pub(crate) const LAST_STATE_WITH_COUNTS: u32 = 9;
/// The counts: unit records, outcomes and tallies. The application id is "InrC" in ASCII.
pub(crate) const COUNTS: Schema =
    Schema { file: "counts.db", application_id: 0x496e_7243, steps: &[COUNTS_1, COUNTS_2, COUNTS_3] };
/// The log. The application id is "InrL" in ASCII.
pub(crate) const LOG: Schema = Schema { file: "log.db", application_id: 0x496e_724c, steps: &[LOG_1] };

/// `experiment.body` is JSON: definition, status, kills, clock. Generations, revisions and switches (kills and
/// restores) have their own rows because they only ever grow: a change does not rewrite a long history.
///
/// The key of `unit` makes a slice of an experiment's line one key range. The table has no other unique key and no
/// foreign key, so that another database can shard it by digest. Sums are decimal text because they need more than 64
/// bits.
const STATE_1: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('version', 0), ('folded', 0), ('store_id', lower(hex(randomblob(16))));
CREATE TABLE experiment (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, version INTEGER NOT NULL, body TEXT NOT NULL
) STRICT;
CREATE TABLE generation (
    experiment_id INTEGER NOT NULL, number INTEGER NOT NULL, salt TEXT NOT NULL, started_at INTEGER NOT NULL,
    PRIMARY KEY (experiment_id, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE revision (
    experiment_id INTEGER NOT NULL, generation INTEGER NOT NULL, number INTEGER NOT NULL,
    created_at INTEGER NOT NULL, effective_at INTEGER NOT NULL, cause TEXT NOT NULL, allocation TEXT NOT NULL,
    PRIMARY KEY (experiment_id, generation, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE switch (
    experiment_id INTEGER NOT NULL, generation INTEGER NOT NULL, number INTEGER NOT NULL,
    at INTEGER NOT NULL, target TEXT NOT NULL, killed INTEGER NOT NULL,
    PRIMARY KEY (experiment_id, generation, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE decision (
    id INTEGER PRIMARY KEY, experiment_id INTEGER NOT NULL, generation INTEGER NOT NULL,
    at INTEGER NOT NULL, revision INTEGER, input TEXT NOT NULL, output TEXT NOT NULL
) STRICT;
CREATE INDEX decision_by_generation ON decision (experiment_id, generation);
CREATE TABLE audit (
    id INTEGER PRIMARY KEY, at INTEGER NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
    experiment TEXT NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_experiment ON audit (experiment, id);
CREATE TABLE consumer (name TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE outcome (
    unit_digest BLOB NOT NULL, event_id TEXT NOT NULL, event TEXT NOT NULL,
    occurred_at INTEGER NOT NULL, value_micros INTEGER NOT NULL,
    PRIMARY KEY (unit_digest, event_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE unit (
    experiment_id INTEGER NOT NULL, generation INTEGER NOT NULL, digest BLOB NOT NULL,
    unit_digest BLOB NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (experiment_id, generation, digest)
) STRICT, WITHOUT ROWID;
CREATE TABLE counted (
    experiment_id INTEGER NOT NULL, generation INTEGER NOT NULL,
    revisions INTEGER NOT NULL, switches INTEGER NOT NULL, metrics INTEGER NOT NULL, latest_exposure INTEGER NOT NULL,
    units_moved INTEGER NOT NULL, crossovers INTEGER NOT NULL, stale_exposures INTEGER NOT NULL,
    PRIMARY KEY (experiment_id, generation)
) STRICT, WITHOUT ROWID;
CREATE TABLE tally (
    experiment_id INTEGER NOT NULL, generation INTEGER NOT NULL,
    metric INTEGER NOT NULL, tick INTEGER NOT NULL, revision INTEGER NOT NULL, arm INTEGER NOT NULL,
    first INTEGER NOT NULL, n INTEGER NOT NULL, s INTEGER NOT NULL, dropped INTEGER NOT NULL,
    x TEXT NOT NULL, xx TEXT NOT NULL, y TEXT NOT NULL, yy TEXT NOT NULL, xy TEXT NOT NULL,
    units INTEGER NOT NULL, outcomes INTEGER NOT NULL, outcome_units INTEGER NOT NULL, outcome_sum TEXT NOT NULL,
    PRIMARY KEY (experiment_id, generation, metric, tick, revision, arm)
) STRICT, WITHOUT ROWID;
";

/// Early outcomes. `counted.early` marks the counts that include them; the first fold recounts the others.
const STATE_2: &str = "
ALTER TABLE tally ADD COLUMN early INTEGER NOT NULL DEFAULT 0;
ALTER TABLE counted ADD COLUMN early INTEGER NOT NULL DEFAULT 0;
";

/// Endings of generations, which are part of the history; generations that ended before this step have no ending. A
/// recount in batches stores the history that it counts with and the digest at which it continues.
const STATE_3: &str = "
CREATE TABLE ending (
    experiment_id INTEGER NOT NULL, generation INTEGER NOT NULL, number INTEGER NOT NULL,
    at INTEGER NOT NULL, shipped INTEGER,
    PRIMARY KEY (experiment_id, generation, number)
) STRICT, WITHOUT ROWID;
ALTER TABLE counted ADD COLUMN endings INTEGER NOT NULL DEFAULT 0;
ALTER TABLE counted ADD COLUMN recount_to TEXT;
ALTER TABLE counted ADD COLUMN recount_from BLOB;
";

/// Tolerances: `counted.tolerances` marks the counts that include them; the first fold recounts the others. With them
/// come the reasons for dropped records and the outcomes outside the window. `experiment.body` gets the results of
/// killed variations at the time of the kill, which needs no column.
const STATE_4: &str = "
ALTER TABLE tally ADD COLUMN dropped_by_kill INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tally ADD COLUMN dropped_after_end INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tally ADD COLUMN too_early INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tally ADD COLUMN too_late INTEGER NOT NULL DEFAULT 0;
ALTER TABLE counted ADD COLUMN tolerances INTEGER NOT NULL DEFAULT 0;
";

/// An outcome concerns the generations that exposed its unit. The index finds them, however many experiments measure the
/// event.
const STATE_5: &str = "
CREATE INDEX unit_by_unit_digest ON unit (unit_digest);
";

/// The openings of this database: [`super::lineages`].
const STATE_6: &str = "
CREATE TABLE lineage (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, began_after INTEGER NOT NULL) STRICT;
";

/// From here on `audit.before` and `audit.after` have only the parts of the experiment that the change touched, and
/// `context` what a reader needs besides (empty: nothing). `context` is NULL in earlier entries, which have the whole
/// experiment twice.
const STATE_7: &str = "
ALTER TABLE audit ADD COLUMN context TEXT;
";

/// The chain of the audit log. Entries up to `audit_older` are older than the chain and have no hash; `audit_head` is
/// the hash of the newest entry.
const STATE_8: &str = "
ALTER TABLE audit ADD COLUMN hash BLOB;
INSERT INTO meta SELECT 'audit_older', coalesce(max(id), 0) FROM audit;
INSERT INTO meta VALUES ('audit_head', zeroblob(32));
";

/// The input of a decision as its difference from that of an earlier one: [`super::decisions`]. `input` is empty if there
/// is a delta. Earlier decisions have their whole input, and no ordinal.
const STATE_9: &str = "
ALTER TABLE decision ADD COLUMN ordinal INTEGER;
ALTER TABLE decision ADD COLUMN base INTEGER;
ALTER TABLE decision ADD COLUMN delta BLOB;
";

/// The counts have a file of their own since this step: [`super::counts_file`] moves them before it is taken.
const STATE_10: &str = "
DROP TABLE outcome;
DROP TABLE unit;
DROP TABLE counted;
DROP TABLE tally;
DELETE FROM meta WHERE key = 'folded';
";

/// The tables that `STATE_1` to `STATE_5` made, with the same columns in the same order. `counts_id` is in `meta` of both
/// files; `catalogue_version` is a version of the catalogue that has everything that was counted.
///
/// The key of `unit` makes a slice of an experiment's line one key range. The table has no other unique key and no
/// foreign key, so that another database can shard it by digest. The index finds the records of a unit, however many
/// experiments measure its outcomes. Sums are decimal text because they need more than 64 bits.
const COUNTS_1: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('folded', 0), ('catalogue_version', 0), ('counts_id', lower(hex(randomblob(16))));
CREATE TABLE outcome (
    unit_digest BLOB NOT NULL, event_id TEXT NOT NULL, event TEXT NOT NULL,
    occurred_at INTEGER NOT NULL, value_micros INTEGER NOT NULL,
    PRIMARY KEY (unit_digest, event_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE unit (
    experiment_id INTEGER NOT NULL, generation INTEGER NOT NULL, digest BLOB NOT NULL,
    unit_digest BLOB NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (experiment_id, generation, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX unit_by_unit_digest ON unit (unit_digest);
CREATE TABLE counted (
    experiment_id INTEGER NOT NULL, generation INTEGER NOT NULL,
    revisions INTEGER NOT NULL, switches INTEGER NOT NULL, metrics INTEGER NOT NULL, latest_exposure INTEGER NOT NULL,
    units_moved INTEGER NOT NULL, crossovers INTEGER NOT NULL, stale_exposures INTEGER NOT NULL,
    early INTEGER NOT NULL, endings INTEGER NOT NULL, recount_to TEXT, recount_from BLOB, tolerances INTEGER NOT NULL,
    PRIMARY KEY (experiment_id, generation)
) STRICT, WITHOUT ROWID;
CREATE TABLE tally (
    experiment_id INTEGER NOT NULL, generation INTEGER NOT NULL,
    metric INTEGER NOT NULL, tick INTEGER NOT NULL, revision INTEGER NOT NULL, arm INTEGER NOT NULL,
    first INTEGER NOT NULL, n INTEGER NOT NULL, s INTEGER NOT NULL, dropped INTEGER NOT NULL,
    x TEXT NOT NULL, xx TEXT NOT NULL, y TEXT NOT NULL, yy TEXT NOT NULL, xy TEXT NOT NULL,
    units INTEGER NOT NULL, outcomes INTEGER NOT NULL, outcome_units INTEGER NOT NULL, outcome_sum TEXT NOT NULL,
    early INTEGER NOT NULL, dropped_by_kill INTEGER NOT NULL, dropped_after_end INTEGER NOT NULL,
    too_early INTEGER NOT NULL, too_late INTEGER NOT NULL,
    PRIMARY KEY (experiment_id, generation, metric, tick, revision, arm)
) STRICT, WITHOUT ROWID;
";

/// The index has the records as well, so that one place has all records of a unit. Since this step records of units with
/// few outcomes have no sums, which earlier releases cannot read.
const COUNTS_2: &str = "
DROP INDEX unit_by_unit_digest;
CREATE INDEX unit_by_unit_digest ON unit (unit_digest, record);
";

/// Activity counts end with the generation: `counted.activity_ends` marks the counts that do so; the first fold recounts the
/// others. Those of a generation without an end are the same either way.
const COUNTS_3: &str = "
ALTER TABLE counted ADD COLUMN activity_ends INTEGER NOT NULL DEFAULT 0;
UPDATE counted SET activity_ends = 1 WHERE endings = 0 AND recount_to IS NULL;
";

/// One row for each event. An exposure has `experiment` to `context`, an outcome `units` to `clock`; the other columns
/// are NULL. `meta.head` prevents a place from being used twice after the newest rows were pruned.
const LOG_1: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('head', 0);
CREATE TABLE log (
    seq INTEGER PRIMARY KEY, received_at INTEGER NOT NULL, occurred_at INTEGER NOT NULL,
    experiment TEXT, generation INTEGER, unit TEXT, arm INTEGER, revision INTEGER, context TEXT,
    units TEXT, event TEXT, value_micros INTEGER, event_id TEXT, clock TEXT
) STRICT;
";

/// The result of checking and upgrading a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FileState {
    /// Inroad's, and up to date now.
    Ready,
    /// Written by a newer program.
    Newer {
        /// The file's version.
        found: u32,
        /// The last version that this program knows.
        known: u32,
    },
    /// Another program's database.
    Foreign,
}

impl Schema {
    /// The same file as an earlier release knew it.
    pub(crate) fn as_of(self, version: u32) -> Self {
        Self { steps: self.steps.get(..version as usize).unwrap_or(self.steps), ..self }
    }

    /// The version of a file; 0 if it is new, `None` if it is another program's.
    pub(crate) fn version_of(&self, connection: &Connection) -> rusqlite::Result<Option<u32>> {
        let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        Ok((version == 0 || self.matches(connection)?).then_some(version.unsigned_abs()))
    }

    /// The last version that this program knows.
    pub(crate) fn known(&self) -> u32 {
        self.steps.len() as u32
    }

    /// Whether a file has this schema, in any version.
    pub(crate) fn matches(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        Ok(id == self.application_id)
    }

    /// Upgrades a file to the current version, each step in its own transaction.
    pub(crate) fn migrate(&self, connection: &mut Connection) -> rusqlite::Result<FileState> {
        let pragma = |c: &Connection, name: &str| c.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
        let version = pragma(connection, "user_version")?.unsigned_abs();
        let application_id = pragma(connection, "application_id")?;
        let any_table = connection
            .query_row("SELECT name FROM sqlite_schema LIMIT 1", [], |row| row.get::<_, String>(0))
            .optional()?;
        let empty = version == 0 && application_id == 0 && any_table.is_none();
        if !empty && application_id != self.application_id {
            return Ok(FileState::Foreign);
        }
        if version > self.known() {
            return Ok(FileState::Newer { found: version, known: self.known() });
        }
        for (at, step) in (1i32..).zip(self.steps).skip(version as usize) {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute_batch(step)?;
            transaction.pragma_update(None, "application_id", self.application_id)?;
            transaction.pragma_update(None, "user_version", at)?;
            transaction.commit()?;
        }
        Ok(FileState::Ready)
    }
}
