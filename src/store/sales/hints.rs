//! What was told of who referred sales, subscriptions and customers.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{corrupt, scope, subject_of, subject_rows, subject_words};
use crate::{
    domain::{
        book::{Book, SubjectKey},
        fact::{Hint, HintSource},
        time::Timestamp,
    },
    store::{Conn, StoreError, Tx},
};

/// Position of a hint source in the order of precedence, as stored; metadata keys stand between, by
/// their index.
const REPORTED: i64 = -1;
pub(in crate::store) const CLIENT_REFERENCE: i64 = 100_000;
const COUPON: i64 = 100_001;
pub(in crate::store) const VISITOR: i64 = 100_002;
const PROGRAM: i64 = 100_003;

fn source_rank(source: HintSource) -> i64 {
    match source {
        HintSource::Reported => REPORTED,
        HintSource::Metadata(index) => i64::from(index),
        HintSource::ClientReference => CLIENT_REFERENCE,
        HintSource::Coupon => COUPON,
        HintSource::Visitor => VISITOR,
        HintSource::Program => PROGRAM,
    }
}

fn source_of(rank: i64, code: &str) -> Result<HintSource, StoreError> {
    match rank {
        REPORTED => Ok(HintSource::Reported),
        CLIENT_REFERENCE => Ok(HintSource::ClientReference),
        COUPON => Ok(HintSource::Coupon),
        VISITOR => Ok(HintSource::Visitor),
        PROGRAM => Ok(HintSource::Program),
        index => u16::try_from(index)
            .map(HintSource::Metadata)
            .map_err(|_| corrupt("attribution_hint", "source", code)),
    }
}

/// Puts the codes told for these subjects, and the ends of these subscriptions, into the book.
pub async fn load_hints(
    conn: &mut Conn,
    subjects: &BTreeSet<SubjectKey>,
    book: &mut Book,
) -> Result<(), StoreError> {
    const HINTS: &str =
        "SELECT h.project_id, h.realm, h.subject_kind, h.subject_id, h.source, h.code, h.at_us
        FROM json_each($1) k JOIN attribution_hint h
            ON h.project_id = k.value->>'p' AND h.realm = k.value->>'r'
            AND h.subject_kind = k.value->>'k' AND h.subject_id = k.value->>'c'";
    const ENDED: &str = "SELECT c.project_id, c.realm, c.carrier_id, c.ended_at_us
        FROM json_each($1) k JOIN carrier c
            ON c.project_id = k.value->>'p' AND c.realm = k.value->>'r'
            AND c.kind = k.value->>'k' AND c.carrier_id = k.value->>'c'
        WHERE c.kind = 'subscription' AND c.ended_at_us IS NOT NULL";
    if subjects.is_empty() {
        return Ok(());
    }
    let list = Value::from(subject_rows(subjects)).to_string();
    let rows: Vec<(String, String, String, String, i64, String, i64)> =
        conn.q(HINTS).bind(&*list).all().await?;
    for (project, realm, kind, id, source, code, at) in rows {
        let key = SubjectKey { scope: scope(&project, realm)?, subject: subject_of(&kind, &id)? };
        let source = source_of(source, &code)?;
        book.insert_hint(key, Hint { source, code, at: Timestamp::from_micros(at) });
    }
    for (project, realm, id, at) in conn.q(ENDED).bind(&*list).all::<(String, String, String, i64)>().await? {
        book.insert_ended(scope(&project, realm)?, id, Timestamp::from_micros(at));
    }
    Ok(())
}

/// Writes what the facts of a batch added to codes and subscription ends.
pub async fn save_hints(tx: &mut Tx, book: &Book) -> Result<(), StoreError> {
    const HINTS: &str = "INSERT INTO attribution_hint
            (project_id, realm, subject_kind, subject_id, source, code, at_us)
        SELECT value->>'p', value->>'r', value->>'k', value->>'c', CAST(value->>'source' AS BIGINT),
            value->>'code', MIN(CAST(value->>'at' AS BIGINT))
        FROM json_each($1) WHERE TRUE
        GROUP BY value->>'p', value->>'r', value->>'k', value->>'c', CAST(value->>'source' AS BIGINT),
            value->>'code'
        ON CONFLICT (project_id, realm, subject_kind, subject_id, source, code)
            DO UPDATE SET at_us = excluded.at_us WHERE excluded.at_us < attribution_hint.at_us";
    const ENDED: &str = "UPDATE carrier SET ended_at_us = k.ended_at_us
        FROM (SELECT value->>'p' AS p, value->>'r' AS r, value->>'c' AS c,
                  MIN(CAST(value->>'at' AS BIGINT)) AS ended_at_us
              FROM json_each($1) GROUP BY value->>'p', value->>'r', value->>'c') AS k
        WHERE carrier.project_id = k.p AND carrier.realm = k.r AND carrier.kind = 'subscription'
            AND carrier.carrier_id = k.c AND carrier.ended_at_us IS NULL";
    if !book.new_hints().is_empty() {
        let rows: Vec<_> = book
            .new_hints()
            .iter()
            .map(|(key, hint)| {
                let (kind, id) = subject_words(&key.subject);
                json!({
                    "p": key.scope.project_id, "r": key.scope.realm.as_str(), "k": kind, "c": id,
                    "source": source_rank(hint.source), "code": hint.code, "at": hint.at.as_micros(),
                })
            })
            .collect();
        tx.q(HINTS).bind(Value::from(rows).to_string()).exec().await?;
    }
    if !book.new_ended().is_empty() {
        let rows: Vec<_> = book
            .new_ended()
            .iter()
            .map(|(scope, id, at)| {
                json!({ "p": scope.project_id, "r": scope.realm.as_str(), "c": id, "at": at.as_micros() })
            })
            .collect();
        tx.q(ENDED).bind(Value::from(rows).to_string()).exec().await?;
    }
    Ok(())
}
