//! A replay that is killed and run again ends where a single one would have.

use std::os::unix::process::ExitStatusExt as _;

use remit::failpoint::{Failpoint, VARIABLE};
use serde_json::{Value, json};

use super::{
    program::Program,
    run::Run,
    support::{TestDb, books, on_each_engine},
    traffic::{Rng, stories},
};

/// Every point that a replay passes, some of them later than the first time.
const DEATHS: [&str; 8] = [
    Failpoint::ReplayBeforeCommit.as_str(),
    Failpoint::ReplayAfterCommit.as_str(),
    Failpoint::ProcessAfterFold.as_str(),
    Failpoint::ProcessBeforeCommit.as_str(),
    Failpoint::ProcessAfterCommit.as_str(),
    "process.before_commit:2",
    "process.after_commit:2",
    "process.after_fold:1",
];
