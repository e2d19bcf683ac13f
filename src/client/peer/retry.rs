//! Repeating a call that is safe to repeat, for those who wait for its outcome.

use std::time::{Duration, Instant};

use super::{Backoff, RequestError};

/// How long and how often to try again.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// The first pause is at most this long.
    pub initial: Duration,
    /// No pause is longer.
    pub max: Duration,
    /// Stop trying when this much time has passed.
    pub give_up_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(250),
            max: Duration::from_secs(30),
            give_up_after: Duration::from_secs(30),
        }
    }
}

/// Repeats a call that is safe to repeat until it succeeds, cannot succeed, or takes too long.
pub async fn retry<T, F>(retries: RetryPolicy, mut call: impl FnMut() -> F) -> Result<T, RequestError>
where
    F: Future<Output = Result<T, RequestError>>,
{
    let start = Instant::now();
    let mut backoff = Backoff::new(retries.initial, retries.max);
    loop {
        match call().await {
            Err(error) if error.is_retryable() => {
                let delay = backoff.next_delay(error.retry_after());
                if start.elapsed() + delay >= retries.give_up_after {
                    return Err(error);
                }
                tracing::debug!(%error, ?delay, "trying again");
                tokio::time::sleep(delay).await;
            }
            result => return result,
        }
    }
}
