//! The demonstration: a shop with two affiliates, and stories whose amounts were worked out by hand.
//!
//! The events are the fixtures of this project, embedded so that the demonstration runs anywhere. This
//! prepares the books, signs the deliveries and reads the outcome; the server and the HTTP requests are
//! `cli::demo`'s. Nothing here runs outside the demonstration.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    App, Refusal,
    endpoints::{self, NewEndpoint},
    explain::{self, ExplainError},
    keys::Principal,
    new_id, organizations,
};
use crate::{
    domain::{
        ids::{CommissionId, EnrollmentId, OrganizationId, ProgramId, ProjectId},
        money::{BasisPoints, Currency, Money},
        payout::OnTransferReversed,
        program::{Dated, EnrollmentStatus, ProgramStatus, TermsVersion},
        terms::Terms,
        time::Timestamp,
    },
    providers,
    store::{
        StoreError,
        enrollments::{self, EnrollmentDetails},
        organizations::Organization,
        programs::{self, AttributionModel, ConversionKind, ProgramDetails},
        views,
    },
};

macro_rules! fixtures {
    ($provider:literal: $($name:literal),+ $(,)?) => {
        &[$(($provider, include_bytes!(concat!("../../fixtures/", $provider, "/", $name, ".json")))),+]
    };
}

/// What the shop's providers tell: orders with refunds and a dispute, and subscriptions.
const STRIPE: &[(&str, &[u8])] = fixtures!("stripe":
    "account.application.deauthorized", "account.updated", "balance.available", "charge.captured",
    "charge.dispute.closed", "charge.dispute.created", "charge.dispute.funds_reinstated",
    "charge.dispute.funds_withdrawn", "charge.dispute.updated", "charge.refund.updated", "charge.refunded",
    "charge.succeeded", "checkout.session.async_payment_succeeded", "checkout.session.completed",
    "customer.created", "customer.subscription.created", "customer.subscription.deleted",
    "customer.subscription.updated", "customer.updated", "invoice.paid", "invoice.payment_succeeded",
    "invoice_payment.paid", "payment_intent.succeeded", "payout.failed", "payout.paid", "refund.created",
    "refund.failed", "refund.updated", "transfer.created", "transfer.reversed", "transfer.updated",
);
const PADDLE: &[(&str, &[u8])] = fixtures!("paddle":
    "adjustment.created", "adjustment.updated", "subscription.activated", "subscription.canceled",
    "subscription.created", "subscription.updated", "transaction.billed", "transaction.completed",
    "transaction.paid", "transaction.updated",
);

/// Stories of one phase without decisions, which need neither time to pass nor a person.
const STORIES: &[&str] = &[
    include_str!("../../fixtures/scenarios/dispute_lost/scenario.json"),
    include_str!("../../fixtures/scenarios/subscription_refund_in_any_order/scenario.json"),
    include_str!("../../fixtures/scenarios/paddle_chargeback_warning/scenario.json"),
    include_str!("../../fixtures/scenarios/out_of_band_reattribution/scenario.json"),
];

/// The parts of `fixtures/scenarios` that the demonstration uses.
#[derive(Deserialize)]
struct Story {
    title: String,
    programs: Vec<StoryProgram>,
    affiliates: Vec<StoryAffiliate>,
    phases: Vec<Phase>,
}

#[derive(Deserialize)]
struct StoryProgram {
    r#ref: String,
    #[serde(flatten)]
    terms: Terms,
}

#[derive(Deserialize)]
struct StoryAffiliate {
    r#ref: String,
    program: String,
    code: String,
    email: String,
}

#[derive(Deserialize)]
struct Phase {
    events: Vec<StoryEvent>,
    expect: Expected,
}

#[derive(Deserialize)]
struct StoryEvent {
    provider: String,
    body: Box<RawValue>,
}

#[derive(Deserialize)]
struct Expected {
    balances: Vec<ExpectedBalance>,
}

