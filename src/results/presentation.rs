//! How a task is shown to people. Never sent to another party of the protocol.

use serde::{Deserialize, Serialize};

use dapbox_protocol::model::{Time, VdafConfig};

/// Maximum length of a title, unit or label, in characters.
pub const MAX_LABEL: usize = 200;
/// Maximum length of a description or the text of a note, in characters.
pub const MAX_TEXT: usize = 2_000;
/// Maximum number of notes.
pub const MAX_NOTES: usize = 1_000;

/// Titles, units and labels of a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Presentation {
    /// A title instead of the task's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What is measured, in a sentence or two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The unit of the measurement, such as `ms` or `steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Labels of the bins of a histogram, or of the positions of a vector, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Edges of the bins of a histogram of an ordered quantity, ascending: one more than bins. The first may be `-inf` and the
    /// last `inf`.
    #[serde(skip_serializing_if = "Vec::is_empty", with = "edges")]
    pub edges: Vec<f64>,
    /// Remarks on dates, such as a release.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

/// A remark on a date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// The time.
    #[serde(with = "crate::instant::required")]
    pub at: Time,
    /// The remark.
    pub text: String,
}

impl Presentation {
    /// Checks that the presentation fits a task. The error says what to change.
    pub fn check(&self, vdaf: &VdafConfig) -> Result<(), String> {
        let short = [("title", &self.title), ("unit", &self.unit)];
        let mut short = short.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?)));
        if let Some((name, _)) = short.find(|(_, text)| !fits(text, MAX_LABEL)) {
            return Err(format!("{name} has more than {MAX_LABEL} characters, or control characters"));
        }
        if self.description.as_ref().is_some_and(|text| !fits(text, MAX_TEXT)) {
            return Err(format!("description has more than {MAX_TEXT} characters, or control characters"));
        }
        if self.notes.len() > MAX_NOTES || self.notes.iter().any(|note| !fits(&note.text, MAX_TEXT)) {
            return Err(format!("there are more than {MAX_NOTES} notes, or one has more than {MAX_TEXT} characters"));
        }
        let length = vdaf.vector_length();
        if !self.labels.is_empty() && self.labels.len() != length {
            let count = self.labels.len();
            return Err(format!("there are {count} labels for {length} numbers (hint: give one for each, in order)"));
        }
        if let Some(label) = self.labels.iter().find(|label| !fits(label, MAX_LABEL)) {
            let start: String = label.chars().take(20).collect();
            return Err(format!("label '{start}...' has more than {MAX_LABEL} characters, or control characters"));
        }
        self.check_edges(vdaf, length)
    }

    fn check_edges(&self, vdaf: &VdafConfig, length: usize) -> Result<(), String> {
        if self.edges.is_empty() {
            return Ok(());
        }
        if !matches!(vdaf, VdafConfig::Prio3Histogram { .. }) {
            return Err("only histograms have edges (hint: use labels)".to_owned());
        }
        if self.edges.len() != length + 1 {
            let (found, needed) = (self.edges.len(), length + 1);
            return Err(format!("there are {found} edges for {length} bins (hint: give {needed}: each bin has two)"));
        }
        let inner = self.edges.get(1..length).unwrap_or_default();
        if self.edges.windows(2).any(|pair| pair[0].partial_cmp(&pair[1]) != Some(std::cmp::Ordering::Less)) {
            return Err("edges are not ascending".to_owned());
        }
        match inner.iter().all(|edge| edge.is_finite()) {
            true => Ok(()),
            false => Err("only the first edge may be -inf and only the last one inf".to_owned()),
        }
    }
}

fn fits(text: &str, max: usize) -> bool {
    text.chars().count() <= max && !text.chars().any(|c| c.is_control() && c != '\n')
}

/// Edges as numbers, and infinite ones as text, because JSON has no infinite numbers.
mod edges {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Edge {
        Finite(f64),
        Infinite(String),
    }

    pub fn serialize<S: Serializer>(edges: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        let edge = |edge: &f64| match edge.is_finite() {
            true => Edge::Finite(*edge),
            false => Edge::Infinite(edge.to_string()),
        };
        serializer.collect_seq(edges.iter().map(edge))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        let edge = |edge| match edge {
            Edge::Finite(edge) => Ok(edge),
            Edge::Infinite(text) => match text.as_str() {
                "inf" | "+inf" => Ok(f64::INFINITY),
                "-inf" => Ok(f64::NEG_INFINITY),
                _ => Err(de::Error::custom(format!("an edge is a number, inf or -inf, not '{text}'"))),
            },
        };
        Vec::deserialize(deserializer)?.into_iter().map(edge).collect()
    }
}

// Edges are never NaN: `check` rejects it.
impl Eq for Presentation {}

#[cfg(test)]
mod tests {
    use super::*;

    const HISTOGRAM: VdafConfig = VdafConfig::Prio3Histogram { length: 3, chunk_length: 1 };

    fn edges(edges: &[f64]) -> Result<(), String> {
        Presentation { edges: edges.to_vec(), ..Presentation::default() }.check(&HISTOGRAM)
    }

    #[test]
    fn edges_are_ascending_and_one_more_than_bins() {
        assert_eq!(edges(&[0.0, 1.0, 5.0, 10.0]), Ok(()));
        assert_eq!(edges(&[f64::NEG_INFINITY, 1.0, 5.0, f64::INFINITY]), Ok(()));
        for wrong in [
            &[0.0, 1.0, 5.0][..],
            &[0.0, 5.0, 1.0, 10.0],
            &[0.0, 1.0, 1.0, 10.0],
            &[0.0, 1.0, f64::INFINITY, f64::INFINITY],
            &[0.0, f64::NAN, 5.0, 10.0],
        ] {
            assert!(edges(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn labels_fit_the_measurement() {
        let labels = |count: usize| Presentation { labels: vec!["a".to_owned(); count], ..Presentation::default() };
        assert_eq!(labels(3).check(&HISTOGRAM), Ok(()));
        assert!(labels(2).check(&HISTOGRAM).is_err());
        assert!(labels(3).check(&VdafConfig::Prio3Count).is_err());
    }

    #[test]
    fn text_form_keeps_infinite_edges_and_times() {
        let text = "title = \"Age\"\nedges = [-inf, 1, 5.5, inf]\n[[notes]]\nat = \"2026-03-01\"\ntext = \"Release\"\n";
        let presentation: Presentation = toml::from_str(text).unwrap();
        assert_eq!(presentation.edges, [f64::NEG_INFINITY, 1.0, 5.5, f64::INFINITY]);
        let json = serde_json::to_string(&presentation).unwrap();
        assert_eq!(serde_json::from_str::<Presentation>(&json).unwrap(), presentation);
        assert_eq!(toml::from_str::<Presentation>(&toml::to_string(&presentation).unwrap()).unwrap(), presentation);
    }
}
