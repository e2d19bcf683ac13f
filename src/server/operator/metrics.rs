//! Metrics for Prometheus, computed at each scrape.
//!
//! Counters of tasks are stored, so that they survive restarts. All other counters begin at zero. Labels have few
//! values: there is one for each task, and none for reports, clients or jobs.

mod gather;
mod process;
mod results;
mod set;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text},
    metrics::MetricType,
    registry::Registry,
};

use crate::operator::context::MonitorContext;
use dapbox_support::Fault;

/// The media types of the Prometheus text format and of OpenMetrics.
const PLAIN: &str = prometheus_text::CONTENT_TYPE;
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The description of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name.
    pub name: &'static str,
    /// The type.
    pub kind: Kind,
    /// The help text.
    pub help: &'static str,
}

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only increases. Starts from zero at a restart, unless it is a counter of a task.
    Counter,
    /// Rises and falls.
    Gauge,
    /// A distribution.
    Histogram,
}

impl Kind {
    fn as_type(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
            Self::Histogram => MetricType::Histogram,
        }
    }
}

/// Describes a gauge.
const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, help }
}

pub use gather::METRICS;

/// A metric with its values.
#[derive(Debug)]
struct Family {
    metric: Metric,
    values: Vec<(Labels, Value)>,
}

type Labels = Vec<(&'static str, String)>;

#[derive(Clone, Debug)]
enum Value {
    Whole(u64),
    Real(f64),
    /// The number of observations of each bucket with its upper bound, and the sum in seconds.
    Histogram(Vec<(f64, u64)>, f64),
}

/// Serializes all metrics, as OpenMetrics if `open`. Returns the media type and the text.
pub fn text(ctx: &MonitorContext, open: bool) -> Result<(&'static str, String), Fault> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(gather::all(ctx))));
    let mut body = String::new();
    let written = if open { text::encode(&mut body, &registry) } else { prometheus_text::encode(&mut body, &registry) };
    written.map_err(|error| Fault::while_doing("serializing the metrics", error))?;
    Ok((if open { OPEN_METRICS } else { PLAIN }, body))
}

/// The metrics of one scrape.
#[derive(Debug)]
struct Scrape(Vec<Family>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for Family { metric, values } in &self.0 {
            // The encoder appends the suffix of counters.
            let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
            let mut family = encoder.encode_descriptor(name, metric.help, None, metric.kind.as_type())?;
            for (labels, value) in values {
                if labels.is_empty() {
                    encode(value, metric.kind, &mut family)?;
                } else {
                    encode(value, metric.kind, &mut family.encode_family(labels)?)?;
                }
            }
        }
        Ok(())
    }
}

fn encode(value: &Value, kind: Kind, encoder: &mut MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
    match (value, kind) {
        (Value::Whole(value), Kind::Counter) => encoder.encode_counter::<NoLabelSet, _, u64>(value, None),
        (Value::Real(value), Kind::Counter) => encoder.encode_counter::<NoLabelSet, _, u64>(value, None),
        (Value::Whole(value), _) => encoder.encode_gauge(value),
        (Value::Real(value), _) => encoder.encode_gauge(value),
        (Value::Histogram(classes, seconds), _) => {
            let count = classes.iter().map(|(_, count)| count).sum();
            encoder.encode_histogram::<NoLabelSet>(*seconds, count, classes, None)
        }
    }
}