#[derive(Deserialize)]
struct ExpectedBalance {
    affiliate: String,
    currency: Currency,
    held: i64,
    payable: i64,
}

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
    /// A rate of the demonstration is not one.
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

/// A prepared demonstration.
pub struct Demo {
    shops: Vec<Shop>,
}

/// Programs of one owner with what their providers will tell.
struct Shop {
    title: String,
    programs: Vec<ProgramId>,
    affiliates: BTreeMap<EnrollmentId, String>,
    events: Vec<Event>,
    expected: Vec<(EnrollmentId, Currency, i64, i64)>,
}

struct Event {
    provider: String,
    /// Absent for the default endpoint.
    endpoint: Option<String>,
    body: Vec<u8>,
}

/// What one affiliate earned and lost from one sale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The shop or the story.
    pub shop: String,
    /// The affiliate.
    pub affiliate: String,
    /// What was paid for the sale.
    pub sale: Option<Money>,
    /// Accrued.
    pub earned: Money,
    /// Taken back.
    pub clawed: Money,
    /// Still held.
    pub held: Money,
    /// Released.
    pub payable: Money,
    /// State.
    pub state: &'static str,
    /// How the amounts came about.
    pub why: String,
}

/// A balance that is not what was worked out by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The shop or the story.
    pub shop: String,
    /// The affiliate.
    pub affiliate: String,
    /// Held and payable, as they should be.
    pub expected: (Money, Money),
    /// Held and payable, as they are.
    pub found: (Money, Money),
}

/// The amounts of the shop, worked out by hand: 20 % of every sale, no hold.
///
/// - ada, usd: order A 12000 x 20 % = 2400, 3000 refunded: keeps 2400 x 9000 / 12000 = 1800.
/// - ada, eur: order D 8000 x 20 % = 1600, disputed and won: payable. Subscription 2975 x 20 % = 595,
///   1190 refunded: keeps 595 x 1785 / 2975 = 357; it was canceled, so a person looks first: held.
/// - grace, eur: order B, of which 5000 were captured, x 20 % = 1000; its refund failed: payable.
/// - grace, usd: subscription 4900 x 20 % = 980, canceled: held.
const SHOP: &[(&str, &str, i64, i64)] = &[
    ("ada", "usd", 0, 1_800),
    ("ada", "eur", 357, 1_600),
    ("grace", "eur", 0, 1_000),
    ("grace", "usd", 980, 0),
];

const SHOP_TERMS: &str = r#"{"commission": {"type": "percentage", "bps": 2000}}"#;

impl Demo {
    /// Creates the programs, affiliates and endpoints. `secret` signs for all endpoints.
    ///
    /// # Errors
    /// [`DemoError`].
    pub async fn prepare(app: &App, secret: &SecretString) -> Result<Self, DemoError> {
        let mut shops = vec![prepare_shop(app).await?];
        for text in STORIES {
            shops.push(prepare_story(app, secret, serde_json::from_str(text)?).await?);
        }
        Ok(Self { shops })
    }

