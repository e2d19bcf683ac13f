//! Retries of idempotent requests.

use std::time::{Duration, Instant};

use super::{Backoff, RequestError};

/// Delays and duration of retries.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Maximum of the first delay.
    pub initial: Duration,
    /// Maximum of every delay.
    pub max: Duration,
    /// Total time after which no retry starts.
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

/// Retries an idempotent request until it succeeds, fails permanently, or exceeds the total time.
pub async fn retry<T, F>(retries: RetryPolicy, mut send: impl FnMut() -> F) -> Result<T, RequestError>
where
    F: Future<Output = Result<T, RequestError>>,
{
    let start = Instant::now();
    let mut backoff = Backoff::new(retries.initial, retries.max);
    loop {
        match send().await {
            Err(error) if error.is_retryable() => {
                let delay = backoff.next_delay(error.retry_after());
                if start.elapsed() + delay >= retries.give_up_after {
                    return Err(error);
                }
                tracing::debug!(%error, ?delay, "request retried");
                tokio::time::sleep(delay).await;
            }
            result => return result,
        }
    }
}
