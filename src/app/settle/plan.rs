//! Who is paid what of the open lots, and who is not. Pure: the lots, the payees and the program's terms in,
//! payouts and reasons out. What pays and what not is decided by `domain::payout::Candidate`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    domain::{
        ids::{CommissionId, EnrollmentId, OrganizationId},
        money::{self, BasisPoints, Currency, MoneyError},
        payout::{Candidate, OnTransferReversed, Skip, Split},
    },
    store::{
        programs::{MinPayout, ProgramDetails},
        settlement::{OpenLot, Payee, SkippedLine},
    },
};

/// What of a program a settlement looks at.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// Smallest payouts.
    pub min_payout: MinPayout,
    /// The platform's share of each payout.
    pub fee: BasisPoints,
    /// What happens when a transfer comes back; frozen with the payout.
    pub on_transfer_reversed: OnTransferReversed,
}

impl Rules {
    /// The rules that a program has now.
    pub fn of(program: &ProgramDetails) -> Self {
        Self {
            min_payout: program.min_payout.clone(),
            fee: program.platform_fee,
            on_transfer_reversed: program.on_transfer_reversed,
        }
    }
}

/// What is known when a batch of enrollments is settled.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Their open lots.
    pub lots: Vec<OpenLot>,
    /// Who they are.
    pub payees: BTreeMap<EnrollmentId, Payee>,
    /// Which accounts can be paid; those of which nothing was told are absent.
    pub accounts_ready: BTreeMap<String, bool>,
}

/// A payout to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Draft {
    /// Who is paid.
    pub enrollment_id: EnrollmentId,
    /// The affiliate behind the enrollment.
    pub organization_id: OrganizationId,
    /// Currency of the amounts.
    pub currency: Currency,
    /// The amounts.
    pub split: Split,
    /// The account that receives it.
    pub destination: String,
    /// The lots that it is made of.
    pub lots: Vec<OpenLot>,
}

/// Who is paid and who is not, by enrollment and currency.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The payouts to be made.
    pub drafts: Vec<Draft>,
    /// Who is passed over, and why.
    pub skipped: Vec<SkippedLine>,
    /// The accounts that kept somebody from being paid because they were told not to be ready.
    pub not_ready: BTreeSet<String>,
}

/// Plans a batch. Currencies are never netted against each other (`semantics.md`, "Currency").
///
/// # Errors
/// [`MoneyError`] when the lots of somebody do not fit 64 bits together.
pub(super) fn plan(rules: &Rules, known: Known) -> Result<Plan, MoneyError> {
    let mut open: BTreeMap<(EnrollmentId, Currency), Vec<OpenLot>> = BTreeMap::new();
    for lot in known.lots {
        open.entry((lot.enrollment_id.clone(), lot.currency)).or_default().push(lot);
    }
    let mut plan = Plan::default();
    for ((enrollment_id, currency), lots) in open {
        let lots = without_idle(lots)?;
        let Some(payee) = known.payees.get(&enrollment_id).filter(|_| !lots.is_empty()) else { continue };
        let due = money::sum(lots.iter().map(|lot| lot.amount))?;
        let ready = |account: &String| known.accounts_ready.get(account).copied().unwrap_or(true);
        let candidate = Candidate {
            due,
            minimum: rules.min_payout.get(&currency).copied(),
            fee: rules.fee,
            held: payee.held,
            has_unknown: payee.has_unknown,
            account_ready: payee.account_id.as_ref().map(ready),
        };
        match (candidate.plan()?, &payee.account_id) {
            (Ok(split), Some(account)) => plan.drafts.push(Draft {
                enrollment_id,
                organization_id: payee.organization_id.clone(),
                currency,
                split,
                destination: account.clone(),
                lots,
            }),
            (Ok(_), None) => unreachable!("a candidate without an account has no split"),
            (Err(reason), account) => {
                plan.not_ready.extend(account.clone().filter(|_| reason == Skip::AccountNotReady));
                plan.skipped.push(SkippedLine { enrollment_id, currency, due, reason });
            }
        }
    }
    Ok(plan)
}

