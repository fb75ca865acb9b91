//! The first property: whatever order, repetition and grouping its events come in, a story ends in the
//! balances that the reference model computes from its truth.
//!
//! `cargo test` tells a few hundred stories. `REMIT_CASES=100000 cargo test --release --lib book` tells
//! a hundred thousand. What single rules mean is shown in [`examples`].

mod examples;
mod positions;
mod uplines;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    model::{Balances, ENROLLMENTS, TURN},
    story::{Step, Story, directory, owner},
    *,
};
use crate::domain::{
    ids::{CommissionId, EntryId},
    ledger::{Account, Entry, Side},
    money::Currency,
    program::Directory,
    terms::Terms,
};

/// As configured by default (`rulings.md` 5).
const MERGE_GRACE_S: i64 = 900;

/// How many stories to tell, `by_default` unless the environment says otherwise.
fn cases(by_default: u32) -> ProptestConfig {
    let cases = std::env::var("REMIT_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(by_default),
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    }
}

/// Repeatable numbers for orders and groupings; small and good enough for shuffling (`SplitMix64`).
struct Shuffler(u64);

impl Shuffler {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for place in (1..items.len()).rev() {
            items.swap(place, self.below(place + 1));
        }
    }
}

/// How the ids that nobody knows yet become sales. Both must come to the same end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// One sale for all new ids of one fact, as the processor does.
    Grouped,
    /// One sale for every new id; the facts merge them.
    OneEach,
}

/// A ledger with a book on top: what the store and the processor are to the real one.
struct Shop {
    book: Book,
    directory: Directory,
    opening: Opening,
    ids: Shuffler,
    now: Timestamp,
    events: u32,
    balances: Balances,
    entries: BTreeSet<EntryId>,
    per_commission: BTreeMap<CommissionId, PostedSoFar>,
    /// The sums of sales that are kept from fold to fold.
    kept: BTreeMap<CounterKey, Tally>,
}

/// What was posted for one commission, by account from the credit side.
#[derive(Default)]
struct PostedSoFar {
    revision: i64,
    by_account: BTreeMap<(Account, Currency), i64>,
    lots: i64,
}

impl Shop {
    fn new(terms: &[[Terms; 2]], opening: Opening, seed: u64) -> Self {
        Self {
            book: Book::default(),
            directory: directory(terms),
            opening,
            ids: Shuffler(seed),
            now: TURN,
            events: 0,
            balances: Balances::new(),
            entries: BTreeSet::new(),
            per_commission: BTreeMap::new(),
            kept: BTreeMap::new(),
        }
    }

