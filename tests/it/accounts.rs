//! F-P-23: an account is paid to only while the platform's own provider says that it can be, and only
//! by whoever named it, whatever strangers and connected accounts tell (`rulings.md` 11).

use std::collections::BTreeMap;

use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use remit::{
    domain::{
        book::{Realm, Scope},
        fact::{Fact, PayoutAccount},
        ids::ProjectId,
        time::Timestamp,
    },
    store::transfers,
};

use serde_json::json;

use super::{
    paying::earn,
    support::{
        TestDb,
        bank::Bank,
        books, on_each_engine,
        program::Owner,
        till::{Till, many, short},
    },
};

/// Stories that are told in each database.
const STORIES: usize = 12;

/// Affiliates of a story, each with an account of its own.
const AFFILIATES: usize = 6;

/// Who says something of an account: where the endpoint belongs and which account it speaks for.
#[derive(Clone, Copy, Debug)]
enum Teller {
    /// The platform, of its own account.
    Platform,
    /// The platform's endpoint for connected accounts, of the account itself.
    Itself,
    /// That endpoint, for another connected account.
    Another,
    /// The platform, of the other mode.
    OtherMode,
    /// Somebody else's project, of the other platform's account.
    Stranger,
    /// Somebody else's project, for an account that is connected to both.
    StrangersOwn,
}

/// Somebody says whether an account can be paid.
#[derive(Clone, Debug)]
struct Told {
    by: Teller,
    account: usize,
    is_ready: bool,
    /// Seconds; few, so that many are told of the same one.
    at_s: i64,
}

impl Told {
    fn fact(&self, account: &str) -> Fact {
        Fact::PayoutAccount(PayoutAccount {
            account_id: account.to_owned(),
            transfers_active: self.is_ready,
            payouts_enabled: true,
            charges_enabled: true,
            details_submitted: true,
            disabled_reason: None,
            at: Timestamp::from_secs(self.at_s),
        })
    }

    fn scope(&self, stranger: &ProjectId, account: &str, another: &str) -> Scope {
        let own = Realm::new("stripe", false, "");
        let (project_id, realm) = match self.by {
            Teller::Platform => (ProjectId::platform(), own),
            Teller::Itself => (ProjectId::platform(), own.of_account(account)),
            Teller::Another => (ProjectId::platform(), own.of_account(another)),
            Teller::OtherMode => (ProjectId::platform(), Realm::new("stripe", true, "")),
            Teller::Stranger => (stranger.clone(), own),
            Teller::StrangersOwn => (stranger.clone(), own.of_account(account)),
        };
        Scope { project_id, realm }
    }

    /// Whether it says anything of an account of ours.
    fn counts(&self) -> bool {
        matches!(self.by, Teller::Platform | Teller::Itself)
    }
}

fn told() -> impl Strategy<Value = Told> {
    let by = prop_oneof![
        2 => Just(Teller::Platform),
        2 => Just(Teller::Itself),
        1 => Just(Teller::Another),
        1 => Just(Teller::OtherMode),
        2 => Just(Teller::Stranger),
        2 => Just(Teller::StrangersOwn),
    ];
    (by, 0..AFFILIATES, any::<bool>(), 0..4_i64).prop_map(|(by, account, is_ready, at_s)| Told {
        by,
        account,
        is_ready,
        at_s,
    })
}

/// What the platform was told last of each account; of one second, the worst.
fn ready(story: &[Told]) -> BTreeMap<usize, bool> {
    let mut last: BTreeMap<usize, (i64, bool)> = BTreeMap::new();
    for told in story.iter().filter(|told| told.counts()) {
        let known = last.entry(told.account).or_insert((told.at_s, told.is_ready));
        if told.at_s > known.0 {
            *known = (told.at_s, told.is_ready);
        } else if told.at_s == known.0 {
            known.1 &= told.is_ready;
        }
    }
    last.into_iter().map(|(account, (_, is_ready))| (account, is_ready)).collect()
}

