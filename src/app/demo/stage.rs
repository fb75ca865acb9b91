//! The owners, programs, affiliates and events of the demonstration, with the amounts that should come of
//! them.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{COMES_BACK, DemoError, Payee};
use crate::{
    app::{
        App, commit_change,
        endpoints::{self, NewEndpoint},
        keys::Principal,
        new_id, organizations,
    },
    domain::{
        ids::{EnrollmentId, OrganizationId, ProgramId, ProjectId},
        money::{BasisPoints, Currency},
        payout::{OnTransferReversed, PayoutState, Split},
        program::{Dated, EnrollmentStatus, ProgramStatus, TermsVersion},
        terms::Terms,
        time::Timestamp,
    },
    store::{
        enrollments::{
            self, EnrollmentDetails,
            codes::{self, CodeKind, IssuedCode},
        },
        organizations::Organization,
        programs::{self, Applications, AttributionModel, ConversionKind, ProgramDetails},
    },
};

macro_rules! fixtures {
    ($provider:literal: $($name:literal),+ $(,)?) => {
        &[$(($provider, include_bytes!(concat!("../../../fixtures/", $provider, "/", $name, ".json")))),+]
    };
}

/// What the shop's providers tell: orders with refunds and a dispute, and subscriptions. The fixtures about
/// transfers are left out: here the provider itself makes the transfers and tells of them.
const STRIPE: &[(&str, &[u8])] = fixtures!("stripe":
    "account.application.deauthorized", "account.updated", "balance.available", "charge.captured",
    "charge.dispute.closed", "charge.dispute.created", "charge.dispute.funds_reinstated",
    "charge.dispute.funds_withdrawn", "charge.dispute.updated", "charge.refund.updated", "charge.refunded",
    "charge.succeeded", "checkout.session.async_payment_succeeded", "checkout.session.completed",
    "customer.created", "customer.subscription.created", "customer.subscription.deleted",
    "customer.subscription.updated", "customer.updated", "invoice.paid", "invoice.payment_succeeded",
    "invoice_payment.paid", "payment_intent.succeeded", "payout.failed", "payout.paid", "refund.created",
    "refund.failed", "refund.updated",
);
const PADDLE: &[(&str, &[u8])] = fixtures!("paddle":
    "adjustment.created", "adjustment.updated", "subscription.activated", "subscription.canceled",
    "subscription.created", "subscription.updated", "transaction.billed", "transaction.completed",
    "transaction.paid", "transaction.updated",
);

/// Stories of one phase without decisions, which need neither time to pass nor a person.
const STORIES: &[&str] = &[
    include_str!("../../../fixtures/scenarios/dispute_lost/scenario.json"),
    include_str!("../../../fixtures/scenarios/subscription_refund_in_any_order/scenario.json"),
    include_str!("../../../fixtures/scenarios/paddle_chargeback_warning/scenario.json"),
    include_str!("../../../fixtures/scenarios/out_of_band_reattribution/scenario.json"),
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
    balances: Vec<StoryBalance>,
}

#[derive(Deserialize)]
struct StoryBalance {
    affiliate: String,
    currency: Currency,
    held: i64,
    payable: i64,
}

/// Programs of one owner with what their providers will tell.
pub(super) struct Shop {
    pub title: String,
    pub programs: Vec<ProgramId>,
    pub affiliates: BTreeMap<EnrollmentId, Payee>,
    pub events: Vec<Event>,
    pub expected: Vec<ExpectedEnd>,
}

pub(super) struct Event {
    pub provider: String,
    /// Absent for the default endpoint.
    pub endpoint: Option<String>,
    pub body: Vec<u8>,
}

/// What an affiliate should end with in one currency, minor units.
pub(super) struct ExpectedEnd {
    pub enrollment_id: EnrollmentId,
    pub currency: Currency,
    pub held: i64,
    /// What stays payable.
    pub payable: i64,
    /// The only payout.
    pub payout: Option<ExpectedPayout>,
}

/// What a payout should have come to, minor units.
pub(super) struct ExpectedPayout {
    pub split: Split,
    pub came_back: i64,
    pub state: PayoutState,
}

/// The smallest payout of every program, minor units of dollars and of euros.
const MIN_PAYOUT: i64 = 500;

const SHOP_TERMS: &str = r#"{"commission": {"type": "percentage", "bps": 2000}}"#;

/// What the platform keeps of each of the shop's payouts: 5 %.
const SHOP_FEE_BPS: i64 = 500;

/// The amounts of the shop, worked out by hand: affiliate, currency, held, due and the fee in it. 20 % of every sale, no hold; 5 % of each payout is the platform's fee.
///
/// - ada, usd: order A 12000 x 20 % = 2400, 3000 refunded: keeps 2400 x 9000 / 12000 = 1800. The fee is
///   1800 x 5 % = 90, so 1710 are sent. 570 come back, a third, and with it a third of the fee, 30: the
///   conversion shows 600 more taken back, and nothing is payable again.
/// - ada, eur: order D 8000 x 20 % = 1600, disputed and won: paid, 80 fee, 1520 sent. Subscription 2975 x
///   20 % = 595, 1190 refunded: keeps 595 x 1785 / 2975 = 357; it was canceled, so a person looks first:
///   held.
/// - grace, eur: order B, of which 5000 were captured, x 20 % = 1000; its refund failed: paid, 50 fee, 950
///   sent.
/// - grace, usd: subscription 4900 x 20 % = 980, canceled: held.
const SHOP: &[(&str, &str, i64, i64, i64)] = &[
    ("ada", "usd", 0, 1_800, 90),
    ("ada", "eur", 357, 1_600, 80),
    ("grace", "eur", 0, 1_000, 50),
    ("grace", "usd", 980, 0, 0),
];

