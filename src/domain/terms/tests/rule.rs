//! Commission documents: what is read, and what is refused with which words (`checklist.md` 53–58).

use crate::domain::terms::{CommissionRule, ProductRate, Terms};

#[test]
fn a_document_that_can_be_applied_is_read_and_written_as_it_was() {
    for text in [
        r#"{"type":"percentage","bps":2000}"#,
        r#"{"type":"percentage","bps":0}"#,
        r#"{"type":"percentage","bps":10000}"#,
        r#"{"type":"flat","amount_cents":500,"currency":"usd"}"#,
        r#"{"type":"flat","amount_cents":0,"currency":"usd"}"#,
        r#"{"type":"recurring","bps":3000,"max_months":null,"max_payments":null}"#,
        r#"{"type":"recurring","bps":3000,"max_months":12,"max_payments":null}"#,
        r#"{"type":"recurring","bps":3000,"max_months":null,"max_payments":1}"#,
        r#"{"type":"recurring","amount_cents":700,"currency":"eur","max_months":1200,"max_payments":4}"#,
        r#"{"type":"tiered","basis":"count","mode":"whole","tiers":[{"from":0,"bps":1000},{"from":10,"bps":2000}]}"#,
        r#"{"type":"tiered","basis":"count","mode":"whole","tiers":[{"from":5,"amount_cents":100,"currency":"usd"}]}"#,
        r#"{"type":"tiered","basis":"revenue","mode":"marginal","tiers":[{"from":0,"bps":0},{"from":1,"bps":10000}]}"#,
    ] {
        let rule: CommissionRule =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(serde_json::to_string(&rule).unwrap(), text);
    }
    let default_mode = r#"{"type":"tiered","basis":"count","tiers":[{"from":0,"bps":1}]}"#;
    let rule: CommissionRule = serde_json::from_str(default_mode).unwrap();
    assert!(serde_json::to_string(&rule).unwrap().contains(r#""mode":"whole""#));
}

#[test]
fn a_document_that_cannot_be_applied_is_refused_and_says_why() {
    let tiers = |tiers: &str| format!(r#"{{"type":"tiered","basis":"revenue","tiers":[{tiers}]}}"#);
    let marginal = |basis: &str, tier: &str| {
        format!(r#"{{"type":"tiered","basis":"{basis}","mode":"marginal","tiers":[{tier}]}}"#)
    };
    let recurring = |rest: &str| format!(r#"{{"type":"recurring",{rest}}}"#);
    let many = vec![r#"{"from":0,"bps":1}"#; 51].join(",");
    let one_rate = "a rate is either `bps`, or `amount_cents` with `currency`";
    let ascend = "`from` of the tiers must be 0 or more and ascend";
    let marginal_needs = "mode `marginal` needs basis `revenue` and rates in `bps`";
    let of_euro_and_dollar =
        r#"{"from":0,"amount_cents":1,"currency":"usd"},{"from":1,"amount_cents":1,"currency":"eur"}"#;
    let back_to_dollar = format!(r#"{of_euro_and_dollar},{{"from":2,"amount_cents":1,"currency":"usd"}}"#);
    for (text, message) in [
        (r#"{"type":"share","bps":1}"#.to_owned(), "unknown variant `share`"),
        (r#"{"type":"percentage"}"#.to_owned(), "missing field `bps`"),
        (r#"{"type":"percentage","bps":10001}"#.to_owned(), "basis points"),
        (r#"{"type":"percentage","bps":-1}"#.to_owned(), "basis points"),
        (r#"{"type":"percentage","bps":1.5}"#.to_owned(), "invalid type"),
        (r#"{"type":"percentage","bps":1,"max_months":1}"#.to_owned(), "unknown field `max_months`"),
        (
            r#"{"type":"flat","amount_cents":-1,"currency":"usd"}"#.to_owned(),
            "amount_cents must be 0 or more",
        ),
        (r#"{"type":"flat","amount_cents":1}"#.to_owned(), "missing field `currency`"),
        (recurring(r#""max_months":1"#), one_rate),
        (recurring(r#""bps":1,"amount_cents":1,"currency":"usd""#), one_rate),
        (recurring(r#""amount_cents":1"#), one_rate),
        (recurring(r#""amount_cents":-1,"currency":"usd""#), "amount_cents must be 0 or more"),
        (recurring(r#""bps":1,"max_months":0"#), "max_months must be 1 to 1200"),
        (recurring(r#""bps":1,"max_months":1201"#), "max_months must be 1 to 1200"),
        (recurring(r#""bps":1,"max_payments":0"#), "max_payments must be 1 or more"),
        (recurring(r#""bps":1,"max_month":3"#), "unknown field `max_month`"),
        (tiers(""), "tiers must hold 1 to 50 tiers"),
        (tiers(&many), "tiers must hold 1 to 50 tiers"),
        (tiers(r#"{"from":-1,"bps":1}"#), ascend),
        (tiers(r#"{"from":5,"bps":1},{"from":5,"bps":2}"#), ascend),
        (tiers(r#"{"from":5,"bps":1},{"from":4,"bps":2}"#), ascend),
        (tiers(r#"{"from":0}"#), one_rate),
        (tiers(r#"{"from":0,"bps":1,"to":9}"#), "unknown field `to`"),
        (tiers(of_euro_and_dollar), "the flat amounts of the tiers must share one currency"),
        (tiers(&back_to_dollar), "the flat amounts of the tiers must share one currency"),
        (marginal("count", r#"{"from":0,"bps":1}"#), marginal_needs),
        (marginal("revenue", r#"{"from":0,"amount_cents":1,"currency":"usd"}"#), marginal_needs),
    ] {
        let refused = serde_json::from_str::<CommissionRule>(&text).expect_err(&text);
        assert!(refused.to_string().contains(message), "{text}: {refused}");
    }
}

#[test]
fn a_product_rate_names_one_id_of_the_provider() {
    let read = |text: &str| serde_json::from_str::<ProductRate>(text).map_err(|error| error.to_string());
    let rate = read(r#"{"product":"prod_1","bps":4000}"#).unwrap();
    assert_eq!(serde_json::to_string(&rate).unwrap(), r#"{"product":"prod_1","bps":4000}"#);
    assert!(read(r#"{"product":"price_1","amount_cents":0,"currency":"jpy"}"#).is_ok());
    let longest = format!(r#"{{"product":"{}","bps":1}}"#, "p".repeat(200));
    assert!(read(&longest).is_ok());
    let id = "product must be the provider's id of a price or product";
    let too_long = format!(r#"{{"product":"{}","bps":1}}"#, "p".repeat(201));
    for (text, message) in [
        (r#"{"product":"","bps":1}"#, id),
        (r#"{"product":"two words","bps":1}"#, id),
        (r#"{"product":"prød","bps":1}"#, id),
        (too_long.as_str(), id),
        (r#"{"product":"prod_1"}"#, "a rate is either"),
        (r#"{"bps":1}"#, "missing field `product`"),
        (r#"{"product":"prod_1","price":"price_1","bps":1}"#, "unknown field `price`"),
    ] {
        let refused = read(text).expect_err(text);
        assert!(refused.contains(message), "{text}: {refused}");
    }
}

#[test]
fn stored_terms_of_before_a_field_existed_mean_what_they_meant() {
    let terms: Terms = serde_json::from_str(r#"{"commission":{"type":"percentage","bps":1000}}"#).unwrap();
    assert!(terms.product_rates.is_empty() && terms.upline_bps.is_empty() && terms.rate_override.is_none());
    let text = serde_json::to_string(&terms).unwrap();
    assert!(!text.contains("upline_bps") && !text.contains("rate_override"), "{text}");
}
