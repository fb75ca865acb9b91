//! From the facts and decisions of a sale to its commissions: who is owed, under which terms, and what is
//! to be posted. Sponsors' commissions follow the direct one.

use std::collections::{BTreeMap, BTreeSet};

use super::{Book, Finding, FoldError, Folded, Sale, counting::Tallies};
use crate::domain::{
    attribution::{self, Attribution, Hints},
    commission::{self, Commission, CommissionState, Decision, Flag, Input, Target, Voided},
    fact::Subject,
    money::BasisPoints,
    program::{Directory, Enrollment, NoAttribution, Program},
    sale::{Oddity, Stop, StopKind, Summary},
    terms::{Position, Standing},
    time::Timestamp,
};

impl Book {
    /// Folds every sale that changed and takes the results over into the book. Sales are folded in the
    /// order in which they were paid, then of their ids: rules that count others count them so
    /// (`rulings.md` 9).
    ///
    /// # Errors
    /// [`FoldError`] when an amount does not fit, or when a rule counts what was not loaded; then the book is
    /// as it was, and nothing of the batch may be written.
    pub fn fold(
        &mut self,
        directory: &Directory,
        now: Timestamp,
        merge_grace_s: i64,
    ) -> Result<Vec<Folded>, FoldError> {
        let mut dirty: Vec<(Option<Timestamp>, &Sale)> =
            self.dirty_sales().map(|sale| (sale.paid_at(), sale)).collect();
        dirty.sort_by(|(a_at, a), (b_at, b)| (a_at, &a.id).cmp(&(b_at, &b.id)));
        let mut tallies = self.tallies.clone();
        let mut results = Vec::with_capacity(dirty.len());
        for (_, sale) in dirty {
            results.push(self.fold_sale(sale, directory, &mut tallies, now, merge_grace_s)?);
        }
        let missing = tallies.take_missing();
        if !missing.is_empty() {
            return Err(FoldError::Uncounted(missing));
        }
        for folded in &results {
            let Some(sale) = self.sales.get_mut(&folded.sale_id) else { continue };
            for posted in &folded.posted {
                let commission = posted.commission.clone();
                match sale.commissions.iter_mut().find(|known| known.id == commission.id) {
                    Some(known) => *known = commission,
                    None => sale.commissions.push(commission),
                }
            }
        }
        self.dirty.clear();
        self.tallies = tallies;
        Ok(results)
    }