    /// Opens sales for the ids that nobody knows yet.
    fn open(&mut self, scope: &Scope, objects: &[&ObjectRef]) {
        let keys: Vec<AliasKey> = objects.iter().map(|object| AliasKey::new(scope, object)).collect();
        let mut known = match self.opening {
            Opening::Grouped => keys.iter().find_map(|key| self.book.find(key)).cloned(),
            Opening::OneEach => None,
        };
        for key in keys {
            if self.book.find(&key).is_some() {
                continue;
            }
            let id = known.clone().unwrap_or_else(|| {
                let id = SaleId::random(Timestamp::EPOCH, u128::from(self.ids.next()));
                self.book.insert(Sale::open(id.clone(), scope.clone(), owner()));
                id
            });
            self.book.add_alias(&id, key);
            if self.opening == Opening::Grouped {
                known = Some(id);
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Event { scope, facts } => {
                self.events += 1;
                let cause = Cause::Event(format!("in_{}", self.events));
                for fact in facts {
                    self.open(scope, &Book::objects_of(fact));
                    self.book.apply(scope, fact, &cause, self.now).unwrap();
                }
            }
            Step::Decision { scope, object, decision } => {
                self.open(scope, &[object]);
                let id = self.book.find(&AliasKey::new(scope, object)).unwrap().clone();
                let now = self.now;
                let sale = self.book.touch(&id).unwrap();
                if sale.decisions.iter().all(|known| known.id != decision.id) {
                    sale.decisions.push(decision.clone());
                    if decision.kind == DecisionKind::Approve {
                        let commissions = sale.commissions.iter_mut();
                        commissions.for_each(|commission| commission.clear_flags(&decision.id, now));
                    }
                }
            }
        }
    }

    /// Folds, posts, and checks what must be true after every fold. Returns how many entries it posted.
    fn fold(&mut self) -> usize {
        let folded = self.fold_and_post();
        folded.iter().flat_map(|folded| &folded.posted).map(|posted| posted.entries.len()).sum()
    }

    /// Folds with what the rules count, as the store gives it: payments are counted anew each time, the sums
    /// of sales are kept. What is kept must be what counting anew gives.
    fn fold_and_post(&mut self) -> Vec<Folded> {
        let mut wanted: BTreeSet<CounterKey> = BTreeSet::new();
        let folded = loop {
            self.book.tallies = Tallies::default();
            for key in &wanted {
                let counted = self.count(key);
                let tally = match self.kept.get(key) {
                    Some(kept) => Tally { count: kept.count, revenue: kept.revenue, ..counted },
                    None => counted,
                };
                self.book.tallies.insert(key.clone(), tally);
            }
            match self.book.fold(&self.directory, self.now, MERGE_GRACE_S) {
                Ok(folded) => break folded,
                Err(FoldError::Uncounted(keys)) => {
                    assert!(keys.is_disjoint(&wanted), "{keys:?} were counted");
                    wanted.extend(keys);
                }
                Err(error) => panic!("{error}"),
            }
        };
        for key in &wanted {
            let counted = self.count(key);
            let noted = self.book.tallies.get(key.clone()).unwrap();
            assert_eq!((noted.count, noted.revenue), (counted.count, counted.revenue), "{key:?}");
        }
        let sums = self.book.tallies.of_sales().map(|(key, tally)| (key.clone(), tally.clone()));
        self.kept.extend(sums);
        for (key, kept) in &self.kept {
            let counted = self.count(key);
            assert_eq!((kept.count, kept.revenue), (counted.count, counted.revenue), "{key:?}");
        }
        for posted in folded.iter().flat_map(|folded| &folded.posted) {
            for entry in &posted.entries {
                self.post(entry);
            }
            let so_far = self.per_commission.entry(posted.commission.id.clone()).or_default();
            so_far.lots += posted.lots.iter().map(|lot| lot.amount).sum::<i64>();
            check_commission(&posted.commission, so_far);
        }
        folded
    }

    /// What the commissions of the book count under a key.
    fn count(&self, key: &CounterKey) -> Tally {
        let all = self.book.sales().flat_map(|sale| &sale.commissions);
        let mut counted: Vec<&Commission> = match key {
            CounterKey::Sales(enrollment, currency) => all
                .filter(|known| known.enrollment_id == *enrollment)
                .filter(|known| known.counted.is_some_and(|counted| counted.currency == *currency))
                .collect(),
            CounterKey::Payments(enrollment, customer) => all
                .filter(|known| known.enrollment_id == *enrollment && known.position.is_some())
                .filter(|known| known.customer_key.as_ref() == Some(customer))
                .filter(|known| known.state != CommissionState::Denied)
                .collect(),
        };
        counted.sort_by_key(|known| (known.paid_at, known.id.clone()));
        let first = |known: &&Commission| FirstPayment {
            paid_at: known.paid_at,
            terms: known.terms.clone(),
            terms_version: known.terms_version,
        };
        let is_of_payments = matches!(key, CounterKey::Payments(..));
        Tally {
            count: i64::try_from(counted.len()).unwrap(),
            revenue: counted.iter().filter_map(|known| known.counted).map(|counted| counted.minor).sum(),
            latest_paid_at: counted.last().map(|known| known.paid_at),
            first: counted.first().filter(|_| is_of_payments).map(first),
        }
    }

    fn post(&mut self, entry: &Entry) {
        assert!(self.entries.insert(entry.id.clone()), "entry {} was posted twice", entry.id);
        let so_far = self
            .per_commission
            .entry(entry.about.commission_id().expect("the fold posts to commissions").clone())
            .or_default();
        so_far.revision += 1;
        assert_eq!(entry.revision, so_far.revision, "revisions of {} have a gap", entry.about.as_str());
        let mut balance = 0;
        for line in entry.lines() {
            assert!(line.amount > 0);
            let signed = if line.side == Side::Credit { line.amount } else { -line.amount };
            balance += signed;
            *so_far.by_account.entry((line.account, entry.currency)).or_default() += signed;
            let account = (line.owner.as_str().to_owned(), line.account, entry.currency);
            *self.balances.entry(account).or_default() += signed;
        }
        assert_eq!(balance, 0, "entry {} does not balance", entry.id);
    }

    /// A payout claims everything that is payable.
    fn claim_all(&mut self) {
        let ids: Vec<SaleId> = self.book.sales().map(|sale| sale.id.clone()).collect();
        for id in ids {
            let Some(sale) = self.book.sales.get_mut(&id) else { continue };
            let payable = |known: &&mut Commission| known.state == CommissionState::Payable;
            for commission in sale.commissions.iter_mut().filter(payable) {
                commission.claimed = true;
                commission.state = CommissionState::InPayout;
            }
        }
    }

    /// Lets all time pass, then checks that nothing moves any more.
    fn finish(&mut self) -> Balances {
        for round in 0.. {
            assert!(round < 5, "something is always due");
            self.now = self.now.plus_days(5_000);
            self.touch_all();
            self.fold();
            if self.book.sales().all(|sale| sale.commissions.iter().all(|known| known.due_at.is_none())) {
                break;
            }
        }
        self.touch_all();
        assert_eq!(self.fold(), 0, "a fold without news posted something");
        let mut balances = self.balances.clone();
        balances.retain(|_, balance| *balance != 0);
        balances
    }

    fn touch_all(&mut self) {
        let ids: Vec<SaleId> = self.book.sales().map(|sale| sale.id.clone()).collect();
        for id in ids {
            self.book.touch(&id);
        }
    }
}

fn check_commission(commission: &Commission, so_far: &PostedSoFar) {
    let posted =
        |account| so_far.by_account.get(&(account, commission.currency)).copied().unwrap_or_default();
    assert_eq!(commission.revision, so_far.revision);
    assert_eq!(commission.earned - commission.clawed, commission.held + commission.released);
    assert_eq!(posted(Account::Held), commission.held, "{commission:?}");
    assert_eq!(posted(Account::Payable), commission.released, "{commission:?}");
    assert_eq!(posted(Account::Expense), commission.clawed - commission.earned, "{commission:?}");
    assert_eq!(so_far.lots, commission.released, "{commission:?}");
    assert!(commission.held >= 0 && commission.released >= 0, "{commission:?}");
    assert!(commission.clawed >= 0 && commission.clawed <= commission.earned, "{commission:?}");
    for ((_, currency), balance) in &so_far.by_account {
        assert!(*currency == commission.currency || *balance == 0, "money is left in {currency}");
    }
    match commission.state {
        CommissionState::AwaitingReview | CommissionState::Denied | CommissionState::Reversed => {
            assert_eq!(commission.held + commission.released, 0, "{commission:?}");
        }
        CommissionState::Held | CommissionState::Flagged => assert_eq!(commission.released, 0),
        CommissionState::Payable | CommissionState::InPayout | CommissionState::Paid => {
            assert_eq!(commission.held, 0);
        }
    }
}

/// Tells the steps in one order and returns the end.
fn tell(story: &Story, order: &[&Step], opening: Opening, seed: u64) -> Balances {
    let mut shop = Shop::new(&story.truth.terms, opening, seed);
    let mut chance = Shuffler(seed ^ 0xff);
    for step in order {
        shop.step(step);
        if chance.below(2) == 0 {
            shop.fold();
            // From seconds to weeks, so that holds end in the middle of stories.
            shop.now = shop.now.plus_secs([0, 1, 600, 1_000, 90_000, 3_000_000][chance.below(6)]);
        }
    }
    let balances = shop.finish();
    let sales: Vec<&Sale> = shop.book.sales().filter(|sale| !sale.facts.payments.is_empty()).collect();
    assert_eq!(sales.len(), story.truth.payments.len(), "one payment is one sale in the end");
    assert!(sales.iter().all(|sale| sale.merged_into.is_none()));
    balances
}

/// Some order in which steps come, some of them again and again.
fn any_order<'a>(story: &'a Story, shuffler: &mut Shuffler) -> Vec<&'a Step> {
    let mut order: Vec<&Step> = story.steps.iter().collect();
    for _ in 0..shuffler.below(order.len() + 1) {
        order.push(&story.steps[shuffler.below(story.steps.len())]);
    }
    shuffler.shuffle(&mut order);
    order
}

