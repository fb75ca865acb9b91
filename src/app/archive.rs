//! The archive of stored events: NDJSON, one event per line, with the bytes that were signed.
//!
//! `remit events export` writes it and `remit replay` reads it. The bytes travel in base64, because
//! nothing else keeps every byte that a signature covered.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use super::App;
use crate::{
    domain::time::Timestamp,
    store::{
        StoreError,
        inbox::{self, ArchiveRow},
    },
};

/// One line of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchivedEvent {
    /// Provider name.
    pub provider: String,
    /// The endpoint that verified it.
    pub endpoint_id: String,
    /// The connected account, empty for none.
    pub account: String,
    /// Mode.
    pub livemode: bool,
    /// The provider's id.
    pub provider_event_id: String,
    /// When it was received.
    pub received_at: Timestamp,
    /// The signed bytes in base64.
    pub body_base64: String,
}

impl ArchivedEvent {
    /// The signed bytes.
    ///
    /// # Errors
    /// When the text is not base64.
    pub fn body(&self) -> Result<Vec<u8>, base64::DecodeError> {
        STANDARD.decode(&self.body_base64)
    }
}

impl From<ArchiveRow> for ArchivedEvent {
    fn from(row: ArchiveRow) -> Self {
        Self {
            provider: row.provider,
            endpoint_id: row.endpoint_id,
            account: row.account,
            livemode: row.livemode,
            provider_event_id: row.provider_event_id,
            received_at: Timestamp::from_micros(row.received_at_us),
            body_base64: STANDARD.encode(row.body),
        }
    }
}

/// Events per page of an export: bodies reach a megabyte, so a page is small.
const PAGE: i64 = 100;

/// Pages through all stored events, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Export {
    after: String,
}

impl Export {
    /// The next events; none at the end.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer; the same page can be asked for again.
    pub async fn next_page(&mut self, app: &App) -> Result<Vec<ArchivedEvent>, StoreError> {
        let rows = inbox::export(&mut app.db.read().await?, &self.after, PAGE).await?;
        if let Some(last) = rows.last() {
            self.after.clone_from(&last.id);
        }
        Ok(rows.into_iter().map(ArchivedEvent::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_the_archive() {
        let bytes: Vec<u8> = (0..=u8::MAX).collect();
        let row = ArchiveRow {
            id: "in_1".to_owned(),
            provider: "stripe".to_owned(),
            endpoint_id: "ep_1".to_owned(),
            account: String::new(),
            livemode: false,
            provider_event_id: "evt_1".to_owned(),
            received_at_us: 1_767_348_000_000_001,
            body: bytes.clone(),
        };
        let line = serde_json::to_string(&ArchivedEvent::from(row)).unwrap();
        assert!(!line.contains('\n'));
        assert!(line.contains(r#""received_at":"2026-01-02T10:00:00.000001Z""#), "{line}");
        let read: ArchivedEvent = serde_json::from_str(&line).unwrap();
        assert_eq!(read.body().unwrap(), bytes);
    }
}
