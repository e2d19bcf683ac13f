//! What Prometheus is told: everything is read when it asks, and nothing is counted twice.
//!
//! Counters of tasks are those that are stored with them, so that they go on where they were after a restart; all others
//! begin at zero then. Labels have few values: there is one for each task, and none for reports, clients or jobs.

mod gather;
mod process;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text},
    metrics::MetricType,
    registry::Registry,
};

use crate::app::App;
use dapbox_support::Fault;

/// The media types of the format that every scraper understands, and of the newer one for those that ask for it.
const PLAIN: &str = prometheus_text::CONTENT_TYPE;
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a metric is called, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it says.
    pub help: &'static str,
}

/// What kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only rises, until a restart.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How often something took how long.
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
    /// How many there were of each class, with its upper bound, and the seconds of all of them.
    Spread(Vec<(f64, u64)>, f64),
}

/// All metrics as text, in the newer format if `open`, with the media type.
pub fn text(app: &App, open: bool) -> Result<(&'static str, String), Fault> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(gather::all(app))));
    let mut body = String::new();
    let written = if open { text::encode(&mut body, &registry) } else { prometheus_text::encode(&mut body, &registry) };
    written.map_err(|error| Fault::while_doing("writing the metrics", error))?;
    Ok((if open { OPEN_METRICS } else { PLAIN }, body))
}

/// What there is to be told at one scrape.
#[derive(Debug)]
struct Scrape(Vec<Family>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for Family { metric, values } in &self.0 {
            // The encoder adds what the names of counters end with.
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
        (Value::Spread(classes, seconds), _) => {
            let count = classes.iter().map(|(_, count)| count).sum();
            encoder.encode_histogram::<NoLabelSet>(*seconds, count, classes, None)
        }
    }
}
