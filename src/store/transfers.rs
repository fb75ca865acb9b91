//! What events said of transfers, of the accounts they go to, and of those accounts' bank payouts.
//!
//! Rows merge like every fact, never by arrival: the highest cumulative amount, and of statements that
//! replace each other the greatest in an order that is the same whoever asks. Providers tell time in
//! seconds, so two statements of one second are common; what stops money wins between them.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
};

use serde_json::{Value, json};

use super::{
    Conn, Sql, StoreError, Tx,
    sales::{corrupt, id_list, write_rows},
};
use crate::{
    domain::{
        book::{Realm, Scope},
        fact::{BankPayout, Fact, PayoutAccount, TransferReversal, TransferSeen},
        ids::ProjectId,
        money::{Currency, Money},
        time::Timestamp,
    },
    for_update,
};

/// What an account can do, as far as the newest statements about it say.
///
/// Statements join: the newer one replaces the older, and of one second the stricter of each switch
/// stays. The join is commutative, associative and idempotent, so no order of arrival changes its result.
#[expect(clippy::struct_excessive_bools, reason = "independent switches that the provider tells")]
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
struct AccountState {
    transfers_active: bool,
    payouts_enabled: bool,
    charges_enabled: bool,
    details_submitted: bool,
    disabled_reason: Option<String>,
    gone: bool,
    told_at_us: i64,
}

impl AccountState {
    fn told(account: &PayoutAccount) -> Self {
        Self {
            transfers_active: account.transfers_active,
            payouts_enabled: account.payouts_enabled,
            charges_enabled: account.charges_enabled,
            details_submitted: account.details_submitted,
            disabled_reason: account.disabled_reason.clone(),
            gone: false,
            told_at_us: account.at.as_micros(),
        }
    }

    /// An account that is gone can do nothing, and why it was disabled before does not matter any more.
    fn gone(at: Timestamp) -> Self {
        Self {
            transfers_active: false,
            payouts_enabled: false,
            charges_enabled: false,
            details_submitted: false,
            disabled_reason: None,
            gone: true,
            told_at_us: at.as_micros(),
        }
    }

    fn join(&self, other: &Self) -> Self {
        match self.told_at_us.cmp(&other.told_at_us) {
            Ordering::Greater => self.clone(),
            Ordering::Less => other.clone(),
            Ordering::Equal if self.gone => self.clone(),
            Ordering::Equal if other.gone => other.clone(),
            Ordering::Equal => Self {
                transfers_active: self.transfers_active && other.transfers_active,
                payouts_enabled: self.payouts_enabled && other.payouts_enabled,
                charges_enabled: self.charges_enabled && other.charges_enabled,
                details_submitted: self.details_submitted && other.details_submitted,
                // A reason outranks none; between two, either will do as long as it is always the same.
                disabled_reason: self.disabled_reason.as_ref().max(other.disabled_reason.as_ref()).cloned(),
                gone: false,
                told_at_us: self.told_at_us,
            },
        }
    }
}

/// Where a payout to a bank stands. The fields are in the order in which statements outrank each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct BankState {
    told_at_us: i64,
    rank: BankRank,
    status: String,
    failure_code: Option<String>,
}

/// Which status word stands when two are told of the same second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum BankRank {
    Other,
    Paid,
    /// A bank can send money back after it was paid (Stripe, "Payout failures"), never the reverse.
    Failed,
}

impl BankState {
    fn new(status: String, failure_code: Option<String>, told_at_us: i64) -> Self {
        let rank = match status.as_str() {
            "failed" => BankRank::Failed,
            "paid" => BankRank::Paid,
            _ => BankRank::Other,
        };
        Self { told_at_us, rank, status, failure_code }
    }

    fn told(payout: &BankPayout) -> Self {
        Self::new(payout.status.clone(), payout.failure_code.clone(), payout.at.as_micros())
    }
}

