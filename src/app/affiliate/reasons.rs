//! Why a commission is what it is, as the affiliate may know it: the rule, the base, the rounding, what was
//! posted and what took it back.
//!
//! The reckoning is that of [`explain`], which is written for the owner. What passes from there is listed here
//! field by field, so that something new in it is not shown by accident: no buyer, no id of the provider's or
//! the owner's, no note, no key, and nothing of another enrollment on the same sale.

use super::{
    super::explain::{self, CauseView, Explanation},
    App, OwnCommissionRow, Principal, Refusal, affiliate_views, own_side,
};
use crate::domain::{ids::CommissionId, money::Currency, time::Timestamp};

/// A commission's reckoning and history.
#[derive(Clone, Debug)]
pub struct Reasons {
    /// The state of the sale: `complete`, `partial_refunded` and so on.
    pub sale_status: &'static str,
    /// From the rule to what is kept.
    pub steps: Vec<OwnStep>,
    /// What was posted, in order.
    pub entries: Vec<OwnEntry>,
    /// What stops or stopped the money.
    pub flags: Vec<OwnFlag>,
}

/// One step of the reckoning.
#[derive(Clone, Debug)]
pub struct OwnStep {
    /// What is reckoned.
    pub what: &'static str,
    /// How, in numbers and words.
    pub how: String,
    /// The result, minor units.
    pub amount: i64,
    /// Currency of the result.
    pub currency: Currency,
}

/// A journal entry of the commission.
#[derive(Clone, Debug)]
pub struct OwnEntry {
    /// Id.
    pub id: String,
    /// What it does.
    pub kind: String,
    /// Minor units, positive.
    pub amount: i64,
    /// Currency.
    pub currency: String,
    /// When it was posted.
    pub posted_at: Timestamp,
    /// What made it necessary.
    pub because: Vec<Because>,
}

/// What made an entry necessary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    /// The provider told something of this type.
    Event(String),
    /// A person decided: what, and why.
    Decision(String, Option<String>),
    /// A rule of time.
    Time(String),
}

/// What stops or stopped the money.
#[derive(Clone, Debug)]
pub struct OwnFlag {
    /// What kind of thing.
    pub kind: &'static str,
    /// When it was first seen.
    pub raised_at: Timestamp,
    /// When it was cleared.
    pub cleared_at: Option<Timestamp>,
}

/// One commission of the affiliate's with the reason of each amount.
///
/// # Errors
/// [`Refusal::NotFound`] also for a peer's.
pub async fn commission(
    app: &App,
    by: &Principal,
    id: &CommissionId,
) -> Result<(OwnCommissionRow, Reasons), Refusal> {
    let scope = own_side(by)?;
    let found = affiliate_views::find_commission(&mut app.db.read().await?, &scope, id).await?;
    let row = found.ok_or(Refusal::NotFound)?;
    // It is the affiliate's own, whoever the program's owner is.
    let explained = explain::explain(&app.db, id, None).await?;
    Ok((row, reasons(explained)))
}

fn reasons(explained: Explanation) -> Reasons {
    let steps = explained.steps.into_iter().map(|step| OwnStep {
        what: step.what,
        how: step.how,
        amount: step.amount_minor,
        currency: step.currency,
    });
    let entries = explained.entries.into_iter().map(|entry| OwnEntry {
        id: entry.id,
        kind: entry.kind,
        amount: entry.amount_minor,
        currency: entry.currency,
        posted_at: entry.posted_at,
        because: entry.causes.into_iter().map(because).collect(),
    });
    let flags = explained.flags.into_iter().map(|flag| OwnFlag {
        kind: flag.kind,
        raised_at: flag.raised_at,
        cleared_at: flag.cleared_at,
    });
    Reasons {
        sale_status: explained.sale.status,
        steps: steps.collect(),
        entries: entries.collect(),
        flags: flags.collect(),
    }
}

fn because(cause: CauseView) -> Because {
    match cause {
        CauseView::Event { r#type, .. } => Because::Event(r#type),
        CauseView::Decision { decision, reason, .. } => Because::Decision(decision, reason),
        CauseView::Time { rule } => Because::Time(rule),
    }
}
