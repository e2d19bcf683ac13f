//! `dapbox bench growth` on a small scale: what it measures is measured.

use std::process::Command;

#[test]
fn growth_is_measured_at_each_size_and_after_compaction() {
    let output = Command::new(env!("CARGO_BIN_EXE_dapbox"))
        .args(["bench", "growth", "--reports", "20000", "--per-day", "8000", "--rest", "0s", "-o", "json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let compacted: Vec<_> = rows.iter().map(|row| row["compacted"].as_bool().unwrap()).collect();
    assert_eq!(compacted, [false, false, true]);
    let number = |row: usize, name: &str| rows[row][name].as_f64().unwrap_or_else(|| panic!("{name}: {rows:#?}"));
    assert_eq!(number(0, "reports"), 0.0);
    assert!(number(1, "reports") >= 20_000.0 && number(2, "reports") > number(1, "reports"), "{rows:#?}");
    for row in 0..3 {
        for name in ["reports_per_second", "speed", "start_seconds", "resident_bytes", "disk_bytes"] {
            assert!(number(row, name) > 0.0, "{name}: {rows:#?}");
        }
    }
}
