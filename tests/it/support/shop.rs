//! One owner whose affiliates earn a fifth of each sale, a node, and short ways to tell it of events.

use remit::{
    app::{
        decide::{self, DecideError, Decided, Request},
        keys::Principal,
    },
    domain::{
        commission::DecisionKind,
        ids::{EnrollmentId, SaleId},
        time::Timestamp,
    },
    store::{Db, inbox::Inserted},
};
use serde_json::{Value, json};

use super::{node::Node, program::Owner};

/// When the sales of the tests are paid, and what a [`Node`]'s clock shows at first.
pub const PAID_AT_S: i64 = 1_767_225_600;
/// The default of `REMIT_PROGRAMS__MERGE_GRACE_S`.
pub const GRACE_S: i64 = 900;

/// A project with a program of 20 %, and the affiliates `ada` and `bob` with codes of the same name.
pub struct Shop {
    /// The node that processes.
    pub node: Node,
    /// The owner.
    pub owner: Owner,
}

/// A commission as it stands: state, earned, clawed, held, released.
pub type Standing = (String, i64, i64, i64, i64);

/// Where an event stands: state, reason, attempts, when it is tried next in microseconds.
pub type EventState = (String, Option<String>, i64, i64);

impl Shop {
    /// A shop without a hold period that processes `batch_events` at once.
    pub async fn open(db: &Db, batch_events: usize) -> Self {
        Self::open_with(db, batch_events, &json!({})).await
    }

    /// A shop whose terms differ in the fields of `terms`.
    pub async fn open_with(db: &Db, batch_events: usize, terms: &Value) -> Self {
        Self::open_on(Node::new(db.clone(), batch_events), db, "shop", terms).await
    }

    /// A shop on a node of the caller's.
    pub async fn open_on(node: Node, db: &Db, name: &str, terms: &Value) -> Self {
        let mut all = json!({
            "commission": { "type": "percentage", "bps": 2000 },
            "commission_base": "gross",
            "approval_mode": "auto",
            "flat_on_partial": "keep",
            "hold_period_days": 0,
        });
        for (field, value) in terms.as_object().unwrap() {
            all[field] = value.clone();
        }
        let owner = Owner::create(db, name).await;
        owner.create_program(db, "fifth", &all.to_string()).await;
        for affiliate in ["ada", "bob"] {
            owner.enroll(db, "fifth", affiliate, affiliate, &format!("{affiliate}@example.com")).await;
        }
        Self { node, owner }
    }

    /// Stores events as if delivered to the endpoint `a`; each must be new.
    pub async fn tell(&self, events: &[Value]) {
        for event in events {
            assert_eq!(self.deliver("a", event).await, Inserted::New, "{event}");
        }
    }

    /// Stores an event as if delivered to an endpoint.
    pub async fn deliver(&self, endpoint: &str, event: &Value) -> Inserted {
        self.deliver_bytes(endpoint, event.to_string().as_bytes()).await
    }

    /// Stores the bytes of a Stripe event as if delivered to an endpoint.
    pub async fn deliver_bytes(&self, endpoint: &str, body: &[u8]) -> Inserted {
        self.node.receive(&self.owner.project(), &self.owner.endpoint(endpoint), "stripe", body).await
    }

    /// Stores events and processes everything that waits.
    pub async fn tell_and_process(&self, events: &[Value]) {
        self.tell(events).await;
        self.node.process_all().await;
    }

    /// Lets the merge grace pass, counted from the start of the tests.
    pub async fn pass_grace(&self) {
        self.node.pass_time(Timestamp::from_secs(PAID_AT_S + GRACE_S)).await;
    }

    /// The sale that an object names.
    pub async fn sale(&self, object: &str) -> Option<SaleId> {
        const SQL: &str = "SELECT DISTINCT sale_id FROM sale_alias WHERE project_id = $1 AND object_id = $2";
        let mut conn = self.node.app.db.read().await.unwrap();
        let found: Vec<String> = conn.q(SQL).bind(self.owner.project()).bind(object).scalars().await.unwrap();
        assert!(found.len() <= 1, "{object} names several sales");
        found.first().map(|id| SaleId::parse(id).unwrap())
    }

    /// The id of an affiliate's enrollment.
    pub fn enrollment(&self, affiliate: &str) -> String {
        self.owner.id("par_", affiliate)
    }

    /// Takes a decision about the sale that `object` names.
    pub async fn decide(
        &self,
        kind: DecisionKind,
        object: &str,
        affiliate: &str,
    ) -> Result<Decided, DecideError> {
        let request = Request {
            sale_id: self.sale(object).await.unwrap_or_else(|| panic!("no sale {object}")),
            enrollment_id: EnrollmentId::parse(&self.enrollment(affiliate)).unwrap(),
            kind,
            reason: None,
            amount: None,
            note: None,
            by: Principal::console(),
            idempotency_key: None,
        };
        decide::decide(&self.node.app, &request).await
    }

