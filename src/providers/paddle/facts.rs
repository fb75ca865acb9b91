//! Paddle's events as facts.
//!
//! A sale is booked on `transaction.completed`; money that goes back is an adjustment, an object of its
//! own. Amounts are the buyer's, tax included, in the currency of the transaction; Paddle's fee and the
//! payout currency are the owner's business with Paddle.
//!
//! Source: developer.paddle.com/webhooks (the page of each event), `facts.md` 13.

#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{
    domain::{
        fact::{
            ChargebackReversed, Dispute, DisputePhase, Fact, HintSource, Item, ObjectKind, ObjectRef, Refund,
            RefundStatus, SalePaid,
        },
        money::{self, Currency},
        time::Timestamp,
    },
    providers::{
        MalformedEvent, Translation,
        codes::{Codes, Metadata, MetadataKeys, external_link, subjects},
        payload::{self, Id, Lenient, MinorText},
    },
};

#[derive(Deserialize)]
struct Kind {
    event_type: Id,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    occurred_at: Lenient<String>,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// What every translation gets.
struct Event<'a> {
    /// When it happened.
    at: Timestamp,
    data: &'a RawValue,
    keys: MetadataKeys<'a>,
}

impl<'a> Event<'a> {
    fn data<T: Deserialize<'a>>(&self) -> Result<T, MalformedEvent> {
        payload::read(self.data.get(), "data")
    }

    fn codes_of(&self, custom_data: &Metadata) -> Codes {
        let mut codes = Codes::default();
        codes.add_metadata(custom_data, self.keys);
        codes
    }
}

/// Translates one event.
pub(super) fn translate(body: &[u8], keys: MetadataKeys<'_>) -> Result<Translation, MalformedEvent> {
    let text = payload::text_of(body)?;
    let Kind { event_type } = payload::read(text, "")?;
    let translate = match event_type.0.as_str() {
        "transaction.completed" => transaction_completed,
        // The same transaction before it is final; totals, subscription and fee may still be missing.
        other if other.starts_with("transaction.") => transaction_told,
        "adjustment.created" | "adjustment.updated" => adjustment,
        "subscription.created" | "subscription.activated" | "subscription.updated" => subscription_changed,
        "subscription.canceled" => subscription_canceled,
        _ => return Ok(Translation::Ignored("unhandled_type")),
    };
    let Envelope { occurred_at, data } = payload::read(text, "")?;
    let at = occurred_at.instant().ok_or_else(|| MalformedEvent::at("occurred_at"))?;
    translate(&Event { at, data, keys })
}

/// Who a transaction or subscription belongs to. Nothing here moves money.
///
/// Source: developer.paddle.com/api-reference/transactions/overview.
#[derive(Deserialize)]
struct Told {
    id: Id,
    customer_id: Option<Id>,
    subscription_id: Option<Id>,
    #[serde(default)]
    custom_data: Metadata,
    /// Only where the sender included it.
    #[serde(default)]
    discount: Lenient<Discount>,
    #[serde(default)]
    discount_id: Lenient<String>,
    #[serde(default)]
    origin: Lenient<String>,
}

#[derive(Deserialize)]
struct Discount {
    #[serde(default)]
    id: Lenient<String>,
    #[serde(default)]
    code: Lenient<String>,
}

impl Told {
    /// The code as typed where it is included, else the discount's id: it names the affiliate as well,
    /// once the owner has registered it as a code.
    fn discount_code(&self) -> Option<String> {
        let included = self.discount.0.as_ref();
        included
            .and_then(|discount| discount.code.text())
            .or_else(|| included.and_then(|discount| discount.id.text()))
            .or_else(|| self.discount_id.text())
    }

    fn codes(&self, event: &Event<'_>) -> Codes {
        let mut codes = event.codes_of(&self.custom_data);
        if let Some(code) = self.discount_code() {
            codes.add(HintSource::Coupon, &code);
        }
        codes
    }

