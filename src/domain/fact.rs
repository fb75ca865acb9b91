//! Facts: provider-neutral statements that stay true whenever they are read.
//!
//! A provider folder translates an event into facts; nothing here says "add" or "subtract". Each fact
//! is cumulative or about one object, so facts merge into rows by union, by rank or by maximum, and
//! never by the order in which they arrive.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    ids::{IntentId, ProgramId},
    money::Currency,
    time::Timestamp,
};

/// What kind of object an id of a payment names. All of them can be aliases of one sale
/// (`rulings.md` 4); a subscription or a customer never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// Stripe payment intent (`pi_`).
    Intent,
    /// Stripe charge (`ch_`, `py_`).
    Charge,
    /// Stripe invoice (`in_`).
    Invoice,
    /// Stripe one-time checkout session, or the session that started a subscription (`cs_`).
    CheckoutSession,
    /// Paddle transaction (`txn_`).
    Transaction,
    /// The owner's own id of an order, told in metadata or in a reported conversion.
    External,
}

impl ObjectKind {
    /// Every kind, for parsing.
    pub const ALL: [Self; 6] =
        [Self::Intent, Self::Charge, Self::Invoice, Self::CheckoutSession, Self::Transaction, Self::External];

    /// The name used in the database and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intent => "payment_intent",
            Self::Charge => "charge",
            Self::Invoice => "invoice",
            Self::CheckoutSession => "checkout_session",
            Self::Transaction => "transaction",
            Self::External => "external",
        }
    }
}

/// One object of a provider that names a sale.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Kind of the object.
    pub kind: ObjectKind,
    /// The provider's id of it.
    pub id: String,
}

impl ObjectRef {
    /// Names an object.
    pub fn new(kind: ObjectKind, id: impl Into<String>) -> Self {
        Self { kind, id: id.into() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.as_str(), self.id)
    }
}

/// What carries an affiliate: one sale, or the subscription or customer that later sales belong to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The sale that this object names.
    Sale(ObjectRef),
    /// A subscription: its renewals are sales of their own.
    Subscription(String),
    /// A customer of the provider.
    Customer(String),
}

/// Where a referral code was read. Earlier variants win over later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HintSource {
    /// The owner's own backend reported the sale with this code: nothing is more explicit.
    Reported,
    /// A metadata (Stripe) or custom data (Paddle) key; the number is its place in
    /// `REMIT_ATTRIBUTION__KEYS`, smaller wins.
    Metadata(u16),
    /// Stripe `client_reference_id`. It may as well be the owner's own customer id.
    ClientReference,
    /// A promotion or coupon code that the buyer typed.
    Coupon,
    /// Not a code but the buyer: an id under which touchpoints may have been recorded
    /// (`REMIT_ATTRIBUTION__SUBJECT_KEYS`, or the `subject_ref` of a report).
    Visitor,
    /// Not a code but the program that the owner reported the sale to: of all touchpoints, only those of
    /// such programs speak for it.
    Program,
}

impl HintSource {
    /// Whether what was told is an affiliate's code.
    #[must_use]
    pub const fn is_code(self) -> bool {
        match self {
            Self::Reported | Self::Metadata(_) | Self::ClientReference | Self::Coupon => true,
            Self::Visitor | Self::Program => false,
        }
    }

    /// Whether what was told may be an id of the buyer. A client reference is often the owner's own
    /// customer id.
    #[must_use]
    pub const fn is_visitor(self) -> bool {
        match self {
            Self::ClientReference | Self::Visitor => true,
            Self::Reported | Self::Metadata(_) | Self::Coupon | Self::Program => false,
        }
    }
}

/// A referral code told by an event, or who the buyer is: see [`HintSource`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hint {
    /// Where the code stood.
    pub source: HintSource,
    /// The code as written, trimmed, 1 to 200 characters.
    pub code: String,
    /// Time of the event that told it.
    pub at: Timestamp,
}

/// How far a refund is. The order is the rank: a later state replaces an earlier one, and a repeat of an
/// earlier one changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefundStatus {
    /// Asked for, not granted: takes nothing, but stops the money (Paddle `pending_approval`).
    AwaitingApproval,
    /// Under way or done: counts (Stripe `pending`, `requires_action`, `succeeded`, unknown words;
    /// Paddle `approved`).
    Active,
    /// Failed, canceled or rejected: the buyer did not get the money (Stripe `failed`, `canceled`;
    /// Paddle `rejected`).
    Void,
}

