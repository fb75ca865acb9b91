//! Programs: what an owner may set, and from when a change holds.
//!
//! What holds when a sale is paid decides about the sale, so terms and statuses are rows with a
//! beginning and are never changed. The first terms and the first activation hold from the beginning of
//! time: a founder who imports last year's events finds them attributed, also those that came before the
//! launch. Every later change holds from now on.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{
    App, Refusal,
    audit::{self, Change},
    keys::{Principal, Scope},
    new_id, redirect, refusal,
};
use crate::{
    domain::{
        ids::{OrganizationId, ProgramId},
        money::BasisPoints,
        payout::{OnTransferReversed, PayoutSchedule},
        program::{Dated, ProgramStatus, TermsVersion},
        terms::{ApprovalMode, CommissionBase, CommissionRule, FlatOnPartial, ProductRate, Terms},
        time::Timestamp,
    },
    store::{
        Conn, Tx, accounts, organizations,
        programs::{self, Applications, AttributionModel, ConversionKind, MinPayout, ProgramDetails},
        refold,
    },
};

/// The fields of a program as a caller gives them. Absent fields keep what is there, or take the
/// default. Values are read by [`create`] and [`update`], so that each field has an error of its own.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProgramFields {
    /// The owner; by default that of the key. Cannot change.
    #[serde(deserialize_with = "given")]
    pub owner_organization_id: Option<Value>,
    /// 1 to 200 characters.
    #[serde(deserialize_with = "given")]
    pub name: Option<Value>,
    /// [`CommissionRule`]; may hold `products`, `base` and `flat_on_partial` too, which are then those of
    /// the program, and the `version` of this form of document, 1.
    #[serde(deserialize_with = "given")]
    pub commission: Option<Value>,
    /// A list of [`ProductRate`], 200 at most.
    #[serde(deserialize_with = "given")]
    pub product_rates: Option<Value>,
    /// Basis points of the direct commission for the sponsor, the sponsor's sponsor and so on; 10 at most.
    #[serde(deserialize_with = "given")]
    pub upline_bps: Option<Value>,
    /// [`CommissionBase`].
    #[serde(deserialize_with = "given")]
    pub commission_base: Option<Value>,
    /// [`FlatOnPartial`].
    #[serde(deserialize_with = "given")]
    pub flat_on_partial: Option<Value>,
    /// [`ConversionKind`].
    #[serde(deserialize_with = "given")]
    pub conversion_kind: Option<Value>,
    /// [`AttributionModel`].
    #[serde(deserialize_with = "given")]
    pub attribution_model: Option<Value>,
    /// 1 to 365.
    #[serde(deserialize_with = "given")]
    pub attribution_window_days: Option<Value>,
    /// [`ApprovalMode`].
    #[serde(deserialize_with = "given")]
    pub approval_mode: Option<Value>,
    /// 0 to 3650.
    #[serde(deserialize_with = "given")]
    pub hold_period_days: Option<Value>,
    /// 0 to 10 000.
    #[serde(deserialize_with = "given")]
    pub platform_fee_bps: Option<Value>,
    /// Minor units by currency.
    #[serde(deserialize_with = "given")]
    pub min_payout: Option<Value>,
    /// [`PayoutSchedule`], or null for none.
    #[serde(deserialize_with = "given")]
    pub payout_schedule: Option<Value>,
    /// [`OnTransferReversed`].
    #[serde(deserialize_with = "given")]
    pub on_transfer_reversed: Option<Value>,
    /// [`Applications`].
    #[serde(deserialize_with = "given")]
    pub applications: Option<Value>,
    /// An `https` address, or null for none.
    #[serde(deserialize_with = "given")]
    pub landing_url: Option<Value>,
    /// [`ProgramStatus`].
    #[serde(deserialize_with = "given")]
    pub status: Option<Value>,
}

