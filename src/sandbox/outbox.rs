//! Webhooks that wait to be sent, and how often they are tried. Sending is in `webhooks.rs`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    clock::SECOND_US,
    rng::Rng,
    world::{Scope, text},
};

/// Pauses after failed attempts, seconds; after the last one the delivery is given up. Together three
/// days, as live deliveries are retried (docs.stripe.com/webhooks).
const PAUSES_S: [i64; 14] =
    [1, 5, 30, 120, 600, 3600, 7200, 14_400, 28_800, 28_800, 43_200, 43_200, 43_200, 43_200];

/// Where webhooks go.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) url: String,
    pub(super) secret: String,
    /// Gets the events of connected accounts.
    pub(super) is_connect: bool,
}

/// One event for one endpoint.
#[derive(Clone)]
pub(super) struct Delivery {
    /// Its place in the outbox.
    pub(super) number: usize,
    pub(super) endpoint: Endpoint,
    pub(super) event_id: String,
    pub(super) event_type: String,
    pub(super) object_id: Value,
    pub(super) account: Value,
    /// The bytes, the same in every attempt.
    pub(super) body: String,
    /// The request that caused the event.
    request_id: Option<String>,
    pub(super) attempts: usize,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    Delivered,
    /// It will be tried again.
    Failed,
    GivenUp,
}

/// All deliveries.
#[derive(Default)]
pub(super) struct Outbox {
    pub(super) endpoints: Vec<Endpoint>,
    deliveries: Vec<Delivery>,
    /// When each is due, microseconds, and its number.
    waiting: BTreeSet<(i64, usize)>,
    in_flight: BTreeSet<usize>,
    /// Due deliveries are sent in an order of its choice.
    shuffle: Option<Rng>,
}

impl Outbox {
    pub(super) fn new(endpoints: Vec<Endpoint>, shuffle: Option<Rng>) -> Self {
        Self { endpoints, shuffle, ..Self::default() }
    }

    /// The endpoints for events of that account. Where no endpoint is for connected accounts, all are.
    pub(super) fn endpoints_for(&self, scope: &Scope) -> Vec<usize> {
        let wants_connect =
            scope.account.is_some() && self.endpoints.iter().any(|endpoint| endpoint.is_connect);
        let numbered = self.endpoints.iter().enumerate();
        numbered.filter(|(_, endpoint)| endpoint.is_connect == wants_connect).map(|(at, _)| at).collect()
    }

    pub(super) fn queue(&mut self, endpoint: usize, event: &Value, due_us: i64, request_id: Option<&str>) {
        let number = self.deliveries.len();
        self.deliveries.push(Delivery {
            number,
            endpoint: self.endpoints[endpoint].clone(),
            event_id: text(event, "id").to_owned(),
            event_type: text(event, "type").to_owned(),
            object_id: event["data"]["object"]["id"].clone(),
            account: event["account"].clone(),
            body: event.to_string(),
            request_id: request_id.map(str::to_owned),
            attempts: 0,
        });
        self.waiting.insert((due_us, number));
    }

    /// Takes what is due; each must be given back to [`Self::record`].
    pub(super) fn take_due(&mut self, now_us: i64) -> Vec<Delivery> {
        self.take(|due_us, _| due_us <= now_us)
    }

    /// Takes what a request has caused, due or not.
    pub(super) fn take_of_request(&mut self, request_id: &str) -> Vec<Delivery> {
        self.take(|_, delivery| delivery.request_id.as_deref() == Some(request_id))
    }

    fn take(&mut self, is_taken: impl Fn(i64, &Delivery) -> bool) -> Vec<Delivery> {
        let deliveries = &self.deliveries;
        let taken: Vec<(i64, usize)> =
            self.waiting.extract_if(.., |(due_us, number)| is_taken(*due_us, &deliveries[*number])).collect();
        self.in_flight.extend(taken.iter().map(|(_, number)| *number));
        let mut taken: Vec<Delivery> =
            taken.into_iter().map(|(_, number)| self.deliveries[number].clone()).collect();
        if let Some(rng) = &mut self.shuffle {
            rng.shuffle(&mut taken);
        }
        taken
    }

    /// Failed deliveries are due at once.
    pub(super) fn hasten(&mut self, now_us: i64) {
        let failed: Vec<(i64, usize)> = self
            .waiting
            .iter()
            .filter(|(_, number)| self.deliveries[*number].attempts > 0)
            .copied()
            .collect();
        for entry in failed {
            self.waiting.remove(&entry);
            self.waiting.insert((now_us, entry.1));
        }
    }

    /// Notes how an attempt ended.
    pub(super) fn record(&mut self, number: usize, is_delivered: bool, now_us: i64) -> Attempt {
        self.in_flight.remove(&number);
        let delivery = &mut self.deliveries[number];
        delivery.attempts += 1;
        if is_delivered {
            return Attempt::Delivered;
        }
        match PAUSES_S.get(delivery.attempts - 1) {
            None => Attempt::GivenUp,
            Some(pause_s) => {
                self.waiting.insert((now_us + pause_s * SECOND_US, number));
                Attempt::Failed
            }
        }
    }

    /// How many wait to be sent or tried again.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many are being sent.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}