impl RefundStatus {
    /// The name used in the database and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AwaitingApproval => "awaiting_approval",
            Self::Active => "active",
            Self::Void => "void",
        }
    }
}

/// How far a dispute is. The order is the rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DisputePhase {
    /// An early warning or inquiry is open: moves no money, stops unpaid money.
    Inquiry,
    /// The inquiry ended without a dispute.
    InquiryClosed,
    /// A formal dispute is open.
    Open,
    /// Decided for the buyer.
    Lost,
    /// Decided for the seller, or (Paddle) the chargeback was reversed.
    Won,
}

impl DisputePhase {
    /// The name used in the database and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inquiry => "inquiry",
            Self::InquiryClosed => "inquiry_closed",
            Self::Open => "open",
            Self::Lost => "lost",
            Self::Won => "won",
        }
    }
}

/// Captured money of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SalePaid {
    /// The object that tells the amount.
    pub sale: ObjectRef,
    /// The object that contains this one (a charge's intent), so that both are not summed.
    pub parent: Option<ObjectRef>,
    /// Captured, tax included, minor units, 0 or more.
    pub amount: i64,
    /// Tax within `amount`, minor units. Absent is not zero.
    pub tax: Option<i64>,
    /// Currency of both.
    pub currency: Currency,
    /// When the provider says it was paid.
    pub at: Timestamp,
    /// The provider's customer.
    pub customer: Option<String>,
    /// The subscription it pays.
    pub subscription: Option<String>,
    /// The provider's word for why it was billed, such as `subscription_cycle`.
    pub billing_reason: Option<String>,
    /// The buyer's e-mail address as written. Personal data: stored apart, never logged.
    pub buyer_email: Option<String>,
    /// What was sold, line by line, where the object tells it.
    pub items: Vec<Item>,
}

/// One line of a sale.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Item {
    /// The provider's id of the price.
    pub price: Option<String>,
    /// The provider's id of the product.
    pub product: Option<String>,
    /// What was asked for it, minor units of the sale's currency. Negative for a line that takes off.
    /// Only the proportion between the lines counts, so that discounts and tax need not be told by line.
    pub amount: i64,
}

/// One refund object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refund {
    /// The charge it belongs to; the intent where the object names no charge.
    pub sale: ObjectRef,
    /// The provider's id.
    pub refund_id: String,
    /// Minor units, 0 or more.
    pub amount: i64,
    /// Currency of `amount`.
    pub currency: Currency,
    /// How far it is.
    pub status: RefundStatus,
}

/// One dispute or chargeback object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispute {
    /// The charge it belongs to; the intent or transaction where the object names no charge.
    pub sale: ObjectRef,
    /// The provider's id.
    pub dispute_id: String,
    /// What is in dispute, minor units, 0 or more.
    pub amount: i64,
    /// Currency of the amounts.
    pub currency: Currency,
    /// How far it is.
    pub phase: DisputePhase,
    /// Cumulative amount taken from the seller so far, as far as this event proves it.
    pub withdrawn: i64,
    /// Cumulative amount given back, as far as this event proves it.
    pub reinstated: i64,
}

/// A Paddle `chargeback_reverse` adjustment: an object of its own that gives back what chargebacks of
/// the transaction took. The same return is told again as status `reversed` of the chargeback
/// (`rulings.md` 6), so the two are never added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChargebackReversed {
    /// The transaction.
    pub sale: ObjectRef,
    /// The provider's id of the reversing adjustment.
    pub reverse_id: String,
    /// Minor units, 0 or more.
    pub amount: i64,
    /// Currency of `amount`.
    pub currency: Currency,
}

/// One reversal of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferReversal {
    /// The provider's id.
    pub reversal_id: String,
    /// Minor units.
    pub amount: i64,
}

/// A transfer as the provider shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferSeen {
    /// The provider's id.
    pub transfer_id: String,
    /// Our own intent id, where metadata or the transfer group carries one.
    pub intent_id: Option<String>,
    /// Minor units.
    pub amount: i64,
    /// Currency of `amount`.
    pub currency: Currency,
    /// The receiving account.
    pub destination: Option<String>,
    /// Whether it belongs to a destination charge (`rulings.md` 15): never a payout, never an orphan.
    pub of_charge: bool,
    /// When the provider made it.
    pub at: Timestamp,
}

/// What of a transfer came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferReversed {
    /// The transfer, with its own amount and intent.
    pub transfer: TransferSeen,
    /// Cumulative amount reversed, minor units.
    pub reversed_total: i64,
    /// The reversals that the event lists (Stripe lists the ten newest).
    pub reversals: Vec<TransferReversal>,
}

