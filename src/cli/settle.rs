//! `remit settle`: pays what is payable, after showing what that would be.

use serde_json::{Value, json};

use super::{Format, context::Context, output, run::Exit};
use crate::{
    app::{
        App, Refusal,
        keys::Principal,
        programs,
        settle::{self, Request, Settlement},
    },
    domain::{
        ids::{ProgramId, RunId},
        money::{Currency, Money},
        time::Timestamp,
    },
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The program [default: every program]
    #[arg(long, value_parser = ProgramId::parse)]
    program: Option<ProgramId>,
    /// Leave out what became payable later, RFC 3339 [default: now]
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse_rfc3339)]
    as_of: Option<Timestamp>,
    /// Only show what would be paid; that is also what happens without --yes
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Reserve the payouts, so that they are sent
    #[arg(long)]
    yes: bool,
}

/// Programs read at a time.
const PAGE: i64 = 100;

pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<Exit> {
    let app = context.open().await?.app;
    let console = Principal::console();
    if !args.yes {
        let plans = match &args.program {
            Some(program) => {
                vec![(program.clone(), settle::plan(&app, &console, program, args.as_of).await?)]
            }
            None => plan_all(&app, &console, args.as_of).await?,
        };
        print(context, true, &plans)?;
        if plans.iter().any(|(_, plan)| !plan.payouts.is_empty()) {
            context.say("nothing was reserved or sent; --yes does it");
        }
        return Ok(Exit::Ok);
    }
    settle::require_open(&app).await?;
    // One time for all, so that what is paid does not depend on the order of the programs.
    let as_of = args.as_of.unwrap_or_else(|| app.now());
    let programs = match args.program {
        Some(program) => vec![program],
        None => {
            plan_all(&app, &console, Some(as_of)).await?.into_iter().map(|(program, _)| program).collect()
        }
    };
    let mut settled = Vec::new();
    for program in programs {
        let request = Request { program: program.clone(), as_of: Some(as_of), key: None };
        match settle::run(&app, &console, &request).await {
            Ok(settlement) => settled.push((program, settlement)),
            Err(refusal) => {
                // What was reserved before stays reserved, so it is shown.
                if !settled.is_empty() {
                    print(context, false, &settled)?;
                }
                return Err(anyhow::Error::new(refusal).context(format!("program {program}")));
            }
        }
    }
    print(context, false, &settled)?;
    Ok(Exit::Ok)
}

/// The plans of all programs in which somebody has something open, in order of id.
async fn plan_all(
    app: &App,
    by: &Principal,
    as_of: Option<Timestamp>,
) -> Result<Vec<(ProgramId, Settlement)>, Refusal> {
    let mut plans = Vec::new();
    let mut before = None;
    loop {
        let page = programs::list(app, by, before.as_ref(), PAGE).await?;
        for program in &page {
            let plan = settle::plan(app, by, &program.id, as_of).await?;
            if !plan.payouts.is_empty() || !plan.skipped.is_empty() {
                plans.push((program.id.clone(), plan));
            }
        }
        match page.last() {
            Some(last) => before = Some(last.id.clone()),
            None => break,
        }
    }
    plans.reverse();
    Ok(plans)
}

fn print(context: &Context, dry_run: bool, settled: &[(ProgramId, Settlement)]) -> anyhow::Result<()> {
    match context.format {
        Format::Json => output::object(context.format, &document(dry_run, settled), &[])?,
        Format::Table => print_tables(context, dry_run, settled)?,
    }
    Ok(())
}

/// One document for any number of programs. `run_id` is there when one run was made.
fn document(dry_run: bool, settled: &[(ProgramId, Settlement)]) -> Value {
    let runs: Vec<(&ProgramId, &RunId)> =
        settled.iter().filter_map(|(program, one)| Some((program, one.run_id.as_ref()?))).collect();
    let run_id = if let [(_, id)] = runs.as_slice() { Some(*id) } else { None };
    let payouts: Vec<Value> = settled
        .iter()
        .flat_map(|(program, one)| {
            one.payouts.iter().map(move |line| {
                json!({
                    "id": line.id, "program_id": program, "enrollment_id": line.enrollment_id,
                    "currency": line.currency, "due": line.split.due, "fee": line.split.fee,
                    "send": line.split.send,
                })
            })
        })
        .collect();
    let skipped: Vec<Value> = settled
        .iter()
        .flat_map(|(program, one)| {
            one.skipped.iter().map(move |line| {
                json!({
                    "program_id": program, "enrollment_id": line.enrollment_id, "currency": line.currency,
                    "due": line.due, "reason": line.reason.as_str(),
                })
            })
        })
        .collect();
    let runs: Vec<Value> =
        runs.into_iter().map(|(program, id)| json!({ "program_id": program, "run_id": id })).collect();
    json!({ "run_id": run_id, "dry_run": dry_run, "runs": runs, "payouts": payouts, "skipped": skipped })
}

fn print_tables(context: &Context, dry_run: bool, settled: &[(ProgramId, Settlement)]) -> anyhow::Result<()> {
    let amount = |minor: i64, currency: Currency| Money { minor, currency }.to_string();
    let paid: Vec<Vec<String>> = settled
        .iter()
        .flat_map(|(program, one)| {
            one.payouts.iter().map(move |line| {
                vec![
                    program.to_string(),
                    line.enrollment_id.to_string(),
                    amount(line.split.due, line.currency),
                    amount(line.split.fee, line.currency),
                    amount(line.split.send, line.currency),
                    line.id.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                ]
            })
        })
        .collect();
    let passed: Vec<Vec<String>> = settled
        .iter()
        .flat_map(|(program, one)| {
            one.skipped.iter().map(move |line| {
                vec![
                    program.to_string(),
                    line.enrollment_id.to_string(),
                    amount(line.due, line.currency),
                    line.reason.as_str().to_owned(),
                ]
            })
        })
        .collect();
    if paid.is_empty() {
        context.say(if dry_run { "nobody would be paid" } else { "nobody is paid" });
    } else {
        output::table(&["program", "enrollment", "due", "fee", "send", "payout"], paid)?;
    }
    if !passed.is_empty() {
        context.say("not paid:");
        output::table(&["program", "enrollment", "due", "reason"], passed)?;
    }
    Ok(())
}