/// The facts of a batch, one row per object, because one statement must not write a row twice.
#[derive(Default)]
struct Merged<'a> {
    transfers: BTreeMap<(&'a Scope, &'a str), (&'a TransferSeen, i64)>,
    reversals: BTreeMap<(&'a Scope, &'a str), (&'a str, &'a TransferReversal)>,
    accounts: BTreeMap<(&'a Scope, &'a str), AccountState>,
    payouts: BTreeMap<(&'a Scope, &'a str), (&'a BankPayout, BankState)>,
}

impl<'a> Merged<'a> {
    fn add(&mut self, scope: &'a Scope, fact: &'a Fact, received_at: Timestamp) {
        match fact {
            Fact::TransferSeen(transfer) => self.add_transfer(scope, transfer, 0),
            Fact::TransferReversed(reversed) => {
                self.add_transfer(scope, &reversed.transfer, reversed.reversed_total);
                for reversal in &reversed.reversals {
                    let transfer = reversed.transfer.transfer_id.as_str();
                    self.reversals.insert((scope, reversal.reversal_id.as_str()), (transfer, reversal));
                }
            }
            Fact::PayoutAccount(account) => {
                self.add_account(scope, &account.account_id, AccountState::told(account), received_at);
            }
            Fact::PayoutAccountGone { account_id, at } => {
                self.add_account(scope, account_id, AccountState::gone(*at), received_at);
            }
            Fact::BankPayout(payout) => {
                let mut told = BankState::told(payout);
                told.told_at_us = told.told_at_us.min(received_at.as_micros());
                let key = (scope, payout.payout_id.as_str());
                let (_, state) = self.payouts.entry(key).or_insert_with(|| (payout, told.clone()));
                if told > *state {
                    *state = told;
                }
            }
            Fact::SalePaid(_)
            | Fact::SaleLinked { .. }
            | Fact::SaleAttributed { .. }
            | Fact::HoldTold { .. }
            | Fact::Refund(_)
            | Fact::RefundedTotal { .. }
            | Fact::Dispute(_)
            | Fact::ChargebackReversed(_)
            | Fact::SubscriptionEnded { .. }
            | Fact::ChargeSeen(_)
            | Fact::FundsAvailable { .. } => {}
        }
    }

    fn add_transfer(&mut self, scope: &'a Scope, transfer: &'a TransferSeen, reversed: i64) {
        let key = (scope, transfer.transfer_id.as_str());
        let known = self.transfers.entry(key).or_insert((transfer, reversed));
        known.1 = known.1.max(reversed);
        // As the statement does with what is stored: an intent that any of the events names is kept.
        if known.0.intent_id.is_none() && transfer.intent_id.is_some() {
            known.0 = transfer;
        }
    }

    fn add_account(&mut self, scope: &'a Scope, id: &'a str, mut told: AccountState, received_at: Timestamp) {
        told.told_at_us = told.told_at_us.min(received_at.as_micros());
        let known = self.accounts.entry((scope, id)).or_insert_with(|| told.clone());
        *known = known.join(&told);
    }
}

/// Merges what the provider showed us of transfers, accounts and bank payouts into their rows.
pub async fn save<'a>(
    tx: &mut Tx,
    facts: impl Iterator<Item = (&'a Scope, &'a Fact)>,
) -> Result<(), StoreError> {
    save_received(tx, facts.map(|(scope, fact)| (scope, fact, Timestamp::from_micros(i64::MAX)))).await
}

