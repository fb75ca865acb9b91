//! `remit migrate`: brings the schema of the database up to this program.

use anyhow::Context as _;

use super::{context::Context, run::Exit};

pub(super) async fn run(context: &Context) -> anyhow::Result<Exit> {
    let db = context.connect().await.context("cannot open the database")?;
    db.migrate().await?;
    db.close().await;
    context.say("the schema is up to date");
    Ok(Exit::Ok)
}
