//! Death at every named point that a charge passes: made once, whoever dies.
//!
//! No route takes charges yet, so they are queued in the test's own process, in the database that the nodes
//! work on.

use std::sync::Arc;

use libtest_mimic::Trial;
use remit::{
    app::{
        App,
        charges::{self, NewCharge, Queued},
    },
    clock::SystemClock,
    domain::{
        ids::ProjectId,
        money::{Currency, Money},
    },
};
use reqwest::StatusCode;
use serde_json::json;

use super::{
    harness::on_each_engine,
    payday::Payday,
    points::is_release_build,
    support::{TestDb, api},
};

pub fn tests() -> Vec<Trial> {
    on_each_engine!(death_at_any_named_point_charges_once).into()
}

const ENABLED: (&str, &str) = ("REMIT_PAYMENTS__ENABLED", "true");

/// The nodes that die one after the other before one lives. The account is read before the first send, so
/// that is the first call and the send the second.
const DEATHS: &[&[&str]] = &[
    &["claim.before_commit"],
    &["claim.after_commit"],
    &["account.before_commit"],
    &["account.after_commit"],
    &["attempt.before_commit"],
    &["attempt.after_commit"],
    &["call.before:2"],
    &["call.after:2"],
    &["judge.before_commit"],
    &["judge.after_commit"],
    // The look-up of a charge that was made, and the judgement of what it found.
    &["call.after:2", "call.after"],
    &["call.after:2", "judge.before_commit"],
    &["call.after:2", "judge.after_commit"],
    // The look-up that finds nothing, and the send that follows it.
    &["attempt.after_commit", "judge.after_commit"],
    &["attempt.after_commit", "call.after:2"],
];

/// The nodes that die while an event adopts a charge whose answer was lost.
const ADOPTIONS: [&str; 3] = ["process.after_fold", "process.before_commit", "process.after_commit"];

async fn death_at_any_named_point_charges_once(db: TestDb) {
    if is_release_build() {
        return;
    }
    let payday = Payday::with(db, &[ENABLED]).await;
    // Payouts go on beside the charges.
    payday.earn(&["ada_too"]).await;
    payday.cut_webhooks();
    for (number, deaths) in DEATHS.iter().enumerate() {
        let queued = queue(&payday, &format!("order{number}")).await;
        for death in *deaths {
            payday.run.program.dies_at(death, &[]).await;
            payday.leases_run_out().await;
        }
        let node = payday.run.program.serve().await;
        payday.until(&node, UNFINISHED, 0).await;
        assert_charged_once(&payday, number, &queued).await;
        println!("{deaths:?} was survived");
    }
    for (number, death) in (DEATHS.len()..).zip(ADOPTIONS) {
        let queued = queue(&payday, &format!("order{number}")).await;
        payday.run.program.dies_at("call.after:2", &[]).await;
        // These cannot ask, so it is the event that adopts.
        let receiver = payday.serve_with(&[("REMIT_SERVER__ROLES", "receive")]).await;
        payday.webhooks_arrive(&receiver).await;
        payday.cut_webhooks();
        receiver.kill();
        let adopts = ("REMIT_SERVER__ROLES", "process");
        payday.run.program.dies_at(death, &[adopts]).await;
        let node = payday.run.program.serve_with(&[adopts]).await;
        payday.until(&node, UNFINISHED, 0).await;
        assert_charged_once(&payday, number, &queued).await;
        println!("{death} was survived");
    }
    let node = payday.serve().await;
    assert_eq!(payday.settle(&node, "ada_too").await, Some(StatusCode::OK));
    payday.drained(&node).await;
    payday.assert_all_paid_once(&node).await;
}

const UNFINISHED: &str = "SELECT COUNT(*) FROM job WHERE state <> 'completed'";

/// A charge of 20.00 USD with a fee of 0.50, for an account of its own.
async fn queue(payday: &Payday, reference: &str) -> Queued {
    let account = format!("acct_{reference}");
    payday.sandbox.control("POST", "accounts", json!({ "id": account })).await.unwrap();
    let app = App::new(payday.run.db().db.clone(), api::config(&[ENABLED]), Arc::new(SystemClock));
    let new = NewCharge {
        project_id: ProjectId::parse(&payday.run.reference.owner.project()).unwrap(),
        amount: Money { minor: 2_000, currency: Currency::parse("usd").unwrap() },
        application_fee: 50,
        destination: account,
        client_reference: Some(reference.to_owned()),
    };
    let queued = charges::queue(&app, &new).await.unwrap();
    // Whoever is not answered asks again, and nothing more is queued.
    assert!(charges::queue(&app, &new).await.unwrap().already, "{reference}");
    queued
}

/// The order was sent once, made once, and its charge is where the provider says.
async fn assert_charged_once(payday: &Payday, number: usize, queued: &Queued) {
    const CHARGE: &str =
        "SELECT c.state || ' ' || i.state || ' ' || c.payment_intent_id || ' ' || i.object_id
        FROM charge c JOIN intent i ON i.charge_id = c.id WHERE c.id = $1";
    let account = format!("acct_order{number}");
    let journal = payday.sandbox.journal().await;
    let sends = journal.iter().filter(|line| {
        line["kind"] == "request"
            && line["method"] == "POST"
            && line["path"] == "/v1/payment_intents"
            && line["form"]["transfer_data[destination]"] == *account
    });
    assert_eq!(sends.count(), 1, "{account}: sends");
    let made: Vec<&str> = journal
        .iter()
        .filter(|line| {
            line["effect"] == "payment_intent.created"
                && line["object"]["metadata"]["intent_id"] == queued.intent_id.as_str()
        })
        .map(|line| line["object"]["id"].as_str().unwrap())
        .collect();
    let [made] = made.as_slice() else { panic!("{account}: {made:?}") };
    let mut conn = payday.run.db().db.read().await.unwrap();
    let stands: Option<String> = conn.q(CHARGE).bind(queued.charge_id.as_str()).scalar().await.unwrap();
    assert_eq!(stands.unwrap(), format!("requires_payment_method succeeded {made} {made}"), "{account}");
}
