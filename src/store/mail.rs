//! Notices, and the e-mails that tell of them. What is told and when is decided in `domain::notice`; an
//! address is read when a mail is sent and kept nowhere else, so erasing it is enough.

use serde_json::json;
use sqlx::FromRow;

use super::{
    Conn, Sql, StoreError, Tx,
    row::{At, json_list},
    sales::{id_list, write_rows},
};
use crate::domain::{
    ids::{EnrollmentId, MailId, NoticeId},
    job::JobState,
    money::{Currency, Money},
    notice::{Change, Topic, Why},
    payout::PayoutState,
    program::EnrollmentStatus,
    time::Timestamp,
};

/// Something that happened to one affiliate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNotice {
    /// What it is about.
    pub topic: Topic,
    /// Who is told.
    pub enrollment_id: EnrollmentId,
    /// The enrollment, commission or payout.
    pub object_id: String,
    /// Which time it happened to the object: with topic and object, and the currency, it names the
    /// occurrence.
    pub revision: i64,
    /// The status, or what happened to the commission.
    pub word: Option<&'static str>,
    /// Why something was taken back.
    pub reason: Option<&'static str>,
    /// How much, more than 0.
    pub amount: Option<Money>,
}

impl NewNotice {
    /// The same for every telling of one occurrence.
    fn id(&self) -> NoticeId {
        let revision = self.revision.to_string();
        let currency = self.amount.map(|amount| amount.currency);
        let currency = currency.as_ref().map_or("", Currency::as_str);
        NoticeId::derived(&[self.topic.as_str(), &self.object_id, &revision, currency])
    }
}

/// Stores notices for those who have an address. One that was stored before changes nothing.
pub async fn insert_notices(tx: &mut Tx, new: &[NewNotice], now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str =
        "INSERT INTO notice (id, topic, enrollment_id, object_id, word, reason, currency, amount_minor,
            due_at_us, created_at_us)
        SELECT new.value->>'id', new.value->>'topic', e.id, new.value->>'object', new.value->>'word',
            new.value->>'reason', new.value->>'currency', CAST(new.value->>'amount' AS BIGINT),
            CAST(new.value->>'due' AS BIGINT), CAST(new.value->>'at' AS BIGINT)
        FROM json_each($1) AS new
            JOIN enrollment e ON e.id = new.value->>'enrollment'
            JOIN organization o ON o.id = e.organization_id
        WHERE o.email IS NOT NULL
        ON CONFLICT (id) DO NOTHING";
    let rows = new.iter().map(|notice| {
        json!({
            "id": notice.id(), "topic": notice.topic.as_str(), "enrollment": notice.enrollment_id,
            "object": notice.object_id, "word": notice.word, "reason": notice.reason,
            "currency": notice.amount.map(|amount| amount.currency),
            "amount": notice.amount.map(|amount| amount.minor),
            "due": notice.topic.due_at(now).as_micros(), "at": now.as_micros(),
        })
    });
    write_rows(tx, SQL, rows.collect()).await
}

/// Of these stored events, those that happened at or after `since`, by the provider's own clock.
pub async fn list_events_since(
    conn: &mut Conn,
    ids: &[&str],
    since: Timestamp,
) -> Result<Vec<String>, StoreError> {
    const SQL: &str = "SELECT id FROM inbox WHERE id IN (SELECT value->>'id' FROM json_each($1))
            AND COALESCE(provider_created_at_us, received_at_us) >= $2";
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    conn.q(SQL).bind(id_list(ids.iter().copied())).bind(since.as_micros()).scalars().await
}

/// Whether any notice or mail is due. For who looks often: it takes no lock.
pub async fn is_any_due(conn: &mut Conn, now: Timestamp) -> Result<bool, StoreError> {
    // Served by `notice_due` and `mail_due`.
    const SQL: &str = "SELECT EXISTS (SELECT 1 FROM notice WHERE mail_id IS NULL AND due_at_us <= $1)
        OR EXISTS (SELECT 1 FROM mail WHERE next_attempt_at_us <= $1)";
    let is_due: Option<bool> = conn.q(SQL).bind(now.as_micros()).scalar().await?;
    Ok(is_due == Some(true))
}

