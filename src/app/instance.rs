//! Whether the database has gone back in time: restored from a backup, or replaced by an older copy. Such
//! a database has forgotten payments that the provider has made, and would make them again.
//!
//! The database counts beats, one a minute while a scheduler runs and one at every start, and each beat is
//! copied into a witness file outside of it. A database that is behind its witness went back. One that
//! this machine does not know, and that nobody has used for a while, may have: nobody can say that it is
//! the newest copy. In both cases all payouts are paused until a person confirms (`remit payouts resume
//! --confirm-restored`), and from then on every intent is looked up at the provider before it is sent
//! (`reliability.md` §5.12, F-DB-19).
//!
//! Receiving and booking go on meanwhile. What was lost is not brought back here: that is the business of
//! reconciliation.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::{App, new_id, random_u128};
use crate::{
    domain::{
        ids::{HoldId, InstanceId},
        time::Timestamp,
    },
    failpoint::{self, Failpoint},
    store::{
        Conn, StoreError, Tx,
        findings::{self, NewFinding, Severity},
        instance::{self, Instance, RESTORED},
    },
};

/// How long nobody may have used a database before it needs a witness, seconds. A cluster that lives beats
/// every minute, so a machine that joins it is believed.
const FRESH_S: i64 = 15 * 60;

/// Where the witness of a database that has no file is kept.
const WITNESS: &str = "remit.witness";

/// A beat, as it is kept outside of the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Witness {
    instance_id: InstanceId,
    beat: i64,
    beat_at_us: i64,
}

/// What can be said of the age of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Age {
    /// Nothing speaks against its being the newest copy.
    Plausible,
    /// This machine has seen a later beat of it.
    WentBack {
        /// The beat in the database.
        beat: i64,
        /// The beat that this machine has seen.
        seen: i64,
    },
    /// Nobody has used it for a while, and this machine was not there when it was used last.
    Unwitnessed {
        /// When it was used last.
        last_used: Timestamp,
    },
}

impl Age {
    /// Compares what the database says of itself with what this machine remembers.
    fn judge(known: Option<&Instance>, witness: Option<&Witness>, has_intents: bool, now: Timestamp) -> Self {
        // Nothing is sent before the first beat.
        let Some(instance) = known else { return Self::Plausible };
        if let Some(witness) = witness.filter(|witness| witness.instance_id == instance.id) {
            if instance.beat < witness.beat {
                return Self::WentBack { beat: instance.beat, seen: witness.beat };
            }
            // Other nodes may have gone on after this machine was stopped, but not for long: what is
            // restored to a point behind the witness would look the same.
            let seen_at = Timestamp::from_micros(witness.beat_at_us);
            if instance.beat_at <= seen_at.plus_secs(FRESH_S) {
                return Self::Plausible;
            }
        }
        let is_live = now <= instance.beat_at.plus_secs(FRESH_S);
        if is_live || !has_intents {
            Self::Plausible
        } else {
            Self::Unwitnessed { last_used: instance.beat_at }
        }
    }

    /// What is wrong, in words; `None` when nothing is.
    fn trouble(&self) -> Option<String> {
        match self {
            Self::Plausible => None,
            Self::WentBack { beat, seen } => Some(format!(
                "the database is at beat {beat} and this machine has seen beat {seen} of it: it was restored \
                 from an older copy"
            )),
            Self::Unwitnessed { last_used } => Some(format!(
                "the database was used last at {last_used} and this machine does not know it from then: it \
                 may be an older copy"
            )),
        }
    }
}

