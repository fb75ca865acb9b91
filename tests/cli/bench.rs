//! A directory with a database, and the program run in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
};

use remit::{
    app::{App, demo::Demo},
    clock::SystemClock,
    config::Config,
    store::{Db, DbOptions},
};
use secrecy::SecretString;
use serde_json::{Value, json};
use tempfile::TempDir;

pub const SECRET: &str = "whsec_of_the_tests";
/// The platform's key at the provider.
pub const KEY: &str = "sk_test_of_the_tests";
pub const MASTER_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// Lets every program pay dollars and euros to everybody.
pub const CAN_BE_PAID: &[&str] = &[
    "UPDATE program SET min_payout = '{\"usd\":0,\"eur\":0}', platform_fee_bps = 100",
    "INSERT INTO payout_account (organization_id, provider, account_id, created_at_us)
     SELECT DISTINCT organization_id, 'stripe', 'acct_' || SUBSTR(organization_id, 5), 0 FROM enrollment",
];

/// A directory with a database and nothing else.
pub struct Bench {
    pub directory: TempDir,
}

pub struct Ran {
    pub code: i32,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: output.stdout,
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", String::from_utf8_lossy(&self.out), self.err);
        self
    }

    #[track_caller]
    pub fn data(&self) -> Value {
        let document: Value = serde_json::from_slice(&self.out).unwrap();
        document["data"].clone()
    }
}

impl Bench {
    /// Without a database.
    pub fn empty() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    /// With a database that has the schema.
    pub fn migrated() -> Self {
        let bench = Self::empty();
        bench.run(&["migrate"]).ends_with(0);
        bench
    }

    /// With the programs and affiliates that the fixtures talk about.
    pub fn with_affiliates() -> Self {
        let bench = Self::migrated();
        in_runtime(async {
            let settings = [("secrets.master_key", MASTER_KEY.to_owned())];
            let config =
                Config::load(None, [], settings, |_| unreachable!("no setting names a file")).unwrap();
            let db = Db::connect(&bench.url(), &DbOptions::default()).await.unwrap();
            let app = App::new(db.clone(), Arc::new(config), Arc::new(SystemClock));
            Demo::prepare(&app, &SecretString::from(SECRET)).await.unwrap();
            db.close().await;
        });
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), bytes).unwrap();
        name.to_owned()
    }

    pub fn url(&self) -> String {
        format!("sqlite://{}", self.path("remit.db").display())
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remit"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("REMIT_") {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("REMIT_PROGRAMS__MERGE_GRACE_S", "0")
            .env("REMIT_SECRETS__MASTER_KEY", MASTER_KEY)
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    /// Runs with `--output json` and gives what is under `data`.
    #[track_caller]
    pub fn json(&self, arguments: &[&str], code: i32) -> Value {
        self.run(&[arguments, &["--output", "json"]].concat()).ends_with(code).data()
    }

    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        self.json(&["events", "list", "--limit", "1000"], 0).as_array().unwrap().clone()
    }

    /// Settles where payouts are enabled, and gives what is under `data`, if there is anything.
    #[track_caller]
    pub fn settle(&self, arguments: &[&str], code: i32) -> Value {
        let arguments = [&["settle", "--output", "json"], arguments].concat();
        let ran = Ran::of(self.command(&arguments).env("REMIT_PAYOUTS__LIVE", "true").output().unwrap());
        let ran = ran.ends_with(code);
        if ran.out.is_empty() { Value::Null } else { ran.data() }
    }

    /// One text column of the database.
    pub fn column(&self, sql: &'static str) -> Vec<String> {
        in_runtime(async {
            let db = Db::connect(&self.url(), &DbOptions::default()).await.unwrap();
            let column = db.read().await.unwrap().q(sql).scalars().await.unwrap();
            db.close().await;
            column
        })
    }

    /// Runs statements on the database behind the program's back.
    pub fn tamper(&self, statements: &'static [&'static str]) {
        in_runtime(async {
            let db = Db::connect(&self.url(), &DbOptions::default()).await.unwrap();
            let mut tx = db.begin().await.unwrap();
            for statement in statements {
                tx.q(*statement).exec().await.unwrap();
            }
            tx.commit().await.unwrap();
            db.close().await;
        });
    }
}

pub fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path)
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn event(id: &str, livemode: bool) -> String {
    let object = json!({
        "id": format!("pi_{id}"), "object": "payment_intent", "amount": 10_000, "amount_received": 10_000,
        "created": 1_767_348_000, "currency": "usd", "customer": "cus_1", "livemode": livemode,
        "latest_charge": format!("ch_{id}"), "metadata": {"referral_code": "ada"}, "status": "succeeded",
    });
    let event = json!({
        "id": format!("evt_{id}"), "object": "event", "api_version": "2026-07-29.dahlia",
        "created": 1_767_348_000, "livemode": livemode, "type": "payment_intent.succeeded",
        "data": {"object": object},
    });
    // Spread over lines and with a line at the end: bytes that a re-serialised copy would not have.
    format!("{event:#}\n")
}
