//! Pages and filters.

use serde_json::json;

use super::support::{Bench, START_S};

/// A bench with transfers of 1 to `count` cents, a second apart; their ids, newest first.
async fn with_transfers(count: i64) -> (Bench, Vec<String>) {
    let bench = Bench::start().await;
    let mut ids = Vec::new();
    for amount in 1..=count {
        ids.insert(0, bench.transfer(amount).answer().await.id());
        bench.running.advance(1).await;
    }
    (bench, ids)
}

#[tokio::test]
async fn a_walk_in_either_direction_sees_everything_once() {
    let (bench, all) = with_transfers(23).await;
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = bench.get(&format!("/v1/transfers?limit=5{cursor}")).await;
        seen.extend(page.ids());
        assert_eq!(page.body["has_more"], seen.len() < all.len());
        if page.body["has_more"] == false {
            break;
        }
        cursor = format!("&starting_after={}", seen.last().unwrap());
    }
    assert_eq!(seen, all);

    let mut seen = vec![all.last().unwrap().clone()];
    loop {
        let page = bench.get(&format!("/v1/transfers?limit=5&ending_before={}", seen[0])).await;
        seen = [page.ids(), seen].concat();
        if page.body["has_more"] == false {
            break;
        }
    }
    assert_eq!(seen, all);
}

#[tokio::test]
async fn pages_have_ten_objects_unless_told_and_a_hundred_at_most() {
    let (bench, all) = with_transfers(12).await;
    let page = bench.get("/v1/transfers").await;
    assert_eq!((page.ids(), &page.body["has_more"]), (all[..10].to_vec(), &json!(true)));
    assert_eq!(page.body["url"], "/v1/transfers");
    assert_eq!(bench.get("/v1/transfers?limit=100").await.ids(), all);
    for limit in ["0", "101", "x"] {
        let refused = bench.get(&format!("/v1/transfers?limit={limit}")).await;
        assert_eq!(refused.refusal(), (400, "parameter_invalid_integer", "limit"));
    }
    let unknown = bench.get("/v1/transfers?starting_after=tr_none").await;
    assert_eq!(unknown.refusal(), (400, "resource_missing", "starting_after"));
    let both = format!("/v1/transfers?starting_after={}&ending_before={}", all[0], all[1]);
    assert_eq!(bench.get(&both).await.status, 400);
    assert_eq!(bench.get("/v1/transfers?metadata[k]=v").await.refusal().1, "parameter_unknown");
}

#[tokio::test]
async fn transfers_are_found_by_group_destination_and_time() {
    let (bench, all) = with_transfers(3).await;
    bench.control("accounts", json!({ "id": "acct_2" })).await;
    let body = "amount=9&currency=usd&destination=acct_2&transfer_group=intent";
    let grouped = bench.post("/v1/transfers", body).await.id();
    let find = async |filter: &str| bench.get(&format!("/v1/transfers?{filter}")).await.ids();
    assert_eq!(find("transfer_group=intent").await, [grouped.as_str()]);
    assert_eq!(find("destination=acct_2&transfer_group=intent").await, [grouped.as_str()]);
    assert!(find("destination=acct_1&transfer_group=intent").await.is_empty());
    assert_eq!(find("destination=acct_1").await, all);
    assert_eq!(find(&format!("created[gte]={}", START_S + 2)).await, [grouped.as_str(), &all[0]]);
    assert_eq!(find(&format!("created[gt]={START_S}&created[lt]={}", START_S + 2)).await, [all[1].as_str()]);
    assert_eq!(find(&format!("created[lte]={START_S}")).await, [all[2].as_str()]);
    assert_eq!(find(&format!("created={}", START_S + 1)).await, [all[1].as_str()]);
}

#[tokio::test]
async fn modes_and_accounts_do_not_see_each_other() {
    let (bench, all) = with_transfers(1).await;
    let live = bench.anonymous("GET", "/v1/transfers", "").header("authorization", "Bearer sk_live_1");
    assert!(live.answer().await.ids().is_empty());
    let path = format!("/v1/transfers/{}", all[0]);
    let live = bench.anonymous("GET", &path, "").header("authorization", "Bearer sk_live_1").answer().await;
    assert_eq!(live.refusal(), (404, "resource_missing", "transfer"));
    let account = bench.ask("GET", &path, "").header("stripe-account", "acct_1").answer().await;
    assert_eq!(account.refusal(), (404, "resource_missing", "transfer"));
    assert_eq!(bench.get(&path).await.status, 200);
}

#[tokio::test]
async fn events_are_filtered_by_type_and_kept_for_a_month() {
    let (bench, _) = with_transfers(2).await;
    bench.post("/v1/payment_intents", "amount=5&currency=usd").await;
    let count = async |filter: &str| bench.get(&format!("/v1/events?{filter}")).await.ids().len();
    assert_eq!(count("").await, 3);
    assert_eq!(count("type=transfer.created").await, 2);
    assert_eq!(count("types[]=payment_intent.created&types[]=refund.created").await, 1);
    assert_eq!(count("types[0]=transfer.*").await, 2);
    // Without an endpoint there is nothing that could have failed.
    assert_eq!((count("delivery_success=false").await, count("delivery_success=true").await), (0, 3));
    bench.running.advance(30 * 24 * 3600).await;
    assert_eq!(count("").await, 1);
}

#[tokio::test]
async fn hidden_objects_are_missing_from_lists_until_their_time() {
    let bench = Bench::start().await;
    bench.fault(json!({ "kind": "hide", "for_s": 60 })).await;
    let hidden = bench.transfer(5).answer().await.id();
    let listed = async || bench.get("/v1/transfers").await.ids();
    assert!(listed().await.is_empty());
    assert_eq!(bench.get(&format!("/v1/transfers/{hidden}")).await.status, 200);
    bench.running.advance(59).await;
    assert!(listed().await.is_empty());
    bench.running.advance(1).await;
    assert_eq!(listed().await, [hidden.as_str()]);

    // For ever, until the faults are cleared.
    bench.fault(json!({ "kind": "hide" })).await;
    let second = bench.transfer(6).answer().await.id();
    bench.running.advance(1_000_000).await;
    assert_eq!(listed().await, [hidden.as_str()]);
    bench.running.control("DELETE", "faults", serde_json::Value::Null).await.unwrap();
    assert_eq!(listed().await, [second.as_str(), &hidden]);

    // A single stale answer.
    bench.running.advance(100).await;
    let third = bench.transfer(7).answer().await.id();
    bench.fault(json!({ "kind": "hide", "for_s": 60 })).await;
    assert_eq!(listed().await, [second.as_str(), &hidden]);
    assert_eq!(listed().await, [third.as_str(), &second, &hidden]);
}
