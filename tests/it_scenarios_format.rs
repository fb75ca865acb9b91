//! The scenario files are well formed and do not contradict themselves. Whether the program meets them is
//! another test's question.

mod scenario_format;

use std::collections::BTreeSet;

use scenario_format::{Scenario, load_all};

/// The smallest scenario that passes; each test below spoils one thing in it.
const SOUND: &str = r#"{
  "title": "One sale",
  "arithmetic": ["10000 x 20 % = 2000"],
  "programs": [{"ref": "main", "commission": {"type": "percentage", "bps": 2000}}],
  "affiliates": [{"ref": "ann", "program": "main", "code": "ann10", "email": "ann@example.com"}],
  "phases": [{
    "events": [{"provider": "stripe", "id": "evt_1", "body": {"id": "evt_1", "type": "t", "created": 1767225600, "data": {"object": {"id": "pi_1"}}}}],
    "decisions": [{"approve": {"sale": "pi_1", "affiliate": "ann"}}],
    "as_of": "2026-02-01T00:00:00Z",
    "expect": {
      "balances": [{"affiliate": "ann", "currency": "usd", "held": 0, "payable": 1500, "in_transit": 0, "paid": 0}],
      "commissions": [{"affiliate": "ann", "sale": "pi_1", "currency": "usd", "earned": 2000, "clawed": 500, "state": "payable"}],
      "events": {"applied": 1, "ignored": 0, "parked": 0},
      "findings": []
    }
  }]
}"#;

/// The defect that is found when `from` in the sound scenario becomes `to`.
fn defect(from: &str, to: &str) -> String {
    assert_eq!(SOUND.matches(from).count(), 1, "`{from}` must name one place");
    Scenario::parse("one_sale", &SOUND.replace(from, to)).expect_err("the scenario is spoiled")
}

#[test]
fn every_scenario_of_the_project_is_sound_and_its_title_its_own() {
    let scenarios = load_all();
    assert!(scenarios.len() >= 30, "only {} scenarios", scenarios.len());
    let titles: BTreeSet<_> = scenarios.iter().map(|scenario| &scenario.title).collect();
    assert_eq!(titles.len(), scenarios.len(), "two scenarios share a title");
}

#[test]
fn the_sound_scenario_passes() {
    let scenario = Scenario::parse("one_sale", SOUND).expect("it is sound");
    assert_eq!(scenario.name, "one_sale");
}

#[test]
fn a_misspelt_key_is_refused() {
    assert!(defect("\"decisions\"", "\"decision\"").contains("unknown field `decision`"));
    assert!(defect("\"bps\": 2000", "\"bps\": 2000, \"cap\": 1").contains("unknown field `cap`"));
    assert!(defect("\"approve\"", "\"aprove\"").contains("unknown variant `aprove`"));
}

#[test]
fn someone_or_something_that_does_not_exist_is_refused() {
    assert!(defect("\"program\": \"main\"", "\"program\": \"other\"").contains("does not exist"));
    assert!(
        defect("\"sale\": \"pi_1\", \"affiliate\": \"ann\"", "\"sale\": \"pi_1\", \"affiliate\": \"bob\"")
            .contains("`bob` does not exist")
    );
    assert!(
        defect("\"object\": {\"id\": \"pi_1\"}", "\"object\": {\"id\": \"pi_2\"}")
            .contains("names the sale `pi_1`")
    );
}

#[test]
fn a_body_with_another_id_is_refused() {
    assert!(defect("\"body\": {\"id\": \"evt_1\"", "\"body\": {\"id\": \"evt_2\"").contains("another id"));
}

#[test]
fn balances_that_are_not_the_sum_of_the_commissions_are_refused() {
    assert!(defect("\"payable\": 1500", "\"payable\": 1501").contains("commissions give"));
    assert!(
        defect("\"held\": 0, \"payable\": 1500", "\"held\": 1500, \"payable\": 0")
            .contains("commissions give")
    );
    assert!(
        defect(
            "{\"affiliate\": \"ann\", \"currency\": \"usd\", \"held\": 0, \"payable\": 1500, \"in_transit\": 0, \"paid\": 0}",
            ""
        )
        .contains("is missing")
    );
}

#[test]
fn amounts_that_do_not_fit_the_state_are_refused() {
    assert!(defect("\"clawed\": 500", "\"clawed\": 2001").contains("do not fit its state"));
    assert!(defect("\"state\": \"payable\"", "\"state\": \"reversed\"").contains("do not fit its state"));
}

#[test]
fn a_wrong_number_of_events_is_refused() {
    assert!(defect("\"applied\": 1", "\"applied\": 2").contains("2 events are expected and 1 delivered"));
}

#[test]
fn an_event_that_cannot_have_settled_by_the_end_of_its_phase_is_refused() {
    assert!(defect("2026-02-01T00:00:00Z", "2026-01-01T00:14:59Z").contains("no time to settle"));
    let on_the_second = SOUND.replace("2026-02-01T00:00:00Z", "2026-01-01T00:15:00Z");
    assert!(Scenario::parse("one_sale", &on_the_second).is_ok());
}

#[test]
fn an_event_that_comes_again_changed_is_refused() {
    let phase =
        SOUND.split_once("\"phases\": [").expect("it has phases").1.trim_end().trim_end_matches("]\n}");
    let again = phase.replace("\"type\": \"t\"", "\"type\": \"u\"");
    let same = SOUND.replace(phase, &format!("{},{phase}", phase.trim_end()));
    assert!(Scenario::parse("one_sale", &same).is_ok(), "delivered twice is fine");
    let changed = SOUND.replace(phase, &format!("{},{again}", phase.trim_end()));
    let found = Scenario::parse("one_sale", &changed).expect_err("the second delivery differs");
    assert!(found.contains("phase 2: event evt_1 comes again with another body"), "{found}");
}