/// Makes mails of the notices that are due, at most `limit` of them: one per enrollment for everything that
/// happened to its commissions, one each for the rest. Returns how many.
///
/// A notice joins only a mail that is made with it: another node's may be on its way already.
pub async fn gather(tx: &mut Tx, now: Timestamp, limit: i64) -> Result<usize, StoreError> {
    // The first notice names the mail, so that nodes that do this at once come to the same mail.
    const DUE: &str = "SELECT MIN(id) AS first, topic, enrollment_id FROM notice
        WHERE mail_id IS NULL AND due_at_us <= $1
        GROUP BY topic, enrollment_id, CASE WHEN topic = 'commissions' THEN '' ELSE id END
        ORDER BY MIN(due_at_us), MIN(id) LIMIT $2";
    const MAILS: &str = "INSERT INTO mail (id, topic, enrollment_id, state, attempts, epoch,
            next_attempt_at_us, created_at_us)
        SELECT value->>'mail', value->>'topic', value->>'enrollment', 'available', 0, 0, $2, $2
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (id) DO NOTHING RETURNING id";
    const NOTICES: &str = "UPDATE notice SET mail_id = of_mail.value->>'mail'
        FROM json_each($1) AS of_mail
        WHERE notice.mail_id IS NULL AND notice.due_at_us <= $2
            AND notice.enrollment_id = of_mail.value->>'enrollment'
            AND notice.topic = of_mail.value->>'topic'
            AND (notice.topic = 'commissions' OR notice.id = of_mail.value->>'first')";
    let due: Vec<(String, String, String)> = tx.q(DUE).bind(now.as_micros()).bind(limit).all().await?;
    if due.is_empty() {
        return Ok(0);
    }
    let mails = |among: &dyn Fn(&MailId) -> bool| {
        let mails = due
            .iter()
            .map(|(first, topic, enrollment)| (MailId::derived(&[first]), first, topic, enrollment));
        json_list(mails.filter(|(mail, ..)| among(mail)).map(|(mail, first, topic, enrollment)| {
            json!({ "first": first, "mail": mail, "topic": topic, "enrollment": enrollment })
        }))
    };
    let made: Vec<String> = tx.q(MAILS).bind(mails(&|_| true)).bind(now.as_micros()).scalars().await?;
    let of_made = mails(&|mail| made.iter().any(|made| made == mail.as_str()));
    tx.q(NOTICES).bind(of_made).bind(now.as_micros()).exec().await?;
    Ok(made.len())
}

/// A mail that this node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The mail.
    pub mail_id: MailId,
    /// What it is about.
    pub topic: Topic,
    /// Who is told.
    pub enrollment_id: EnrollmentId,
    /// Number of the lease; who holds an older one writes nothing any more.
    pub epoch: i64,
    /// How often it has been tried, this time included.
    pub attempts: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// Since when it is tried: since it was made, or since somebody gave it another chance.
    pub tried_since: Timestamp,
}

/// Takes the mail that has been due longest at `due`, and holds it until `until`. One of which the lease
/// has run out is due again: whether it was sent is not known, and it is sent again under its Message-ID.
pub async fn claim(tx: &mut Tx, due: Timestamp, until: Timestamp) -> Result<Option<Lease>, StoreError> {
    const SQL: Sql = Sql {
        sqlite: "UPDATE mail SET state = 'running', epoch = epoch + 1, attempts = attempts + 1,
                next_attempt_at_us = $2
            WHERE id = (SELECT id FROM mail WHERE next_attempt_at_us <= $1
                ORDER BY next_attempt_at_us, id LIMIT 1)
            RETURNING id, topic, enrollment_id, epoch, attempts, created_at_us,
                COALESCE(retried_at_us, created_at_us) AS tried_since_us",
        postgres: "UPDATE mail SET state = 'running', epoch = epoch + 1, attempts = attempts + 1,
                next_attempt_at_us = $2
            WHERE id = (SELECT id FROM mail WHERE next_attempt_at_us <= $1
                ORDER BY next_attempt_at_us, id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)
            RETURNING id, topic, enrollment_id, epoch, attempts, created_at_us,
                COALESCE(retried_at_us, created_at_us) AS tried_since_us",
    };
    #[derive(FromRow)]
    struct Row {
        id: String,
        topic: String,
        enrollment_id: String,
        epoch: i64,
        attempts: i64,
        created_at_us: i64,
        tried_since_us: i64,
    }
    let row: Option<Row> = tx.q(SQL).bind(due.as_micros()).bind(until.as_micros()).one().await?;
    row.map(|row| {
        let at = At { table: "mail", id: &row.id };
        Ok(Lease {
            mail_id: at.read("id", &row.id)?,
            topic: at.read("topic", &row.topic)?,
            enrollment_id: at.read("enrollment_id", &row.enrollment_id)?,
            epoch: row.epoch,
            attempts: row.attempts,
            created_at: Timestamp::from_micros(row.created_at_us),
            tried_since: Timestamp::from_micros(row.tried_since_us),
        })
    })
    .transpose()
}

