//! Signs webhooks and sends them.
//!
//! Source: docs.stripe.com/webhooks/signature. The signing is written here once more, so that a mistake
//! in the receiver's own arithmetic cannot agree with itself.

use std::{pin::pin, sync::Arc, time::Duration};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use super::{
    WebhookTime,
    clock::{self, SECOND_US},
    outbox::{Attempt, Delivery},
    server::Shared,
    world::{World, int},
};

/// How long a receiver may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What became of webhooks that were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Flushed {
    /// Answered 2xx.
    pub delivered: usize,
    /// Not answered 2xx; tried again later.
    pub failed: usize,
    /// Not answered 2xx too often.
    pub given_up: usize,
    /// Still waiting, for their time or for another attempt.
    pub waiting: usize,
}

/// A client that sends webhooks and nothing else: it follows no redirect and asks no proxy.
pub(super) fn client() -> Result<reqwest::Client, reqwest::Error> {
    // The first call installs it; another caller's choice is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ANSWER_WITHIN)
        .build()
}

/// Delivers everything that is due, and what comes due by that, until nothing is and nobody else is
/// delivering either.
pub(super) async fn flush(shared: &Arc<Shared>) -> Flushed {
    let mut total = Flushed::default();
    loop {
        let mut attempted = pin!(shared.attempted.notified());
        // From here on no end of an attempt is missed.
        attempted.as_mut().enable();
        let due = shared.with(|world| {
            world.tick();
            let now_us = world.clock.now_us();
            let others = world.outbox.in_flight();
            (world.outbox.take_due(now_us), others, world.outbox.waiting())
        });
        let (due, others, waiting) = due.await;
        if !due.is_empty() {
            deliver(shared, due, &mut total).await;
        } else if others > 0 {
            attempted.await;
        } else {
            total.waiting = waiting;
            return total;
        }
    }
}

/// Delivers what one request has caused.
pub(super) async fn deliver_of_request(shared: &Arc<Shared>, request_id: String) {
    let caused = shared.with(move |world| world.outbox.take_of_request(&request_id)).await;
    deliver(shared, caused, &mut Flushed::default()).await;
}

async fn deliver(shared: &Arc<Shared>, deliveries: Vec<Delivery>, total: &mut Flushed) {
    for delivery in deliveries {
        let sandbox_us = shared.with(|world| world.clock.now_us()).await;
        let at_us = match shared.webhook_time {
            WebhookTime::Machine => clock::machine_us(),
            WebhookTime::Sandbox => sandbox_us,
        };
        let result = send(&shared.client, &delivery, at_us.div_euclid(SECOND_US)).await;
        let attempt = shared.with(move |world| record(world, &delivery, &result)).await;
        shared.attempted.notify_waiters();
        match attempt {
            Attempt::Delivered => total.delivered += 1,
            Attempt::Failed => total.failed += 1,
            Attempt::GivenUp => total.given_up += 1,
        }
    }
}

async fn send(client: &reqwest::Client, delivery: &Delivery, at_s: i64) -> Result<u16, &'static str> {
    let answer = client
        .post(&delivery.endpoint.url)
        .header("content-type", "application/json; charset=utf-8")
        .header("user-agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
        .header("stripe-signature", signature(&delivery.endpoint.secret, &delivery.body, at_s))
        .body(delivery.body.clone())
        .send()
        .await;
    match answer {
        Ok(answer) => Ok(answer.status().as_u16()),
        Err(error) if error.is_timeout() => Err("timeout"),
        Err(error) if error.is_connect() => Err("no_connection"),
        Err(_) => Err("no_answer"),
    }
}

/// `t=<s>,v1=<hex>`, signed over `<t>.<body>` with the whole secret as the key.
pub(super) fn signature(secret: &str, body: &str, at_s: i64) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(format!("{at_s}.{body}").as_bytes());
    format!("t={at_s},v1={}", hex::encode(mac.finalize().into_bytes()))
}

fn record(world: &mut World, delivery: &Delivery, result: &Result<u16, &'static str>) -> Attempt {
    let now_us = world.clock.now_us();
    let is_delivered = matches!(result, Ok(200..=299));
    let attempt = world.outbox.record(delivery.number, is_delivered, now_us);
    if is_delivered {
        world.objects.update(&delivery.event_id, |event| {
            event["pending_webhooks"] = json!((int(event, "pending_webhooks") - 1).max(0));
        });
    }
    let line = json!({
        "event_id": delivery.event_id,
        "event_type": delivery.event_type,
        "object_id": delivery.object_id,
        "account": delivery.account,
        "url": delivery.endpoint.url,
        "attempt": delivery.attempts + 1,
        "status": result.ok(),
        "error": result.err().map_or(Value::Null, |error| json!(error)),
    });
    world.journal.add(now_us, "webhook", line);
    // Nothing depends on it, and a journal that fails shows at the next request.
    drop(world.journal.commit(false));
    attempt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_another_implementation() {
        // Computed with Python's hmac module.
        let body = "{\"id\":\"evt_1\",\"type\":\"x\",\"note\":\"grüße\"}";
        assert_eq!(
            signature("whsec_remit_known_answer", body, 1_767_258_000),
            "t=1767258000,v1=69948336fc188893eb61047392e471b0377b99d8c5a10f287fcff4a67f005df7"
        );
    }
}