/// The lots but for those of commissions of which no payout holds a part yet and that bring nothing now:
/// their lots cancel each other out, or what was earned is younger than the settlement's time. They stay
/// open together, so that a payout never holds a commission that it does not pay. What is left out is never
/// less than nothing, so what is due is never more than the payable balance (`rulings.md` 12).
fn without_idle(lots: Vec<OpenLot>) -> Result<Vec<OpenLot>, MoneyError> {
    let mut nets: BTreeMap<&CommissionId, i64> = BTreeMap::new();
    for lot in &lots {
        if let Some(part) = lot.part_of.as_ref().filter(|part| !part.claimed) {
            let net = nets.entry(&part.commission_id).or_default();
            *net = money::add(*net, lot.amount)?;
        }
    }
    let idle: BTreeSet<CommissionId> =
        nets.into_iter().filter(|(_, net)| *net <= 0).map(|(id, _)| id.clone()).collect();
    let is_idle = |lot: &OpenLot| lot.part_of.as_ref().is_some_and(|part| idle.contains(&part.commission_id));
    Ok(lots.into_iter().filter(|lot| !is_idle(lot)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::ids::{LotId, SaleId},
        store::settlement::Part,
    };

    fn usd() -> Currency {
        Currency::parse("usd").unwrap()
    }

    fn ada() -> EnrollmentId {
        EnrollmentId::parse("par_ada").unwrap()
    }

    /// A lot of ada's in dollars: of a commission and whether that is claimed, or cash that came back.
    fn lot(number: usize, amount: i64, of: Option<(&str, bool)>) -> OpenLot {
        OpenLot {
            id: LotId::derived(&[&number.to_string()]),
            enrollment_id: ada(),
            currency: usd(),
            amount,
            part_of: of.map(|(commission, claimed)| Part {
                commission_id: CommissionId::derived(&[commission]),
                sale_id: SaleId::derived(&[commission]),
                claimed,
            }),
        }
    }

    /// Amounts of lots with what they are a part of.
    type Lots<'a> = &'a [(i64, Option<(&'a str, bool)>)];

    fn settle(lots: Lots<'_>) -> Plan {
        let rules = Rules {
            min_payout: BTreeMap::from([(usd(), 100)]),
            fee: BasisPoints::new(1_000).unwrap(),
            on_transfer_reversed: OnTransferReversed::Clawback,
        };
        let payee = Payee {
            enrollment_id: ada(),
            organization_id: OrganizationId::parse("org_ada").unwrap(),
            held: false,
            has_unknown: false,
            account_id: Some("acct_ada".to_owned()),
        };
        let lots = lots.iter().enumerate().map(|(number, (amount, of))| lot(number, *amount, *of)).collect();
        let payees = BTreeMap::from([(ada(), payee)]);
        plan(&rules, Known { lots, payees, accounts_ready: BTreeMap::new() }).unwrap()
    }

    #[test]
    fn debts_and_returned_cash_are_netted_before_the_fee() {
        let plan = settle(&[(500, Some(("new", false))), (-200, Some(("old", true))), (50, None)]);
        let [draft] = plan.drafts.as_slice() else { panic!("{plan:?}") };
        assert_eq!(draft.split, Split { due: 350, fee: 35, send: 315 });
        assert_eq!((draft.lots.len(), draft.destination.as_str()), (3, "acct_ada"));
    }

    #[test]
    fn a_commission_that_brings_nothing_is_left_alone_and_not_even_mentioned() {
        let plan = settle(&[(200, Some(("gone", false))), (-200, Some(("gone", false)))]);
        assert_eq!(plan, Plan::default());
        // As of a time before it was earned, only what was taken of it since would be seen.
        let plan = settle(&[(-60, Some(("younger", false))), (100, Some(("older", false)))]);
        let [draft] = plan.drafts.as_slice() else { panic!("{plan:?}") };
        assert_eq!((draft.split.due, draft.lots.len()), (100, 1));
    }

    #[test]
    fn a_debt_of_what_was_paid_out_before_is_never_left_alone() {
        let plan = settle(&[(-60, Some(("paid", true))), (100, Some(("new", false)))]);
        let [skipped] = plan.skipped.as_slice() else { panic!("{plan:?}") };
        assert_eq!((skipped.due, skipped.reason), (40, Skip::BelowMinimum));
        let plan = settle(&[(-60, Some(("paid", true)))]);
        assert_eq!((plan.skipped[0].due, plan.skipped[0].reason), (-60, Skip::Debt));
    }

    #[test]
    fn sums_that_do_not_fit_are_an_error() {
        let rules = Rules {
            min_payout: MinPayout::new(),
            fee: BasisPoints::ZERO,
            on_transfer_reversed: OnTransferReversed::Requeue,
        };
        let lots = vec![lot(0, i64::MAX, None), lot(1, 1, None)];
        let payee = Payee {
            enrollment_id: ada(),
            organization_id: OrganizationId::parse("org_ada").unwrap(),
            held: false,
            has_unknown: false,
            account_id: None,
        };
        let known = Known { lots, payees: BTreeMap::from([(ada(), payee)]), ..Known::default() };
        assert_eq!(plan(&rules, known), Err(MoneyError::Overflow));
    }
}
