//! What affiliates are told by e-mail: whoever makes something true that an affiliate should know of stores
//! a notice in the same transaction, by one call into this module. [`send`] makes mails of notices.
//!
//! Nothing is stored while mail is switched off, or for an affiliate without an address. Nor is anything told of
//! history: what a replay or an import brings is told only where it happened within the last two days.
//! Amounts, states and addresses are read when a mail is sent, so that it tells what is true then. Only the
//! token of an invitation waits with its notice, sealed, since nothing else keeps it.

pub mod desk;
pub mod send;

use std::collections::BTreeSet;

use secrecy::{ExposeSecret as _, SecretString};

use super::{
    App,
    fold::FoldAndRecordError,
    new_id,
    seal::{self, Place},
};
use crate::{
    domain::{
        book::{Book, FoldError, Folded, Sale},
        ids::{EnrollmentId, NoticeId},
        ledger::Cause,
        money::Money,
        notice::{self, Change, NEWS_S, Topic},
        payout::Payout,
        program::{Dated, EnrollmentStatus},
        time::Timestamp,
    },
    store::{
        StoreError, Tx,
        mail::{self, NewNotice},
        mail_tokens::{self, NewInvitation},
    },
};

/// Tells where an enrollment stands from now on. Each status of it is told once.
pub(super) async fn enrollment(
    app: &App,
    tx: &mut Tx,
    id: &EnrollmentId,
    status: &Dated<EnrollmentStatus>,
    now: Timestamp,
) -> Result<(), StoreError> {
    if app.config.mail.is_none() {
        return Ok(());
    }
    let notice = NewNotice {
        topic: Topic::Enrollment,
        enrollment_id: id.clone(),
        object_id: id.to_string(),
        // No two statuses of an enrollment begin at the same instant.
        revision: status.at.as_micros(),
        word: Some(status.value.as_str()),
        reason: None,
        amount: None,
    };
    mail::insert_notices(tx, &[notice], now).await
}

/// Tells whoever reads the address that an enrollment was made for how to take it over. A mail that was to
/// tell so by a token from before is not sent any more.
pub(super) async fn invitation(
    app: &App,
    tx: &mut Tx,
    id: &EnrollmentId,
    status: EnrollmentStatus,
    token: &SecretString,
    now: Timestamp,
) -> Result<(), StoreError> {
    withdraw(tx, id).await?;
    // The configuration has both or is refused.
    let (Some(_), Some(key)) = (&app.config.mail, &app.config.master_key) else { return Ok(()) };
    let notice_id = new_id!(NoticeId, now);
    let token_sealed = seal::seal(key, place(&notice_id), token.expose_secret().as_bytes());
    let notice = NewInvitation { id: &notice_id, enrollment_id: id, status, token_sealed: &token_sealed };
    mail_tokens::insert(tx, &notice, now).await
}

/// Lets no mail bring the token of an enrollment any more: it opens nothing.
pub(super) async fn withdraw(tx: &mut Tx, id: &EnrollmentId) -> Result<(), StoreError> {
    mail_tokens::withdraw(tx, id).await
}

/// Where a token waits for its mail.
fn place(id: &NoticeId) -> Place<'_> {
    Place { table: "notice", row: id.as_str(), column: "token_sealed" }
}

/// Tells that a payout was sent, or that it waits for the affiliate's account: each once, however often the
/// payout comes to wait.
pub(super) async fn payout(
    app: &App,
    tx: &mut Tx,
    payout: &Payout,
    topic: Topic,
    now: Timestamp,
) -> Result<(), StoreError> {
    if app.config.mail.is_none() {
        return Ok(());
    }
    let notice = NewNotice {
        topic,
        enrollment_id: payout.enrollment_id.clone(),
        object_id: payout.id.to_string(),
        revision: 0,
        word: None,
        reason: None,
        amount: None,
    };
    mail::insert_notices(tx, &[notice], now).await
}

/// Tells what a fold changed in what affiliates have earned.
pub(super) async fn of_folded(
    app: &App,
    tx: &mut Tx,
    book: &Book,
    folded: &[Folded],
    now: Timestamp,
) -> Result<(), FoldAndRecordError> {
    if app.config.mail.is_none() {
        return Ok(());
    }
    let mut told: Vec<(&Sale, NewNotice)> = Vec::new();
    for folded in folded {
        let Some(sale) = book.sale(&folded.sale_id) else { continue };
        for posted in &folded.posted {
            let commission = &posted.commission;
            for (currency, change, minor) in notice::changes(&posted.entries).map_err(FoldError::from)? {
                let why = (change == Change::TakenBack).then(|| {
                    let summary = folded.summary.as_ref();
                    notice::why(commission, summary, &sale.decisions, &sale.causes, now)
                });
                let notice = NewNotice {
                    topic: Topic::Commissions,
                    enrollment_id: commission.enrollment_id.clone(),
                    object_id: commission.id.to_string(),
                    revision: commission.revision,
                    word: Some(change.as_str()),
                    reason: why.map(notice::Why::as_str),
                    amount: Some(Money { minor, currency }),
                };
                told.push((sale, notice));
            }
        }
    }
    if told.is_empty() {
        return Ok(());
    }
    let news = news(tx, told.iter().map(|(sale, _)| *sale), now).await?;
    let notices: Vec<NewNotice> =
        told.into_iter().filter(|(sale, _)| is_news(sale, &news, now)).map(|(_, notice)| notice).collect();
    Ok(mail::insert_notices(tx, &notices, now).await?)
}

/// The events among the causes of these folds that happened lately.
async fn news<'s>(
    tx: &mut Tx,
    sales: impl Iterator<Item = &'s Sale>,
    now: Timestamp,
) -> Result<BTreeSet<String>, StoreError> {
    let events: BTreeSet<&str> = sales
        .flat_map(|sale| &sale.causes)
        .filter_map(|cause| match cause {
            Cause::Event(id) => Some(id.as_str()),
            Cause::Decision(_) | Cause::Time(_) | Cause::Call(_) | Cause::Run(_) | Cause::Resolution(_) => {
                None
            }
        })
        .collect();
    let events: Vec<&str> = events.into_iter().collect();
    Ok(mail::list_events_since(tx, &events, now.plus_secs(-NEWS_S)).await?.into_iter().collect())
}

/// Whether what made the fold necessary is news. An approval of an affiliate, the launch of a program and
/// whatever else begins to hold reaches back to sales of any age: there the sale itself must be new.
fn is_news(sale: &Sale, news: &BTreeSet<String>, now: Timestamp) -> bool {
    let since = now.plus_secs(-NEWS_S);
    let is_new_sale = || sale.facts.payments.values().any(|payment| payment.at >= since);
    sale.causes.iter().any(|cause| match cause {
        Cause::Event(id) => news.contains(id),
        Cause::Decision(_) | Cause::Call(_) | Cause::Resolution(_) => true,
        Cause::Time(_) | Cause::Run(_) => is_new_sale(),
    })
}