on_each_engine! {
    async fn only_the_platforms_word_decides_which_account_is_paid_and_only_its_owner_names_it(db: TestDb) {
        const ORDERS: &str = "SELECT a.account_id, p.destination, i.destination, g.body FROM payout p
            JOIN enrollment e ON e.id = p.enrollment_id
            JOIN payout_account a ON a.organization_id = e.organization_id
            JOIN intent i ON i.payout_id = p.id JOIN generation g ON g.intent_id = i.id";
        let till = Till::open(&db).await;
        let stranger = Owner::create(&db.db, "stranger").await;
        let stranger = ProjectId::parse(&stranger.project()).unwrap();
        let names = many(&till, AFFILIATES).await;
        let account = |place: usize| format!("acct_{}", names[place % AFFILIATES]);
        let (mut runner, mut passed_over) = (TestRunner::deterministic(), 0);
        for number in 0..STORIES {
            let story = prop::collection::vec(told(), 0..24).new_tree(&mut runner).unwrap().current();
            let mut tx = db.db.begin().await.unwrap();
            tx.q("DELETE FROM provider_account").exec().await.unwrap();
            for told in &story {
                let (own, another) = (account(told.account), account(told.account + 1));
                let (scope, fact) = (told.scope(&stranger, &own, &another), told.fact(&own));
                transfers::save(&mut tx, std::iter::once((&scope, &fact))).await.unwrap();
            }
            tx.commit().await.unwrap();

            let ready = ready(&story);
            let sales: Vec<(String, String)> =
                names.iter().map(|name| (name.clone(), format!("{name}_{number}"))).collect();
            let sales: Vec<_> = sales.iter().map(|(name, id)| (&**name, &**id, 10_000, "usd")).collect();
            till.earn(&sales).await;
            let settled = till.settle().await;

            // An account of which nothing was told is tried: the provider will say.
            let is_ready = |place: &usize| ready.get(place).copied().unwrap_or(true);
            let expected: Vec<&str> = (0..AFFILIATES).filter(is_ready).map(|place| &*names[place]).collect();
            let mut paid: Vec<&str> =
                settled.payouts.iter().map(|one| short(one.enrollment_id.as_str())).collect();
            paid.sort_unstable();
            assert_eq!(paid, expected, "{story:?}");
            assert_eq!(settled.skipped.len(), AFFILIATES - expected.len(), "{story:?}");
            passed_over += settled.skipped.len();
            for one in &settled.skipped {
                assert_eq!(one.reason.as_str(), "account_not_ready", "{story:?}");
            }
        }
        // Everything that is to be sent names the account of who earned it, and no other, in its frozen bytes.
        let mut conn = db.db.read().await.unwrap();
        let orders: Vec<(String, String, String, Vec<u8>)> = conn.q(ORDERS).all().await.unwrap();
        let told = (orders.len(), passed_over);
        assert!(told.0 > STORIES && told.1 > STORIES, "{told:?} payouts and refusals prove little");
        for (named, of_payout, of_intent, body) in &orders {
            assert_eq!((of_payout, of_intent), (named, named));
            let body = String::from_utf8_lossy(body);
            let named = format!("destination={named}");
            let fields = body.split('&').filter(|field| field.starts_with("destination"));
            assert_eq!(fields.collect::<Vec<_>>(), [named], "{body}");
        }
    }

    async fn an_account_that_is_not_the_platforms_is_paid_nothing_and_holds_nobody_up(db: TestDb) {
        let bank = Bank::open(&db).await;
        bank.change("UPDATE payout_account SET account_id = 'acct_elsewhere' WHERE account_id = 'acct_ada'").await;
        earn(&bank, "ada", "x", 10_000).await;
        earn(&bank, "bob", "y", 5_000).await;
        bank.settle().await;
        bank.dispatch_over(600, 4).await;
        let made = bank.effects("transfer.created").await;
        assert_eq!(made.len(), 1, "{made:?}");
        assert_eq!((&made[0]["destination"], &made[0]["amount"]), (&json!("acct_bob"), &json!(1_000)));
        // What the provider does not show as the platform's own may be paid one day; until then it waits.
        let states = bank.texts("SELECT destination || ' ' || state FROM payout ORDER BY 1").await;
        assert_eq!(states, ["acct_bob completed", "acct_elsewhere waiting_account"]);
        assert_eq!(bank.texts("SELECT state FROM job ORDER BY 1").await, ["completed", "parked"]);
        bank.assert_balance("ada", [0, 0, 2_000, 0]).await;
        bank.assert_balance("bob", [0, 0, 0, 1_000]).await;
        books::assert_they_add_up(&db.db).await;
        bank.audit().await;
    }
}
