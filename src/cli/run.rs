//! Runs one command and turns its end into an exit code.

use std::{
    io,
    process::{ExitCode, Termination},
};

use clap::{CommandFactory as _, Parser as _};

use super::{
    Cli, Command, audit,
    context::{Context, UsageError},
    demo, doctor, endpoints, events, explain, findings, jobs, keys, mail, migrate, payouts, replay, sandbox,
    serve, settle,
};
use crate::{
    app::{Refusal, demo::DemoError, replay::ReplayError},
    config::ConfigError,
    mail::MailerError,
    store::StoreError,
    telemetry::TelemetryError,
};

/// How a command ended. The numbers are a contract with scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// Done.
    Ok,
    /// Not done, or not all of it.
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// Done, and there is something to look at.
    Findings,
    /// Not now: the database does not answer. Later it may (`EX_TEMPFAIL` of sysexits.h).
    TryAgain,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Findings => 3,
            Self::TryAgain => 75,
        })
    }
}

/// Runs the command that was typed.
pub fn run() -> ExitCode {
    // Parsing ends the process on its own: 0 for help, 2 for what cannot be understood.
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&anyhow::Error::new(error).context("cannot start the runtime")).report(),
    };
    let ended = runtime.block_on(dispatch(cli));
    // What a drain had to cut may hang in a blocking call for ever; it does not keep the process.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error| report(&error)).report()
}

async fn dispatch(cli: Cli) -> anyhow::Result<Exit> {
    let Cli { global, command } = cli;
    match command {
        Command::Serve(args) => serve::run(&Context::load_for_server(&global)?, &args).await,
        Command::Demo(args) => demo::run(&global, &args).await,
        Command::Sandbox(args) => sandbox::run(&global, args).await,
        Command::Replay(args) => replay::run(&Context::load(&global)?, args).await,
        Command::Settle(args) => settle::run(&Context::load(&global)?, args).await,
        Command::Payouts(command) => payouts::run(&Context::load(&global)?, command).await,
        Command::Events(command) => events::run(&Context::load(&global)?, command).await,
        Command::Jobs(command) => jobs::run(&Context::load(&global)?, command).await,
        Command::Mail(command) => mail::run(&Context::load(&global)?, command).await,
        Command::Explain(args) => explain::run(&Context::load(&global)?, &args).await,
        Command::Keys(command) => keys::run(&Context::load(&global)?, command).await,
        Command::Endpoints(command) => endpoints::run(&Context::load(&global)?, command).await,
        Command::Audit(command) => audit::run(&Context::load(&global)?, command).await,
        Command::Findings(command) => findings::run(&Context::load(&global)?, command).await,
        Command::Doctor => doctor::run(&Context::load(&global)?).await,
        Command::Migrate => migrate::run(&Context::load(&global)?).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "remit", &mut script);
            super::output::write(&script)?;
            Ok(Exit::Ok)
        }
    }
}

/// Says on standard error what went wrong, and finds the exit code for it.
fn report(error: &anyhow::Error) -> Exit {
    // The reader of our output went away, as `head` does: nothing is wrong.
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return Exit::Ok;
    }
    eprintln!("error: {error:#}");
    exit_of(error)
}

fn exit_of(error: &anyhow::Error) -> Exit {
    if error.is::<ConfigError>() || error.is::<UsageError>() || error.is::<MailerError>() {
        return Exit::Usage;
    }
    if let Some(TelemetryError::Filter(_)) = error.downcast_ref() {
        return Exit::Usage;
    }
    if let Some(Refusal::Invalid { .. }) = error.downcast_ref() {
        return Exit::Usage;
    }
    let store = error
        .downcast_ref::<StoreError>()
        .or_else(|| match error.downcast_ref() {
            Some(Refusal::Store(error)) => Some(error),
            _ => None,
        })
        .or_else(|| match error.downcast_ref() {
            Some(ReplayError::Store(error)) => Some(error),
            _ => None,
        })
        .or_else(|| match error.downcast_ref() {
            Some(DemoError::Store(error)) => Some(error),
            _ => None,
        });
    if store.is_some_and(|error| error.is_unavailable() || error.is_retryable()) {
        Exit::TryAgain
    } else {
        Exit::Failed
    }
}
