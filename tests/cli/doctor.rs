//! What `remit doctor` shows, and finds after every change that no code of the program makes.

use std::fs;

use serde_json::json;

use super::bench::{Bench, CAN_BE_PAID, MASTER_KEY, Ran, SECRET, fixture, text};

#[test]
fn doctor_shows_the_configuration_with_secrets_masked() {
    let bench = Bench::migrated();
    let mut command = bench.command(&["doctor", "--output", "json"]);
    let ran = Ran::of(command.env("REMIT_STRIPE__WEBHOOK_SECRETS", SECRET).output().unwrap()).ends_with(0);
    let data = ran.data();
    assert_eq!(data["findings"], json!([]));
    assert_eq!(data["database"]["engine"], "sqlite");
    let setting = |key: &str| {
        let found = data["settings"].as_array().unwrap().iter().find(|setting| setting["key"] == key);
        found.unwrap().clone()
    };
    assert_eq!(setting("stripe.webhook_secrets")["source"], "REMIT_STRIPE__WEBHOOK_SECRETS");
    assert_eq!(setting("stripe.tolerance_s")["source"], "default");
    let text = String::from_utf8(ran.out).unwrap();
    assert!(!text.contains(SECRET) && !text.contains(MASTER_KEY));
}

/// What `remit doctor` must say after a change that no code of the program makes.
struct Tampering {
    statements: &'static [&'static str],
    finds: &'static [&'static str],
}