/// Merges the facts of events into their rows, each with the time at which its event was received. A
/// statement of later than that counts as of then: one from the future must not outrank all that follow.
pub async fn save_received<'a>(
    tx: &mut Tx,
    facts: impl Iterator<Item = (&'a Scope, &'a Fact, Timestamp)>,
) -> Result<(), StoreError> {
    const TRANSFERS: &str = "INSERT INTO transfer (project_id, realm, transfer_id, intent_id, amount_minor,
            currency, destination, of_charge, reversed_minor, created_at_us)
        SELECT value->>'p', value->>'r', value->>'id', value->>'intent', CAST(value->>'amount' AS BIGINT),
            value->>'currency', value->>'destination', CAST(value->>'of_charge' AS BOOLEAN),
            CAST(value->>'reversed' AS BIGINT), CAST(value->>'at' AS BIGINT)
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, transfer_id) DO UPDATE
            SET reversed_minor = CASE WHEN excluded.reversed_minor > transfer.reversed_minor
                    THEN excluded.reversed_minor ELSE transfer.reversed_minor END,
                intent_id = COALESCE(transfer.intent_id, excluded.intent_id)";
    const REVERSALS: &str = "INSERT INTO transfer_reversal (project_id, realm, reversal_id, transfer_id,
            amount_minor)
        SELECT value->>'p', value->>'r', value->>'id', value->>'transfer', CAST(value->>'amount' AS BIGINT)
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, reversal_id) DO NOTHING";
    let mut merged = Merged::default();
    for (scope, fact, received_at) in facts {
        merged.add(scope, fact, received_at);
    }
    let transfers = merged
        .transfers
        .iter()
        .map(|((scope, id), (transfer, reversed))| {
            json!({
                "p": scope.project_id, "r": scope.realm.as_str(), "id": id, "intent": transfer.intent_id,
                "amount": transfer.amount, "currency": transfer.currency,
                "destination": transfer.destination, "of_charge": transfer.of_charge,
                "reversed": reversed, "at": transfer.at.as_micros(),
            })
        })
        .collect();
    write_rows(tx, TRANSFERS, transfers).await?;
    let reversals = merged
        .reversals
        .iter()
        .map(|((scope, id), (transfer, reversal))| {
            json!({
                "p": scope.project_id, "r": scope.realm.as_str(), "id": id, "transfer": transfer,
                "amount": reversal.amount,
            })
        })
        .collect();
    write_rows(tx, REVERSALS, reversals).await?;
    save_accounts(tx, &merged).await?;
    save_bank_payouts(tx, &merged).await
}

/// Asks for a transfer to be taken in by the payout that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request<'a> {
    /// Where it was told.
    pub scope: &'a Scope,
    /// The provider's id.
    pub transfer_id: &'a str,
    /// The event that told of it.
    pub event_id: Option<&'a str>,
}

/// Asks for transfers to be taken in. Of several requests of one transfer the last one is kept.
pub async fn request(tx: &mut Tx, requests: &[Request<'_>], now: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "INSERT INTO transfer_news (project_id, realm, transfer_id, event_id, due_at_us)
        SELECT value->>'p', value->>'r', value->>'id', value->>'event', CAST(value->>'at' AS BIGINT)
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (transfer_id, realm, project_id) DO UPDATE
            SET due_at_us = excluded.due_at_us, event_id = COALESCE(excluded.event_id, transfer_news.event_id)";
    let by_transfer: BTreeMap<(&Scope, &str), Option<&str>> =
        requests.iter().map(|one| ((one.scope, one.transfer_id), one.event_id)).collect();
    let rows = by_transfer
        .into_iter()
        .map(|((scope, id), event)| {
            json!({
                "p": scope.project_id, "r": scope.realm.as_str(), "id": id, "event": event,
                "at": now.as_micros(),
            })
        })
        .collect();
    write_rows(tx, SQL, rows).await
}

/// A transfer of which something was told that its payout has not taken in yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Where it was told.
    pub scope: Scope,
    /// The provider's id.
    pub transfer_id: String,
    /// The last event that told of it; none where we saw it ourselves.
    pub event_id: Option<String>,
    due_at_us: i64,
}

impl News {
    /// Provider and mode of the account that the transfer left.
    #[must_use]
    pub fn provider_and_mode(&self) -> Option<(&str, bool)> {
        let (provider, mode) = self.scope.realm.as_str().split_once('/')?;
        match mode {
            "live" => Some((provider, true)),
            "test" => Some((provider, false)),
            _ => None,
        }
    }

    /// Whether it left an account of this provider and mode, and none connected to it.
    #[must_use]
    pub fn is_of(&self, provider: &str, livemode: bool) -> bool {
        self.provider_and_mode() == Some((provider, livemode))
    }

    /// Whether it left the account that an endpoint belongs to, and none connected to it.
    #[must_use]
    pub fn has_no_account(&self) -> bool {
        self.provider_and_mode().is_some()
    }

    /// Whether it left the platform's own account.
    #[must_use]
    pub fn is_of_platform(&self) -> bool {
        self.has_no_account() && self.scope.project_id == ProjectId::platform()
    }
}