/// Where a mail goes when this node lays it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parting<'a> {
    /// Its state.
    pub state: JobState,
    /// Why. Never an address, nor what a mail server says, which may repeat one.
    pub reason: Option<&'a str>,
    /// When it is due next; none: never by itself.
    pub next_attempt_at: Option<Timestamp>,
}

/// Lays a mail down. `false` when the lease is not ours any more; then nothing was written.
pub async fn part(
    tx: &mut Tx,
    lease: &Lease,
    parting: Parting<'_>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    const SQL: &str = "UPDATE mail SET state = $3, reason = $4, next_attempt_at_us = $5, finished_at_us = $6
        WHERE id = $1 AND epoch = $2 AND state = 'running'";
    let is_over = parting.next_attempt_at.is_none();
    let affected = tx
        .q(SQL)
        .bind(lease.mail_id.as_str())
        .bind(lease.epoch)
        .bind(parting.state.as_str())
        .bind(parting.reason)
        .bind(parting.next_attempt_at.map(Timestamp::as_micros))
        .bind(is_over.then_some(now.as_micros()))
        .exec()
        .await?;
    Ok(affected == 1)
}

/// Who reads a mail, as of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The affiliate's name. Personal data.
    pub name: String,
    /// The affiliate's address; none once it was erased. Personal data.
    pub email: Option<String>,
    /// The program's name.
    pub program: String,
    /// The name of the program's owner.
    pub owner: String,
    /// Where the enrollment stands.
    pub status: EnrollmentStatus,
}

/// Who reads what is told about an enrollment.
pub async fn find_reader(conn: &mut Conn, id: &EnrollmentId) -> Result<Option<Reader>, StoreError> {
    const SQL: &str = "SELECT o.name, o.email, p.name AS program, owner.name AS owner, s.status
        FROM enrollment e
            JOIN organization o ON o.id = e.organization_id
            JOIN program p ON p.id = e.program_id
            JOIN organization owner ON owner.id = p.organization_id
            JOIN enrollment_status s ON s.enrollment_id = e.id AND s.effective_at_us =
                (SELECT MAX(effective_at_us) FROM enrollment_status WHERE enrollment_id = e.id)
        WHERE e.id = $1";
    #[derive(FromRow)]
    struct Row {
        name: String,
        email: Option<String>,
        program: String,
        owner: String,
        status: String,
    }
    let row: Option<Row> = conn.q(SQL).bind(id.as_str()).one().await?;
    row.map(|row| {
        let status = At { table: "enrollment_status", id: id.as_str() }.read("status", &row.status)?;
        Ok(Reader { name: row.name, email: row.email, program: row.program, owner: row.owner, status })
    })
    .transpose()
}

/// The object of a mail's only notice, and its word.
pub async fn find_told(conn: &mut Conn, id: &MailId) -> Result<Option<(String, Option<String>)>, StoreError> {
    const SQL: &str = "SELECT object_id, word FROM notice WHERE mail_id = $1 ORDER BY id LIMIT 1";
    conn.q(SQL).bind(id.as_str()).one().await
}

/// What happened to commissions: so many of them, in one way, in one currency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What happened.
    pub change: Change,
    /// Why something was taken back.
    pub why: Option<Why>,
    /// To how many.
    pub count: i64,
    /// Together.
    pub amount: Money,
}

