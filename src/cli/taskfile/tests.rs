use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::{
    model::{Epsilon, MaxMeasurement},
    vdaf,
};

fn parameters() -> Parameters {
    Parameters {
        id: TaskId::random(),
        revision: Revision::Dap09,
        info: String::new(),
        leader_url: "https://leader.example/dap-09/".to_owned(),
        helper_url: "https://helper.example/dap-09/".to_owned(),
        min_batch_size: 100,
        time_precision: Seconds::new(3600),
        starts: None,
        expires: Some(Time(1_900_000_000)),
        report_expiry_age: Some(Seconds::new(86_400)),
        noise: Epsilon::new(1, 2),
        configuration: None,
        batch: BatchMode::FixedSize { max_batch_size: Some(200), batch_time_window_size: Some(Duration(7200)) },
        vdaf: VdafConfig::Prio3Histogram { length: 10, chunk_length: 4 },
    }
}

fn files() -> TaskFiles {
    TaskFiles::generate(parameters(), &VerifyKey::default()).unwrap()
}

/// The files of a task with all parameters of DAP-18.
fn later_files() -> TaskFiles {
    let task = Parameters {
        revision: Revision::Dap18,
        info: "a survey".to_owned(),
        starts: Some(Time(1_899_997_200)),
        expires: Some(Time(1_900_000_800)),
        noise: None,
        batch: BatchMode::fixed_size(None),
        vdaf: VdafConfig::Prio3Sum { max: MaxMeasurement(100) },
        ..parameters()
    };
    TaskFiles::generate(task, &VerifyKey { seed: None, id: 7 }).unwrap()
}

#[test]
fn writes_private_files_once() {
    for files in [files(), later_files()] {
        let dir = tempfile::tempdir().unwrap();
        files.write(dir.path()).unwrap();
        for (name, file) in files.by_file_name() {
            let path = dir.path().join(name);
            assert_eq!(TaskFile::read(&path).unwrap(), *file, "{name}");
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, if name == "client.toml" { 0o644 } else { 0o600 }, "{name}");
        }
        assert!(files.write(dir.path()).is_err());
        assert!(files.leader.write(&dir.path().join("leader.toml")).is_err());
    }
}

#[test]
fn generates_matching_leader_and_helper_tasks() {
    let files = files();
    let leader = files.leader.aggregator_task().unwrap();
    let helper = files.helper.aggregator_task().unwrap();
    assert_eq!(Task { party: helper.party.clone(), ..leader.clone() }, helper);
    let (collector, keypair) = files.collector.collector_task().unwrap();
    assert_eq!(*keypair.config(), leader.collector_hpke_config);
    let (Party::Leader { helper_token, collector_token }, Party::Helper { leader_token }) =
        (leader.party, helper.party)
    else {
        panic!("wrong parties");
    };
    assert!(leader_token.matches(helper_token.expose()));
    assert!(collector_token.matches(collector.token.expose()));
    assert_eq!(leader.public.time_precision, Duration(3600));
    assert_eq!(leader.public.task_expiration, Some(Time(1_900_000_000)));
}

#[test]
fn separates_secrets_of_parties() {
    let files = files();
    let text = |file: &TaskFile| file.to_text().unwrap();
    let verify_key = toml::Value::try_from(&files.helper.helper.as_ref().unwrap().verify_key).unwrap().to_string();
    let collector = files.collector.collector.as_ref().unwrap();
    let token = collector.token.expose_text().unwrap();
    let private_key = toml::Value::try_from(&collector.private_key).unwrap().to_string();
    let helper_token = files.leader.leader.as_ref().unwrap().helper_token.expose_text().unwrap();
    let holders = |secret: &str| files.by_file_name().map(|(_, file)| text(file).contains(secret));
    assert_eq!(holders(&verify_key), [true, true, false, false]);
    assert_eq!(holders(helper_token), [true, false, false, false]);
    assert_eq!(holders(token), [false, false, false, true]);
    assert_eq!(holders(&private_key), [false, false, false, true]);
    assert!(files.client.aggregator_task().is_none() && files.collector.aggregator_task().is_none());
    assert!(files.leader.collector_task().is_err());
}

