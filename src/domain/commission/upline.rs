//! What a sponsor earns of the commission of an affiliate whom they brought: basis points of it, with its
//! state and in proportion to what it lost (`rulings.md` 8).
//!
//! Nothing here looks at the sale: what happens to it reaches the sponsor through the direct commission.
//! What came back of a transfer concerns only the commission that the transfer paid.

use super::{Clawed, CommissionState, Input, StopKind, Target, Voided, clawed, flags, void};
use crate::domain::money::{self, BasisPoints, MoneyError};

/// What the sponsor's commission should be, given what the direct one should be.
///
/// `input.more_stops` are the sponsor's own, such as a buyer who looks like them. An approval of the
/// conversion clears them like those of the direct commission.
///
/// # Errors
/// [`MoneyError`] when an amount does not fit 64 bits.
pub fn upline_target(input: &Input<'_>, direct: &Target, share: BasisPoints) -> Result<Target, MoneyError> {
    let commission = input.commission;
    let (Some(_), None) = (input.sale, input.voided) else {
        return Ok(void(commission, input.voided.unwrap_or(Voided::Reattributed)));
    };
    let amount = share.of(direct.amount)?;
    let told = match direct.state {
        // Nobody brought a sale that counts, so nobody is owed for having brought them, paid already or not.
        CommissionState::Denied | CommissionState::AwaitingReview => amount,
        _ if direct.earned > 0 => {
            let rest = money::sub(direct.earned, direct.lost.min(direct.earned))?;
            money::sub(amount, money::share(amount, rest, direct.earned)?)?
        }
        _ => 0,
    };
    let Clawed { lost, clawed } = clawed(input, told, amount)?;
    let flags = flags(input, &input.more_stops.iter().collect());
    let stopped_by = flags.iter().find(|(_, flag)| flag.cleared.is_none()).map(|(stop, _)| stop.kind);
    let is_claimed = commission.claimed;
    if is_claimed && direct.currency != commission.currency {
        // The difference of two currencies is no amount: what was posted stands.
        return Ok(Target {
            currency: commission.currency,
            base: commission.base,
            amount: commission.amount,
            earned: commission.earned,
            clawed: commission.clawed,
            released: true,
            state: commission.state,
            flags,
            lost,
            position: None,
            counted: None,
            currency_contradiction: true,
            reason: None,
            due_at: None,
            tax_overdue: false,
        });
    }
    let target = Target {
        base: direct.amount,
        amount,
        earned: amount,
        clawed,
        released: commission.is_released(),
        state: commission.state,
        reason: None,
        due_at: None,
        flags,
        lost,
        position: None,
        counted: None,
        tax_overdue: false,
        currency_contradiction: false,
        currency: direct.currency,
    };
    if is_claimed {
        return Ok(target);
    }
    Ok(follow(direct, stopped_by, commission.earned, target))
}

/// The state of the direct commission, but that what stops the sponsor stops only the sponsor, and that a
/// payout of the direct one pays the sponsor nothing.
fn follow(direct: &Target, stopped_by: Option<StopKind>, posted: i64, target: Target) -> Target {
    use CommissionState::{AwaitingReview, Denied, Flagged, Held, InPayout, Paid, Payable, Reversed};
    let taken_back = |state| {
        // What was never accrued is not accrued to be taken back, unless the direct one shows both.
        let total = if direct.earned > 0 && state == Reversed { target.amount } else { posted };
        Target {
            earned: total,
            clawed: total,
            released: false,
            state,
            reason: direct.reason.clone(),
            ..target.clone()
        }
    };
    match direct.state {
        Denied => taken_back(Denied),
        Reversed => taken_back(Reversed),
        AwaitingReview => Target { earned: 0, clawed: 0, released: false, state: AwaitingReview, ..target },
        _ if target.clawed >= target.amount && target.amount > 0 => {
            Target { clawed: target.amount, released: false, state: Reversed, ..target }
        }
        Flagged => Target { released: false, state: Flagged, reason: direct.reason.clone(), ..target },
        Held | Payable | InPayout | Paid if stopped_by.is_some() => Target {
            released: false,
            state: Flagged,
            reason: stopped_by.map(|kind| kind.as_str().to_owned()),
            ..target
        },
        Held => Target {
            released: false,
            state: Held,
            reason: direct.reason.clone(),
            due_at: direct.due_at,
            ..target
        },
        Payable | InPayout | Paid => Target { released: true, state: Payable, ..target },
    }
}