/// Keeps `null` apart from absent.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Makes a program: a draft, or active at once.
///
/// # Errors
/// [`Refusal::Invalid`] with the code of the first field that is wrong; [`Refusal::NotFound`] for an
/// owner that does not exist for `by`.
pub async fn create(app: &App, by: &Principal, fields: ProgramFields) -> Result<ProgramDetails, Refusal> {
    by.require(Scope::Write)?;
    let owner = owner(by, fields.owner_organization_id.as_ref())?;
    let now = app.now();
    let mut program = defaults(new_id!(ProgramId, now), owner, now);
    program.name = name(fields.name.as_ref().unwrap_or(&Value::Null))?;
    let document = fields.commission.as_ref().unwrap_or(&Value::Null);
    commission(document, &mut program.terms.value.terms)?;
    if let Some(value) = &fields.status {
        program.status.value = match status(value)? {
            accepted @ (ProgramStatus::Draft | ProgramStatus::Active) => accepted,
            ProgramStatus::Paused | ProgramStatus::Archived => {
                return Err(invalid_status("a new program is `draft` or `active`"));
            }
        };
    }
    apply(&fields, &mut program)?;
    let mut tx = app.db.begin().await?;
    organizations::find(&mut tx, &program.organization_id).await?.ok_or(Refusal::NotFound)?;
    check_may_own(&mut tx, by, &program.organization_id).await?;
    programs::insert(&mut tx, &program).await?;
    let change = Change::new("program.created", &program.id, Some(&program.organization_id)).after(&program);
    audit::record(&mut tx, by, change, now).await?;
    super::commit_change(tx).await?;
    Ok(program)
}

/// Whoever signed up by themselves is an affiliate until an operator has made their first program: a program
/// leads people from this host to its own page, takes codes, and invites whom it likes by mail.
async fn check_may_own(tx: &mut Tx, by: &Principal, owner: &OrganizationId) -> Result<(), Refusal> {
    if by.organization_id().is_none()
        || !accounts::signed_up(tx, owner).await?
        || !programs::list(tx, Some(owner), None, 1).await?.is_empty()
    {
        return Ok(());
    }
    Err(Refusal::Forbidden(
        "an organization that signed itself up is an affiliate; an operator makes its first program",
    ))
}

fn owner(by: &Principal, value: Option<&Value>) -> Result<OrganizationId, Refusal> {
    let invalid = |message| Refusal::invalid("INVALID_ORGANIZATION", "owner_organization_id", message);
    let owner = match value {
        Some(value) => value
            .as_str()
            .and_then(|text| OrganizationId::parse(text).ok())
            .ok_or_else(|| invalid("owner_organization_id must be an id that starts with `org_`"))?,
        None => match by.organization_id() {
            Some(own) => own.clone(),
            None => OrganizationId::parse("org_default")
                .map_err(|_| invalid("owner_organization_id is needed"))?,
        },
    };
    by.require_owner(&owner)?;
    Ok(owner)
}

/// A draft with every default of the guide (seed S0, "Create the program") and no commission yet.
fn defaults(id: ProgramId, organization_id: OrganizationId, now: Timestamp) -> ProgramDetails {
    let terms = Terms {
        commission: CommissionRule::Percentage { bps: BasisPoints::ZERO },
        commission_base: CommissionBase::default(),
        flat_on_partial: FlatOnPartial::default(),
        approval_mode: ApprovalMode::default(),
        hold_period_days: 30,
        product_rates: Vec::new(),
        upline_bps: Vec::new(),
        rate_override: None,
    };
    ProgramDetails {
        id,
        organization_id,
        name: String::new(),
        conversion_kind: ConversionKind::Payment,
        attribution_model: AttributionModel::LastTouch,
        attribution_window_days: 30,
        platform_fee: BasisPoints::ZERO,
        payout_schedule: None,
        min_payout: MinPayout::new(),
        on_transfer_reversed: OnTransferReversed::Clawback,
        applications: Applications::Closed,
        landing_url: None,
        created_at: now,
        status: Dated { at: Timestamp::EPOCH, value: ProgramStatus::Draft },
        terms: Dated { at: Timestamp::EPOCH, value: TermsVersion { version: 1, terms } },
    }
}

