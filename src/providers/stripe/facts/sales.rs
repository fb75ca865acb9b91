//! Money that came in, what names it, and whom it is owed to: payment intents, charges, invoices,
//! checkout sessions, subscriptions, customers.
//!
//! Several of them tell one payment. Each states its own amount and its links; the fold knows which one
//! wins (`rulings.md` 7).

use serde::Deserialize;
use serde_json::Value;

use super::{Event, lines::Lines, link};
use crate::{
    domain::{
        fact::{Fact, HintSource, ObjectKind, ObjectRef, SalePaid, Subject},
        money::{self, Currency},
        time::Timestamp,
    },
    providers::{
        MalformedEvent, Translation,
        codes::{Codes, Metadata, external_link, subjects},
        payload::{Id, Lenient, Minor, Reference, Seconds},
    },
};

/// A list object of the API, of which only the elements count.
#[derive(Deserialize)]
struct List<T> {
    data: Vec<T>,
}

#[derive(Deserialize)]
struct WithId {
    id: Id,
}

/// Source: `docs.stripe.com/api/payment_intents/object`. `invoice` and `charges` are old shapes (before
/// 2025-03-31 and 2022-11-15).
#[derive(Deserialize)]
struct Intent {
    id: Id,
    amount_received: Minor,
    currency: Currency,
    latest_charge: Option<Reference>,
    charges: Option<List<WithId>>,
    invoice: Option<Reference>,
    customer: Option<Reference>,
    #[serde(default)]
    receipt_email: Lenient<String>,
    #[serde(default)]
    metadata: Metadata,
}

pub(super) fn intent(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let intent: Intent = event.object()?;
    let sale = ObjectRef::new(ObjectKind::Intent, intent.id.0);
    let customer = intent.customer.map(|customer| customer.0);
    let mut facts = vec![Fact::SalePaid(SalePaid {
        sale: sale.clone(),
        parent: None,
        amount: intent.amount_received.0,
        tax: None,
        currency: intent.currency,
        at: event.at,
        customer: customer.clone(),
        subscription: None,
        billing_reason: None,
        buyer_email: intent.receipt_email.text(),
        items: Vec::new(),
    })];
    facts.extend(link(&sale, ObjectKind::Charge, intent.latest_charge.as_ref()));
    for charge in intent.charges.into_iter().flat_map(|list| list.data) {
        let alias = ObjectRef::new(ObjectKind::Charge, charge.id.0);
        let charge_link = Fact::SaleLinked { sale: sale.clone(), alias };
        if !facts.contains(&charge_link) {
            facts.push(charge_link);
        }
    }
    facts.extend(link(&sale, ObjectKind::Invoice, intent.invoice.as_ref()));
    facts.extend(external_link(&sale, &intent.metadata));
    let codes = event.codes_of(&intent.metadata);
    facts.extend(codes.facts(&subjects(Some(&sale), None, customer.as_deref()), event.at));
    Ok(Translation::of(facts, "no_money"))
}

/// Source: docs.stripe.com/api/charges/object. `amount_captured` is absent before 2020-08-27, `invoice`
/// is an old shape (before 2025-03-31).
#[derive(Deserialize)]
struct Charge {
    id: Id,
    amount: Minor,
    amount_captured: Option<Minor>,
    captured: bool,
    currency: Currency,
    payment_intent: Option<Reference>,
    invoice: Option<Reference>,
    customer: Option<Reference>,
    billing_details: Option<BillingDetails>,
    #[serde(default)]
    receipt_email: Lenient<String>,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Deserialize)]
struct BillingDetails {
    #[serde(default)]
    email: Lenient<String>,
}

/// `charge.succeeded` also tells of an authorisation: `captured` is then false, and nothing was paid.
pub(super) fn charge(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let charge: Charge = event.object()?;
    let sale = ObjectRef::new(ObjectKind::Charge, charge.id.0);
    let customer = charge.customer.map(|customer| customer.0);
    let Minor(amount) = charge.amount_captured.unwrap_or(charge.amount);
    let mut facts = Vec::new();
    if charge.captured && amount > 0 {
        let parent =
            charge.payment_intent.as_ref().map(|intent| ObjectRef::new(ObjectKind::Intent, &*intent.0));
        let billing_email = charge.billing_details.and_then(|details| details.email.text());
        facts.push(Fact::SalePaid(SalePaid {
            sale: sale.clone(),
            parent,
            amount,
            tax: None,
            currency: charge.currency,
            at: event.at,
            customer: customer.clone(),
            subscription: None,
            billing_reason: None,
            buyer_email: billing_email.or_else(|| charge.receipt_email.text()),
            items: Vec::new(),
        }));
    }
    facts.extend(link(&sale, ObjectKind::Intent, charge.payment_intent.as_ref()));
    facts.extend(link(&sale, ObjectKind::Invoice, charge.invoice.as_ref()));
    facts.extend(external_link(&sale, &charge.metadata));
    let codes = event.codes_of(&charge.metadata);
    facts.extend(codes.facts(&subjects(Some(&sale), None, customer.as_deref()), event.at));
    Ok(Translation::of(facts, "no_money"))
}

