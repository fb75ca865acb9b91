//! Group commit: what many callers want to be written at one time becomes one commit.
//!
//! Each writer takes whatever waits, one item or many, and commits it at once: without load nothing is
//! delayed, and under load the batches grow by themselves while all writers are busy. Who waits is answered
//! after the commit, so an answer means that the item is durable.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Commits batches.
pub trait Commit: Send + Sync + 'static {
    /// What one caller wants to be written.
    type Item: Send + 'static;
    /// What became of it.
    type Answer: Send + 'static;

    /// Commits `items`, one or more, and gives one answer per item, in the same order.
    fn commit(&self, items: Vec<Self::Item>) -> impl Future<Output = Vec<Self::Answer>> + Send;
}

/// How a group is made.
#[derive(Clone, Copy, Debug)]
pub struct GroupLimits {
    /// Most items that wait; one more is [`Unanswered::Overloaded`].
    pub queued_max: usize,
    /// Most items of one commit.
    pub batch_max: usize,
    /// Commits in flight at once: 1 on `SQLite`, which has one writer.
    pub writers: usize,
    /// How long one item waits for its commit.
    pub answer_within: Duration,
}

/// The histograms that show how a group does, by name.
#[derive(Clone, Copy, Debug)]
pub struct GroupMetrics {
    /// Items of one commit.
    pub items: &'static str,
    /// Duration of one commit.
    pub seconds: &'static str,
}

/// Why nobody knows of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// Too much waits already. Nothing was written.
    Overloaded,
    /// It took too long, or the group was closed: it may be written or not.
    Unknown,
}

/// The queue and its writers. Clones feed the same queue.
pub struct Group<I, A> {
    queue: mpsc::Sender<Waiting<I, A>>,
    answer_within: Duration,
    closed: CancellationToken,
}

struct Waiting<I, A> {
    item: I,
    answer: oneshot::Sender<A>,
}

// By hand: what is derived would ask the items to be clones.
impl<I, A> Clone for Group<I, A> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), answer_within: self.answer_within, closed: self.closed.clone() }
    }
}

impl<I: Send + 'static, A: Send + 'static> Group<I, A> {
    /// Starts the writers on `tasks`.
    pub fn start<C: Commit<Item = I, Answer = A>>(
        commit: C,
        limits: GroupLimits,
        metrics: GroupMetrics,
        tasks: &TaskTracker,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(limits.queued_max.max(1));
        let (commit, waiting) = (Arc::new(commit), Arc::new(Mutex::new(waiting)));
        let closed = CancellationToken::new();
        for _ in 0..limits.writers.max(1) {
            let writer = Writer {
                commit: Arc::clone(&commit),
                waiting: Arc::clone(&waiting),
                batch_max: limits.batch_max.max(1),
                metrics,
                closed: closed.clone(),
            };
            tasks.spawn(writer.run());
        }
        Self { queue, answer_within: limits.answer_within, closed }
    }

    /// Ends the writers once everything that waits is committed. What comes later is
    /// [`Unanswered::Unknown`]. Call it after the last request was answered.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Waits for the commit of `item`. It is written also when the caller stops waiting.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn commit(&self, item: I) -> Result<A, Unanswered> {
        let (answer, committed) = oneshot::channel();
        self.queue.try_send(Waiting { item, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Unanswered::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Unanswered::Unknown,
        })?;
        match timeout(self.answer_within, committed).await {
            Ok(Ok(answer)) => Ok(answer),
            // Too late, or the writer is gone: it may still be written, and nobody may say so.
            Ok(Err(_)) | Err(_) => Err(Unanswered::Unknown),
        }
    }

    /// How many items more may wait.
    #[cfg(test)]
    pub fn room(&self) -> usize {
        self.queue.capacity()
    }
}

/// What waits for the writers of `C`.
type Queue<C> = mpsc::Receiver<Waiting<<C as Commit>::Item, <C as Commit>::Answer>>;

struct Writer<C: Commit> {
    commit: Arc<C>,
    /// Held only while taking a batch, so that writers take turns at the queue.
    waiting: Arc<Mutex<Queue<C>>>,
    batch_max: usize,
    metrics: GroupMetrics,
    closed: CancellationToken,
}

impl<C: Commit> Writer<C> {
    async fn run(self) {
        loop {
            let batch = self.take().await;
            if batch.is_empty() {
                return;
            }
            self.write(batch).await;
        }
    }

    /// Waits for the next batch; empty when the queue is closed and drained.
    async fn take(&self) -> Vec<Waiting<C::Item, C::Answer>> {
        let mut waiting = self.waiting.lock().await;
        let mut batch = Vec::new();
        let taken = self.closed.run_until_cancelled(waiting.recv_many(&mut batch, self.batch_max)).await;
        if taken.is_none() {
            // A closed queue still hands out what it holds.
            waiting.close();
            waiting.recv_many(&mut batch, self.batch_max).await;
        }
        batch
    }

    async fn write(&self, batch: Vec<Waiting<C::Item, C::Answer>>) {
        let count = batch.len();
        metrics::histogram!(self.metrics.items).record(u32::try_from(count).unwrap_or(u32::MAX));
        let started = Instant::now();
        let (items, waiters): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|Waiting { item, answer }| (item, answer)).unzip();
        let commit = Arc::clone(&self.commit);
        // In a task of its own a panic costs one batch instead of a writer.
        let committed = tokio::spawn(async move { commit.commit(items).await }).await;
        metrics::histogram!(self.metrics.seconds).record(started.elapsed().as_secs_f64());
        match committed {
            Ok(answers) => {
                for (waiter, answer) in waiters.into_iter().zip(answers) {
                    // Who gave up is gone; the item is written all the same.
                    let _gone = waiter.send(answer);
                }
            }
            // Who waits hears nothing more, which says that it is unknown.
            Err(join) => tracing::error!(reason = %join, items = count, "a batch could not be committed"),
        }
    }
}