    /// Links and codes of a transaction.
    fn attribution(&self, event: &Event<'_>) -> Vec<Fact> {
        let sale = ObjectRef::new(ObjectKind::Transaction, &*self.id.0);
        let subscription = self.subscription_id.as_ref().map(|id| &*id.0);
        let customer = self.customer_id.as_ref().map(|id| &*id.0);
        // Paddle copies custom data to every later transaction of the subscription, so there the id of
        // the first order stands on renewals that are sales of their own (`rulings.md` 4).
        // Source: developer.paddle.com/build/transactions/custom-data.
        let is_copied = self.origin.0.as_deref().is_some_and(|origin| origin.starts_with("subscription_"));
        let own = external_link(&sale, &self.custom_data).filter(|_| !is_copied);
        let mut facts: Vec<Fact> = own.into_iter().collect();
        facts.extend(self.codes(event).facts(&subjects(Some(&sale), subscription, customer), event.at));
        facts
    }
}

/// Source: developer.paddle.com/webhooks/transactions/transaction-completed.
#[derive(Deserialize)]
struct Transaction {
    details: Details,
    currency_code: Currency,
    #[serde(default)]
    origin: Lenient<String>,
    #[serde(default)]
    billed_at: Lenient<String>,
    #[serde(default)]
    payments: Lenient<Vec<Payment>>,
}

#[derive(Deserialize)]
struct Details {
    totals: Totals,
    #[serde(default)]
    line_items: Lenient<Vec<Value>>,
}

impl Details {
    /// What was sold, line by line. A line that cannot be read is no reason to refuse the event: the sale
    /// then has no lines.
    ///
    /// Source: developer.paddle.com/api-reference/transactions/overview (`details.line_items`).
    fn items(&self) -> Vec<Item> {
        let text = |line: &Value, path: &str| line.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let item = |line: &Value| {
            let amount = text(line, "/totals/total")?.parse().ok()?;
            Some(Item { price: text(line, "/price_id"), product: text(line, "/product/id"), amount })
        };
        let items: Option<Vec<Item>> = self.line_items.0.iter().flatten().map(item).collect();
        items.unwrap_or_default()
    }
}

/// `grand_total` is what the buyer paid: `total` less the credit that was used.
///
/// Source: developer.paddle.com/changelog/2023/transaction-totals-grand-total.
#[derive(Deserialize)]
struct Totals {
    total: MinorText,
    tax: Option<MinorText>,
    grand_total: Option<MinorText>,
    grand_total_tax: Option<MinorText>,
}

impl Totals {
    fn paid(&self) -> i64 {
        self.grand_total.unwrap_or(self.total).0
    }

    /// Tax within [`Self::paid`]; where the payload tells only the tax of the whole, its share.
    fn tax_paid(&self) -> Result<Option<i64>, MalformedEvent> {
        let (paid, total) = (self.paid(), self.total.0);
        let tax_paid = match (self.grand_total_tax, self.tax) {
            (None, Some(MinorText(tax))) if total > paid => {
                money::share(tax, paid, total).map_err(|_| MalformedEvent::at("data.details.totals.tax"))?
            }
            (Some(MinorText(tax)), _) | (None, Some(MinorText(tax))) => tax,
            (None, None) => return Ok(None),
        };
        Ok(Some(tax_paid.min(paid)))
    }
}

#[derive(Deserialize)]
struct Payment {
    #[serde(default)]
    captured_at: Lenient<String>,
}

impl Transaction {
    /// The last capture. `billed_at` is only the next best: an invoice is billed weeks before it is paid.
    fn paid_at(&self, event: &Event<'_>) -> Timestamp {
        let captures = self.payments.0.iter().flatten().filter_map(|payment| payment.captured_at.instant());
        captures.max().or_else(|| self.billed_at.instant()).unwrap_or(event.at)
    }
}

fn transaction_completed(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let told: Told = event.data()?;
    let transaction: Transaction = event.data()?;
    let totals = &transaction.details.totals;
    let mut facts = vec![Fact::SalePaid(SalePaid {
        sale: ObjectRef::new(ObjectKind::Transaction, &*told.id.0),
        parent: None,
        amount: totals.paid(),
        tax: totals.tax_paid()?,
        currency: transaction.currency_code,
        at: transaction.paid_at(event),
        customer: told.customer_id.as_ref().map(|id| id.0.clone()),
        subscription: told.subscription_id.as_ref().map(|id| id.0.clone()),
        billing_reason: transaction.origin.text(),
        buyer_email: None,
        items: transaction.details.items(),
    })];
    facts.extend(told.attribution(event));
    Ok(Translation::Facts(facts))
}