/// The transfers that wait longest to be taken in. They stay unlocked: who books events renews them at any
/// time, with other locks held.
pub async fn list_due(conn: &mut Conn, now: Timestamp, limit: i64) -> Result<Vec<News>, StoreError> {
    const SQL: &str = "SELECT project_id, realm, transfer_id, event_id, due_at_us FROM transfer_news
        WHERE due_at_us <= $1 ORDER BY due_at_us, transfer_id LIMIT $2";
    let rows: Vec<(String, String, String, Option<String>, i64)> =
        conn.q(SQL).bind(now.as_micros()).bind(limit).all().await?;
    rows.into_iter()
        .map(|(project, realm, transfer_id, event_id, due_at_us)| {
            let project_id = ProjectId::parse(&project)
                .map_err(|_| corrupt("transfer_news", "project_id", &transfer_id))?;
            let scope = Scope { project_id, realm: Realm::from_stored(realm) };
            Ok(News { scope, transfer_id, event_id, due_at_us })
        })
        .collect()
}

/// What was told of a transfer, by all endpoints together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The intent that it names.
    pub intent_id: Option<String>,
    /// How much was sent.
    pub amount: Money,
    /// To which account.
    pub destination: Option<String>,
    /// Whether it belongs to a destination charge.
    pub of_charge: bool,
    /// How much came back, minor units, cumulative.
    pub reversed: i64,
    /// When the provider made it.
    pub created_at: Timestamp,
}

/// What was told of a transfer at this endpoint's project.
pub async fn find(conn: &mut Conn, news: &News) -> Result<Option<Told>, StoreError> {
    find_told(conn, &news.scope, &news.transfer_id).await
}

/// What was told of a transfer at this place.
pub async fn find_told(
    conn: &mut Conn,
    scope: &Scope,
    transfer_id: &str,
) -> Result<Option<Told>, StoreError> {
    const SQL: &str = "SELECT intent_id, amount_minor, currency, destination, of_charge, reversed_minor,
            created_at_us
        FROM transfer WHERE transfer_id = $1 AND realm = $2 AND project_id = $3";
    #[derive(sqlx::FromRow)]
    struct Row {
        intent_id: Option<String>,
        amount_minor: i64,
        currency: String,
        destination: Option<String>,
        of_charge: bool,
        reversed_minor: i64,
        created_at_us: i64,
    }
    let row: Option<Row> = conn
        .q(SQL)
        .bind(transfer_id)
        .bind(scope.realm.as_str())
        .bind(scope.project_id.as_str())
        .one()
        .await?;
    row.map(|row| {
        let currency =
            Currency::parse(&row.currency).map_err(|_| corrupt("transfer", "currency", transfer_id))?;
        Ok(Told {
            intent_id: row.intent_id,
            amount: Money { minor: row.amount_minor, currency },
            destination: row.destination,
            of_charge: row.of_charge,
            reversed: row.reversed_minor,
            created_at: Timestamp::from_micros(row.created_at_us),
        })
    })
    .transpose()
}

/// Strikes off what was taken in, unless more was told meanwhile.
pub async fn answered(tx: &mut Tx, news: &News) -> Result<(), StoreError> {
    const SQL: &str = "DELETE FROM transfer_news
        WHERE transfer_id = $1 AND realm = $2 AND project_id = $3 AND due_at_us = $4";
    tx.q(SQL)
        .bind(news.transfer_id.as_str())
        .bind(news.scope.realm.as_str())
        .bind(news.scope.project_id.as_str())
        .bind(news.due_at_us)
        .exec()
        .await?;
    Ok(())
}

/// Lets a transfer that cannot be taken in wait until `until`, unless more was told meanwhile: that is
/// looked at in its own time.
pub async fn postpone(tx: &mut Tx, news: &News, until: Timestamp) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE transfer_news SET due_at_us = $5
        WHERE transfer_id = $1 AND realm = $2 AND project_id = $3 AND due_at_us = $4";
    tx.q(SQL)
        .bind(news.transfer_id.as_str())
        .bind(news.scope.realm.as_str())
        .bind(news.scope.project_id.as_str())
        .bind(news.due_at_us)
        .bind(until.as_micros())
        .exec()
        .await?;
    Ok(())
}