/// Changes a program. Changed terms become a new version that holds from now on.
///
/// # Errors
/// As [`create`]; [`Refusal::Conflict`] with `INVALID_STATE` for a status that cannot follow.
pub async fn update(
    app: &App,
    by: &Principal,
    id: &ProgramId,
    fields: ProgramFields,
) -> Result<ProgramDetails, Refusal> {
    by.require(Scope::Write)?;
    if fields.owner_organization_id.is_some() {
        return Err(Refusal::invalid(
            "INVALID_ORGANIZATION",
            "owner_organization_id",
            "the owner of a program cannot change",
        ));
    }
    let now = app.now();
    let mut tx = app.db.begin().await?;
    if !programs::lock(&mut tx, id).await? {
        return Err(Refusal::NotFound);
    }
    let old = visible(&mut tx, by, id).await?;
    let mut new = old.clone();
    if let Some(value) = &fields.name {
        new.name = name(value)?;
    }
    if let Some(value) = &fields.commission {
        commission(value, &mut new.terms.value.terms)?;
    }
    apply(&fields, &mut new)?;
    if let Some(value) = &fields.status {
        new.status = next_status(&old.status, status(value)?, now)?;
    }
    if new.touch_rule() != old.touch_rule() {
        programs::retire_touch_rule(&mut tx, id, old.touch_rule(), now).await?;
    }
    programs::update(&mut tx, &new).await?;
    if new.payout_schedule != old.payout_schedule {
        // Switching a schedule on settles nothing of the past: its first period is the next one that ends.
        programs::set_schedule_since(&mut tx, id, now).await?;
    }
    if new.status != old.status {
        programs::insert_status(&mut tx, id, &new.status).await?;
        if new.status.value == ProgramStatus::Active && new.status.at < now {
            programs::lock_directory(&mut tx, &new.organization_id).await?;
            refold::request_program(&mut tx, id, "program_activated", now).await?;
        }
    }
    if new.terms != old.terms {
        new.terms.at = later(now, old.terms.at);
        new.terms.value.version = old.terms.value.version.saturating_add(1);
        programs::insert_terms(&mut tx, id, &new.terms).await?;
    }
    let change = Change::new("program.updated", id, Some(&new.organization_id)).before(&old).after(&new);
    audit::record(&mut tx, by, change, now).await?;
    super::commit_change(tx).await?;
    Ok(new)
}

/// The status that follows `old`, and from when. The same status again changes nothing.
fn next_status(
    old: &Dated<ProgramStatus>,
    to: ProgramStatus,
    now: Timestamp,
) -> Result<Dated<ProgramStatus>, Refusal> {
    use ProgramStatus::{Active, Archived, Draft, Paused};
    let at = match (old.value, to) {
        (from, to) if from == to => return Ok(old.clone()),
        // What was sold before the launch counts, so that history can be imported.
        (Draft, Active) => later(Timestamp::EPOCH, old.at),
        (Draft | Active | Paused, Archived) | (Active, Paused) | (Paused, Active) => later(now, old.at),
        (Draft | Active | Paused | Archived, Draft | Active | Paused | Archived) => {
            return Err(Refusal::invalid_state("a program", old.value.as_str(), to.as_str()));
        }
    };
    Ok(Dated { at, value: to })
}

/// `at`, or just after `last`: two rows never begin at the same instant, and a clock that was set back
/// never puts a change before the one it follows.
pub(super) fn later(at: Timestamp, last: Timestamp) -> Timestamp {
    at.max(last.plus_micros(1))
}

/// One program.
pub async fn find(app: &App, by: &Principal, id: &ProgramId) -> Result<ProgramDetails, Refusal> {
    by.require(Scope::Read)?;
    visible(&mut app.db.read().await?, by, id).await
}

