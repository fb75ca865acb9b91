//! What can go wrong in the store, sorted by what a caller does about it.
//!
//! An absent row is an `Option` and a duplicate is zero affected rows: neither is an error. Messages
//! name tables, columns, ids and error codes, and never a bound value, a row or a connection URL, so
//! they may be logged and shown.

use std::fmt;

/// A store operation did not happen, or (for a broken connection during commit) may not have.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database or the connection to it refused.
    #[error("{0}")]
    Database(DatabaseError),
    /// A stored value breaks a rule that every writer keeps. A human has to look.
    #[error("{table}.{column} of {id} holds a value that cannot be there")]
    Corrupt {
        /// Table of the value.
        table: &'static str,
        /// Column of the value.
        column: &'static str,
        /// Id of the row.
        id: String,
    },
    /// A guarded statement changed another number of rows than it must.
    #[error("expected {expected} changed rows, found {actual}")]
    RowsAffected {
        /// What the caller relies on.
        expected: u64,
        /// What the database reported.
        actual: u64,
    },
    /// What was to be locked was removed meanwhile, or became more.
    #[error("what was to be locked changed while the locks were waited for")]
    Changed,
    /// A newer remit has migrated this database; this one would not understand its rows.
    #[error(
        "the database schema is at version {found}, this remit knows versions up to {known}: run a newer remit"
    )]
    SchemaTooNew {
        /// Highest version applied to the database.
        found: i64,
        /// Highest version this program carries.
        known: i64,
    },
    /// The database lacks migrations that this program needs.
    #[error("the database schema is at version {found}, this remit needs {known}: run `remit migrate`")]
    SchemaTooOld {
        /// Highest version applied to the database; 0 for an empty one.
        found: i64,
        /// Highest version this program carries.
        known: i64,
    },
    /// An applied migration is not the one that this program carries.
    #[error("migration {version} was applied from another text: this database belongs to another build")]
    SchemaDiffers {
        /// Version of the migration.
        version: i64,
    },
    /// The database engine, its version or the URL is one that remit does not run on.
    #[error("{what}")]
    Unsupported {
        /// What was found and what is needed.
        what: String,
    },
}

impl StoreError {
    /// Whether the same transaction, run again from its start, is expected to succeed: another
    /// transaction was in the way. Costs no attempt (`rulings.md` 3).
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.code() {
            Some(Code::Postgres(code)) => matches!(code, "40001" | "40P01" | "55P03"),
            Some(Code::Sqlite(primary)) => matches!(primary, SQLITE_BUSY | SQLITE_LOCKED),
            None => matches!(self, Self::Changed),
        }
    }

    /// Whether the database could not be reached or could not serve for now: back off and try later.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self.code() {
            // 08 connection, 53 resources (disk, memory, connections), 57 shutdown and statement
            // timeout; the rest: our transaction was ended for idling, or a standby answered.
            Some(Code::Postgres(code)) => {
                matches!(code.get(..2), Some("08" | "53" | "57"))
                    || matches!(code, "25006" | "25P03" | "25P04")
            }
            Some(Code::Sqlite(primary)) => {
                matches!(primary, SQLITE_IOERR | SQLITE_FULL | SQLITE_CANTOPEN)
            }
            None => matches!(
                self,
                Self::Database(DatabaseError(
                    sqlx::Error::Io(_)
                        | sqlx::Error::Tls(_)
                        | sqlx::Error::PoolTimedOut
                        | sqlx::Error::PoolClosed
                        | sqlx::Error::WorkerCrashed
                        | sqlx::Error::BeginFailed
                ))
            ),
        }
    }

    /// Whether the database itself is not there, whatever was asked of it: the connection broke or was
    /// refused, or the server is stopping or starting.
    ///
    /// Narrower than [`Self::is_unavailable`]: a statement that ran out of time or memory, or a
    /// transaction that was ended for idling, is the work's own fault, and would be again.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self.code() {
            Some(Code::Postgres(code)) => {
                code.starts_with("08") || matches!(code, "57P01" | "57P02" | "57P03")
            }
            Some(Code::Sqlite(_)) | None => self.is_unavailable(),
        }
    }

    /// Whether a unique key was already taken. PostgreSQL refuses every later statement of the
    /// transaction, so this ends it; where a duplicate is expected, use `ON CONFLICT`.
    #[must_use]
    pub fn is_unique_violation(&self) -> bool {
        matches!(self, Self::Database(DatabaseError(sqlx::Error::Database(error))) if error.is_unique_violation())
    }

    /// Whether the database has another schema than the one that this program was built for.
    #[must_use]
    pub const fn is_other_schema(&self) -> bool {
        matches!(self, Self::SchemaTooNew { .. } | Self::SchemaTooOld { .. } | Self::SchemaDiffers { .. })
    }

    fn code(&self) -> Option<Code<'_>> {
        let Self::Database(DatabaseError(sqlx::Error::Database(error))) = self else { return None };
        Code::of(error.as_ref())
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(DatabaseError(error))
    }
}

