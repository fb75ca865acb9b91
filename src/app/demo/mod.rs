//! The demonstration: a shop with two affiliates, stories whose amounts were worked out by hand, and a
//! payday on which things go wrong.
//!
//! The events are the fixtures of this project, embedded so that the demonstration runs anywhere. This
//! signs the deliveries, settles the programs and says what should come of it; `stage` prepares the
//! books, `outcome` reads them. The server, the provider and the HTTP requests are `cli::demo`'s. Nothing
//! here runs outside the demonstration.

mod outcome;
mod stage;

use secrecy::SecretString;

pub use self::outcome::{BalanceLine, Difference, Line, NotPaid, Outcome, PayoutLine};
use self::stage::Shop;
use super::{App, Refusal, explain::ExplainError, keys::Principal, organizations, settle};
use crate::{
    domain::{
        ids::{EnrollmentId, OrganizationId},
        money::Money,
        time::Timestamp,
    },
    providers,
    store::StoreError,
};

/// Whose answer is lost on its way back, once the provider has executed the transfer.
pub const LOSES_ANSWER: &str = "grace";

/// What the platform can spend at first, minor units: in euros enough for grace and not for ada.
pub const FIRST_FUNDS: [(&str, i64); 2] = [("usd", 100_000), ("eur", 1_000)];

/// What is put on top later, currency and minor units.
pub const MORE_FUNDS: (&str, i64) = ("eur", 10_000);

/// Whose transfer comes back in part: affiliate, currency, and how much of it, minor units.
pub const COMES_BACK: (&str, &str, i64) = ("ada", "usd", 570);

/// The demonstration cannot be prepared or read.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The database refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The program refused what the demonstration asked for.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A commission cannot be explained.
    #[error(transparent)]
    Explain(#[from] ExplainError),
    /// An embedded story cannot be read.
    #[error("an embedded story cannot be read")]
    Story(#[from] serde_json::Error),
    /// An amount or a rate of the demonstration is not one.
    #[error(transparent)]
    Money(#[from] crate::domain::money::MoneyError),
    /// An id of the demonstration is not one.
    #[error(transparent)]
    Id(#[from] crate::domain::ids::InvalidId),
}

/// One signed request.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    /// Path and query of the request.
    pub path: String,
    /// Name of the signature header.
    pub header: &'static str,
    /// Its value.
    pub signature: String,
    /// The signed bytes.
    pub body: Vec<u8>,
}

/// Somebody who needs an account to be paid to.
#[derive(Clone, Debug)]
pub struct Payee {
    /// The affiliate's name.
    pub name: String,
    /// The affiliate.
    pub organization_id: OrganizationId,
}

/// A prepared demonstration.
pub struct Demo {
    shops: Vec<Shop>,
}

impl Demo {
    /// Creates the programs, affiliates and endpoints. `secret` signs for all endpoints.
    ///
    /// # Errors
    /// [`DemoError`].
    pub async fn prepare(app: &App, secret: &SecretString) -> Result<Self, DemoError> {
        Ok(Self { shops: stage::prepare(app, secret).await? })
    }

    /// Every event twice, in an order that has nothing to do with the one in which things happened.
    pub fn deliveries(&self, secret: &SecretString, now: Timestamp) -> Vec<Delivery> {
        let events: Vec<&stage::Event> = self.shops.iter().flat_map(|shop| &shop.events).collect();
        let mut deliveries: Vec<Delivery> =
            events.iter().chain(&events).filter_map(|event| sign(event, secret, now)).collect();
        // A step that shares no factor with the length visits every place once. The order is the same in
        // every run, so that a fault found in one can be looked at in the next.
        let length = deliveries.len();
        let step = (length / 3..length).find(|step| gcd(*step, length) == 1).unwrap_or(1);
        let mut shuffled = Vec::with_capacity(length);
        for index in 0..length {
            shuffled.push(std::mem::take(&mut deliveries[(index * step) % length]));
        }
        shuffled
    }

    /// How many different events there are.
    pub fn events(&self) -> usize {
        self.shops.iter().map(|shop| shop.events.len()).sum()
    }

    /// Everybody who earns something somewhere.
    pub fn payees(&self) -> impl Iterator<Item = &Payee> {
        self.shops.iter().flat_map(|shop| shop.affiliates.values())
    }

    /// Names the account that an affiliate is paid to.
    ///
    /// # Errors
    /// [`DemoError`].
    pub async fn pay_to(&self, app: &App, payee: &Payee, account_id: &str) -> Result<(), DemoError> {
        let console = Principal::console();
        organizations::put_payout_account(app, &console, &payee.organization_id, "stripe", account_id)
            .await?;
        Ok(())
    }

    /// Settles every program. Gives who was not paid, and why.
    ///
    /// # Errors
    /// [`DemoError`].
    pub async fn settle(&self, app: &App) -> Result<Vec<NotPaid>, DemoError> {
        let mut not_paid = Vec::new();
        for shop in &self.shops {
            for program in &shop.programs {
                let request = settle::Request { program: program.clone(), as_of: None, key: None };
                let settled = settle::run(app, &Principal::console(), &request).await?;
                not_paid.extend(settled.skipped.into_iter().map(|skipped| NotPaid {
                    shop: shop.title.clone(),
                    affiliate: shop.name_of(skipped.enrollment_id.as_str()),
                    due: Money { minor: skipped.due, currency: skipped.currency },
                    reason: skipped.reason.as_str(),
                }));
            }
        }
        Ok(not_paid)
    }
}

impl Shop {
    /// The name of an affiliate.
    fn name_of(&self, enrollment: &str) -> String {
        EnrollmentId::parse(enrollment)
            .ok()
            .and_then(|id| self.affiliates.get(&id))
            .map_or_else(|| enrollment.to_owned(), |payee| payee.name.clone())
    }
}

const fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn sign(event: &stage::Event, secret: &SecretString, now: Timestamp) -> Option<Delivery> {
    let provider = providers::inbound(&event.provider)?;
    let path = match &event.endpoint {
        None => format!("/webhooks/{}", event.provider),
        Some(endpoint) => format!("/webhooks/{}/{endpoint}", event.provider),
    };
    Some(Delivery {
        path,
        header: provider.signature_header(),
        signature: provider.sign(&event.body, secret, now),
        body: event.body.clone(),
    })
}