fn transaction_told(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let told: Told = event.data()?;
    Ok(Translation::of(told.attribution(event), "not_final"))
}

/// Source: developer.paddle.com/webhooks/subscriptions/subscription-created.
fn subscription_changed(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let told: Told = event.data()?;
    let customer = told.customer_id.as_ref().map(|id| &*id.0);
    let subjects = subjects(None, Some(&told.id.0), customer);
    Ok(Translation::of(told.codes(event).facts(&subjects, event.at), "no_code"))
}

/// Source: developer.paddle.com/webhooks/subscriptions/subscription-canceled.
#[derive(Deserialize)]
struct CanceledSubscription {
    id: Id,
    #[serde(default)]
    canceled_at: Lenient<String>,
}

fn subscription_canceled(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let canceled: CanceledSubscription = event.data()?;
    let at = canceled.canceled_at.instant().unwrap_or(event.at);
    Ok(Translation::Facts(vec![Fact::SubscriptionEnded { subscription: canceled.id.0, at }]))
}

/// Source: developer.paddle.com/webhooks/adjustments/adjustment-created.
#[derive(Deserialize)]
struct Adjustment {
    id: Id,
    action: Id,
    status: Id,
    transaction_id: Id,
    currency_code: Currency,
    totals: AdjustmentTotals,
}

#[derive(Deserialize)]
struct AdjustmentTotals {
    total: MinorText,
}

/// Only `approved` moves money, whether the adjustment was created so or became so.
fn adjustment(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let adjustment: Adjustment = event.data()?;
    let amount = adjustment.totals.total.0;
    let fact = match adjustment.action.0.as_str() {
        "refund" => adjustment.refund(amount),
        "chargeback" => adjustment.chargeback(amount),
        "chargeback_warning" => adjustment.warning(amount),
        "chargeback_reverse" if adjustment.status.0 == "approved" => adjustment.reversed(amount),
        "chargeback_reverse" => return Ok(Translation::Ignored("not_final")),
        // It names no warning, and the warning itself is told again as `reversed`.
        "chargeback_warning_reverse" => return Ok(Translation::Ignored("no_sale")),
        // Credit reduces what is due next; no cash goes back. Words that are new are not cash either.
        _ => return Ok(Translation::Ignored("no_cash")),
    };
    Ok(Translation::Facts(vec![fact]))
}

impl Adjustment {
    fn sale(&self) -> ObjectRef {
        ObjectRef::new(ObjectKind::Transaction, &*self.transaction_id.0)
    }

    fn refund(self, amount: i64) -> Fact {
        let status = match self.status.0.as_str() {
            "approved" => RefundStatus::Active,
            "rejected" | "reversed" => RefundStatus::Void,
            // `pending_approval`, and words that are new: takes nothing yet, but stops the money.
            _ => RefundStatus::AwaitingApproval,
        };
        let (sale, currency) = (self.sale(), self.currency_code);
        Fact::Refund(Refund { sale, refund_id: self.id.0, amount, currency, status })
    }

    fn chargeback(self, amount: i64) -> Fact {
        match self.status.0.as_str() {
            "approved" => self.dispute(amount, DisputePhase::Lost, (amount, 0)),
            "reversed" => self.dispute(amount, DisputePhase::Won, (amount, amount)),
            _ => self.dispute(amount, DisputePhase::Open, (0, 0)),
        }
    }

    /// An early alert: a refund or a chargeback follows, or nothing does.
    fn warning(self, amount: i64) -> Fact {
        let phase = match self.status.0.as_str() {
            "rejected" | "reversed" => DisputePhase::InquiryClosed,
            _ => DisputePhase::Inquiry,
        };
        self.dispute(amount, phase, (0, 0))
    }

    fn dispute(self, amount: i64, phase: DisputePhase, (withdrawn, reinstated): (i64, i64)) -> Fact {
        let (sale, currency) = (self.sale(), self.currency_code);
        Fact::Dispute(Dispute { sale, dispute_id: self.id.0, amount, currency, phase, withdrawn, reinstated })
    }

    fn reversed(self, amount: i64) -> Fact {
        let (sale, currency) = (self.sale(), self.currency_code);
        Fact::ChargebackReversed(ChargebackReversed { sale, reverse_id: self.id.0, amount, currency })
    }
}