    /// Every event twice, in an order that has nothing to do with the one in which things happened.
    pub fn deliveries(&self, secret: &SecretString, now: Timestamp) -> Vec<Delivery> {
        let events: Vec<&Event> = self.shops.iter().flat_map(|shop| &shop.events).collect();
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

    /// Who earned and lost what, and why, in the order of shops, affiliates and amounts.
    ///
    /// # Errors
    /// [`DemoError`].
    pub async fn outcome(&self, app: &App) -> Result<Vec<Line>, DemoError> {
        let mut lines = Vec::new();
        for shop in &self.shops {
            let mut own = Vec::new();
            for program in &shop.programs {
                let rows = views::list_commissions(&mut app.db.read().await?, program, None, 1_000).await?;
                for row in rows {
                    own.push(shop.line(app, &CommissionId::parse(&row.id)?).await?);
                }
            }
            own.sort_by(|a, b| (&a.affiliate, b.earned.minor).cmp(&(&b.affiliate, a.earned.minor)));
            lines.extend(own);
        }
        Ok(lines)
    }

    /// Balances that differ from the ones worked out by hand.
    #[must_use]
    pub fn differences(&self, lines: &[Line]) -> Vec<Difference> {
        let mut differences = Vec::new();
        for shop in &self.shops {
            for (enrollment, currency, held, payable) in &shop.expected {
                let affiliate = &shop.affiliates[enrollment];
                let own = lines.iter().filter(|line| {
                    line.shop == shop.title
                        && line.affiliate == *affiliate
                        && line.earned.currency == *currency
                });
                let (found_held, found_payable) = own.fold((0, 0), |(held, payable), line| {
                    (held + line.held.minor, payable + line.payable.minor)
                });
                if (found_held, found_payable) != (*held, *payable) {
                    let money = |minor| Money { minor, currency: *currency };
                    differences.push(Difference {
                        shop: shop.title.clone(),
                        affiliate: affiliate.clone(),
                        expected: (money(*held), money(*payable)),
                        found: (money(found_held), money(found_payable)),
                    });
                }
            }
        }
        differences
    }
}

impl Shop {
    async fn line(&self, app: &App, id: &CommissionId) -> Result<Line, DemoError> {
        let told = explain::explain(&app.db, id, None).await?;
        let commission = told.commission;
        let money = |minor| Money { minor, currency: commission.currency };
        let affiliate = EnrollmentId::parse(&commission.enrollment_id)
            .ok()
            .and_then(|id| self.affiliates.get(&id).cloned())
            .unwrap_or(commission.enrollment_id);
        let sale = told.sale.amount_minor.zip(told.sale.currency);
        let mut why: Vec<String> = told.steps.into_iter().map(|step| step.how).collect();
        // The last step repeats what the columns say.
        why.truncate(why.len().saturating_sub(1));
        if let Some(reason) = &commission.reason {
            why.push(format!("{}: {reason}", commission.state));
        }
        Ok(Line {
            shop: self.title.clone(),
            affiliate,
            sale: sale.map(|(minor, currency)| Money { minor, currency }),
            earned: money(commission.earned_minor),
            clawed: money(commission.clawed_minor),
            held: money(commission.held_minor),
            payable: money(commission.payable_minor),
            state: commission.state,
            why: why.join("\n"),
        })
    }
}

const fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn sign(event: &Event, secret: &SecretString, now: Timestamp) -> Option<Delivery> {
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

async fn prepare_shop(app: &App) -> Result<Shop, DemoError> {
    let owner = OrganizationId::parse("org_default")?;
    let program = create_program(app, &owner, "The shop", serde_json::from_str(SHOP_TERMS)?).await?;
    let mut affiliates = BTreeMap::new();
    for (name, address) in [("ada", "ada@example.com"), ("grace", "grace@example.com")] {
        affiliates.insert(enroll(app, &owner, &program, name, name, address).await?, name.to_owned());
    }
    let mut expected = Vec::new();
    for (name, currency, held, payable) in SHOP {
        let enrollment = affiliates.iter().find(|(_, known)| known == name).map(|(id, _)| id.clone());
        if let (Some(enrollment), Ok(currency)) = (enrollment, Currency::parse(currency)) {
            expected.push((enrollment, currency, *held, *payable));
        }
    }
    let events = STRIPE
        .iter()
        .chain(PADDLE)
        .map(|(provider, body)| Event {
            provider: (*provider).to_owned(),
            endpoint: None,
            body: body.to_vec(),
        })
        .collect();
    Ok(Shop { title: "A shop".to_owned(), programs: vec![program], affiliates, events, expected })
}

/// A story is a shop of its own, because stories use the same ids of events and payments.
async fn prepare_story(app: &App, secret: &SecretString, story: Story) -> Result<Shop, DemoError> {
    let console = Principal::console();
    let owner = organizations::create(app, &console, &story.title, None).await?;
    let project = organizations::create_project(app, &console, &owner.id, &story.title).await?;
    let mut programs = BTreeMap::new();
    for program in story.programs {
        let id = create_program(app, &owner.id, &story.title, program.terms).await?;
        programs.insert(program.r#ref, id);
    }
    let (mut affiliates, mut by_name) = (BTreeMap::new(), BTreeMap::new());
    for affiliate in story.affiliates {
        let Some(program) = programs.get(&affiliate.program) else { continue };
        let StoryAffiliate { r#ref: name, code, email, .. } = affiliate;
        let enrollment = enroll(app, &owner.id, program, &name, &code, &email).await?;
        affiliates.insert(enrollment.clone(), name.clone());
        by_name.insert(name, enrollment);
    }
    let (mut endpoints, mut events, mut expected) = (BTreeMap::new(), Vec::new(), Vec::new());
    for phase in story.phases {
        for StoryEvent { provider, body } in phase.events {
            if !endpoints.contains_key(&provider) {
                let id = create_endpoint(app, &project.id, &provider, secret).await?;
                endpoints.insert(provider.clone(), id);
            }
            let endpoint = endpoints.get(&provider).cloned();
            events.push(Event { provider, endpoint, body: body.get().as_bytes().to_vec() });
        }
        expected = phase
            .expect
            .balances
            .into_iter()
            .filter_map(|balance| {
                let enrollment = by_name.get(&balance.affiliate)?.clone();
                Some((enrollment, balance.currency, balance.held, balance.payable))
            })
            .collect();
    }
    let programs = programs.into_values().collect();
    Ok(Shop { title: story.title, programs, affiliates, events, expected })
}

async fn create_endpoint(
    app: &App,
    project: &ProjectId,
    provider: &str,
    secret: &SecretString,
) -> Result<String, DemoError> {
    let new = NewEndpoint {
        provider: provider.to_owned(),
        secrets: vec![secret.clone()],
        livemode: false,
        connect: false,
    };
    let endpoint = endpoints::create(app, &Principal::console(), project, new).await?;
    Ok(endpoint.id.to_string())
}

async fn create_program(
    app: &App,
    owner: &OrganizationId,
    name: &str,
    terms: Terms,
) -> Result<ProgramId, DemoError> {
    let now = app.now();
    let program = ProgramDetails {
        id: new_id!(ProgramId, now),
        organization_id: owner.clone(),
        name: name.to_owned(),
        conversion_kind: ConversionKind::Payment,
        attribution_model: AttributionModel::LastTouch,
        attribution_window_days: 30,
        platform_fee: BasisPoints::new(0)?,
        payout_schedule: None,
        min_payout: BTreeMap::new(),
        on_transfer_reversed: OnTransferReversed::Clawback,
        created_at: now,
        // The fixtures happened before today, and a program pays for what was sold while it was active.
        status: Dated { at: Timestamp::EPOCH, value: ProgramStatus::Active },
        terms: Dated { at: Timestamp::EPOCH, value: TermsVersion { version: 1, terms } },
    };
    let mut tx = app.db.begin().await?;
    programs::insert(&mut tx, &program).await?;
    tx.commit().await?;
    Ok(program.id)
}

async fn enroll(
    app: &App,
    owner: &OrganizationId,
    program: &ProgramId,
    name: &str,
    code: &str,
    address: &str,
) -> Result<EnrollmentId, DemoError> {
    let affiliate: Organization =
        organizations::create(app, &Principal::console(), name, Some(address)).await?;
    let now = app.now();
    let enrollment = EnrollmentDetails {
        id: new_id!(EnrollmentId, now),
        program_id: program.clone(),
        organization_id: affiliate.id,
        parent_enrollment_id: None,
        code: code.to_owned(),
        created_at: now,
        status: Dated { at: Timestamp::EPOCH, value: EnrollmentStatus::Active },
    };
    let mut tx = app.db.begin().await?;
    enrollments::insert(&mut tx, &enrollment).await?;
    enrollments::insert_status(&mut tx, &enrollment.id, &enrollment.status).await?;
    enrollments::insert_code(&mut tx, owner, &enrollment.id, code).await?;
    tx.commit().await?;
    Ok(enrollment.id)
}