/// Source: docs.stripe.com/api/invoices/object and
/// docs.stripe.com/changelog/basil/2025-03-31/adds-new-parent-field-to-invoicing-objects. `charge`,
/// `payment_intent`, `subscription`, `subscription_details`, `tax` and `total_tax_amounts` are the old
/// shape.
#[derive(Deserialize)]
struct Invoice {
    id: Id,
    amount_paid: Minor,
    total: Option<i64>,
    total_taxes: Option<Vec<TaxAmount>>,
    total_tax_amounts: Option<Vec<TaxAmount>>,
    tax: Option<i64>,
    currency: Currency,
    #[serde(default)]
    billing_reason: Lenient<String>,
    status_transitions: Option<StatusTransitions>,
    parent: Option<InvoiceParent>,
    subscription: Option<Reference>,
    subscription_details: Option<SubscriptionDetails>,
    charge: Option<Reference>,
    payment_intent: Option<Reference>,
    payments: Option<List<InvoicePayment>>,
    customer: Option<Reference>,
    #[serde(default)]
    customer_email: Lenient<String>,
    #[serde(default)]
    lines: Lenient<Lines>,
    #[serde(default)]
    discounts: Lenient<Vec<Value>>,
    #[serde(default)]
    discount: Lenient<Value>,
    #[serde(default)]
    metadata: Metadata,
}

/// Signed: an invoice of credits has negative taxes.
#[derive(Deserialize)]
struct TaxAmount {
    amount: i64,
}

#[derive(Deserialize)]
struct StatusTransitions {
    paid_at: Option<Seconds>,
}

#[derive(Deserialize)]
struct InvoiceParent {
    subscription_details: Option<SubscriptionDetails>,
}

#[derive(Deserialize)]
struct SubscriptionDetails {
    subscription: Option<Reference>,
    #[serde(default)]
    metadata: Metadata,
}

impl Invoice {
    /// Tax within the amount paid. `None` where the invoice does not tell; an empty list tells zero.
    ///
    /// Credit on the customer's balance can pay part of the total. Of the tax, the paid amount then
    /// holds its share of the total only.
    fn tax_paid(&self) -> Result<Option<i64>, MalformedEvent> {
        let too_large = |_| MalformedEvent::at("data.object.total_taxes");
        let listed = self.total_taxes.as_ref().or(self.total_tax_amounts.as_ref());
        let tax = match (listed, self.tax) {
            (Some(taxes), _) => money::sum(taxes.iter().map(|tax| tax.amount)).map_err(too_large)?,
            (None, Some(tax)) => tax,
            (None, None) => return Ok(None),
        };
        let Minor(paid) = self.amount_paid;
        let tax_paid = match self.total {
            Some(total) if total > paid => money::share(tax, paid, total).map_err(too_large)?,
            _ => tax,
        };
        Ok(Some(tax_paid.clamp(0, paid)))
    }
}