    fn fold_sale(
        &self,
        sale: &Sale,
        directory: &Directory,
        tallies: &mut Tallies,
        now: Timestamp,
        merge_grace_s: i64,
    ) -> Result<Folded, FoldError> {
        let summary = if sale.merged_into.is_some() { None } else { sale.facts.summary()? };
        let mut findings = Vec::new();
        let mut attribution = Attribution::default();
        if let Some(summary) = &summary {
            let hints = self.hints_of(sale);
            attribution =
                attribution::attribute(&sale.owner, summary.paid_at, &sale.decisions, &hints, directory);
            for oddity in &summary.oddities {
                findings.push(oddity_finding(sale, *oddity));
            }
            for (code, why) in &attribution.refused {
                findings.push(refused_finding(sale, code, *why));
            }
        }
        let mut owed_to = attribution.to.as_ref().map(|(enrollment, _)| enrollment.clone());
        // Once a payout took part of it, the attribution stands (`rulings.md` 8).
        let frozen = sale.commissions.iter().find(|commission| commission.level == 0 && commission.claimed);
        if let (Some(frozen), None) = (frozen, &sale.merged_into) {
            if owed_to.as_ref() != Some(&frozen.enrollment_id) {
                findings.push(attribution_contradiction(sale, frozen));
            }
            owed_to = Some(frozen.enrollment_id.clone());
        }
        let mut commissions: Vec<Commission> = sale.commissions.clone();
        if let (Some(owed_to), Some(summary)) = (&owed_to, &summary) {
            let known = commissions
                .iter_mut()
                .find(|commission| commission.level == 0 && commission.enrollment_id == *owed_to);
            match (known, directory.membership(owed_to)) {
                (Some(known), Some((enrollment, program))) => {
                    refreeze(known, sale, enrollment, program, summary, tallies);
                }
                (None, Some((enrollment, program))) => {
                    commissions.extend(new_commission(sale, enrollment, program, summary, tallies)?);
                }
                (_, None) => {}
            }
        }
        // The direct commission first: those of the sponsors follow it.
        commissions.sort_by(|a, b| (a.level, &a.id).cmp(&(b.level, &b.id)));
        let is_direct = |commission: &Commission| {
            commission.level == 0 && owed_to.as_ref() == Some(&commission.enrollment_id)
        };
        let mut posted = Vec::new();
        let mut direct: Option<(Commission, Target)> = None;
        let (levels_0, uplines): (Vec<_>, Vec<_>) =
            commissions.into_iter().partition(|commission| commission.level == 0);
        let look = Look { sale, summary: summary.as_ref(), now, merge_grace_s };
        for mut commission in levels_0 {
            let is_owed = sale.merged_into.is_none() && is_direct(&commission);
            Self::inherit_flags(sale, &mut commission);
            inherit_position(sale, &mut commission);
            // Only what is owed is counted among the customer's payments; once it is, it stays with the
            // customer that it was counted for.
            let is_placed = commission.position.is_some();
            commission.customer_key = commission
                .customer_key
                .take()
                .filter(|_| is_placed)
                .or_else(|| Some(sale.customer_key()))
                .filter(|_| is_owed && commission.terms.standing() == Some(Standing::AmongPayments));
            let place = match &summary {
                Some(summary) if is_owed => tallies.place(sale, &commission, summary),
                Some(_) | None => None,
            };
            let decisions = look.decisions_of(&commission);
            let input = self.input(&look, &commission, &decisions, is_owed, place, directory);
            let target = commission::target(&input)?;
            findings.extend(target_finding(sale, &commission, &target));
            if is_owed {
                direct = Some((commission.clone(), target.clone()));
            }
            let result = commission::post(&commission, target)?;
            findings.extend(tallies.note(sale, &result.commission));
            posted.push(result);
        }
        for (mut commission, share) in Self::uplines(&look, direct.as_ref(), uplines, directory)? {
            Self::inherit_flags(sale, &mut commission);
            let decisions = look.decisions_of(&commission);
            let input = self.input(&look, &commission, &decisions, share.is_some(), None, directory);
            let target = match (&direct, share) {
                (Some((_, direct)), Some(share)) => commission::upline_target(&input, direct, share)?,
                _ => commission::target(&input)?,
            };
            findings.extend(target_finding(sale, &commission, &target));
            posted.push(commission::post(&commission, target)?);
        }
        posted.retain(|result| {
            let before = sale.commissions.iter().find(|known| known.id == result.commission.id);
            before != Some(&result.commission)
        });
        Ok(Folded { sale_id: sale.id.clone(), summary, attribution, posted, findings })
    }

    /// The commissions of the sponsors: those that exist, and those that the direct one newly calls for.
    /// With each the sponsor's share of the direct commission, or none when it is owed to nobody any more.
    fn uplines(
        look: &Look<'_>,
        direct: Option<&(Commission, Target)>,
        mut known: Vec<Commission>,
        directory: &Directory,
    ) -> Result<Vec<(Commission, Option<BasisPoints>)>, FoldError> {
        let mut uplines = Vec::new();
        if let Some((direct, target)) = direct {
            let shares = &direct.terms.upline_bps;
            let chain = directory.sponsors_of(&direct.enrollment_id, direct.paid_at, shares.len());
            for ((level, share), sponsor) in (1..).zip(shares).zip(chain) {
                let is_it = |commission: &Commission| {
                    commission.level == level && commission.enrollment_id == sponsor.id
                };
                let upline = match known.iter().position(is_it) {
                    Some(place) => Commission {
                        conversion_id: direct.conversion_id.clone(),
                        terms: direct.terms.clone(),
                        terms_version: direct.terms_version,
                        paid_at: direct.paid_at,
                        ..known.swap_remove(place)
                    },
                    None if directory.multi_level && sponsor.is_active_at(direct.paid_at) => {
                        let upline = direct.upline(&look.sale.id, &sponsor.id, level);
                        if share.of(target.amount())? == 0 {
                            continue;
                        }
                        upline
                    }
                    None => continue,
                };
                uplines.push((upline, Some(*share)));
            }
        }
        uplines.extend(known.into_iter().map(|commission| (commission, None)));
        Ok(uplines)
    }

    fn inherit_flags(sale: &Sale, commission: &mut Commission) {
        if let Some(flags) = sale.inherited_flags.get(&commission.enrollment_id) {
            Flag::inherit(&mut commission.flags, flags);
        }
    }

