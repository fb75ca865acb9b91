//! The provider of the demonstration: the sandbox, embedded, with money that is short and an answer that is
//! lost.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::{
    app::demo,
    sandbox::{Options, Running, Sandbox, WebhookEndpoint},
};

/// The provider and the platform's key to it.
pub(super) struct Provider {
    sandbox: Running,
    /// Accepted by it.
    pub secret_key: String,
}

impl Provider {
    /// Starts it. The seed is the same every time, so its ids are too.
    pub async fn start() -> anyhow::Result<Self> {
        let secret_key = format!("sk_test_{:032x}", crate::app::random_u128());
        let options = Options {
            secret_keys: vec![secret_key.clone()],
            balances: demo::FIRST_FUNDS.map(|(currency, minor)| (currency.to_owned(), minor)).into(),
            ..Options::default()
        };
        Ok(Self { sandbox: Sandbox::start(options).await?, secret_key })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        self.sandbox.url()
    }

    /// Tells the node of whatever happens from now on, in signed webhooks.
    pub async fn tell(&self, url: String, secret: &str) -> anyhow::Result<()> {
        let endpoint = WebhookEndpoint { url, secret: secret.to_owned(), connect: false };
        Ok(self.sandbox.add_webhook(endpoint).await?)
    }

    /// Opens an account that can be paid to, and gives its id.
    pub async fn open_account(&self) -> anyhow::Result<String> {
        let account = self.sandbox.control("POST", "accounts", json!({})).await?;
        text(&account, "id")
    }

    /// Lets the connection break when the next transfer to an account is answered, and keeps its webhook
    /// back, so that the node has to ask what became of it.
    pub async fn lose_answer(&self, account: &str) -> anyhow::Result<()> {
        let rule = json!({
            "match": { "method": "POST", "path_prefix": "/v1/transfers", "destination": account },
            "fault": [{ "kind": "execute_then_reset_at_byte" }, { "kind": "webhook_none" }],
        });
        Ok(self.sandbox.fault(rule).await?)
    }

    /// Puts money on the platform's balance.
    pub async fn add_funds(&self, (currency, minor): (&str, i64)) -> anyhow::Result<()> {
        self.sandbox.control("POST", "balance", json!({ "currency": currency, "add": minor })).await?;
        Ok(())
    }

    /// Takes part of a transfer back, as somebody with the provider's dashboard would.
    pub async fn take_back(&self, transfer: &str, minor: i64) -> anyhow::Result<()> {
        let answer = reqwest::Client::builder()
            .no_proxy()
            .build()?
            .post(format!("{}/v1/transfers/{transfer}/reversals", self.url()))
            .bearer_auth(&self.secret_key)
            .form(&[("amount", minor)])
            .send()
            .await?;
        if !answer.status().is_success() {
            bail!("the provider took nothing back: {}", answer.status());
        }
        Ok(())
    }

    /// Waits until everything was told.
    pub async fn told(&self) -> anyhow::Result<()> {
        let flushed = self.sandbox.flush().await;
        if flushed.failed + flushed.given_up + flushed.waiting > 0 {
            bail!("the node did not take every webhook of the provider");
        }
        Ok(())
    }

    /// What it has really moved, whatever any answer said: by transfer, less what came back.
    pub async fn moved(&self) -> anyhow::Result<BTreeMap<String, i64>> {
        let mut moved = BTreeMap::new();
        for line in self.sandbox.journal().await {
            let transfer = &line["object"];
            if line["kind"] == "effect" && transfer["object"] == "transfer" {
                let minor = |field: &str| transfer[field].as_i64().with_context(|| format!("no {field}"));
                // The effects are in order, and each shows the whole transfer.
                moved.insert(text(transfer, "id")?, minor("amount")? - minor("amount_reversed")?);
            }
        }
        Ok(moved)
    }

    /// Stops it.
    pub async fn stop(self) {
        self.sandbox.stop().await;
    }
}

fn text(object: &Value, field: &str) -> anyhow::Result<String> {
    object[field].as_str().map(str::to_owned).with_context(|| format!("the provider tells no {field}"))
}