#[test]
fn comments_every_key() {
    for (_, file) in files().by_file_name().into_iter().chain(later_files().by_file_name()) {
        let text = file.to_text().unwrap();
        for (_, comment) in COMMENTS {
            let mut keys = COMMENTS.iter().filter(|(_, other)| *other == comment).map(|(key, _)| *key);
            let has_key = keys.any(|key| text.lines().any(|line| line.split(" =").next() == Some(key)));
            assert_eq!(has_key, text.contains(comment), "{comment}");
        }
    }
}

#[test]
fn rejects_invalid_task_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    let good = files().helper.to_text().unwrap();
    let mixed = format!(
        "{good}\n{}",
        files().collector.to_text().unwrap().split("[collector]").nth(1).map(|t| format!("[collector]{t}")).unwrap()
    );
    for (text, word) in [
        (good.replace("min_batch_size", "min_batchsize"), "min_batchsize"),
        (good.replace("2030-03-17T17:46:40Z", "soon"), "invalid time"),
        (good.replace("expires =", "starts ="), "no end"),
        (good.replace("expires =", "starts = \"2031-01-01\"\nexpires ="), "expires before it starts"),
        (good.replace("expires =", "starts = \"2029-01-01\"\nexpires ="), "start is not supported in DAP-09"),
        (good.replace("leader_url", "info = \"x\"\nleader_url"), "info is not supported in DAP-09"),
        (mixed, "more than one party"),
    ] {
        std::fs::write(&path, text).unwrap();
        let failure = TaskFile::read(&path).unwrap_err();
        assert!(failure.message().contains(word) && failure.message().contains("x.toml"), "{}", failure.message());
    }
}

#[test]
fn writes_parameters_of_dap18() {
    let files = later_files();
    for file in [&files.leader, &files.helper] {
        let task = file.aggregator_task().unwrap();
        assert_eq!((task.verify_key_id, task.public.info.as_str()), (7, "a survey"));
        assert_eq!(task.public.task_interval, Interval::new(Time(1_899_997_200), Duration(3600)));
        assert_eq!(task.public.task_expiration, None);
    }
    assert_eq!(files.client.parameters(), files.collector.collector_task().unwrap().0.public);
    let text = |file: &TaskFile| file.to_text().unwrap();
    assert!(text(&files.helper).contains("verify_key_id = 7") && !text(&files.client).contains("verify_key_id"));
    assert!(text(&files.client).contains("starts = \"2030-03-17T17:00:00Z\""));
    assert_eq!(files.collector.collector.unwrap().since, Some(Time(1_899_997_200)));
}

#[test]
fn derives_verify_key_from_seed_and_task() {
    let seed = Secret::random(32);
    let key = |task: Parameters, seed: &Secret| {
        let files = TaskFiles::generate(task, &VerifyKey { seed: Some(seed.clone()), id: 0 }).unwrap();
        let keys = [&files.leader, &files.helper].map(|file| file.aggregator_task().unwrap().verify_key);
        assert_eq!(keys[0], keys[1]);
        keys[0].clone()
    };
    let task = parameters();
    assert_eq!(key(task.clone(), &seed), key(task.clone(), &seed));
    assert_eq!(key(task.clone(), &seed), vdaf::derive_verify_key(&seed, &task.id, 16));
    assert_ne!(key(parameters(), &seed), key(task.clone(), &seed));
    assert_ne!(key(task.clone(), &Secret::random(32)), key(task, &seed));
}

#[test]
fn rejects_parameters_unsupported_by_revision() {
    let cases: [(&str, Parameters); 4] = [
        ("maximum 100", Parameters { vdaf: VdafConfig::Prio3Sum { max: MaxMeasurement(100) }, ..parameters() }),
        ("info", Parameters { info: "x".to_owned(), ..parameters() }),
        ("info", Parameters { info: String::new(), ..later_files().client.task }),
        ("precision", Parameters { starts: Some(Time(1_899_997_201)), ..later_files().client.task }),
    ];
    for (word, task) in cases {
        let failure = TaskFiles::generate(task, &VerifyKey::default()).unwrap_err();
        assert!(failure.exit_code() == 2 && failure.message().contains(word), "{word}: {}", failure.message());
    }
}
