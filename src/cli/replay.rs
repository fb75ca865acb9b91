//! `remit replay`: stored events through the same pipeline as webhooks.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Format, context::Context, output, run::Exit};
use crate::{
    app::replay::{self, Request},
    domain::ids::EndpointId,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files with one event, archives (*.ndjson), or directories of them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The endpoint that the events are to belong to [default: that of the archive, else the default one of
    /// the provider]
    #[arg(long, value_parser = EndpointId::parse)]
    endpoint: Option<EndpointId>,
    /// Only say what would be new, duplicate or ignored
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<Exit> {
    let app = context.open().await?.app;
    let request = Request { paths: args.paths, endpoint: args.endpoint, dry_run: args.dry_run };
    let files = replay::list_files(&request.paths)?;
    let bar = progress_bar(context, files.len());
    let report = replay::replay(&app, &request, &files, || bar.inc(1)).await?;
    bar.finish_and_clear();
    output::object(
        context.format,
        &serde_json::to_value(&report)?,
        &["new", "duplicate", "ignored", "failed"],
    )?;
    if context.format == Format::Table {
        for error in &report.errors {
            let place = [error.line, error.column]
                .into_iter()
                .flatten()
                .fold(error.path.clone(), |at, number| format!("{at}:{number}"));
            eprintln!("{place}: {}", error.error);
        }
    }
    if request.dry_run {
        context.say("nothing was written");
    }
    Ok(if report.failed == 0 { Exit::Ok } else { Exit::Failed })
}

/// On a terminal only: indicatif draws nothing where there is none.
fn progress_bar(context: &Context, files: usize) -> ProgressBar {
    let bar = ProgressBar::new(u64::try_from(files).unwrap_or(u64::MAX));
    if context.quiet {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} files, {eta} left") {
        bar.set_style(style);
    }
    bar
}
