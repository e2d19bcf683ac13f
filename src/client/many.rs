//! Uploading many measurements at once.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};

use super::{Client, ClientError};
use crate::{model::Time, vdaf::Measurement};

/// What became of many measurements.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many the leader took.
    pub accepted: u64,
    /// How many were refused, by reason: the protocol's name for it where it has one.
    pub rejected: BTreeMap<String, u64>,
    /// The last refusal in words.
    pub last_rejection: Option<String>,
    /// What put an end to it before all were tried, if anything did: then no later measurement would have fared better.
    pub failure: Option<ClientError>,
}

impl Summary {
    /// How many were refused, for whatever reason.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }

    fn take(&mut self, result: Result<(), ClientError>) {
        match result {
            Ok(()) => self.accepted += 1,
            Err(error) if error.is_about_the_report() => {
                *self.rejected.entry(error.reason()).or_default() += 1;
                self.last_rejection = Some(error.to_string());
            }
            Err(error) => self.failure = Some(error),
        }
    }
}

impl Client {
    /// Uploads measurements, `concurrency` of them at once, each as an upload of its own. `progress` is told after every
    /// one. Stops early when the aggregators cannot be reached or the task is not known there.
    pub async fn upload_many(
        &self,
        measurements: impl IntoIterator<Item = Measurement>,
        time: Option<Time>,
        concurrency: usize,
        mut progress: impl FnMut(&Summary),
    ) -> Summary {
        let mut summary = Summary::default();
        // Fetched once before, or each of the first uploads would fetch them.
        if let Err(error) = self.keys().await {
            summary.failure = Some(error);
            return summary;
        }
        let uploads = measurements.into_iter().map(|measurement| self.upload(measurement, time));
        let mut results = stream::iter(uploads).buffer_unordered(concurrency.max(1));
        while let Some(result) = results.next().await {
            summary.take(result.map(drop));
            progress(&summary);
            if summary.failure.is_some() {
                break;
            }
        }
        summary
    }
}
