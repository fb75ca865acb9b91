//! The database's clock: the one statement of the program that asks a database for the time.
//!
//! Only [`crate::clock::DisciplinedClock`] uses the answer. Rows get their times as parameters, so this
//! is no way to stamp anything.

use super::{Conn, Sql, StoreError};
use crate::domain::time::Timestamp;

/// What the database's clock shows at this moment. `None` where the database has no clock of its own:
/// SQLite lives in this process and reads this machine's.
pub async fn read(conn: &mut Conn) -> Result<Option<Timestamp>, StoreError> {
    const SQL: Sql = Sql {
        sqlite: "SELECT CAST(NULL AS INTEGER)",
        // Not `now()`, which stands still within a transaction.
        postgres: "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)",
    };
    let micros: Option<Option<i64>> = conn.q(SQL).scalar().await?;
    Ok(micros.flatten().map(Timestamp::from_micros))
}
