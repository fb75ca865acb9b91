//! Conversions that an owner's own backend reports, instead of or besides a provider's webhook.
//!
//! A report is stored in the inbox like an event and processed by the same stage, so it is idempotent,
//! replayable and explained like one. The owner's id of the order is an alias of the sale: a webhook
//! that names the same id joins it (`rulings.md` 4), and the provider's amounts then win.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::domain::{
    fact::{Fact, Hint, HintSource, ObjectKind, ObjectRef, SalePaid, Subject},
    money::Currency,
    time::Timestamp,
};

/// The provider name under which reports are stored.
pub const PROVIDER: &str = "report";

/// The event type of a report.
pub const EVENT_TYPE: &str = "conversion.reported";

/// A reported sale, as it is stored in the inbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The owner's own id of the order.
    pub external_id: String,
    /// The affiliate's code.
    pub code: String,
    /// Minor units, more than 0.
    pub gross_amount_cents: i64,
    /// Currency of the amount.
    pub currency: Currency,
    /// When the sale was paid.
    pub occurred_at: Timestamp,
}

impl Report {
    /// The key that makes a report idempotent: one per program and order (seed S0).
    #[must_use]
    pub fn event_id(&self, program: &str) -> String {
        let digest = Sha256::digest(self.external_id.as_bytes());
        format!("{program}/{}", hex::encode(&digest[..16]))
    }

    /// The facts it tells.
    #[must_use]
    pub fn facts(&self) -> Vec<Fact> {
        let sale = ObjectRef::new(ObjectKind::External, self.external_id.as_str());
        let paid = Fact::SalePaid(SalePaid {
            sale: sale.clone(),
            parent: None,
            amount: self.gross_amount_cents,
            tax: None,
            currency: self.currency,
            at: self.occurred_at,
            customer: None,
            subscription: None,
            billing_reason: None,
            buyer_email: None,
        });
        // An explicit code wins over whatever a provider's metadata says.
        let hint = Hint { source: HintSource::Metadata(0), code: self.code.clone(), at: self.occurred_at };
        vec![paid, Fact::SaleAttributed { subject: Subject::Sale(sale), hint }]
    }
}