/// An amount of 0 (a trial, or paid from credit) is told as it is.
pub(super) fn invoice(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let invoice: Invoice = event.object()?;
    let tax = invoice.tax_paid()?;
    let sale = ObjectRef::new(ObjectKind::Invoice, invoice.id.0);
    let details =
        invoice.parent.and_then(|parent| parent.subscription_details).or(invoice.subscription_details);
    let (details_subscription, details_metadata) =
        details.map_or((None, Metadata::default()), |details| (details.subscription, details.metadata));
    let subscription = details_subscription.or(invoice.subscription).map(|subscription| subscription.0);
    let customer = invoice.customer.map(|customer| customer.0);
    let paid_at = invoice.status_transitions.and_then(|transitions| transitions.paid_at);
    let mut facts = vec![Fact::SalePaid(SalePaid {
        sale: sale.clone(),
        parent: None,
        amount: invoice.amount_paid.0,
        tax,
        currency: invoice.currency,
        at: paid_at.map_or(event.at, |paid_at| paid_at.0),
        customer: customer.clone(),
        subscription: subscription.clone(),
        billing_reason: invoice.billing_reason.text(),
        buyer_email: invoice.customer_email.text(),
        items: invoice.lines.0.map_or_else(Vec::new, Lines::items),
    })];
    facts.extend(link(&sale, ObjectKind::Intent, invoice.payment_intent.as_ref()));
    facts.extend(link(&sale, ObjectKind::Charge, invoice.charge.as_ref()));
    for payment in invoice.payments.into_iter().flat_map(|list| list.data) {
        facts.extend(payment.links(&sale));
    }
    facts.extend(external_link(&sale, &invoice.metadata));

    let mut codes = event.codes_of(&invoice.metadata);
    codes.add_metadata(&details_metadata, event.keys);
    for discount in invoice.discounts.0.iter().flatten().chain(&invoice.discount.0) {
        add_discount_code(&mut codes, discount);
    }
    let subjects = subjects(Some(&sale), subscription.as_deref(), customer.as_deref());
    facts.extend(codes.facts(&subjects, event.at));
    Ok(Translation::of(facts, "no_money"))
}

/// Source: docs.stripe.com/api/invoice-payment/object.
#[derive(Deserialize)]
struct InvoicePayment {
    invoice: Option<Reference>,
    payment: Option<Payment>,
}

#[derive(Deserialize)]
struct Payment {
    payment_intent: Option<Reference>,
    charge: Option<Reference>,
}

impl InvoicePayment {
    fn links(&self, invoice: &ObjectRef) -> Vec<Fact> {
        let Some(payment) = &self.payment else { return Vec::new() };
        let intent = link(invoice, ObjectKind::Intent, payment.payment_intent.as_ref());
        let charge = link(invoice, ObjectKind::Charge, payment.charge.as_ref());
        intent.into_iter().chain(charge).collect()
    }
}

/// Since 2025-03-31 the only event that says which payment paid an invoice.
pub(super) fn invoice_payment(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let payment: InvoicePayment = event.object()?;
    let Some(Reference(invoice)) = &payment.invoice else {
        return Err(MalformedEvent::at("data.object.invoice"));
    };
    let links = payment.links(&ObjectRef::new(ObjectKind::Invoice, invoice));
    // Money received outside Stripe has a payment record and no charge.
    Ok(Translation::of(links, "no_sale"))
}

/// Source: docs.stripe.com/api/checkout/sessions/object.
#[derive(Deserialize)]
struct CheckoutSession {
    id: Id,
    #[serde(default)]
    mode: Lenient<String>,
    #[serde(default)]
    payment_status: Lenient<String>,
    amount_total: Option<Minor>,
    total_details: Option<TotalDetails>,
    currency: Option<Currency>,
    payment_intent: Option<Reference>,
    invoice: Option<Reference>,
    subscription: Option<Reference>,
    customer: Option<Reference>,
    customer_details: Option<CustomerDetails>,
    #[serde(default)]
    customer_email: Lenient<String>,
    #[serde(default)]
    client_reference_id: Lenient<String>,
    #[serde(default)]
    line_items: Lenient<Lines>,
    #[serde(default)]
    discounts: Lenient<Vec<Value>>,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Deserialize)]
struct TotalDetails {
    amount_tax: Option<Minor>,
}

#[derive(Deserialize)]
struct CustomerDetails {
    #[serde(default)]
    email: Lenient<String>,
}

/// What the session took from the buyer, and in which currency; `None` where nothing was captured by it.
fn session_amount(session: &CheckoutSession) -> Result<Option<(i64, Currency)>, MalformedEvent> {
    let is_paid = match session.payment_status.0.as_deref() {
        Some("paid") => true,
        // Free, or to be paid later (a trial, a deferred start). Only the first is an amount.
        Some("no_payment_required") => session.amount_total.is_some_and(|total| total.0 == 0),
        _ => false,
    };
    match (is_paid, session.amount_total, session.currency) {
        (true, Some(Minor(amount)), Some(currency)) => Ok(Some((amount, currency))),
        (true, None, _) => Err(MalformedEvent::at("data.object.amount_total")),
        (true, _, None) => Err(MalformedEvent::at("data.object.currency")),
        (false, _, _) => Ok(None),
    }
}