/// The versions of a program's terms before the given one, the newest first.
///
/// # Errors
/// [`Refusal::NotFound`] for a program of somebody else.
pub async fn terms(
    app: &App,
    by: &Principal,
    id: &ProgramId,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<Dated<TermsVersion>>, Refusal> {
    by.require(Scope::Read)?;
    let mut conn = app.db.read().await?;
    visible(&mut conn, by, id).await?;
    Ok(programs::list_terms(&mut conn, id, before, limit).await?)
}

/// A program that exists for `by`.
pub(super) async fn visible(
    conn: &mut Conn,
    by: &Principal,
    id: &ProgramId,
) -> Result<ProgramDetails, Refusal> {
    let program = programs::find(conn, id).await?.ok_or(Refusal::NotFound)?;
    by.require_owner(&program.organization_id)?;
    Ok(program)
}

/// Programs, newest first: all for an operator, else those of the caller.
pub async fn list(
    app: &App,
    by: &Principal,
    before: Option<&ProgramId>,
    limit: i64,
) -> Result<Vec<ProgramDetails>, Refusal> {
    by.require(Scope::Read)?;
    Ok(programs::list(&mut app.db.read().await?, by.organization_id(), before, limit).await?)
}

/// A word of a fixed list, or the field's own error that names the list.
macro_rules! word {
    ($kind:ty, $value:expr, $code:literal, $param:literal) => {
        $value.as_str().and_then(<$kind>::parse).ok_or_else(|| {
            let words: Vec<&str> = <$kind>::ALL.iter().map(|word| word.as_str()).collect();
            Refusal::invalid($code, $param, format!(concat!($param, " must be one of: {}"), words.join(", ")))
        })
    };
}

/// Reads every field that has a default, in the order in which the guide lists them.
fn apply(fields: &ProgramFields, program: &mut ProgramDetails) -> Result<(), Refusal> {
    apply_terms(fields, &mut program.terms.value.terms)?;
    if let Some(value) = &fields.conversion_kind {
        program.conversion_kind = word!(ConversionKind, value, "INVALID_CONVERSION_KIND", "conversion_kind")?;
    }
    if let Some(value) = &fields.attribution_model {
        program.attribution_model =
            word!(AttributionModel, value, "INVALID_ATTRIBUTION_MODEL", "attribution_model")?;
    }
    if let Some(value) = &fields.attribution_window_days {
        program.attribution_window_days = days(value, 1, 365).ok_or_else(|| {
            let message = "attribution_window_days must be a whole number from 1 to 365";
            Refusal::invalid("INVALID_ATTRIBUTION_WINDOW", "attribution_window_days", message)
        })?;
    }
    if let Some(value) = &fields.platform_fee_bps {
        program.platform_fee =
            value.as_i64().and_then(|bps| BasisPoints::new(bps).ok()).ok_or_else(|| {
                let message = "platform_fee_bps must be a whole number from 0 to 10000";
                Refusal::invalid("INVALID_PLATFORM_FEE", "platform_fee_bps", message)
            })?;
    }
    if let Some(value) = &fields.min_payout {
        program.min_payout = min_payout(value)?;
    }
    if let Some(value) = &fields.payout_schedule {
        program.payout_schedule = match value {
            Value::Null => None,
            value => Some(word!(PayoutSchedule, value, "INVALID_PAYOUT_SCHEDULE", "payout_schedule")?),
        };
    }
    if let Some(value) = &fields.on_transfer_reversed {
        program.on_transfer_reversed =
            word!(OnTransferReversed, value, "INVALID_ON_TRANSFER_REVERSED", "on_transfer_reversed")?;
    }
    if let Some(value) = &fields.applications {
        program.applications = word!(Applications, value, "INVALID_APPLICATIONS", "applications")?;
    }
    if let Some(value) = &fields.landing_url {
        program.landing_url = redirect::landing_url(value)?;
    }
    Ok(())
}

fn apply_terms(fields: &ProgramFields, terms: &mut Terms) -> Result<(), Refusal> {
    if let Some(value) = &fields.commission_base {
        terms.commission_base = CommissionBase::deserialize(value).map_err(|_| {
            let message = "commission_base must be one of: gross, net_of_tax";
            Refusal::invalid("INVALID_COMMISSION_BASE", "commission_base", message)
        })?;
    }
    if let Some(value) = &fields.flat_on_partial {
        terms.flat_on_partial = FlatOnPartial::deserialize(value).map_err(|_| {
            let message = "flat_on_partial must be one of: keep, proportional";
            Refusal::invalid("INVALID_FLAT_ON_PARTIAL", "flat_on_partial", message)
        })?;
    }
    if let Some(value) = &fields.approval_mode {
        terms.approval_mode = ApprovalMode::deserialize(value).map_err(|_| {
            let message = "approval_mode must be one of: auto, manual";
            Refusal::invalid("INVALID_APPROVAL_MODE", "approval_mode", message)
        })?;
    }
    if let Some(value) = &fields.hold_period_days {
        terms.hold_period_days = days(value, 0, 3650).ok_or_else(|| {
            let message = "hold_period_days must be a whole number from 0 to 3650";
            Refusal::invalid("INVALID_HOLD_PERIOD", "hold_period_days", message)
        })?;
    }
    if let Some(value) = &fields.product_rates {
        terms.product_rates = product_rates(value)?;
    }
    if let Some(value) = &fields.upline_bps {
        terms.upline_bps = upline_bps(value)?;
    }
    Ok(())
}

fn days(value: &Value, min: u16, max: u16) -> Option<u16> {
    let days = value.as_u64().and_then(|days| u16::try_from(days).ok())?;
    Some(days).filter(|days| (min..=max).contains(days))
}

fn name(value: &Value) -> Result<String, Refusal> {
    refusal::name(value.as_str().unwrap_or_default())
}

/// More rates by product than a person keeps in order.
const PRODUCT_RATES_MAX: usize = 200;

/// More levels of sponsors than any law on such programs likes to see.
const LEVELS_MAX: usize = 10;

/// Reads a commission document into the terms. What belongs to all kinds of rules may stand in it or
/// beside it.
fn commission(value: &Value, terms: &mut Terms) -> Result<(), Refusal> {
    let invalid = |why: &str| {
        Refusal::invalid("INVALID_COMMISSION", "commission", format!("commission: {why}; {COMMISSION_FORMS}"))
    };
    let mut document = value.as_object().ok_or_else(|| invalid("an object is needed"))?.clone();
    if document.remove("version").is_some_and(|version| version != 1) {
        return Err(invalid("version is 1 in this release"));
    }
    if let Some(products) = document.remove("products") {
        terms.product_rates = product_rates(&products)?;
    }
    let beside = ProgramFields {
        commission_base: document.remove("base"),
        flat_on_partial: document.remove("flat_on_partial"),
        ..ProgramFields::default()
    };
    apply_terms(&beside, terms)?;
    let rule =
        CommissionRule::deserialize(Value::Object(document)).map_err(|error| invalid(&error.to_string()))?;
    if rule.currency().is_some_and(|currency| !currency.is_listed()) {
        return Err(invalid(UNLISTED));
    }
    terms.commission = rule;
    Ok(())
}

/// Providers sell in what they like; what an owner writes down is checked, since nobody is ever paid in a
/// currency that was mistyped.
const UNLISTED: &str = "a currency is not one of ISO 4217";

/// Said with every commission that is refused.
const COMMISSION_FORMS: &str = "the forms are {\"type\": \"percentage\", \"bps\": 0 to 10000}, {\"type\": \
    \"flat\", \"amount_cents\": 0 or more, \"currency\": three letters}, {\"type\": \"recurring\", bps or \
    amount_cents with currency, \"max_months\"?, \"max_payments\"?} and {\"type\": \"tiered\", \"basis\": \
    \"count\" or \"revenue\", \"mode\"?: \"whole\" or \"marginal\", \"tiers\": [{\"from\", bps or amount_cents \
    with currency}]}";

fn product_rates(value: &Value) -> Result<Vec<ProductRate>, Refusal> {
    let invalid = |why: &str| {
        let message = format!(
            "product_rates must be a list of at most {PRODUCT_RATES_MAX} rates such as {{\"product\": \
             \"price_…\", \"bps\": 1000}}, each product once: {why}"
        );
        Refusal::invalid("INVALID_PRODUCT_RATES", "product_rates", message)
    };
    let rates = Vec::<ProductRate>::deserialize(value).map_err(|error| invalid(&error.to_string()))?;
    let mut products: Vec<&str> = rates.iter().map(|rate| rate.product.as_str()).collect();
    products.sort_unstable();
    products.dedup();
    if products.len() < rates.len() {
        return Err(invalid("a product is named twice"));
    }
    if rates.len() > PRODUCT_RATES_MAX {
        return Err(invalid("there are more"));
    }
    if rates.iter().filter_map(|rate| rate.rate.currency()).any(|currency| !currency.is_listed()) {
        return Err(invalid(UNLISTED));
    }
    Ok(rates)
}

fn upline_bps(value: &Value) -> Result<Vec<BasisPoints>, Refusal> {
    let levels = Vec::<BasisPoints>::deserialize(value).ok().filter(|levels| levels.len() <= LEVELS_MAX);
    levels.ok_or_else(|| {
        let message = "upline_bps must be a list of at most 10 whole numbers from 0 to 10000";
        Refusal::invalid("INVALID_UPLINE", "upline_bps", message)
    })
}

fn min_payout(value: &Value) -> Result<MinPayout, Refusal> {
    let map = MinPayout::deserialize(value).ok();
    let is_payable =
        |map: &MinPayout| map.iter().all(|(currency, minor)| currency.is_listed() && *minor >= 0);
    map.filter(is_payable).ok_or_else(|| {
        let message = "min_payout must be an object of minor units, 0 or more, by currency of ISO 4217, such as \
                       {\"usd\": 5000}";
        Refusal::invalid("INVALID_MIN_PAYOUT", "min_payout", message)
    })
}

fn status(value: &Value) -> Result<ProgramStatus, Refusal> {
    word!(ProgramStatus, value, "INVALID_STATUS", "status")
}

fn invalid_status(message: &'static str) -> Refusal {
    Refusal::invalid("INVALID_STATUS", "status", message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_750_000_000);

    fn read(document: Value) -> Result<ProgramDetails, Refusal> {
        let fields = ProgramFields::deserialize(document).unwrap();
        let owner = OrganizationId::parse("org_1").unwrap();
        let mut program = defaults(ProgramId::parse("prog_1").unwrap(), owner, NOW);
        if let Some(value) = &fields.name {
            program.name = name(value)?;
        }
        if let Some(value) = &fields.commission {
            commission(value, &mut program.terms.value.terms)?;
        }
        if let Some(value) = &fields.status {
            program.status.value = status(value)?;
        }
        apply(&fields, &mut program)?;
        Ok(program)
    }

    #[test]
    fn every_field_has_an_error_of_its_own() {
        for (document, code) in [
            (json!({"name": "  "}), "INVALID_NAME"),
            (json!({"name": "a\u{0}b"}), "INVALID_NAME"),
            (json!({"name": "n".repeat(201)}), "INVALID_NAME"),
            (json!({"name": null}), "INVALID_NAME"),
            (json!({"commission": {"type": "percentage", "bps": 10_001}}), "INVALID_COMMISSION"),
            (json!({"commission": {"type": "percentage", "bps": -1}}), "INVALID_COMMISSION"),
            (json!({"commission": {"type": "percentage", "bps": 12.5}}), "INVALID_COMMISSION"),
            (json!({"commission": {"type": "percentage", "bps": 1, "cap": 2}}), "INVALID_COMMISSION"),
            (json!({"commission": {"type": "tiered", "tiers": []}}), "INVALID_COMMISSION"),
            (json!({"commission": {"type": "flat", "amount_cents": 1}}), "INVALID_COMMISSION"),
            (
                json!({"commission": {"type": "flat", "amount_cents": -1, "currency": "usd"}}),
                "INVALID_COMMISSION",
            ),
            (json!({"commission": 20}), "INVALID_COMMISSION"),
            (json!({"commission_base": "net"}), "INVALID_COMMISSION_BASE"),
            (json!({"flat_on_partial": "half"}), "INVALID_FLAT_ON_PARTIAL"),
            (json!({"conversion_kind": "sale"}), "INVALID_CONVERSION_KIND"),
            (json!({"attribution_model": "linear"}), "INVALID_ATTRIBUTION_MODEL"),
            (json!({"attribution_window_days": 0}), "INVALID_ATTRIBUTION_WINDOW"),
            (json!({"attribution_window_days": 366}), "INVALID_ATTRIBUTION_WINDOW"),
            (json!({"approval_mode": "automatic"}), "INVALID_APPROVAL_MODE"),
            (json!({"hold_period_days": -1}), "INVALID_HOLD_PERIOD"),
            (json!({"hold_period_days": 3651}), "INVALID_HOLD_PERIOD"),
            (json!({"hold_period_days": 70_000}), "INVALID_HOLD_PERIOD"),
            (json!({"hold_period_days": "30"}), "INVALID_HOLD_PERIOD"),
            (json!({"platform_fee_bps": 10_001}), "INVALID_PLATFORM_FEE"),
            (json!({"min_payout": {"usd": -1}}), "INVALID_MIN_PAYOUT"),
            (json!({"min_payout": {"dollars": 1}}), "INVALID_MIN_PAYOUT"),
            (json!({"min_payout": {"usd": 1, "udd": 1}}), "INVALID_MIN_PAYOUT"),
            (
                json!({"commission": {"type": "flat", "amount_cents": 1, "currency": "udd"}}),
                "INVALID_COMMISSION",
            ),
            (
                json!({"commission": {"type": "recurring", "amount_cents": 1, "currency": "udd"}}),
                "INVALID_COMMISSION",
            ),
            (
                json!({"commission": {"type": "tiered", "basis": "count",
                    "tiers": [{"from": 0, "bps": 1}, {"from": 1, "amount_cents": 1, "currency": "udd"}]}}),
                "INVALID_COMMISSION",
            ),
            (
                json!({"product_rates": [{"product": "price_1", "amount_cents": 1, "currency": "udd"}]}),
                "INVALID_PRODUCT_RATES",
            ),
            (json!({"min_payout": 5000}), "INVALID_MIN_PAYOUT"),
            (json!({"payout_schedule": "daily"}), "INVALID_PAYOUT_SCHEDULE"),
            (json!({"on_transfer_reversed": "ignore"}), "INVALID_ON_TRANSFER_REVERSED"),
            (json!({"applications": true}), "INVALID_APPLICATIONS"),
            (json!({"applications": "anyone"}), "INVALID_APPLICATIONS"),
            (json!({"status": "running"}), "INVALID_STATUS"),
        ] {
            let refusal = read(document.clone()).expect_err(&document.to_string());
            assert_eq!(refusal.code(), code, "{document}");
            let Refusal::Invalid { param, .. } = refusal else { panic!("{document}") };
            assert!(document.get(param).is_some(), "{document} is not about {param}");
        }
    }

    #[test]
    fn the_edges_are_accepted() {
        let program = read(json!({
            "name": " Launch Partners ", "commission": {"type": "flat", "amount_cents": 0, "currency": "USD"},
            "commission_base": "net_of_tax", "flat_on_partial": "proportional", "conversion_kind": "event",
            "attribution_model": "first_touch", "attribution_window_days": 365, "approval_mode": "manual",
            "hold_period_days": 3650, "platform_fee_bps": 10_000, "min_payout": {"usd": 0, "JPY": 5000},
            "payout_schedule": "monthly", "on_transfer_reversed": "requeue", "status": "active",
            "applications": "open",
        }))
        .unwrap();
        assert_eq!(program.name, "Launch Partners");
        assert_eq!(program.terms.value.terms.hold_period_days, 3650);
        assert_eq!(program.payout_schedule, Some(PayoutSchedule::Monthly));
        assert_eq!(program.applications, Applications::Open);
        assert_eq!(program.min_payout.keys().map(ToString::to_string).collect::<Vec<_>>(), ["jpy", "usd"]);
        assert_eq!(read(json!({"payout_schedule": null})).unwrap().payout_schedule, None);
    }

    #[test]
    fn statuses_follow_each_other_only_as_documented() {
        use ProgramStatus::{Active, Archived, Draft, Paused};
        let allowed = [
            (Draft, Active),
            (Draft, Archived),
            (Active, Paused),
            (Active, Archived),
            (Paused, Active),
            (Paused, Archived),
        ];
        for from in [Draft, Active, Paused, Archived] {
            for to in [Draft, Active, Paused, Archived] {
                let old = Dated { at: NOW, value: from };
                let next = next_status(&old, to, NOW.plus_secs(1));
                match next {
                    Ok(next) if from == to => assert_eq!(next, old),
                    Ok(next) => {
                        assert!(allowed.contains(&(from, to)), "{from:?} to {to:?}");
                        assert_eq!(next.value, to);
                    }
                    Err(refusal) => {
                        assert!(!allowed.contains(&(from, to)) && from != to, "{from:?} to {to:?}");
                        assert_eq!(refusal.code(), "INVALID_STATE");
                    }
                }
            }
        }
    }

    #[test]
    fn a_launch_counts_for_history_and_later_changes_do_not() {
        let draft = Dated { at: Timestamp::EPOCH, value: ProgramStatus::Draft };
        let active = next_status(&draft, ProgramStatus::Active, NOW).unwrap();
        assert_eq!(active.at, Timestamp::from_micros(1));
        let paused = next_status(&active, ProgramStatus::Paused, NOW).unwrap();
        assert_eq!(paused.at, NOW);
        let resumed = next_status(&paused, ProgramStatus::Active, NOW).unwrap();
        assert_eq!(resumed.at, NOW.plus_micros(1), "two statuses never begin at once");
        let earlier = next_status(&resumed, ProgramStatus::Paused, NOW.plus_secs(-60)).unwrap();
        assert_eq!(earlier.at, NOW.plus_micros(2), "a clock that was set back changes no order");
    }
}
