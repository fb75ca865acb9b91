//! Stopping: first politely, then at once.
//!
//! The first SIGTERM or SIGINT begins the drain: nothing new is accepted or claimed, what is under way
//! is finished. The second ends the process on the spot, which every stage survives as it survives a
//! power cut. Which task stops in which order is the business of whoever composes the process.

use std::{future::Future, process, time::Duration};

use tokio::{
    io,
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The process-wide wish to stop, and the tasks that are to finish first. Clones share both.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    tasks: TaskTracker,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every task finished.
    Clean,
    /// The grace was over first; this many tasks were still running.
    Cut(usize),
}

impl Shutdown {
    /// Nothing is stopping yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the drain begins.
    #[must_use]
    pub const fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// The tasks that the drain waits for.
    #[must_use]
    pub const fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Begins the drain.
    pub fn begin(&self) {
        self.draining.cancel();
    }

    /// Starts a task that the drain waits for.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Waits for every spawned task, at most `grace`.
    pub async fn wait(&self, grace: Duration) -> Drained {
        self.tasks.close();
        match tokio::time::timeout(grace, self.tasks.wait()).await {
            Ok(()) => Drained::Clean,
            Err(_) => Drained::Cut(self.tasks.len()),
        }
    }

    /// Obeys SIGTERM and SIGINT from now on: the first begins the drain, the second ends the process
    /// with 128 + its number, as a shell expects of a program that a signal ended.
    ///
    /// # Errors
    /// The runtime could not register a handler.
    pub fn obey_signals(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        // Not one of the tasks that the drain waits for: it listens for the second signal meanwhile.
        tokio::spawn(async move {
            loop {
                let kind = tokio::select! {
                    Some(()) = terminate.recv() => SignalKind::terminate(),
                    Some(()) = interrupt.recv() => SignalKind::interrupt(),
                    else => return,
                };
                let number = kind.as_raw_value();
                if shutdown.draining.is_cancelled() {
                    tracing::warn!(signal = number, "second signal: stopping at once");
                    process::exit(128 + number);
                }
                tracing::info!(signal = number, "stopping: finishing what is under way");
                shutdown.begin();
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_drain_waits_for_the_tasks_it_was_given() {
        let shutdown = Shutdown::new();
        let draining = shutdown.draining().clone();
        let task = shutdown.spawn(async move { draining.cancelled().await });
        shutdown.begin();
        assert_eq!(shutdown.wait(Duration::from_secs(10)).await, Drained::Clean);
        assert!(task.is_finished());
    }

    #[tokio::test]
    async fn a_task_that_does_not_finish_is_cut_after_the_grace() {
        let shutdown = Shutdown::new();
        shutdown.spawn(std::future::pending::<()>());
        shutdown.begin();
        assert_eq!(shutdown.wait(Duration::ZERO).await, Drained::Cut(1));
    }
}