    /// Attributes the sale that `object` names by hand.
    pub async fn attribute(&self, object: &str, affiliate: &str) {
        self.decide(DecisionKind::Attribute, object, affiliate).await.unwrap();
    }

    /// The commission of an affiliate on the sale that `object` names.
    pub async fn standing(&self, object: &str, affiliate: &str) -> Option<Standing> {
        const SQL: &str = "SELECT state, earned_minor, clawed_minor, held_minor, released_minor
            FROM commission WHERE sale_id = $1 AND enrollment_id = $2";
        let sale = self.sale(object).await?;
        let mut conn = self.node.app.db.read().await.unwrap();
        conn.q(SQL).bind(sale.as_str()).bind(self.enrollment(affiliate)).one().await.unwrap()
    }

    /// The same, with a state word and four amounts to compare with.
    pub async fn assert_standing(&self, object: &str, state: &str, amounts: [i64; 4]) {
        let [earned, clawed, held, released] = amounts;
        let expected = (state.to_owned(), earned, clawed, held, released);
        assert_eq!(self.standing(object, "ada").await, Some(expected), "{object}");
    }

    /// Where the event of endpoint `a` stands.
    pub async fn event(&self, provider_event_id: &str) -> EventState {
        const SQL: &str = "SELECT state, reason, attempts, next_attempt_at_us FROM inbox
            WHERE provider_event_id = $1 AND endpoint_id = $2";
        let mut conn = self.node.app.db.read().await.unwrap();
        let found = conn.q(SQL).bind(provider_event_id).bind(self.owner.endpoint("a")).one().await.unwrap();
        found.unwrap_or_else(|| panic!("no event {provider_event_id}"))
    }

    /// Events of this state.
    pub async fn count(&self, state: &str) -> i64 {
        const SQL: &str = "SELECT COUNT(*) FROM inbox WHERE state = $1";
        self.node.app.db.read().await.unwrap().q(SQL).bind(state).scalar().await.unwrap().unwrap()
    }
}

/// A Stripe event in test mode.
pub fn stripe(id: &str, event_type: &str, object: &Value) -> Value {
    json!({
        "id": format!("evt_{id}"), "object": "event", "type": event_type, "livemode": false,
        "created": PAID_AT_S, "data": { "object": object },
    })
}

/// `payment_intent.succeeded`, in dollars, of a customer.
pub fn intent(id: &str, amount: i64, customer: Option<&str>) -> Value {
    let object = json!({
        "id": format!("pi_{id}"), "amount_received": amount, "currency": "usd", "customer": customer,
    });
    stripe(&format!("intent_{id}"), "payment_intent.succeeded", &object)
}

/// `charge.succeeded`, captured, in dollars, of an intent.
pub fn charge(id: &str, amount: i64, intent: Option<&str>) -> Value {
    let object = json!({
        "id": format!("ch_{id}"), "amount": amount, "amount_captured": amount, "captured": true,
        "currency": "usd", "payment_intent": intent.map(|intent| format!("pi_{intent}")),
    });
    stripe(&format!("charge_{id}"), "charge.succeeded", &object)
}

/// `invoice.paid` in its shape since basil: it names no payment.
pub fn invoice(id: &str, amount: i64, customer: Option<&str>) -> Value {
    let object = json!({
        "id": format!("in_{id}"), "amount_paid": amount, "currency": "usd", "customer": customer,
    });
    stripe(&format!("invoice_{id}"), "invoice.paid", &object)
}

/// `invoice_payment.paid`: the late link between an invoice and the intent that paid it.
pub fn invoice_payment(id: &str, invoice: &str, intent: &str) -> Value {
    let object = json!({
        "id": format!("inpay_{id}"), "invoice": format!("in_{invoice}"),
        "payment": { "type": "payment_intent", "payment_intent": format!("pi_{intent}") },
    });
    stripe(&format!("inpay_{id}"), "invoice_payment.paid", &object)
}

/// `refund.created` of a charge.
pub fn refund(id: &str, charge: &str, amount: i64) -> Value {
    let object = json!({
        "id": format!("re_{id}"), "charge": format!("ch_{charge}"), "amount": amount, "currency": "usd",
        "status": "succeeded",
    });
    stripe(&format!("refund_{id}"), "refund.created", &object)
}

/// `customer.updated` with a referral code.
pub fn customer(id: &str, code: &str) -> Value {
    let object = json!({ "id": id, "metadata": { "referral_code": code } });
    stripe(&format!("customer_{id}"), "customer.updated", &object)
}
