//! `remit doctor`: is everything as it should be?

use serde_json::{Value, json};

use super::{Format, context::Context, output, run::Exit};
use crate::{app::doctor, config::Setting, store};

pub(super) async fn run(context: &Context) -> anyhow::Result<Exit> {
    let opened = context.open().await?;
    let app = &opened.app;
    let findings = doctor::examine(app).await?;
    let version = store::doctor::read_version(&app.db).await?;
    let engine = format!("{:?}", app.db.engine());
    let settings: Vec<Value> = context.config.settings().iter().map(shown).collect();
    let offset = opened.clock.offset_micros();
    let rows = findings.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    match context.format {
        Format::Json => {
            let report = json!({
                "findings": rows,
                "settings": settings,
                "database": { "engine": engine.to_lowercase(), "version": version, "schema": "current" },
                "clock_offset_us": offset,
            });
            output::object(context.format, &report, &[])?;
        }
        Format::Table => {
            output::list(context.format, &settings, None, &["key", "value", "source"])?;
            context.say(&format!("database: {engine} {version}, schema up to date"));
            context.say(&format!("clock: {offset} us added to this machine's"));
            if rows.is_empty() {
                context.say("no findings: every check passed");
            } else {
                output::list(context.format, &rows, None, &["invariant", "severity", "object", "detail"])?;
            }
        }
    }
    Ok(if rows.is_empty() { Exit::Ok } else { Exit::Findings })
}

/// A setting as it resolved. Secrets come masked from the configuration.
fn shown(setting: &Setting) -> Value {
    json!({ "key": setting.key, "value": setting.value, "source": setting.source.to_string() })
}