/// A charge that we asked for, as the provider shows it. The sale that it makes is told beside it, by
/// [`SalePaid`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChargeSeen {
    /// Our own intent id, told by metadata that only we write.
    pub intent_id: IntentId,
    /// The provider's id.
    pub payment_intent_id: String,
    /// The provider's word for how far it is, such as `requires_action` or `succeeded`.
    pub status: String,
    /// What the buyer was asked for, minor units.
    pub amount: i64,
    /// Currency of `amount`.
    pub currency: Currency,
    /// The connected account that receives it.
    pub destination: Option<String>,
    /// When the provider made it.
    pub at: Timestamp,
    /// Time of the event; of two statements the newer one holds.
    pub told_at: Timestamp,
}

/// An account that affiliates are paid to.
#[expect(clippy::struct_excessive_bools, reason = "four independent switches that the provider tells")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayoutAccount {
    /// The provider's account id.
    pub account_id: String,
    /// Whether transfers to it are allowed (`capabilities.transfers == "active"`).
    pub transfers_active: bool,
    /// Whether it can pay out to its bank.
    pub payouts_enabled: bool,
    /// Whether it can take charges.
    pub charges_enabled: bool,
    /// Whether its holder has submitted the details asked for.
    pub details_submitted: bool,
    /// The provider's reason for a stop, if it gives one.
    pub disabled_reason: Option<String>,
    /// Time of the event; the newest statement about an account is the one that holds.
    pub at: Timestamp,
}

impl PayoutAccount {
    /// Whether a transfer to it reaches its holder (`semantics.md`, "Unverified account").
    #[must_use]
    pub const fn can_be_paid(&self) -> bool {
        self.transfers_active && self.payouts_enabled
    }
}

/// A payout of a connected account to its bank: shown to the payee, never our transfer failing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BankPayout {
    /// The connected account.
    pub account_id: String,
    /// The provider's id.
    pub payout_id: String,
    /// Minor units.
    pub amount: i64,
    /// Currency of `amount`.
    pub currency: Currency,
    /// The provider's word, such as `paid` or `failed`.
    pub status: String,
    /// The provider's reason for a failure.
    pub failure_code: Option<String>,
    /// Time of the event.
    pub at: Timestamp,
}

/// A provider-neutral statement derived from one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// Money of a sale was captured.
    SalePaid(SalePaid),
    /// Two ids name one payment.
    SaleLinked {
        /// One of them.
        sale: ObjectRef,
        /// The other.
        alias: ObjectRef,
    },
    /// A code was told for a sale, a subscription or a customer.
    SaleAttributed {
        /// What the code belongs to.
        subject: Subject,
        /// The code.
        hint: Hint,
    },
    /// The owner said, with an order, for how long its commission in a program is held.
    HoldTold {
        /// The order.
        sale: ObjectRef,
        /// The program that it was reported to; the commission in another one is held as that one says.
        program: ProgramId,
        /// Days of 86 400 s, from the payment.
        days: u16,
    },
    /// The state of one refund.
    Refund(Refund),
    /// The running total refunded of one charge.
    RefundedTotal {
        /// The charge.
        sale: ObjectRef,
        /// Cumulative, minor units.
        total: i64,
        /// Currency of `total`.
        currency: Currency,
    },
    /// The state of one dispute.
    Dispute(Dispute),
    /// A Paddle chargeback was given back.
    ChargebackReversed(ChargebackReversed),
    /// A transfer exists.
    TransferSeen(TransferSeen),
    /// Part or all of a transfer came back.
    TransferReversed(TransferReversed),
    /// State of an account that is paid to.
    PayoutAccount(PayoutAccount),
    /// The account no longer belongs to us.
    PayoutAccountGone {
        /// The provider's account id.
        account_id: String,
        /// Time of the event.
        at: Timestamp,
    },
    /// A subscription ended; no money moves.
    SubscriptionEnded {
        /// The subscription.
        subscription: String,
        /// When.
        at: Timestamp,
    },
    /// A connected account's payout to its bank.
    BankPayout(BankPayout),
    /// A charge of ours exists.
    ChargeSeen(ChargeSeen),
    /// The platform's own balance has money that can be paid out: a reason to try again what failed for
    /// want of it.
    FundsAvailable {
        /// The currencies with more than nothing, sorted.
        currencies: Vec<Currency>,
    },
}
