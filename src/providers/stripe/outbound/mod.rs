//! The sending half of Stripe: API v1 requests and what the answers to them prove.
//!
//! `requests` writes bytes, `objects` reads what Stripe shows, `verdict` is the table that says what an
//! answer proves. Nothing here sends, retries or waits. API v2 has other rules about keys and is never
//! called.

mod objects;
mod requests;
#[cfg(test)]
mod tests;
mod verdict;

use self::{
    objects::Shown,
    verdict::{Shape, Signs},
};
use super::{Stripe, facts::payout_account};
use crate::{
    domain::{
        fact::PayoutAccount,
        intent::{Intent, Verdict},
        time::Timestamp,
    },
    providers::outbound::{
        Answer, ApiRequest, ApiResponse, Made, Method, Order, OrderKind, Outbound, Page, Reply, Unreadable,
    },
};

impl Outbound for Stripe {
    fn name(&self) -> &'static str {
        "stripe"
    }

    /// Pinned, so that an answer keeps its shape when the account's default version moves
    /// (`rulings.md` 16).
    fn api_version(&self) -> &'static str {
        "2026-07-29.dahlia"
    }

    fn execute(&self, order: &Order) -> ApiRequest {
        let (path, body) = match order.kind {
            OrderKind::Transfer => ("/v1/transfers", requests::transfer(order)),
            OrderKind::Charge { application_fee } => {
                ("/v1/payment_intents", requests::charge(order, application_fee))
            }
        };
        ApiRequest {
            method: Method::Post,
            path: path.to_owned(),
            body: body.into_bytes(),
            idempotency_key: Some(Intent::key(&order.intent_id, order.generation, order.livemode)),
        }
    }

    fn answer(&self, order: &Order, reply: &Reply) -> Answer {
        let about_nothing = |verdict| Answer { verdict, object: None, error_code: None };
        match reply {
            Reply::NotSent => about_nothing(Verdict::NotSent),
            Reply::Lost => about_nothing(Verdict::Ambiguous),
            Reply::Answered(response) => judge(order, response),
        }
    }

    fn look_up(&self, order: &Order, made: Made, cursor: Option<&str>) -> ApiRequest {
        reading(requests::look_up(order, made, cursor))
    }

    fn page(&self, order: &Order, reply: &Reply) -> Result<Page, Unreadable> {
        objects::page(order, success(reply).ok_or(Unreadable)?)
    }

    fn is_object_id(&self, kind: &OrderKind, text: &str) -> bool {
        let prefix = match kind {
            OrderKind::Transfer => "tr_",
            OrderKind::Charge { .. } => "pi_",
        };
        // Ids have at most 255 characters (docs.stripe.com/upgrades, "Changes Stripe considers to be
        // backwards-compatible").
        text.strip_prefix(prefix).is_some_and(|rest| {
            (1..=252).contains(&rest.len())
                && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        })
    }

    fn account(&self, account_id: &str) -> ApiRequest {
        reading(requests::account(account_id))
    }

    fn account_state(&self, reply: &Reply, now: Timestamp) -> Option<PayoutAccount> {
        payout_account(objects::text(success(reply)?)?, now)
    }
}

/// What a whole answer proves.
fn judge(order: &Order, response: &ApiResponse) -> Answer {
    let shown = objects::read(order, &response.body);
    let (body, kind, code) = match &shown {
        Shown::Object(object) if object.matches => (Shape::Asked, None, None),
        Shown::Object(_) => (Shape::Different, None, None),
        Shown::Error { kind, code } => (Shape::Error, kind.as_deref(), code.as_deref()),
        Shown::Nothing => (Shape::Unknown, None, None),
    };
    let signs = Signs { status: response.status, body, kind, code, replayed: response.replayed };
    let verdict = verdict::of(&signs);
    match shown {
        // An object in an answer that proves nothing is no evidence either.
        Shown::Object(object) if verdict != Verdict::Ambiguous => {
            Answer { verdict, object: Some(object), error_code: None }
        }
        Shown::Error { code, .. } => Answer { verdict, object: None, error_code: code },
        Shown::Object(_) | Shown::Nothing => Answer { verdict, object: None, error_code: None },
    }
}

fn reading(path: String) -> ApiRequest {
    ApiRequest { method: Method::Get, path, body: Vec::new(), idempotency_key: None }
}

/// The body of an answer of success.
fn success(reply: &Reply) -> Option<&[u8]> {
    match reply {
        Reply::Answered(response) if response.status == 200 => Some(&response.body),
        Reply::Answered(_) | Reply::NotSent | Reply::Lost => None,
    }
}