/// What a mail tells of commissions: what was earned first, then what was taken back and given back.
pub async fn list_lines(conn: &mut Conn, id: &MailId) -> Result<Vec<Line>, StoreError> {
    const SQL: &str =
        "SELECT word, reason, currency, COUNT(*) AS count, CAST(SUM(amount_minor) AS BIGINT) AS amount
        FROM notice WHERE mail_id = $1
        GROUP BY word, reason, currency ORDER BY word, COALESCE(reason, ''), currency";
    #[derive(FromRow)]
    struct Row {
        word: String,
        reason: Option<String>,
        currency: String,
        count: i64,
        amount: i64,
    }
    let rows: Vec<Row> = conn.q(SQL).bind(id.as_str()).all().await?;
    let at = At { table: "notice", id: id.as_str() };
    let lines: Result<Vec<Line>, StoreError> = rows
        .into_iter()
        .map(|row| {
            Ok(Line {
                change: at.read("word", &row.word)?,
                why: at.read_opt("reason", row.reason.as_deref())?,
                count: row.count,
                amount: Money { minor: row.amount, currency: at.read("currency", &row.currency)? },
            })
        })
        .collect();
    let mut lines = lines?;
    lines.sort_by_key(|line| line.change);
    Ok(lines)
}

/// What an enrollment has in one currency, as of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Earned, and not to be paid out yet.
    pub held: Money,
    /// To be paid out; less than 0 is a debt.
    pub payable: Money,
}

/// What an enrollment has, a row per currency.
pub async fn list_balances(conn: &mut Conn, id: &EnrollmentId) -> Result<Vec<Balance>, StoreError> {
    const SQL: &str = "SELECT currency,
            CAST(SUM(CASE WHEN account = 'held' THEN credit_minor - debit_minor ELSE 0 END) AS BIGINT),
            CAST(SUM(CASE WHEN account = 'payable' THEN credit_minor - debit_minor ELSE 0 END) AS BIGINT)
        FROM balance WHERE owner_id = $1 AND account IN ('held', 'payable')
        GROUP BY currency ORDER BY currency";
    let rows: Vec<(String, i64, i64)> = conn.q(SQL).bind(id.as_str()).all().await?;
    rows.into_iter()
        .map(|(currency, held, payable)| {
            let currency: Currency = At { table: "balance", id: id.as_str() }.read("currency", &currency)?;
            Ok(Balance { held: Money { minor: held, currency }, payable: Money { minor: payable, currency } })
        })
        .collect()
}

/// A payout as it stands now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayoutNow {
    /// How far it is.
    pub state: PayoutState,
    /// What the affiliate had coming.
    pub due: Money,
    /// Of that, what the platform keeps.
    pub fee: Money,
    /// The rest, which was sent.
    pub sent: Money,
    /// Of what was sent, what came back since.
    pub reversed: Money,
}

/// A payout as it stands now.
pub async fn find_payout(conn: &mut Conn, id: &str) -> Result<Option<PayoutNow>, StoreError> {
    const SQL: &str = "SELECT state, currency, due_minor, fee_minor, send_minor, reversed_minor
        FROM payout WHERE id = $1";
    let row: Option<(String, String, i64, i64, i64, i64)> = conn.q(SQL).bind(id).one().await?;
    row.map(|(state, currency, due, fee, sent, reversed)| {
        let at = At { table: "payout", id };
        let currency: Currency = at.read("currency", &currency)?;
        let money = |minor| Money { minor, currency };
        Ok(PayoutNow {
            state: at.read("state", &state)?,
            due: money(due),
            fee: money(fee),
            sent: money(sent),
            reversed: money(reversed),
        })
    })
    .transpose()
}

/// How many mails there are, by state.
pub async fn count_by_state(conn: &mut Conn) -> Result<Vec<(String, i64)>, StoreError> {
    conn.q("SELECT state, COUNT(*) FROM mail GROUP BY state").all().await
}

/// How many notices should have been sent before `bound` and are not, and since when the first of them is
/// due, microseconds.
pub async fn count_unsent(conn: &mut Conn, bound: Timestamp) -> Result<(i64, Option<i64>), StoreError> {
    const SQL: &str = "SELECT COUNT(*), MIN(since) FROM (
            SELECT due_at_us AS since FROM notice WHERE mail_id IS NULL AND due_at_us <= $1
            UNION ALL
            SELECT COALESCE(retried_at_us, created_at_us) FROM mail
            WHERE next_attempt_at_us IS NOT NULL AND COALESCE(retried_at_us, created_at_us) <= $1
        ) AS unsent";
    let row: Option<(i64, Option<i64>)> = conn.q(SQL).bind(bound.as_micros()).one().await?;
    Ok(row.unwrap_or((0, None)))
}