/// A delayed payment method completes the session unpaid: the links and codes are already worth having.
pub(super) fn checkout_session(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let session: CheckoutSession = event.object()?;
    // The invoice tells the money of a subscription. Sessions of older API versions do not even name
    // that invoice, so booking here too would pay the first period twice.
    let is_subscription = session.mode.0.as_deref() == Some("subscription");
    let amount = session_amount(&session)?.filter(|_| !is_subscription);
    let customer = session.customer.map(|customer| customer.0);
    let subscription = session.subscription.map(|subscription| subscription.0);
    let details_email = session.customer_details.and_then(|details| details.email.text());
    // Saving a card for later is not a sale.
    let is_sale = session.mode.0.as_deref() != Some("setup");
    let sale = is_sale.then(|| ObjectRef::new(ObjectKind::CheckoutSession, session.id.0));
    let mut facts = Vec::new();
    if let Some(sale) = &sale {
        facts.extend(amount.map(|(amount, currency)| {
            Fact::SalePaid(SalePaid {
                sale: sale.clone(),
                parent: None,
                amount,
                tax: session
                    .total_details
                    .and_then(|details| details.amount_tax)
                    .map(|tax| tax.0.min(amount)),
                currency,
                at: event.at,
                customer: customer.clone(),
                subscription: subscription.clone(),
                billing_reason: None,
                buyer_email: details_email.or_else(|| session.customer_email.text()),
                items: session.line_items.0.map_or_else(Vec::new, Lines::items),
            })
        }));
        facts.extend(link(sale, ObjectKind::Intent, session.payment_intent.as_ref()));
        facts.extend(link(sale, ObjectKind::Invoice, session.invoice.as_ref()));
        facts.extend(external_link(sale, &session.metadata));
    }

    let mut codes = event.codes_of(&session.metadata);
    if let Some(reference) = &session.client_reference_id.0 {
        codes.add(HintSource::ClientReference, reference);
    }
    for discount in session.discounts.0.iter().flatten() {
        add_discount_code(&mut codes, discount);
    }
    let subjects = subjects(sale.as_ref(), subscription.as_deref(), customer.as_deref());
    facts.extend(codes.facts(&subjects, event.at));
    Ok(Translation::of(facts, "no_money"))
}

/// Adds the code of a discount: the promotion code as typed where it was expanded, else its id, else the
/// coupon's id (which the owner chose, or Stripe). A discount told only by its own id tells no code.
///
/// Source: docs.stripe.com/api/discounts/object; `source.coupon` since 2025-09-30.clover.
fn add_discount_code(codes: &mut Codes, discount: &Value) {
    let typed = discount.pointer("/promotion_code/code").or_else(|| discount.get("promotion_code"));
    let coupon = || {
        [("/coupon/id"), ("/coupon"), ("/source/coupon/id"), ("/source/coupon")]
            .into_iter()
            .find_map(|path| discount.pointer(path).and_then(Value::as_str))
    };
    if let Some(code) = typed.and_then(Value::as_str).or_else(coupon) {
        codes.add(HintSource::Coupon, code);
    }
}

/// Source: docs.stripe.com/api/subscriptions/object.
#[derive(Deserialize)]
struct Subscription {
    id: Id,
    customer: Option<Reference>,
    ended_at: Option<Seconds>,
    #[serde(default)]
    metadata: Metadata,
}

pub(super) fn subscription_changed(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let subscription: Subscription = event.object()?;
    let customer = subscription.customer.as_ref().map(|customer| &*customer.0);
    let subjects = subjects(None, Some(&subscription.id.0), customer);
    let codes = event.codes_of(&subscription.metadata);
    Ok(Translation::of(codes.facts(&subjects, event.at), "no_code"))
}

pub(super) fn subscription_ended(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let subscription: Subscription = event.object()?;
    let at: Timestamp = subscription.ended_at.map_or(event.at, |ended_at| ended_at.0);
    Ok(Translation::Facts(vec![Fact::SubscriptionEnded { subscription: subscription.id.0, at }]))
}

/// Source: docs.stripe.com/api/customers/object.
#[derive(Deserialize)]
struct Customer {
    id: Id,
    #[serde(default)]
    metadata: Metadata,
}

pub(super) fn customer(event: &Event<'_>) -> Result<Translation, MalformedEvent> {
    let customer: Customer = event.object()?;
    let codes = event.codes_of(&customer.metadata);
    Ok(Translation::of(codes.facts(&[Subject::Customer(customer.id.0)], event.at), "no_code"))
}