/// Makes the shop and the stories.
pub(super) async fn prepare(app: &App, secret: &SecretString) -> Result<Vec<Shop>, DemoError> {
    let mut shops = vec![prepare_shop(app).await?];
    for text in STORIES {
        shops.push(prepare_story(app, secret, serde_json::from_str(text)?).await?);
    }
    Ok(shops)
}

async fn prepare_shop(app: &App) -> Result<Shop, DemoError> {
    let owner = OrganizationId::parse("org_default")?;
    let fee = BasisPoints::new(SHOP_FEE_BPS)?;
    let program = create_program(app, &owner, "The shop", serde_json::from_str(SHOP_TERMS)?, fee).await?;
    let mut affiliates = BTreeMap::new();
    for (name, address) in [("ada", "ada@example.com"), ("grace", "grace@example.com")] {
        let (enrollment, payee) = enroll(app, &owner, &program, name, name, address).await?;
        affiliates.insert(enrollment, payee);
    }
    let mut expected = Vec::new();
    for (name, currency, held, due, fee) in SHOP.iter().copied() {
        let enrollment = affiliates.iter().find(|(_, payee)| payee.name == name).map(|(id, _)| id.clone());
        let Some(enrollment_id) = enrollment else { continue };
        let came_back = if (name, currency) == (COMES_BACK.0, COMES_BACK.1) { COMES_BACK.2 } else { 0 };
        let payout = (due > 0).then_some(ExpectedPayout {
            split: Split { due, fee, send: due - fee },
            came_back,
            state: if came_back > 0 { PayoutState::PartiallyReversed } else { PayoutState::Completed },
        });
        let currency = Currency::parse(currency)?;
        expected.push(ExpectedEnd { enrollment_id, currency, held, payable: 0, payout });
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
        let id = create_program(app, &owner.id, &story.title, program.terms, BasisPoints::ZERO).await?;
        programs.insert(program.r#ref, id);
    }
    let (mut affiliates, mut by_name) = (BTreeMap::new(), BTreeMap::new());
    for affiliate in story.affiliates {
        let Some(program) = programs.get(&affiliate.program) else { continue };
        let StoryAffiliate { r#ref: name, code, email, .. } = affiliate;
        let (enrollment, payee) = enroll(app, &owner.id, program, &name, &code, &email).await?;
        affiliates.insert(enrollment.clone(), payee);
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
        let ends = phase.expect.balances.into_iter();
        expected = ends.filter_map(|end| Some(end.settled(by_name.get(&end.affiliate)?.clone()))).collect();
    }
    let programs = programs.into_values().collect();
    Ok(Shop { title: story.title, programs, affiliates, events, expected })
}

impl StoryBalance {
    /// The stories end before anybody is paid; their programs take no fee. So what reaches the minimum is
    /// paid whole, and the rest stays.
    fn settled(&self, enrollment_id: EnrollmentId) -> ExpectedEnd {
        let due = self.payable;
        let payout = (due >= MIN_PAYOUT).then_some(ExpectedPayout {
            split: Split { due, fee: 0, send: due },
            came_back: 0,
            state: PayoutState::Completed,
        });
        let payable = if payout.is_some() { 0 } else { due };
        ExpectedEnd { enrollment_id, currency: self.currency, held: self.held, payable, payout }
    }
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
    platform_fee: BasisPoints,
) -> Result<ProgramId, DemoError> {
    let now = app.now();
    let min_payout = [(Currency::parse("usd")?, MIN_PAYOUT), (Currency::parse("eur")?, MIN_PAYOUT)];
    let program = ProgramDetails {
        id: new_id!(ProgramId, now),
        organization_id: owner.clone(),
        name: name.to_owned(),
        conversion_kind: ConversionKind::Payment,
        attribution_model: AttributionModel::LastTouch,
        attribution_window_days: 30,
        platform_fee,
        payout_schedule: None,
        min_payout: min_payout.into(),
        on_transfer_reversed: OnTransferReversed::Clawback,
        applications: Applications::Closed,
        landing_url: None,
        created_at: now,
        // The fixtures happened before today, and a program pays for what was sold while it was active.
        status: Dated { at: Timestamp::EPOCH, value: ProgramStatus::Active },
        terms: Dated { at: Timestamp::EPOCH, value: TermsVersion { version: 1, terms } },
    };
    let mut tx = app.db.begin().await?;
    programs::insert(&mut tx, &program).await?;
    commit_change(tx).await?;
    Ok(program.id)
}

async fn enroll(
    app: &App,
    owner: &OrganizationId,
    program: &ProgramId,
    name: &str,
    code: &str,
    address: &str,
) -> Result<(EnrollmentId, Payee), DemoError> {
    let affiliate: Organization =
        organizations::create(app, &Principal::console(), name, Some(address)).await?;
    let now = app.now();
    let enrollment = EnrollmentDetails {
        id: new_id!(EnrollmentId, now),
        program_id: program.clone(),
        organization_id: affiliate.id.clone(),
        parent_enrollment_id: None,
        commission_override: None,
        code: code.to_owned(),
        created_at: now,
        status: Dated { at: Timestamp::EPOCH, value: EnrollmentStatus::Active },
    };
    let mut tx = app.db.begin().await?;
    enrollments::insert(&mut tx, &enrollment).await?;
    enrollments::insert_status(&mut tx, &enrollment.id, &enrollment.status).await?;
    let code = IssuedCode {
        enrollment_id: enrollment.id.clone(),
        code: code.to_owned(),
        kind: CodeKind::Referral,
        created_at: now,
        retired_at: None,
    };
    codes::insert(&mut tx, owner, &code).await?;
    commit_change(tx).await?;
    Ok((enrollment.id, Payee { name: name.to_owned(), organization_id: affiliate.id }))
}