/// The driver's error, shown without what might carry data.
///
/// PostgreSQL quotes the offending value in data exceptions (class 22) and in `detail`, and the
/// driver's own `Debug` prints both. So this type prints codes and harmless messages only, and does not
/// offer the driver's error as a `source`.
pub struct DatabaseError(sqlx::Error);

impl fmt::Display for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            sqlx::Error::Database(error) => match Code::of(error.as_ref()) {
                Some(Code::Postgres(code)) if code.starts_with("22") => {
                    write!(f, "database error {code} (data exception)")
                }
                Some(Code::Postgres(code)) => write!(f, "database error {code}: {}", error.message()),
                Some(Code::Sqlite(primary)) => write!(f, "database error {primary}: {}", error.message()),
                None => f.write_str("database error without a code"),
            },
            sqlx::Error::ColumnDecode { index, .. } => write!(f, "column {index} cannot be decoded"),
            sqlx::Error::Encode(_) => f.write_str("a value cannot be encoded"),
            sqlx::Error::Decode(_) => f.write_str("a value cannot be decoded"),
            sqlx::Error::Configuration(_) => f.write_str("the database URL is not valid"),
            sqlx::Error::Protocol(_) => f.write_str("the database answered out of protocol"),
            sqlx::Error::Io(error) => write!(f, "connection to the database: {}", error.kind()),
            other => write!(f, "{other}"),
        }
    }
}

impl fmt::Debug for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseError({self})")
    }
}

const SQLITE_BUSY: u32 = 5;
const SQLITE_LOCKED: u32 = 6;
const SQLITE_IOERR: u32 = 10;
const SQLITE_FULL: u32 = 13;
const SQLITE_CANTOPEN: u32 = 14;

/// An error code, told apart by form: an SQLSTATE always has five characters, a SQLite result code is
/// a number of at most four digits.
enum Code<'e> {
    /// Five-character SQLSTATE (PostgreSQL manual, appendix A).
    Postgres(&'e str),
    /// Primary result code: the low byte of the extended one, so 517 (`BUSY_SNAPSHOT`) is 5
    /// (sqlite.org/rescode.html).
    Sqlite(u32),
}

impl<'e> Code<'e> {
    fn of(error: &'e (dyn sqlx::error::DatabaseError + 'static)) -> Option<Self> {
        if let Some(error) = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
            return Some(Self::Postgres(error.code()));
        }
        let extended: u32 = error.code()?.parse().ok()?;
        Some(Self::Sqlite(extended & 0xff))
    }
}

/// Checks that a guarded statement changed exactly one row.
///
/// # Errors
/// [`StoreError::RowsAffected`] otherwise.
pub fn expect_one(actual: u64) -> Result<(), StoreError> {
    if actual == 1 { Ok(()) } else { Err(StoreError::RowsAffected { expected: 1, actual }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_connection_is_unavailable_and_not_retryable() {
        for error in [
            sqlx::Error::PoolTimedOut,
            sqlx::Error::PoolClosed,
            sqlx::Error::Io(std::io::ErrorKind::ConnectionRefused.into()),
        ] {
            let error = StoreError::from(error);
            assert!(error.is_unavailable() && error.is_unreachable(), "{error}");
            assert!(!error.is_retryable(), "{error}");
            assert!(!error.is_unique_violation(), "{error}");
        }
    }

    #[test]
    fn a_mistake_of_ours_is_neither_unavailable_nor_retryable() {
        let error = StoreError::from(sqlx::Error::ColumnNotFound("amount".into()));
        assert!(!error.is_unavailable() && !error.is_unreachable() && !error.is_retryable());
    }

    #[test]
    fn decoding_errors_do_not_show_the_value() {
        let error = StoreError::from(sqlx::Error::ColumnDecode {
            index: "\"email\"".into(),
            source: "cannot parse alice@example.com".into(),
        });
        assert_eq!(error.to_string(), "column \"email\" cannot be decoded");
        assert!(!format!("{error:?}").contains("alice"));
    }

    #[test]
    fn exactly_one_row_is_expected() {
        assert!(expect_one(1).is_ok());
        assert!(matches!(expect_one(0), Err(StoreError::RowsAffected { expected: 1, actual: 0 })));
        assert!(expect_one(2).is_err());
    }
}