/// Every order of `items` (Heap's algorithm).
fn every_order<T: Copy>(items: &[T]) -> Vec<Vec<T>> {
    fn permute<T: Copy>(items: &mut Vec<T>, length: usize, orders: &mut Vec<Vec<T>>) {
        if length <= 1 {
            orders.push(items.clone());
            return;
        }
        for place in 0..length {
            permute(items, length - 1, orders);
            let other = if length.is_multiple_of(2) { place } else { 0 };
            items.swap(other, length - 1);
        }
    }
    let mut orders = Vec::new();
    permute(&mut items.to_vec(), items.len(), &mut orders);
    orders
}

/// Up to this many steps a story is told in every order.
const EVERY_ORDER_MAX: usize = 6;

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn any_order_and_repetition_of_a_story_ends_as_its_truth_says(
        rolls in prop::collection::vec(any::<u32>(), 0..220),
        seed in any::<u64>(),
    ) {
        let story = Story::tell(&rolls, 3);
        let expected = story.truth.expected();
        let in_order: Vec<&Step> = story.steps.iter().collect();
        prop_assert_eq!(&tell(&story, &in_order, Opening::Grouped, seed), &expected, "in order");
        let reversed: Vec<&Step> = story.steps.iter().rev().collect();
        prop_assert_eq!(&tell(&story, &reversed, Opening::OneEach, seed), &expected, "reversed");
        let mut shuffler = Shuffler(seed);
        for opening in [Opening::Grouped, Opening::OneEach, Opening::Grouped, Opening::OneEach] {
            let order = any_order(&story, &mut shuffler);
            prop_assert_eq!(&tell(&story, &order, opening, seed), &expected, "{:?} {:#?}", opening, order);
        }
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn what_payouts_claim_in_the_middle_of_a_story_is_never_moved_back_nor_earned_twice(
        rolls in prop::collection::vec(any::<u32>(), 0..220),
        seed in any::<u64>(),
    ) {
        let story = Story::tell(&rolls, 3);
        let mut shuffler = Shuffler(seed);
        let mut shop = Shop::new(&story.truth.terms, Opening::OneEach, seed);
        let mut claimed: BTreeSet<CommissionId> = BTreeSet::new();
        for step in any_order(&story, &mut shuffler) {
            shop.step(step);
            shop.fold();
            shop.now = shop.now.plus_secs([0, 1_000, 3_000_000][shuffler.below(3)]);
            if shuffler.below(4) == 0 {
                shop.touch_all();
                shop.fold();
                shop.claim_all();
            }
            let all = shop.book.sales().flat_map(|sale| &sale.commissions);
            claimed.extend(all.filter(|known| known.claimed).map(|known| known.id.clone()));
        }
        shop.finish();
        for sale in shop.book.sales() {
            let kept = |known: &&Commission| known.level == 0 && known.earned > known.clawed;
            prop_assert!(sale.commissions.iter().filter(kept).count() <= 1, "{:#?}", sale.commissions);
            let nothing = |known: &Commission| known.earned == known.clawed;
            prop_assert!(sale.merged_into.is_none() || sale.commissions.iter().all(nothing));
            for commission in sale.commissions.iter().filter(|known| claimed.contains(&known.id)) {
                prop_assert_eq!((commission.state, commission.held), (CommissionState::InPayout, 0));
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn every_order_of_a_short_story_ends_as_its_truth_says(
        rolls in prop::collection::vec(any::<u32>(), 0..60),
        seed in any::<u64>(),
    ) {
        let mut story = Story::tell(&rolls, 1);
        prop_assume!(story.steps.len() <= EVERY_ORDER_MAX);
        let expected = story.truth.expected();
        let steps = std::mem::take(&mut story.steps);
        let all: Vec<&Step> = steps.iter().collect();
        for order in every_order(&all) {
            let opening = if seed.is_multiple_of(2) { Opening::Grouped } else { Opening::OneEach };
            prop_assert_eq!(&tell(&story, &order, opening, seed), &expected, "{:#?}", order);
        }
    }
}
