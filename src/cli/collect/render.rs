//! Output of a collected aggregate.

use serde_json::json;

use super::Output;
use crate::{
    cli::{Failure, show, style::Style, timestamp},
    collector::CollectedAggregate,
    model::{CollectionJobId, Query, TaskParameters},
    support::format,
    vdaf::{AggregateResult, noise::Noise},
};

/// Renders the result of a collection.
pub fn render(
    id: &CollectionJobId,
    collected: &CollectedAggregate,
    query: &Query,
    task: &TaskParameters,
    output: Output,
) -> Result<String, Failure> {
    // The interval of the result ends with its last report. The interval of the query may end later, and is closed.
    let asked = match query {
        Query::TimeInterval(interval) => Some(interval),
        Query::FixedSize(_) => None,
    };
    match output {
        Output::Text => {
            let style = Style::stdout();
            let next = asked.map(|asked| format!("\nThe next collection starts at {}", timestamp::show(asked.end())));
            let next = next.map(|next| style.dim(&next)).unwrap_or_default();
            let noise = task.noise.map(|epsilon| format!("\nNoise: {}\n", format::noise(&task.vdaf, epsilon)));
            let noise = noise.map(|noise| style.dim(&noise)).unwrap_or_default();
            Ok(format!("{}{noise}{next}", show::collected(collected, &task.vdaf, style)))
        }
        Output::Json => {
            let value = json!({
                "collection": id,
                "report_count": collected.report_count,
                "interval": {
                    "start": collected.interval.start().0,
                    "duration": collected.interval.duration().0,
                },
                "asked": asked.map(|asked| json!({ "start": asked.start().0, "duration": asked.duration().0 })),
                "batch_id": collected.batch_id,
                "result": collected.result,
                "noise": noise_facts(task)?,
            });
            Ok(format!("{value}\n"))
        }
        Output::Csv => {
            let values: Vec<String> = match &collected.result {
                AggregateResult::Number(number) => vec![number.to_string()],
                AggregateResult::NoisyNumber(number) => vec![number.to_string()],
                AggregateResult::Vector(values) => values.iter().map(u128::to_string).collect(),
                AggregateResult::Noisy(values) => values.iter().map(i128::to_string).collect(),
            };
            let rows = values.iter().enumerate().map(|(index, value)| format!("{index},{value}\n"));
            Ok(std::iter::once("index,value\n".to_owned()).chain(rows).collect())
        }
    }
}

/// The parameters of the task's noise as JSON; null without noise.
fn noise_facts(task: &TaskParameters) -> Result<serde_json::Value, Failure> {
    let Some(epsilon) = task.noise else { return Ok(serde_json::Value::Null) };
    let noise = Noise::new(&task.vdaf, epsilon)?;
    Ok(json!({
        "epsilon": epsilon,
        "standard_deviation": noise.standard_deviation(),
        "bound_95_percent": noise.confidence_bound(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BatchMode, Duration, Interval, Revision, TaskId, Time, VdafConfig};

    const HOUR: Duration = Duration(3600);
    const ID: CollectionJobId = CollectionJobId::new([1; 16]);

    fn by_time(start: u64, duration: u64) -> Query {
        Query::TimeInterval(Interval::new(Time(start), Duration(duration)).unwrap())
    }

    fn task(noise: Option<&str>) -> TaskParameters {
        TaskParameters {
            id: TaskId::new([1; 32]),
            revision: Revision::Dap09,
            info: String::new(),
            leader_url: "https://a.example/".to_owned(),
            helper_url: "https://b.example/".to_owned(),
            batch_mode: BatchMode::TimeInterval,
            vdaf: VdafConfig::Prio3Histogram { length: 2, chunk_length: 1 },
            min_batch_size: 1,
            time_precision: HOUR,
            task_expiration: None,
            task_interval: None,
            noise: noise.map(|epsilon| epsilon.parse().unwrap()),
        }
    }

    #[test]
    fn renders_noise_parameters() {
        let collected = CollectedAggregate {
            report_count: 3,
            interval: Interval::new(Time(3600), HOUR).unwrap(),
            batch_id: None,
            location: None,
            result: AggregateResult::Noisy(vec![-1, 2]),
        };
        let (query, task) = (by_time(0, 10_800), task(Some("2/4")));
        let render = |output| render(&ID, &collected, &query, &task, output).unwrap();
        assert_eq!(render(Output::Csv), "index,value\n0,-1\n1,2\n");
        let value: serde_json::Value = serde_json::from_str(&render(Output::Json)).unwrap();
        assert_eq!((&value["result"], &value["noise"]["epsilon"]), (&json!([-1, 2]), &json!("0.5")));
        // The scale is 2 / 0.5, and so the standard deviation about 8.
        assert!((value["noise"]["standard_deviation"].as_f64().unwrap() - 8.0).abs() < 0.1, "{value}");
        let bound = value["noise"]["bound_95_percent"].as_f64().unwrap();
        let text = render(Output::Text);
        assert!(text.contains("epsilon 0.5 ") && text.contains(&format!("within {bound} of")), "{text}");
    }

    #[test]
    fn renders_json_and_csv() {
        let collected = CollectedAggregate {
            report_count: 3,
            interval: Interval::new(Time(3600), HOUR).unwrap(),
            batch_id: None,
            location: None,
            result: AggregateResult::Vector(vec![1, 2]),
        };
        let task = task(None);
        let query = by_time(0, 10_800);
        let render = |output| render(&ID, &collected, &query, &task, output).unwrap();
        assert_eq!(render(Output::Csv), "index,value\n0,1\n1,2\n");
        let value: serde_json::Value = serde_json::from_str(&render(Output::Json)).unwrap();
        assert_eq!(value["result"], json!([1, 2]));
        assert!(value["noise"].is_null());
        assert_eq!(value["interval"]["start"], 3600);
        assert_eq!(value["asked"]["duration"], 10_800);
        assert!(render(Output::Text).ends_with("starts at 1970-01-01T03:00:00Z"));
    }
}