/// Looks whether the database has gone back in time and pauses all payouts if so; then raises its beat, and
/// keeps that outside of it. At the start of a node, before anything is sent, and every minute.
///
/// A witness that cannot be written is logged and no error: the next start may then have to be confirmed.
///
/// # Errors
/// [`StoreError`] when the database does not answer; nothing was changed then.
pub async fn beat(app: &App) -> Result<(), StoreError> {
    let path = witness_path(app);
    let witness = read_witness(path.clone()).await;
    let now = app.now();
    let mut tx = app.db.begin().await?;
    let known = lock_or_create(&mut tx, now).await?;
    let has_intents = instance::has_intents(&mut tx).await?;
    let age = Age::judge(Some(&known), witness.as_ref(), has_intents, now);
    if let Some(trouble) = age.trouble() {
        error!(instance.id = known.id.as_str(), reason = trouble, "all payouts are paused");
        instance::pause(&mut tx, &new_id!(HoldId, now), &trouble, now).await?;
        findings::raise(&mut tx, &[finding(&known.id, &trouble)], now).await?;
    }
    let last = match age {
        // Behind no witness any more, this machine's or another's: the pause is what is remembered now.
        Age::WentBack { seen, .. } => seen,
        Age::Plausible | Age::Unwitnessed { .. } => known.beat,
    };
    let beat = last.saturating_add(1);
    instance::set_beat(&mut tx, beat, now).await?;
    failpoint::reach(Failpoint::BeatBeforeCommit);
    tx.commit().await?;
    failpoint::reach(Failpoint::BeatAfterCommit);
    // Only now: a witness that is ahead of the database says that the database went back.
    let witness = Witness { instance_id: known.id, beat, beat_at_us: now.as_micros() };
    let written = tokio::task::spawn_blocking(move || write_witness(&path, &witness)).await;
    if let Err(reason) = written.unwrap_or_else(|_| Err(io::Error::other("the write panicked"))) {
        warn!(%reason, "the witness of the database's age cannot be written; correct `payouts.witness_file`");
    }
    Ok(())
}

/// The row of the instance, locked; made where there is none yet.
async fn lock_or_create(tx: &mut Tx, now: Timestamp) -> Result<Instance, StoreError> {
    if let Some(known) = instance::lock(tx).await? {
        return Ok(known);
    }
    // Another node may be first; then its row counts.
    instance::create(tx, &new_id!(InstanceId, now), now).await?;
    instance::lock(tx).await?.ok_or(StoreError::RowsAffected { expected: 1, actual: 0 })
}

fn finding(id: &InstanceId, trouble: &str) -> NewFinding {
    NewFinding {
        kind: RESTORED.to_owned(),
        severity: Severity::Critical,
        object: id.to_string(),
        detail: format!(
            "{trouble}. All payouts are paused, everything else goes on. Make sure that nobody works on a \
             newer copy, then `remit payouts resume --confirm-restored`: every payout is then looked up at \
             the provider before it is sent"
        ),
    }
}

/// What speaks against the database's being its newest copy, in words: a pause that is in force because of
/// it, or what [`beat`] would find now. Changes nothing.
///
/// # Errors
/// [`StoreError`] when the database does not answer.
pub async fn check(app: &App, conn: &mut Conn) -> Result<Option<String>, StoreError> {
    if let Some(reason) = instance::find_pause(conn).await? {
        return Ok(Some(reason));
    }
    let witness = read_witness(witness_path(app)).await;
    let known = instance::find(conn).await?;
    let has_intents = instance::has_intents(conn).await?;
    Ok(Age::judge(known.as_ref(), witness.as_ref(), has_intents, app.now()).trouble())
}

/// Beside the file of the database, unless the configuration says otherwise: backups copy the database and
/// not what stands beside it.
fn witness_path(app: &App) -> PathBuf {
    if let Some(path) = &app.config.witness_file {
        return path.clone();
    }
    match app.db.file() {
        Some(file) => {
            let mut name = file.into_os_string();
            name.push(".witness");
            PathBuf::from(name)
        }
        None => PathBuf::from(WITNESS),
    }
}

