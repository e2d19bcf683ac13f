//! The OpenAPI 3.1 description of the listener of results.

use serde_json::{Value, json};

use crate::export::COLUMNS;
use dapbox_results::WindowState;

/// The parameters of a [`Selection`](crate::Selection), with their descriptions.
const PARAMETERS: [(&str, &str); 6] = [
    ("from", "Windows that end after this time: a date in the time zone of the task's schedule, or an RFC 3339 time."),
    ("to", "Windows that start before this time."),
    ("compare_from", "Start of a second range, which a page compares with the first."),
    ("compare_to", "End of the second range."),
    ("sum", "1 adds the selected windows up."),
    ("window", "Number of a single window."),
];

/// The description, as JSON text.
pub fn document(version: &str) -> String {
    let id = json!([{ "$ref": "#/components/parameters/task" }]);
    let token = json!([{ "$ref": "#/components/parameters/token" }]);
    let mut paths = serde_json::Map::new();
    paths.insert("/".to_owned(), path("Page of all tasks", "text/html", None, json!([])));
    paths.insert("/openapi.json".to_owned(), path("This description", "application/json", None, json!([])));
    for (place, parameter) in [("/tasks/{task}", id), ("/results/{token}", token)] {
        let file = |end: &str| format!("{place}{end}");
        paths.insert(file(""), path("Page of a task", "text/html", None, selected(&parameter)));
        let csv = path("Results as CSV", "text/csv", None, selected(&parameter));
        paths.insert(file(".csv"), csv);
        let ndjson =
            path("A line of JSON for each window", "application/x-ndjson", Some("Window"), selected(&parameter));
        paths.insert(file(".ndjson"), ndjson);
        let json = path("Task and windows as JSON", "application/json", Some("Task"), selected(&parameter));
        paths.insert(file(".json"), json);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "dapbox results",
            "version": version,
            "description": "Results of the tasks that this server collects. Read only.",
        },
        "paths": paths,
        "components": { "parameters": parameters(), "schemas": schemas() },
    })
    .to_string()
}

/// A path that is read with GET.
fn path(summary: &str, media_type: &str, schema: Option<&str>, parameters: Value) -> Value {
    let schema = match schema {
        Some(name) => json!({ "$ref": format!("#/components/schemas/{name}") }),
        None if media_type == "text/csv" => {
            json!({ "type": "string", "description": format!("Columns: {}", COLUMNS.join(", ")) })
        }
        None => json!({ "type": if media_type == "application/json" { "object" } else { "string" } }),
    };
    let problem = |text: &str| json!({ "description": text, "content": { "application/problem+json": {} } });
    json!({
        "get": {
            "summary": summary,
            "parameters": parameters,
            "responses": {
                "200": { "description": summary, "content": { media_type: { "schema": schema } } },
                "304": { "description": "Unchanged since the entity tag of If-None-Match" },
                "400": problem("A parameter is malformed"),
                "404": problem("No such task, or the link is unknown, expired or revoked"),
                "422": problem("The selection is too large, or its windows cannot be added up"),
            },
        },
    })
}

/// The parameter of a path with those of the query.
fn selected(first: &Value) -> Value {
    let query = PARAMETERS.iter().map(|(name, _)| json!({ "$ref": format!("#/components/parameters/{name}") }));
    Value::Array(first.as_array().into_iter().flatten().cloned().chain(query).collect())
}

fn parameters() -> Value {
    let mut all = serde_json::Map::new();
    let in_path = [("task", "Id of the task."), ("token", "Token of a link.")];
    for (name, description) in in_path {
        let schema = json!({ "type": "string" });
        let parameter =
            json!({ "name": name, "in": "path", "required": true, "description": description, "schema": schema });
        all.insert(name.to_owned(), parameter);
    }
    for (name, description) in PARAMETERS {
        let schema = json!({ "type": "string" });
        all.insert(
            name.to_owned(),
            json!({ "name": name, "in": "query", "description": description, "schema": schema }),
        );
    }
    Value::Object(all)
}

fn schemas() -> Value {
    let number = json!({ "type": "integer" });
    let text = json!({ "type": "string" });
    let result = json!({ "oneOf": [number, { "type": "array", "items": number }] });
    let window = json!({
        "type": "object",
        "required": ["state"],
        "properties": {
            "window": number,
            "start": { "type": "string", "format": "date-time" },
            "end": { "type": "string", "format": "date-time" },
            "state": { "enum": WindowState::NAMES },
            "reason": text,
            "report_count": number,
            "windows": { "type": "integer", "description": "Number of windows in the result." },
            "result": result,
            "noise_sd": { "type": "number" },
            "noise_bound_95": { "type": "number" },
        },
    });
    let task = json!({
        "type": "object",
        "required": ["task_id", "title", "vdaf", "min_batch_size", "time_zone", "presentation", "windows"],
        "properties": {
            "task_id": text,
            "title": text,
            "vdaf": { "type": "object" },
            "min_batch_size": number,
            "noise_epsilon": text,
            "time_zone": text,
            "presentation": { "type": "object" },
            "windows": { "type": "array", "items": { "$ref": "#/components/schemas/Window" } },
        },
    });
    json!({ "Task": task, "Window": window })
}
