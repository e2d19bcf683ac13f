//! The effect of a task's noise on sums of windows.

use super::interval::Z95;
use dapbox_protocol::{model::TaskParameters, vdaf::noise::Noise};

/// The noise of each number of one window, of both aggregators together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseModel {
    deviation: f64,
    single_bound: f64,
}

impl NoiseModel {
    /// The noise of a task; `None` if it has none.
    pub fn of(parameters: &TaskParameters) -> Option<Self> {
        let noise = Noise::new(&parameters.vdaf, parameters.noise?).ok()?;
        Some(Self { deviation: noise.standard_deviation(), single_bound: noise.confidence_bound() })
    }

    /// The variance of each number of a sum of windows. The noise of windows is independent, so variances add up.
    pub fn variance(&self, windows: u64) -> f64 {
        self.deviation * self.deviation * windows as f64
    }

    /// The standard deviation of each number of a sum of windows.
    pub fn deviation(&self, windows: u64) -> f64 {
        self.variance(windows).sqrt()
    }

    /// The error of each number of a sum of windows that is not exceeded with 95 % confidence: exact for one window, of
    /// the normal distribution for several.
    pub fn bound(&self, windows: u64) -> f64 {
        match windows {
            0 => 0.0,
            1 => self.single_bound,
            _ => Z95 * self.deviation(windows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dapbox_protocol::model::{BatchMode, Duration, Revision, TaskId, VdafConfig};

    fn parameters(epsilon: Option<&str>) -> TaskParameters {
        TaskParameters {
            id: TaskId::new([1; 32]),
            revision: Revision::Dap09,
            info: String::new(),
            leader_url: "https://leader.example/".to_owned(),
            helper_url: "https://helper.example/".to_owned(),
            batch_mode: BatchMode::TimeInterval,
            vdaf: VdafConfig::Prio3Histogram { length: 4, chunk_length: 2 },
            min_batch_size: 10,
            time_precision: Duration(3600),
            task_expiration: None,
            task_interval: None,
            noise: epsilon.map(|text| text.parse().unwrap()),
        }
    }

    #[test]
    fn variances_of_windows_add_up() {
        let noise = NoiseModel::of(&parameters(Some("0.1"))).unwrap();
        // Scale 20: the variance of one continuous Laplace sample is 2 * 20^2, and there are two samples.
        assert!((noise.variance(1) / 1600.0 - 1.0).abs() < 0.001, "{}", noise.variance(1));
        assert!((noise.variance(9) / noise.variance(1) - 9.0).abs() < 1e-9);
        assert!((noise.deviation(9) - 3.0 * noise.deviation(1)).abs() < 1e-9);
        assert!((noise.bound(4) - 1.96 * 80.0).abs() < 0.1);
        assert_eq!(noise.bound(0), 0.0);
    }

    #[test]
    fn tasks_without_noise_have_none() {
        assert_eq!(NoiseModel::of(&parameters(None)), None);
    }
}
