//! How the tests are listed and run: each in a runtime of its own, on both engines.
//!
//! The standard harness knows no arguments but its own, so this binary brings one that looks the same.

use std::{future::Future, num::NonZero, sync::OnceLock, thread::available_parallelism};

use libtest_mimic::{Arguments, Conclusion, Trial};
use tokio::runtime;

/// How often a node is killed under load unless somebody says otherwise: what a build can afford.
const KILLS: usize = 4;
/// Says otherwise, like the argument `--kills`.
const KILLS_VARIABLE: &str = "REMIT_KILLS";

static ASKED: OnceLock<usize> = OnceLock::new();

/// How often the tests under load kill a node.
pub fn kills() -> usize {
    *ASKED.get_or_init(|| std::env::var(KILLS_VARIABLE).map_or(KILLS, |kills| number(&kills)))
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("the number of kills is a number, not {text:?}"))
}

/// Runs the tests that the command line asks for; more of them at a time than there are processors,
/// because most of their time they wait for other processes.
pub fn run(trials: Vec<Trial>) -> Conclusion {
    let mut arguments = Vec::new();
    let mut given = std::env::args();
    while let Some(argument) = given.next() {
        let kills = match argument.strip_prefix("--kills") {
            Some("") => given.next(),
            Some(rest) => rest.strip_prefix('=').map(str::to_owned),
            None => None,
        };
        match kills {
            Some(kills) => {
                // Nothing has asked before the first test runs, so the argument wins over the variable.
                let _first = ASKED.set(number(&kills));
            }
            None => arguments.push(argument),
        }
    }
    let mut arguments = Arguments::from_iter(arguments);
    arguments.test_threads.get_or_insert_with(|| 2 * available_parallelism().map_or(1, NonZero::get));
    libtest_mimic::run(&arguments, trials)
}

/// A test by its path. More than one thread, because a provider in this process must go on answering
/// while the test waits for another process.
pub fn trial<F: Future<Output = ()>>(path: &str, test: impl FnOnce() -> F + Send + 'static) -> Trial {
    let name = path.strip_prefix(concat!(env!("CARGO_CRATE_NAME"), "::")).unwrap_or(path);
    Trial::test(name, move || {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(test());
        Ok(())
    })
}

/// Lists tests that take a `TestDb`, each on both engines.
macro_rules! on_each_engine {
    ($($test:ident),+ $(,)?) => {[$(
        $crate::harness::trial(concat!(module_path!(), "::", stringify!($test), "::sqlite"), || async {
            $test($crate::support::TestDb::sqlite().await).await;
        }),
        $crate::harness::on_postgres!($test),
    )+]};
}
pub(crate) use on_each_engine;

/// One test that takes a `TestDb`, on PostgreSQL.
macro_rules! on_postgres {
    ($test:ident) => {
        $crate::harness::trial(concat!(module_path!(), "::", stringify!($test), "::postgres"), || async {
            if let Some(db) = $crate::support::TestDb::postgres(module_path!()).await {
                $test(db).await;
            }
        })
    };
}
pub(crate) use on_postgres;