/// Whether a receiving account can take money, as far as the newest statement about it says: charges, or
/// transfers and their way to the bank. `None` when nothing was ever told of it.
///
/// Only what was told at the platform's own endpoints counts: that is where the account is connected, and an
/// endpoint of another project could stop or start anybody's money (`rulings.md` 11).
pub async fn account_is_ready(
    conn: &mut Conn,
    realm: &Realm,
    account_id: &str,
    charges: bool,
) -> Result<Option<bool>, StoreError> {
    const SQL: &str = "SELECT transfers_active, payouts_enabled, charges_enabled, details_submitted,
            disabled_reason, gone, told_at_us
        FROM provider_account
        WHERE account_id = $1 AND (realm = $2 OR realm = $3) AND project_id = $4";
    // Events of a connected account come in its own realm.
    let of_account = realm.of_account(account_id);
    let states: Vec<AccountState> = conn
        .q(SQL)
        .bind(account_id)
        .bind(realm.as_str())
        .bind(of_account.as_str())
        .bind(ProjectId::platform().as_str())
        .all()
        .await?;
    let joined = states.into_iter().reduce(|state, other| state.join(&other));
    Ok(joined.map(|state| {
        if charges { state.charges_enabled } else { state.transfers_active && state.payouts_enabled }
    }))
}

/// Which of these accounts can be paid, as far as the newest statement about each says. An account of which
/// nothing was ever told is absent. As for [`account_is_ready`], only the platform's own endpoints count.
pub async fn accounts_ready(
    conn: &mut Conn,
    realm: &Realm,
    accounts: &[&str],
) -> Result<BTreeMap<String, bool>, StoreError> {
    const SQL: &str = "SELECT a.project_id, a.realm, a.account_id AS id, a.transfers_active,
            a.payouts_enabled, a.charges_enabled, a.details_submitted, a.disabled_reason, a.gone, a.told_at_us
        FROM provider_account a
        WHERE a.account_id IN (SELECT value->>'id' FROM json_each($1))
            AND (a.realm = $2 OR a.realm = $2 || '/' || a.account_id) AND a.project_id = $3";
    let list = id_list(accounts.iter().copied());
    let rows: Vec<Known<AccountState>> =
        conn.q(SQL).bind(list).bind(realm.as_str()).bind(ProjectId::platform().as_str()).all().await?;
    let mut states: BTreeMap<String, AccountState> = BTreeMap::new();
    for Known { id, state, .. } in rows {
        let joined = states.get(&id).map_or_else(|| state.clone(), |known| known.join(&state));
        states.insert(id, joined);
    }
    Ok(states.into_iter().map(|(id, state)| (id, state.transfers_active && state.payouts_enabled)).collect())
}

