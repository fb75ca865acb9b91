//! The command line: what can be typed. What a command does is in the file of its name.
//!
//! Data goes to standard output through `output.rs`, everything else to standard error. Exit codes are in
//! `run.rs`. No rule of the product lives here.

mod audit;
mod context;
mod demo;
mod doctor;
mod endpoints;
mod events;
mod explain;
mod findings;
mod jobs;
mod keys;
mod mail;
mod migrate;
mod node;
mod output;
mod payouts;
mod replay;
mod run;
mod sandbox;
mod serve;
mod settle;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use run::run;

/// Affiliate payments: signed webhooks in, books that explain every cent.
#[derive(Debug, Parser)]
#[command(name = "remit", version, about, max_term_width = 100, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Clone, Debug, Args)]
struct Global {
    /// Configuration file [default: the one `REMIT_CONFIG` names, else remit.toml where there is one]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Database, in place of `database.url`
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// How data is printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// Print nothing but data and errors
    #[arg(long, short, global = true)]
    quiet: bool,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// One JSON document.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Receive, process and release: all roles of this node in one process
    Serve(serve::Args),
    /// Show everything at once on a throwaway database, without any account
    Demo(demo::Args),
    /// A payment provider to test against: keys, faults, webhooks and a journal
    Sandbox(sandbox::Args),
    /// Feed stored events through the same pipeline as webhooks
    Replay(replay::Args),
    /// Show what is payable, and with --yes pay it
    Settle(settle::Args),
    /// Stop all payouts, or let them go on
    #[command(subcommand)]
    Payouts(payouts::Command),
    /// Look at stored events
    #[command(subcommand)]
    Events(events::Command),
    /// Look at the work on payouts and charges, and end doubts about them
    #[command(subcommand)]
    Jobs(jobs::Command),
    /// Look at the mails to affiliates, and have some tried again
    #[command(subcommand)]
    Mail(mail::Command),
    /// Show why a commission is what it is: rule, base, rounding, and every event behind it
    Explain(explain::Args),
    /// Make and revoke API keys
    #[command(subcommand)]
    Keys(keys::Command),
    /// Make and delete webhook endpoints
    #[command(subcommand)]
    Endpoints(endpoints::Command),
    /// Look at what the program could not decide on its own
    #[command(subcommand)]
    Findings(findings::Command),
    /// Look at who changed what
    #[command(subcommand)]
    Audit(audit::Command),
    /// Check configuration, schema, clock and every sum of the ledger
    Doctor,
    /// Bring the schema of the database up to this program
    Migrate,
    /// Print a completion script
    Completions {
        /// The shell it is for
        shell: clap_complete::Shell,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }
}