    /// What the target of a commission is computed from.
    fn input<'a>(
        &self,
        look: &Look<'a>,
        commission: &'a Commission,
        decisions: &'a [Decision],
        is_owed: bool,
        position: Option<Position>,
        directory: &Directory,
    ) -> Input<'a> {
        let sale = look.sale;
        let voided = if sale.merged_into.is_some() {
            Some(Voided::Merged)
        } else if is_owed {
            None
        } else {
            Some(Voided::Reattributed)
        };
        Input {
            commission,
            sale: look.summary,
            voided,
            decisions,
            more_stops: self.more_stops(sale, commission, directory),
            not_before: sale.received_at.plus_secs(look.merge_grace_s),
            received_at: sale.received_at,
            now: look.now,
            position,
        }
    }

    fn hints_of(&self, sale: &Sale) -> Hints {
        let mut hints = Hints::default();
        for subject in Self::subjects_of(sale) {
            let told = self.hints_for(&subject);
            match subject.subject {
                Subject::Sale(_) => hints.sale.extend(told),
                Subject::Subscription(_) => hints.subscription.extend(told),
                Subject::Customer(_) => hints.customer.extend(told),
            }
        }
        if let Some(around) = self.surroundings.get(&sale.id) {
            hints.touches.clone_from(&around.touches);
            hints.other_payments.clone_from(&around.other_payments);
        }
        hints
    }

    /// Stops that need more than the facts of the sale: an ended subscription, a buyer who looks like
    /// the affiliate, in this sale or in another of the same customer. Money already paid is not stopped
    /// by either.
    fn more_stops(&self, sale: &Sale, commission: &Commission, directory: &Directory) -> BTreeSet<Stop> {
        let mut stops = BTreeSet::new();
        // What stops the sale stops the sponsors through the direct commission.
        for carrier in sale.carriers().into_iter().filter(|_| commission.level == 0) {
            if let Subject::Subscription(subscription) = carrier.subject {
                let key = (carrier.scope, subscription);
                if self.ended.contains_key(&key) {
                    stops.insert(Stop { kind: StopKind::Cancellation, id: key.1 });
                }
            }
        }
        let of_customer = self.surroundings.get(&sale.id).map(|around| &around.customer_emails);
        if let Some(enrollment) = directory.enrollments.get(&commission.enrollment_id)
            && (!enrollment.emails.is_disjoint(&sale.facts.buyer_emails)
                || of_customer.is_some_and(|emails| !enrollment.emails.is_disjoint(emails)))
        {
            stops.insert(Stop { kind: StopKind::SelfReferral, id: commission.enrollment_id.to_string() });
        }
        stops
    }
}

/// What every commission of one sale is looked at with.
struct Look<'a> {
    sale: &'a Sale,
    summary: Option<&'a Summary>,
    now: Timestamp,
    merge_grace_s: i64,
}

impl Look<'_> {
    /// The decisions about the commission, in order of time.
    fn decisions_of(&self, commission: &Commission) -> Vec<Decision> {
        self.sale.decisions.iter().filter(|decision| decision.is_about(commission)).cloned().collect()
    }
}

/// Takes the place of a sale that was merged into this one, if that was earlier.
fn inherit_position(sale: &Sale, commission: &mut Commission) {
    if let Some(inherited) = sale.inherited_positions.get(&commission.enrollment_id) {
        let known = commission.position.unwrap_or(*inherited);
        commission.position = Some(known.earlier(*inherited));
    }
}

/// Reads the terms of a known commission again, where better facts say that it was paid at another time;
/// or, while it waits and nothing was accrued, where the customer's first payment has frozen them since.
fn refreeze(
    known: &mut Commission,
    sale: &Sale,
    enrollment: &Enrollment,
    program: &Program,
    summary: &Summary,
    tallies: &mut Tallies,
) {
    let is_waiting = known.position.is_none() && known.revision == 0 && !known.claimed;
    if is_waiting
        && program.follows_customers()
        && let Some(first) = tallies.first_payment(&enrollment.id, &sale.customer_key())
    {
        known.paid_at = summary.paid_at;
        (known.terms, known.terms_version) = (first.terms.clone(), first.terms_version);
    } else if let Some(version) = program.terms_at(summary.paid_at) {
        known.paid_from(summary.paid_at, version.version, || enrollment.terms_of(version, summary.paid_at));
    }
}

