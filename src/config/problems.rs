//! What is said of settings: their values and where those come from, and what is wrong with them.

use std::fmt;

/// One resolved setting, fit to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `section.key`.
    pub key: &'static str,
    /// The value with secrets masked; `None` when it is not set.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: Source,
}

/// Where a value comes from. Later variants win over earlier ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Built in.
    Default,
    /// The configuration file.
    File,
    /// This environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File => f.write_str("configuration file"),
            Self::Environment(variable) => f.write_str(variable),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// One thing that is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting as its source writes it, such as `stripe.tolerance_s` or `REMIT_STRIPE__TOLERANCE_S`.
    pub key: String,
    /// What is wrong. Never the value of a secret.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

pub(super) fn problem(key: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Problem {
    Problem { key: key.into(), what: what.into(), remedy: remedy.into() }
}

/// The configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Everything that is wrong, at least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration cannot be used:")?;
        for Problem { key, what, remedy } in &self.problems {
            write!(f, "\n  `{key}` {what}; {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
