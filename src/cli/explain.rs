//! `remit explain`: why a commission is what it is.

use serde_json::{Value, json};

use super::{Format, context::Context, output, run::Exit};
use crate::{
    app::{
        explain::{self, CauseView, EntryView},
        keys::Principal,
        reads,
    },
    domain::{
        ids::CommissionId,
        money::{Currency, Money},
    },
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The commission, `com_…`, or a sale by any of its ids: all its commissions are explained
    id: String,
}

pub(super) async fn run(context: &Context, args: &Args) -> anyhow::Result<Exit> {
    let app = context.open().await?.app;
    let by = Principal::console();
    let ids = match CommissionId::parse(&args.id) {
        Ok(id) => vec![id],
        Err(_) => reads::sale(&app, &by, &args.id).await?.commission_ids(),
    };
    let mut explained = Vec::new();
    for id in &ids {
        explained.push(reads::explanation(&app, &by, id).await?);
    }
    match context.format {
        Format::Json => {
            let data = match explained.as_slice() {
                [one] => json!(one),
                several => json!(several),
            };
            output::line(&format!("{:#}", json!({ "data": data })))?;
        }
        Format::Table => {
            if explained.is_empty() {
                context.say("the sale earns no commission: no code of it names an active affiliate");
            }
            for explanation in &explained {
                show(explanation)?;
            }
        }
    }
    Ok(Exit::Ok)
}

fn show(explanation: &explain::Explanation) -> std::io::Result<()> {
    let commission = &explanation.commission;
    let head = json!({
        "commission": commission.id, "sale": commission.sale_id, "affiliate": commission.enrollment_id,
        "attributed_by": explanation.attribution.by, "code": explanation.attribution.code,
        "state": commission.state, "reason": commission.reason, "due_at": commission.due_at,
    });
    let fields = ["commission", "sale", "affiliate", "attributed_by", "code", "state", "reason", "due_at"];
    output::object(Format::Table, &head, &fields)?;
    let steps = explanation.steps.iter().map(|step| {
        let amount = Money { minor: step.amount_minor, currency: step.currency };
        vec![step.what.to_owned(), step.how.clone(), amount.to_string()]
    });
    output::table(&["what", "how", "amount"], steps)?;
    output::table(
        &["posted", "entry", "from", "to", "amount", "because of"],
        explanation.entries.iter().map(entry),
    )
}

fn entry(entry: &EntryView) -> Vec<String> {
    let amount = Currency::parse(&entry.currency).map_or_else(
        |_| entry.amount_minor.to_string(),
        |currency| Money { minor: entry.amount_minor, currency }.to_string(),
    );
    vec![
        entry.posted_at.to_string(),
        entry.kind.clone(),
        entry.debit.clone(),
        entry.credit.clone(),
        amount,
        entry.causes.iter().map(cause).collect::<Vec<_>>().join("\n"),
    ]
}

fn cause(cause: &CauseView) -> String {
    match cause {
        CauseView::Event { provider_event_id, r#type, .. } => format!("{type} {provider_event_id}"),
        CauseView::Decision { decision, actor, note, .. } => {
            let note: Value = note.clone().map_or(Value::Null, Value::String);
            format!("{decision} by {actor}: {note}")
        }
        CauseView::Time { rule } => format!("time ({rule})"),
    }
}