/// The direct commission of a sale that has none for this enrollment yet; `None` while nothing was paid, as
/// for a trial. A paid sale that earns nothing by its terms is a conversion all the same: it was brought, it
/// may be counted, and `explain` says why it is nothing.
fn new_commission(
    sale: &Sale,
    enrollment: &Enrollment,
    program: &Program,
    summary: &Summary,
    tallies: &mut Tallies,
) -> Result<Option<Commission>, FoldError> {
    let Some(version) = program.terms_at(summary.paid_at) else { return Ok(None) };
    let mut terms = enrollment.terms_of(version, summary.paid_at);
    let mut terms_version = version.version;
    let customer_key = program.follows_customers().then(|| sale.customer_key());
    // The customer's first payment froze the terms of the later ones.
    if let Some(first) = customer_key.as_ref().and_then(|key| tallies.first_payment(&enrollment.id, key)) {
        (terms, terms_version) = (first.terms.clone(), first.terms_version);
    }
    let is_followed = terms.standing() == Some(Standing::AmongPayments);
    let mut commission = Commission {
        id: Commission::id_of(&sale.id, &enrollment.id, 0),
        conversion_id: Commission::conversion_id_of(&sale.id, &enrollment.id),
        sale_id: sale.id.clone(),
        enrollment_id: enrollment.id.clone(),
        program_id: program.id.clone(),
        level: 0,
        currency: summary.currency,
        terms,
        terms_version,
        base: 0,
        amount: 0,
        earned: 0,
        clawed: 0,
        held: 0,
        released: 0,
        state: CommissionState::Held,
        reason: None,
        claimed: false,
        revision: 0,
        paid_at: summary.paid_at,
        due_at: None,
        flags: BTreeMap::new(),
        position: None,
        customer_key: customer_key.filter(|_| is_followed),
        counted: None,
    };
    inherit_position(sale, &mut commission);
    let place = tallies.place(sale, &commission, summary);
    let earned = commission.terms.earned(summary, place.as_ref())?;
    if earned.amount == 0 && summary.amount == 0 && !summary.is_event {
        return Ok(None);
    }
    (commission.currency, commission.base, commission.amount) = (earned.currency, earned.base, earned.amount);
    Ok(Some(commission))
}

fn attribution_contradiction(sale: &Sale, frozen: &Commission) -> Finding {
    Finding {
        kind: "attribution_contradiction",
        object: sale.id.to_string(),
        detail: format!(
            "the sale's commission {} is part of a payout, but newer facts attribute the sale elsewhere; nothing was moved",
            frozen.id
        ),
    }
}

/// What an operator should see of where a commission is going.
fn target_finding(sale: &Sale, commission: &Commission, target: &Target) -> Option<Finding> {
    let (kind, detail) = if target.currency_contradiction {
        let detail = format!(
            "commission {} is part of a payout in {}, but newer facts tell the sale in another currency; nothing was moved",
            commission.id, commission.currency
        );
        ("currency_contradiction", detail)
    } else if target.tax_overdue {
        let detail = format!(
            "commission {} is net of tax, but no event told the tax for a day; it stays unpayable until one does or the commission is rejected",
            commission.id
        );
        ("tax_unknown", detail)
    } else {
        return None;
    };
    Some(Finding { kind, object: sale.id.to_string(), detail })
}

fn oddity_finding(sale: &Sale, oddity: Oddity) -> Finding {
    let detail = match oddity {
        Oddity::RefundExceedsSale => {
            "more was refunded than paid; the clawback is capped at the commission, check it with the provider"
        }
        Oddity::CurrencyMismatch => {
            "a payment, refund or dispute is in another currency than the sale and was not counted; check it with the provider"
        }
    };
    Finding { kind: oddity.as_str(), object: sale.id.to_string(), detail: detail.to_owned() }
}

fn refused_finding(sale: &Sale, code: &str, why: NoAttribution) -> Finding {
    let (kind, detail) = match why {
        NoAttribution::UnknownCode => ("unknown_code", "names no enrollment"),
        NoAttribution::CodeNotValid => ("code_not_valid", "was not valid when the sale was paid"),
        NoAttribution::EnrollmentNotActive => {
            ("enrollment_not_active", "belongs to an enrollment that was not active when the sale was paid")
        }
        NoAttribution::ProgramNotActive => {
            ("program_not_active", "belongs to a program that was not active when the sale was paid")
        }
    };
    Finding {
        kind,
        object: sale.id.to_string(),
        detail: format!("code `{code}` {detail}; attribute the sale by hand if it should count"),
    }
}