const TAMPERINGS: &[Tampering] = &[
    Tampering {
        statements: &[
            "DROP TRIGGER posting_no_update",
            "UPDATE posting SET amount_minor = amount_minor + 1
                WHERE side = 'credit' AND entry_id = (SELECT MIN(id) FROM entry WHERE kind = 'accrual')",
        ],
        finds: &["entry_balanced", "entry_content_hash", "balance_is_sum_of_postings"],
    },
    Tampering {
        // Both lines: the entry still balances, so only the hash and the sums can tell.
        statements: &[
            "DROP TRIGGER posting_no_update",
            "UPDATE posting SET amount_minor = amount_minor + 1
                WHERE entry_id = (SELECT MIN(id) FROM entry WHERE kind = 'accrual')",
        ],
        finds: &["entry_content_hash", "balance_is_sum_of_postings", "commission_earned_is_posted"],
    },
    Tampering {
        statements: &["DROP TRIGGER entry_no_update", "UPDATE entry SET currency = 'chf'"],
        finds: &["entry_content_hash", "balance_is_sum_of_postings"],
    },
    Tampering {
        statements: &[
            "DROP TRIGGER posting_no_delete",
            "DELETE FROM posting WHERE entry_id = (SELECT MIN(id) FROM entry)",
        ],
        finds: &["entry_balanced", "entry_content_hash"],
    },
    Tampering {
        statements: &["UPDATE balance SET credit_minor = credit_minor + 5 WHERE account = 'payable'"],
        finds: &["balance_is_sum_of_postings", "unclaimed_lots_are_payable"],
    },
    Tampering {
        statements: &["UPDATE balance SET credit_minor = credit_minor + 5 WHERE account = 'held'"],
        finds: &["balance_is_sum_of_postings", "held_balance_is_sum_of_commissions"],
    },
    Tampering {
        statements: &["DELETE FROM lot WHERE id = (SELECT MIN(id) FROM lot)"],
        finds: &["unclaimed_lots_are_payable", "lots_follow_entries"],
    },
    Tampering {
        statements: &[
            "UPDATE commission SET earned_minor = earned_minor + 7, released_minor = released_minor + 7
                WHERE state = 'payable'",
        ],
        finds: &["commission_earned_is_posted", "commission_released_is_posted"],
    },
    Tampering {
        statements: &["UPDATE commission SET clawed_minor = clawed_minor + 1, held_minor = held_minor - 1
                WHERE state = 'flagged'"],
        finds: &[
            "commission_clawed_is_posted",
            "commission_held_is_posted",
            "held_balance_is_sum_of_commissions",
        ],
    },
    Tampering {
        statements: &[
            "PRAGMA ignore_check_constraints = ON",
            "UPDATE commission SET earned_minor = earned_minor + 1 WHERE state = 'payable'",
        ],
        finds: &["commission_adds_up", "commission_earned_is_posted"],
    },
    Tampering {
        statements: &["UPDATE commission SET revision = revision + 1"],
        finds: &["revisions_without_gaps"],
    },
    Tampering {
        statements: &["UPDATE commission SET state = 'payable' WHERE state = 'flagged'"],
        finds: &["state_fits_amounts"],
    },
    Tampering {
        statements: &["UPDATE commission SET state = 'reversed' WHERE state = 'payable'"],
        finds: &["state_fits_amounts"],
    },
    Tampering {
        statements: &[
            "UPDATE sale SET merged_into = (SELECT MAX(id) FROM sale) WHERE id = (SELECT MIN(sale_id) FROM commission)",
        ],
        finds: &["merged_sale_is_empty"],
    },
    Tampering {
        statements: &["UPDATE inbox SET state = 'received', next_attempt_at_us = 1
                WHERE id = (SELECT MIN(id) FROM inbox)"],
        finds: &["event_stuck"],
    },
    Tampering {
        // A copy without its keys, as a careless restore makes it.
        statements: &[
            "PRAGMA defer_foreign_keys = ON",
            "CREATE TABLE copy AS SELECT * FROM sale_alias",
            "DROP TABLE sale_alias",
            "ALTER TABLE copy RENAME TO sale_alias",
            "INSERT INTO sale_alias SELECT * FROM sale_alias LIMIT 1",
        ],
        finds: &["one_sale_per_provider_object"],
    },
];

/// The same where payouts were made.
const PAYOUT_TAMPERINGS: &[Tampering] = &[
    Tampering {
        statements: &["UPDATE payout SET due_minor = due_minor + 1, send_minor = send_minor + 1"],
        finds: &["payout_is_its_items", "in_transit_is_reserved", "payout_has_its_intent"],
    },
    Tampering {
        statements: &["UPDATE lot SET payout_id = NULL WHERE payout_id IS NOT NULL"],
        finds: &["lot_in_one_payout", "unclaimed_lots_are_payable", "claimed_is_held_by_a_payout"],
    },
    Tampering {
        // A lot in two payouts of which neither was given up.
        statements: &[
            "INSERT INTO payout SELECT 'po_twin', run_id, program_id, enrollment_id, organization_id, currency,
                 due_minor, fee_minor, send_minor, state, reason, provider, livemode, destination,
                 on_transfer_reversed, transfer_id, reversed_minor, returned_minor, revision, created_at_us,
                 completed_at_us
             FROM payout WHERE id = (SELECT MIN(id) FROM payout)",
            "INSERT INTO payout_item SELECT 'po_twin', lot_id, commission_id, amount_minor FROM payout_item
             WHERE payout_id = (SELECT MIN(id) FROM payout WHERE id <> 'po_twin')",
        ],
        finds: &[
            "lot_in_one_payout",
            "in_transit_is_reserved",
            "payout_has_its_intent",
            "payout_revisions_without_gaps",
        ],
    },
    Tampering {
        statements: &["UPDATE payout_item SET lot_id = 'lot_nowhere' WHERE lot_id = (SELECT MIN(lot_id) FROM payout_item)"],
        finds: &["lot_in_one_payout", "payout_item_has_a_lot"],
    },
    Tampering {
        statements: &["UPDATE commission SET claimed = 0 WHERE claimed = 1"],
        finds: &["claimed_is_held_by_a_payout"],
    },
    Tampering {
        statements: &["UPDATE payout SET state = 'completed'"],
        finds: &["in_transit_is_reserved", "paid_is_sent", "payout_fits_its_intent"],
    },
    Tampering {
        statements: &["UPDATE payout SET state = 'canceled'"],
        finds: &["lot_in_one_payout", "in_transit_is_reserved", "payout_fits_its_intent"],
    },
    Tampering {
        statements: &["UPDATE balance SET credit_minor = credit_minor + 5 WHERE account = 'in_transit'"],
        finds: &["balance_is_sum_of_postings", "in_transit_is_reserved", "earned_is_accounted_for"],
    },
    Tampering {
        statements: &["UPDATE intent SET amount_minor = amount_minor + 1"],
        finds: &["payout_has_its_intent"],
    },
    Tampering {
        statements: &["DELETE FROM job"],
        finds: &["payout_has_its_intent"],
    },
    Tampering {
        statements: &["UPDATE payout_run SET state = 'running', created_at_us = 1"],
        finds: &["settlement_stuck"],
    },
    Tampering {
        statements: &["UPDATE payout SET revision = 2"],
        finds: &["payout_revisions_without_gaps"],
    },
];

#[test]
fn doctor_finds_every_way_in_which_the_books_were_changed() {
    let original = Bench::with_affiliates();
    original.json(&["replay", text(&fixture("stripe")), text(&fixture("paddle"))], 0);
    find_all(&original, TAMPERINGS);
    original.tamper(CAN_BE_PAID);
    assert!(!original.settle(&["--yes"], 0)["payouts"].as_array().unwrap().is_empty());
    find_all(&original, PAYOUT_TAMPERINGS);
}

/// Copies a database that doctor finds nothing in, once per change, and has doctor find the change.
fn find_all(original: &Bench, tamperings: &[Tampering]) {
    assert_eq!(original.json(&["doctor"], 0)["findings"], json!([]));
    for tampering in tamperings {
        let bench = Bench::empty();
        for entry in fs::read_dir(original.directory.path()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), bench.directory.path().join(entry.file_name())).unwrap();
        }
        bench.tamper(tampering.statements);
        let found = bench.json(&["doctor"], 3);
        let named: Vec<&str> = found["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|finding| finding["invariant"].as_str().unwrap())
            .collect();
        for expected in tampering.finds {
            assert!(named.contains(expected), "{expected} after {:?}: {named:?}", tampering.statements);
        }
    }
}
