//! Payouts of affiliates' accounts to their banks: shown, and told of while one fails. Information only.
//!
//! A bank that refuses money does not undo our transfer: the money is in the affiliate's account at the
//! provider (docs.stripe.com/api/payouts; F-P-24). So nothing here touches a payout, an intent or the
//! books.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{organizations::PAYOUT_PROVIDER, payouts::own_scope};
use crate::{
    domain::{
        book::{Realm, Scope},
        fact::Fact,
        time::Timestamp,
    },
    store::{
        Conn, StoreError, Tx,
        bank_payouts::{self, BankPayoutRow},
        findings::{self, NewFinding, Severity},
    },
};

/// The finding about an account of which a bank payout failed.
const FAILED: &str = "bank_payout_failed";

/// Bank payouts of an account that are shown.
const SHOWN: i64 = 5;

/// A payout of a receiving account to its bank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct BankPayoutView {
    /// The provider's id; null for those who do not run this installation, like the amount: the payout is
    /// of all that the affiliate earns, wherever.
    id: Option<String>,
    amount: Option<i64>,
    currency: Option<String>,
    status: String,
    failure_code: Option<String>,
    told_at: Timestamp,
}

impl From<BankPayoutRow> for BankPayoutView {
    fn from(row: BankPayoutRow) -> Self {
        Self {
            id: Some(row.payout_id),
            amount: Some(row.amount_minor),
            currency: Some(row.currency),
            status: row.status,
            failure_code: row.failure_code,
            told_at: Timestamp::from_micros(row.told_at_us),
        }
    }
}

impl BankPayoutView {
    /// What the owner of one of the affiliate's programs may know of it.
    pub(super) fn without_income(self) -> Self {
        Self { id: None, amount: None, currency: None, ..self }
    }
}

/// What was told last of an account's bank payouts, newest first.
pub(super) async fn newest(
    conn: &mut Conn,
    provider: &str,
    livemode: bool,
    account_id: &str,
) -> Result<Vec<BankPayoutView>, StoreError> {
    let realm = Realm::new(provider, livemode, "");
    let rows = bank_payouts::list_newest(conn, &realm, account_id, SHOWN).await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// Looks at the accounts that these facts tell a bank payout of: a finding is open about each that
/// affiliates are paid to while a bank payout of it has failed and none that was told of later was paid.
/// The facts are stored already; what follows from them does not depend on their order.
pub(super) async fn look(
    tx: &mut Tx,
    facts: impl Iterator<Item = (&Scope, &Fact)>,
    livemode: bool,
    now: Timestamp,
) -> Result<(), StoreError> {
    let own = own_scope(PAYOUT_PROVIDER, livemode);
    let told: BTreeSet<&str> = facts
        .filter_map(|(scope, fact)| match fact {
            Fact::BankPayout(payout)
                if scope.project_id == own.project_id
                    && scope.realm == own.realm.of_account(&payout.account_id) =>
            {
                Some(payout.account_id.as_str())
            }
            _ => None,
        })
        .collect();
    if told.is_empty() {
        return Ok(());
    }
    let told: Vec<&str> = told.into_iter().collect();
    let payees = bank_payouts::lock_payees(tx, PAYOUT_PROVIDER, &told).await?;
    let payees: Vec<&str> = payees.iter().map(String::as_str).collect();
    let failing = bank_payouts::list_failing(tx, &own.realm, &payees).await?;
    // Of several the newest says what is wrong now.
    let failing: BTreeMap<String, Option<String>> =
        failing.into_iter().map(|failed| (failed.account_id, failed.failure_code)).collect();
    let raised: Vec<NewFinding> = failing.into_iter().map(finding).collect();
    findings::raise(tx, &raised, now).await?;
    findings::resolve_others(tx, &told, &[FAILED], &raised, now).await
}

fn finding((account_id, failure_code): (String, Option<String>)) -> NewFinding {
    let code = failure_code.unwrap_or_else(|| "no reason was told".to_owned());
    NewFinding {
        kind: FAILED.to_owned(),
        severity: Severity::Info,
        detail: format!(
            "the affiliate's bank refused a payout from this account ({code}); what we sent has arrived and \
             stays in the account until the affiliate corrects its bank details at the provider"
        ),
        object: account_id,
    }
}
