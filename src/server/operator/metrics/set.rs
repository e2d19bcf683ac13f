//! Metrics with their values.

use super::{Family, Labels, Metric, Value};
use dapbox_protocol::model::Time;
use dapbox_store::latency::LatencyHistogram;

/// The metrics of one scrape, being filled.
pub struct MetricSet(Vec<Family>);

impl MetricSet {
    /// These metrics without values.
    pub fn new(metrics: &[Metric]) -> Self {
        Self(metrics.iter().map(|metric| Family { metric: *metric, values: Vec::new() }).collect())
    }

    /// The metrics with their values.
    pub fn into_families(self) -> Vec<Family> {
        self.0
    }

    fn put(&mut self, metric: Metric, labels: Labels, value: Value) {
        let family = self.0.iter_mut().find(|family| family.metric == metric);
        family.expect("every metric is listed").values.push((labels, value));
    }

    /// Adds a whole number.
    pub fn whole(&mut self, metric: Metric, labels: &[(&'static str, &str)], value: impl TryInto<u64>) {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.put(metric, labels, Value::Whole(value.try_into().unwrap_or(u64::MAX)));
    }

    /// Adds a number.
    pub fn real(&mut self, metric: Metric, labels: &[(&'static str, &str)], value: f64) {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.put(metric, labels, Value::Real(value));
    }

    /// Adds a time, if it is known.
    pub fn time(&mut self, metric: Metric, labels: &[(&'static str, &str)], time: Option<Time>) {
        if let Some(time) = time {
            self.whole(metric, labels, time.0);
        }
    }

    /// Adds a distribution.
    pub fn spread(&mut self, metric: Metric, labels: &[(&'static str, &str)], latencies: &LatencyHistogram) {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.put(metric, labels, Value::Histogram(latencies.buckets(), latencies.total_seconds()));
    }
}