async fn save_accounts(tx: &mut Tx, merged: &Merged<'_>) -> Result<(), StoreError> {
    const ADD: &str = "INSERT INTO provider_account (project_id, realm, account_id, transfers_active,
            payouts_enabled, charges_enabled, details_submitted, disabled_reason, gone, told_at_us)
        SELECT value->>'p', value->>'r', value->>'id', CAST(value->>'transfers' AS BOOLEAN),
            CAST(value->>'payouts' AS BOOLEAN), CAST(value->>'charges' AS BOOLEAN),
            CAST(value->>'details' AS BOOLEAN), value->>'disabled', CAST(value->>'gone' AS BOOLEAN),
            CAST(value->>'at' AS BIGINT)
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, account_id) DO NOTHING";
    const LOCK: Sql = for_update!(
        "SELECT a.project_id, a.realm, a.account_id AS id, a.transfers_active, a.payouts_enabled,
             a.charges_enabled, a.details_submitted, a.disabled_reason, a.gone, a.told_at_us
         FROM provider_account a JOIN json_each($1) k
             ON a.project_id = k.value->>'p' AND a.realm = k.value->>'r' AND a.account_id = k.value->>'id'
         ORDER BY a.project_id, a.realm, a.account_id"
    );
    const UPDATE: &str = "UPDATE provider_account SET transfers_active = k.transfers,
            payouts_enabled = k.payouts, charges_enabled = k.charges, details_submitted = k.details,
            disabled_reason = k.disabled, gone = k.gone, told_at_us = k.at
        FROM (SELECT value->>'p' AS p, value->>'r' AS r, value->>'id' AS id,
                  CAST(value->>'transfers' AS BOOLEAN) AS transfers,
                  CAST(value->>'payouts' AS BOOLEAN) AS payouts,
                  CAST(value->>'charges' AS BOOLEAN) AS charges,
                  CAST(value->>'details' AS BOOLEAN) AS details, value->>'disabled' AS disabled,
                  CAST(value->>'gone' AS BOOLEAN) AS gone, CAST(value->>'at' AS BIGINT) AS at
              FROM json_each($1)) AS k
        WHERE provider_account.project_id = k.p AND provider_account.realm = k.r
            AND provider_account.account_id = k.id";
    let row = |(scope, id): &(&Scope, &str), state: &AccountState| -> Value {
        json!({
            "p": scope.project_id, "r": scope.realm.as_str(), "id": id,
            "transfers": state.transfers_active, "payouts": state.payouts_enabled,
            "charges": state.charges_enabled, "details": state.details_submitted,
            "disabled": state.disabled_reason, "gone": state.gone, "at": state.told_at_us,
        })
    };
    // What is new is added as told; what was there is locked and joined here, so that the rule stands
    // in one place and no comparison of text depends on a database's collation. Both in order of key,
    // which keeps two nodes from waiting for each other.
    let rows: Vec<Value> = merged.accounts.iter().map(|(key, told)| row(key, told)).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let told = Value::from(rows).to_string();
    tx.q(ADD).bind(&*told).exec().await?;
    let known: Vec<Known<AccountState>> = tx.q(LOCK).bind(&*told).all().await?;
    let known: HashMap<RowKey<'_>, &AccountState> =
        known.iter().map(|known| (known.key(), &known.state)).collect();
    let mut changed = Vec::new();
    for (key, told) in &merged.accounts {
        let stored = known.get(&row_key(key));
        let joined = stored.map_or_else(|| told.clone(), |stored| stored.join(told));
        if stored.is_none_or(|stored| **stored != joined) {
            changed.push(row(key, &joined));
        }
    }
    write_rows(tx, UPDATE, changed).await
}

/// A stored row with its key.
#[derive(sqlx::FromRow)]
struct Known<S> {
    project_id: String,
    realm: String,
    id: String,
    #[sqlx(flatten)]
    state: S,
}

/// Project, realm and the provider's id.
type RowKey<'a> = (&'a str, &'a str, &'a str);

impl<S> Known<S> {
    fn key(&self) -> RowKey<'_> {
        (&self.project_id, &self.realm, &self.id)
    }
}

fn row_key<'a>((scope, id): &(&'a Scope, &'a str)) -> RowKey<'a> {
    (scope.project_id.as_str(), scope.realm.as_str(), id)
}

