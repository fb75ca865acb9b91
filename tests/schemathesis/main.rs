//! Holds the running program to its description with Schemathesis, a checker that knows nothing of ours:
//! it makes up requests that the description allows, and requests that it does not, and judges every
//! answer by the description alone. What it is told and spared is in `schemathesis.toml`.
//!
//! Needs Python 3.11 or later with venv and installs what `requirements.txt` pins below the target
//! directory. Where that cannot be had, a line says so; with `CI` set nothing is skipped.
#![expect(clippy::unwrap_used, reason = "a test stops where it goes wrong")]

use std::{
    env, fs,
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use remit::store::keys::KeyKind;
use serde_json::json;

#[path = "../crash/program.rs"]
#[expect(dead_code, reason = "the kill tests use the rest")]
mod program;
#[path = "../it/support/mod.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod support;

use program::Program;
use support::{
    TestDb, api,
    bank::{self, Bank},
    on_each_engine,
    shop::charge,
};

/// Fails where a document is no OpenAPI.
const VALIDATE: &str = "\
import json, sys, urllib.request, openapi_spec_validator
openapi_spec_validator.validate(json.load(urllib.request.urlopen(sys.argv[1])))";

/// The default endpoint's secret.
const SIGNING_SECRET: &str = "whsec_schemathesis";

on_each_engine! {
    async fn the_program_is_as_it_is_described(db: TestDb) {
        let Some(tools) = tools() else { return };
        let bank = Bank::open(&db).await;
        let objects = objects(&bank).await;
        let node = Program::on(db.url())
            .with("REMIT_STRIPE__SECRET_KEY", bank::KEY)
            .with("REMIT_STRIPE__API_BASE", &bank.sandbox.url())
            .with("REMIT_STRIPE__WEBHOOK_SECRETS", SIGNING_SECRET)
            .with("REMIT_PAYOUTS__LIVE", "true")
            .serve()
            .await;
        let document = format!("{}/openapi.json", node.base);
        let mut validate = Command::new(tools.join("bin/python"));
        validate.args(["-c", VALIDATE, &document]);
        finish(validate, "the description is not valid").await;

        let mut check = Command::new(tools.join("bin/schemathesis"));
        check
            .args(["--config-file", "schemathesis.toml", "run", &document])
            .envs(objects);
        finish(check, "the program is not as described").await;
        drop(node);
    }
}

/// Something of everything: a payout that was sent and came back in part, one that waits, a sale to be
/// reviewed. Gives the ids by the names that `schemathesis.toml` uses, and keys.
async fn objects(bank: &Bank) -> Vec<(&'static str, String)> {
    let told = |id: &str, who: &str, amount| {
        let mut event = charge(id, amount, None);
        event["data"]["object"]["metadata"] = json!({ "referral_code": who });
        event
    };
    bank.shop.tell_and_process(&[told("one", "ada", 10_000), told("two", "bob", 5_000)]).await;
    bank.shop.pass_grace().await;
    bank.pass_time().await;
    bank.settle().await;
    bank.dispatch().await;
    bank.tell().await;
    bank.shop.tell_and_process(&[told("three", "ada", 2_500)]).await;
    let app = &bank.shop.node.app;
    let first = async |sql| bank.texts(sql).await.swap_remove(0);
    let spare = api::key(app, KeyKind::Operator, None).await;
    let spare = format!("key_{}", spare.split('_').nth(2).unwrap());
    vec![
        ("REMIT_KEY", api::key(app, KeyKind::Operator, None).await),
        ("REMIT_APPROVER", api::key(app, KeyKind::Operator, None).await),
        ("REMIT_SPARE_KEY_ID", spare),
        ("REMIT_ORGANIZATION_ID", bank.shop.owner.id("org_", "ada")),
        ("REMIT_PROJECT_ID", bank.shop.owner.project()),
        ("REMIT_PROGRAM_ID", bank.shop.owner.id("prog_", "fifth")),
        ("REMIT_ENROLLMENT_ID", bank.shop.enrollment("ada")),
        ("REMIT_PAYOUT_ID", first("SELECT id FROM payout ORDER BY id").await),
        ("REMIT_JOB_ID", first("SELECT id FROM job ORDER BY id").await),
        ("REMIT_SALE_ID", first("SELECT id FROM sale ORDER BY id").await),
        ("REMIT_CONVERSION_ID", first("SELECT id FROM conversion ORDER BY id").await),
        ("REMIT_COMMISSION_ID", first("SELECT id FROM commission ORDER BY id").await),
    ]
}

/// Runs a command in this directory to its end, which must be a success.
async fn finish(mut command: Command, otherwise: &str) {
    command.current_dir(home()).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(
        output.status.success(),
        "{otherwise}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis")
}

/// An environment with what `requirements.txt` pins, made once and made again when that changes.
fn tools() -> Option<&'static Path> {
    static TOOLS: OnceLock<Option<PathBuf>> = OnceLock::new();
    let made = TOOLS.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // Another checkout's tests may run beside this one; the lock ends with the file.
        let lock = File::create(target.join("schemathesis.lock")).unwrap();
        lock.lock().unwrap();
        let tools = target.join("schemathesis");
        let pins = fs::read(home().join("requirements.txt")).unwrap();
        if fs::read(tools.join("requirements.txt")).is_ok_and(|made_from| made_from == pins) {
            return Some(tools);
        }
        match install(&tools) {
            Ok(()) => {
                // Last, so that an environment that was left half made is made again.
                fs::write(tools.join("requirements.txt"), pins).unwrap();
                Some(tools)
            }
            Err(reason) => {
                assert!(env::var_os("CI").is_none(), "with CI set nothing is skipped: {reason}");
                // Written past the test harness, which would swallow the output of a test that passes.
                let _ = writeln!(std::io::stderr(), "SKIPPED Schemathesis: {reason}");
                None
            }
        }
    });
    made.as_deref()
}

fn install(tools: &Path) -> Result<(), String> {
    let python = env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let run = |command: &mut Command| match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(error.to_string()),
    };
    run(Command::new(python).args(["-m", "venv", "--clear"]).arg(tools))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"];
    let pins = home().join("requirements.txt");
    run(Command::new(tools.join("bin/python")).args(pip).arg("-r").arg(pins))
}