/// What this machine remembers. A witness that cannot be read is like none: then people are asked rather
/// than believed.
async fn read_witness(path: PathBuf) -> Option<Witness> {
    let read = tokio::task::spawn_blocking(move || fs::read(path)).await;
    match read.unwrap_or_else(|_| Err(io::Error::other("the read panicked"))) {
        Ok(bytes) => {
            let witness = serde_json::from_slice(&bytes).ok();
            if witness.is_none() {
                warn!("the witness of the database's age is damaged; it is taken for none");
            }
            witness
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(reason) => {
            warn!(%reason, "the witness of the database's age cannot be read; it is taken for none");
            None
        }
    }
}

/// Replaces the witness whole and durably: after a power cut there is the old one or the new one.
fn write_witness(path: &Path, witness: &Witness) -> io::Result<()> {
    // Nodes on one machine may share a witness; each writes a file of its own first.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{:016x}", random_u128() >> 64));
    let temporary = PathBuf::from(temporary);
    let written = write_durably(&temporary, witness).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // What is left of it would only lie around; that it could not be written is what is reported.
        drop(fs::remove_file(&temporary));
        return written;
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

fn write_durably(path: &Path, witness: &Witness) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    serde_json::to_writer(&mut file, witness)?;
    file.write_all(b"\n")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_767_225_600);
    const WEEKEND_S: i64 = 2 * 86_400;

    fn ago(seconds: i64) -> Timestamp {
        NOW.plus_secs(-seconds)
    }

    fn id(text: &str) -> InstanceId {
        InstanceId::parse(text).unwrap()
    }

    fn known(beat: i64, beat_at: Timestamp) -> Instance {
        Instance { id: id("inst_1"), beat, beat_at }
    }

    fn witness(beat: i64, beat_at: Timestamp) -> Witness {
        Witness { instance_id: id("inst_1"), beat, beat_at_us: beat_at.as_micros() }
    }

    #[test]
    fn a_database_that_is_where_this_machine_left_it_is_believed_however_long_ago_that_was() {
        let (there, here) = (known(7, ago(WEEKEND_S)), witness(7, ago(WEEKEND_S)));
        assert_eq!(Age::judge(Some(&there), Some(&here), true, NOW), Age::Plausible);
        // A crash between the commit of a beat and the witness leaves the witness one behind.
        let here = witness(6, ago(WEEKEND_S + 60));
        assert_eq!(Age::judge(Some(&there), Some(&here), true, NOW), Age::Plausible);
    }

    #[test]
    fn a_database_behind_its_witness_went_back_whatever_it_holds() {
        for has_intents in [false, true] {
            let (there, here) = (known(7, ago(60)), witness(8, ago(60)));
            let age = Age::judge(Some(&there), Some(&here), has_intents, NOW);
            assert_eq!(age, Age::WentBack { beat: 7, seen: 8 });
        }
    }

    #[test]
    fn a_machine_without_a_witness_joins_a_cluster_that_lives_and_no_other() {
        let of_another = Witness { instance_id: id("inst_2"), ..witness(99, ago(0)) };
        for witness in [None, Some(&of_another)] {
            let live = known(7, ago(FRESH_S));
            assert_eq!(Age::judge(Some(&live), witness, true, NOW), Age::Plausible);
            let stale = known(7, ago(FRESH_S + 1));
            let unwitnessed = Age::Unwitnessed { last_used: ago(FRESH_S + 1) };
            assert_eq!(Age::judge(Some(&stale), witness, true, NOW), unwitnessed);
            assert_eq!(Age::judge(Some(&stale), witness, false, NOW), Age::Plausible, "nothing to pay twice");
        }
    }

    #[test]
    fn a_witness_vouches_only_for_what_came_soon_after_it() {
        let here = witness(7, ago(WEEKEND_S));
        let stopped_last = known(20, ago(WEEKEND_S - FRESH_S));
        assert_eq!(Age::judge(Some(&stopped_last), Some(&here), true, NOW), Age::Plausible);
        let went_on_for_hours = known(200, ago(WEEKEND_S / 2));
        let unwitnessed = Age::Unwitnessed { last_used: ago(WEEKEND_S / 2) };
        assert_eq!(Age::judge(Some(&went_on_for_hours), Some(&here), true, NOW), unwitnessed);
    }

    #[test]
    fn a_database_that_no_node_has_worked_on_is_believed_whatever_is_beside_it() {
        for has_intents in [false, true] {
            for witness in [None, Some(&witness(7, NOW))] {
                assert_eq!(Age::judge(None, witness, has_intents, NOW), Age::Plausible);
            }
        }
    }

    #[tokio::test]
    async fn a_witness_is_replaced_whole_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("remit.db.witness");
        assert_eq!(read_witness(path.clone()).await, None);
        for beat in [1, 2] {
            write_witness(&path, &witness(beat, NOW)).unwrap();
            assert_eq!(read_witness(path.clone()).await, Some(witness(beat, NOW)));
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");
        fs::write(&path, b"{\"instance_id\":\"inst_1\"").unwrap();
        assert_eq!(read_witness(path.clone()).await, None, "damaged is like none");
        assert!(write_witness(&directory.path().join("gone/witness"), &witness(3, NOW)).is_err());
    }
}