async fn save_bank_payouts(tx: &mut Tx, merged: &Merged<'_>) -> Result<(), StoreError> {
    const ADD: &str =
        "INSERT INTO bank_payout (project_id, realm, payout_id, account_id, amount_minor, currency,
            status, failure_code, told_at_us)
        SELECT value->>'p', value->>'r', value->>'id', value->>'account', CAST(value->>'amount' AS BIGINT),
            value->>'currency', value->>'status', value->>'failure', CAST(value->>'at' AS BIGINT)
        FROM json_each($1) WHERE TRUE
        ON CONFLICT (project_id, realm, payout_id) DO NOTHING";
    const LOCK: Sql = for_update!(
        "SELECT b.project_id, b.realm, b.payout_id AS id, b.status, b.failure_code, b.told_at_us
         FROM bank_payout b JOIN json_each($1) k
             ON b.project_id = k.value->>'p' AND b.realm = k.value->>'r' AND b.payout_id = k.value->>'id'
         ORDER BY b.project_id, b.realm, b.payout_id"
    );
    const UPDATE: &str = "UPDATE bank_payout SET status = k.status, failure_code = k.failure,
            told_at_us = k.at
        FROM (SELECT value->>'p' AS p, value->>'r' AS r, value->>'id' AS id, value->>'status' AS status,
                  value->>'failure' AS failure, CAST(value->>'at' AS BIGINT) AS at
              FROM json_each($1)) AS k
        WHERE bank_payout.project_id = k.p AND bank_payout.realm = k.r AND bank_payout.payout_id = k.id";
    let row = |(scope, id): &(&Scope, &str), payout: &BankPayout, state: &BankState| -> Value {
        json!({
            "p": scope.project_id, "r": scope.realm.as_str(), "id": id, "account": payout.account_id,
            "amount": payout.amount, "currency": payout.currency, "status": state.status,
            "failure": state.failure_code, "at": state.told_at_us,
        })
    };
    let rows: Vec<Value> =
        merged.payouts.iter().map(|(key, (payout, told))| row(key, payout, told)).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let told = Value::from(rows).to_string();
    tx.q(ADD).bind(&*told).exec().await?;
    let known: Vec<Known<BankRow>> = tx.q(LOCK).bind(&*told).all().await?;
    let known: HashMap<RowKey<'_>, BankState> =
        known.iter().map(|known| (known.key(), known.state.read())).collect();
    let newer = merged.payouts.iter().filter(|(key, (_, told))| known.get(&row_key(key)) < Some(told));
    write_rows(tx, UPDATE, newer.map(|(key, (payout, told))| row(key, payout, told)).collect()).await
}

#[derive(sqlx::FromRow)]
struct BankRow {
    status: String,
    failure_code: Option<String>,
    told_at_us: i64,
}

impl BankRow {
    fn read(&self) -> BankState {
        BankState::new(self.status.clone(), self.failure_code.clone(), self.told_at_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(bits: u8, reason: Option<&str>, at_s: i64) -> AccountState {
        AccountState::told(&PayoutAccount {
            account_id: "acct_1".to_owned(),
            transfers_active: bits & 1 != 0,
            payouts_enabled: bits & 2 != 0,
            charges_enabled: bits & 4 != 0,
            details_submitted: bits & 8 != 0,
            disabled_reason: reason.map(str::to_owned),
            at: Timestamp::from_secs(at_s),
        })
    }

    fn statements() -> Vec<AccountState> {
        let mut all =
            vec![AccountState::gone(Timestamp::from_secs(1)), AccountState::gone(Timestamp::from_secs(2))];
        for at_s in [1, 2] {
            for bits in [0b1111, 0b0111, 0b1101, 0b0010] {
                for reason in [None, Some("listed"), Some("rejected.fraud")] {
                    all.push(account(bits, reason, at_s));
                }
            }
        }
        all
    }

    #[test]
    fn statements_of_an_account_join_to_the_same_in_every_order_and_grouping() {
        let all = statements();
        for a in &all {
            assert_eq!(a.join(a), *a);
            for b in &all {
                assert_eq!(a.join(b), b.join(a));
                for c in &all {
                    assert_eq!(a.join(b).join(c), a.join(&b.join(c)));
                }
            }
        }
    }

    #[test]
    fn newer_wins_then_gone_then_the_stricter_of_each_switch() {
        let (all_on, none_on) = (account(0b1111, None, 1), account(0, Some("listed"), 1));
        assert_eq!(all_on.join(&account(0b0011, None, 2)), account(0b0011, None, 2));
        assert_eq!(all_on.join(&none_on), none_on);
        assert_eq!(account(0b0101, None, 1).join(&account(0b0110, None, 1)), account(0b0100, None, 1));
        let gone = AccountState::gone(Timestamp::from_secs(1));
        assert_eq!(none_on.join(&gone), gone);
        assert_eq!(gone.join(&account(0b1111, None, 2)), account(0b1111, None, 2));
    }

    #[test]
    fn a_failed_bank_payout_outranks_a_paid_one_of_the_same_second_only() {
        let told = |status: &str, at| BankState::new(status.to_owned(), None, at);
        assert!(told("failed", 1) > told("paid", 1));
        assert!(told("paid", 1) > told("in_transit", 1));
        assert!(told("paid", 2) > told("failed", 1));
    }
}
