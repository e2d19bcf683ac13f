use proptest::prelude::*;

use super::*;
use crate::model::{BatchMode, Epsilon, MaxMeasurement, VdafConfig};

const URL: &str = "https://dapbox.example/dap-09/";
const SKEW: Duration = Duration(60);

/// A leader task and a helper task as written by hand: members in any order, absent and null values, hexadecimal
/// digits, padding.
const LIST: &str = r#"
# Two tasks.
- role: Leader
  task_id: "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA"
  peer_aggregator_endpoint: https://helper.example/
  query_type: !FixedSize
    max_batch_size: 500
    batch_time_window_size: 7200
  vdaf: !Prio3Histogram
    length: 10
    chunk_length: 3
    dp_strategy:
      dp_strategy: PureDpDiscreteLaplace
      budget:
        epsilon: [[1], [2]]
  vdaf_verify_key: 000102030405060708090a0b0c0d0e0f
  max_batch_query_count: 1
  task_expiration: 1893456000
  report_expiry_age: 7776000
  min_batch_size: 100
  time_precision: 3600
  tolerable_clock_skew: 60
  collector_hpke_config:
    id: 183
    kem_id: X25519HkdfSha256
    kdf_id: HkdfSha256
    aead_id: Aes128Gcm
    public_key: 4qiv6IY5jrjCV3xbaQXULmPIpvoIml1oJmeXm-yOuAo=
  aggregator_auth_token: {type: Bearer, token: "0123456789"}
  collector_auth_token_hash: {type: DapAuth, hash: "MJOoBO_ysLEuG_lv2C37eEOf1Ngetsr-Ers0ZYj4vdQ"}
  hpke_keys:
  - private_key: wFRYwiypcHC-mkGP1u3XQgIvtnlkQlUfZjgtM_zRsnI
    config: {id: 164, kem_id: X25519HkdfSha256, kdf_id: HkdfSha256, aead_id: Aes128Gcm,
      public_key: bK5esYAgvRb7eWto4IlzDV5fMpmdTeO0K56sV-rf9xo}
- role: Helper
  task_id: "ffeeddccbbaa99887766554433221100FFEEDDCCBBAA99887766554433221100"
  peer_aggregator_endpoint: "https://leader.example/x"
  query_type: TimeInterval
  vdaf: Prio3Count
  vdaf_verify_key: ZXtE4kLqtsCOr8h_pNUeoQ
  max_batch_query_count: 3
  report_expiry_age: null
  min_batch_size: 100
  time_precision: 300
  tolerable_clock_skew: 90
  collector_hpke_config:
    id: 80
    kem_id: X25519HkdfSha256
    kdf_id: HkdfSha256
    aead_id: Aes256Gcm
    public_key: 2872cb71681f5b1962f1c74e2cfb20b193edb475e1d21a37bcb54badfeb79510
  aggregator_auth_token_hash:
    type: Bearer
    hash: "30:93" # replaced below
  collector_auth_token_hash:
  hpke_keys: []
"#;

fn list() -> String {
    let hash: String = TokenHash::of(b"token").as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    LIST.replace("30:93", &hash)
}

fn overrides() -> TaskListOverrides<'static> {
    TaskListOverrides { revision: Revision::Dap09, url: URL }
}

fn refusal(text: &str) -> String {
    read(text, overrides()).unwrap_err()
}

#[test]
fn reads_handwritten_list() {
    let read = read(&list(), overrides()).unwrap();
    let [leader, helper] = read.as_slice() else { panic!("{read:?}") };
    let TaskParameters { leader_url, helper_url, vdaf, batch_mode, noise, task_expiration, .. } = &leader.task.public;
    assert_eq!((leader_url.as_str(), helper_url.as_str()), (URL, "https://helper.example/"));
    assert_eq!(leader.task.public.id.as_bytes()[..3], [1, 2, 3]);
    assert_eq!(leader.task.verify_key.expose(), (0..16).collect::<Vec<u8>>());
    assert_eq!(*vdaf, VdafConfig::Prio3Histogram { length: 10, chunk_length: 3 });
    assert_eq!(noise.unwrap().to_string(), "0.5");
    let windows = BatchMode::FixedSize { max_batch_size: Some(500), batch_time_window_size: Some(Duration(7200)) };
    assert_eq!((*batch_mode, *task_expiration), (windows, Some(Time(1_893_456_000))));
    let Party::Leader { helper_token, collector_token } = &leader.task.party else { panic!("no leader") };
    // A string, although it looks like a number.
    assert_eq!(helper_token.expose_text(), Some("0123456789"));
    assert_eq!(collector_token.to_string(), "MJOoBO_ysLEuG_lv2C37eEOf1Ngetsr-Ers0ZYj4vdQ");
    assert_eq!((leader.skew, leader.keys.as_slice()), (SKEW, [164].as_slice()));

    assert_eq!(helper.task.public.id.as_bytes()[..2], [0xff, 0xee]);
    assert_eq!(helper.task.public.helper_url, URL);
    assert_eq!(helper.task.public.leader_url, "https://leader.example/x");
    assert_eq!(helper.task.party, Party::Helper { leader_token: TokenHash::of(b"token") });
    assert_eq!((helper.task.report_expiry_age, helper.task.max_batch_query_count), (None, 3));
    assert_eq!(helper.task.collector_hpke_config.aead_id, 2);
    assert_eq!((helper.skew, helper.keys.len()), (Duration(90), 0));
}

#[test]
fn names_unknown_and_invalid_fields() {
    for (from, to, says) in [
        ("min_batch_size: 100\n  time_precision: 300", "min_batch_sice: 100\n  time_precision: 300", "min_batch_sice"),
        ("batch_time_window_size", "window", "window"),
        ("length: 10", "length: 10\n    buckets: 3", "buckets"),
        ("chunk_length: 3", "", "chunk_length"),
        ("vdaf: Prio3Count", "vdaf: !Poplar1\n    bits: 3", "Poplar1"),
        ("vdaf: Prio3Count", "vdaf: !Prio3FixedPointBoundedL2VecSum\n    length: 3", "FixedPoint"),
        ("PureDpDiscreteLaplace", "ZCdpDiscreteGaussian", "ZCdpDiscreteGaussian"),
        ("epsilon: [[1], [2]]", "epsilon: [[1], [0]]", "task 1 (AQID"),
        ("role: Helper", "role: Collector", "Collector"),
        ("task_id: \"AQID", "other_id: \"AQID", "other_id"),
        ("AQIDBAUGBwgJ", "AQID", "task_id: expected 32 bytes"),
        ("ZXtE4kLqtsCOr8h_pNUeoQ", "ZXtE4kLqtsCOr8h_pNUe", "vdaf_verify_key: expected 16 or 32 bytes"),
        ("vdaf_verify_key: ZXtE4kLqtsCOr8h_pNUeoQ", "", "task 2 (ffee"),
        ("aead_id: Aes256Gcm", "aead_id: Aes512Gcm", "Aes512Gcm"),
        ("{type: Bearer, token", "{type: DapAuth, token", "Bearer only"),
        ("{type: Bearer, token", "{type: Basic, token", "Basic"),
        ("\"0123456789\"", "\"two words\"", "invalid token"),
        ("  aggregator_auth_token: {type: Bearer, token: \"0123456789\"}\n", "", "aggregator_auth_token is missing"),
        (
            "collector_auth_token_hash: {type: DapAuth",
            "aggregator_auth_token_hash: {type: DapAuth",
            "is not the hash of",
        ),
        (
            "collector_auth_token_hash:\n",
            "collector_auth_token_hash: {type: Bearer, hash: \
         MJOoBO_ysLEuG_lv2C37eEOf1Ngetsr-Ers0ZYj4vdQ}\n",
            "not allowed for a helper",
        ),
        ("hash: \"MJOoBO", "token: \"MJOoBO", "token"),
        ("private_key: wFRY", "private_key: FRY", "hpke_keys: private_key"),
        ("tolerable_clock_skew: 90", "", "tolerable_clock_skew"),
        (
            "  min_batch_size: 100\n  time_precision: 300",
            "  min_batch_size: -1\n  time_precision: 300",
            "min_batch_size",
        ),
    ] {
        let text = list();
        assert!(text.contains(from), "{from}");
        let error = refusal(&text.replacen(from, to, 1));
        assert!(error.contains(says), "{from} -> {to}: {error}");
    }
    for wrong in ["", "[]", "a", "task_id: x", "- 1", "{", "- [", "--- []\n--- []", "\u{0}"] {
        assert!(read(wrong, overrides()).is_err(), "{wrong:?}");
    }
}

#[test]
fn rejects_expanding_yaml() {
    let mut bomb = "- &a0 [[1],[1]]\n".to_owned();
    for level in 1..40 {
        let previous = format!("*a{}", level - 1);
        bomb.push_str(&format!("- &a{level} [{}]\n", vec![previous; 9].join(",")));
    }
    let begun = std::time::Instant::now();
    assert!(read(&bomb, overrides()).is_err());
    let deep = "[".repeat(100_000);
    assert!(read(&deep, overrides()).is_err());
    // An alias repeated where a list of numbers is expected.
    let digits = format!("&d [{}]", vec!["1"; 1000].join(","));
    let many = list().replace("[[1], [2]]", &format!("[{digits}, *d]"));
    assert!(refusal(&many).contains("positive fraction"));
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

#[test]
fn refuses_to_write_what_janus_lacks() {
    let good = &read(&list(), overrides()).unwrap()[1].task;
    for vdaf in [
        VdafConfig::Prio3MultihotCountVec { length: 3, max_weight: 1, chunk_length: 1 },
        VdafConfig::Prio3L1BoundSum { max_value: 3, length: 3, chunk_length: 1 },
        VdafConfig::Prio3Sum { max: MaxMeasurement(100) },
    ] {
        let mut task = good.clone();
        task.public.vdaf = vdaf;
        let error = write(&[good.clone(), task.clone()], SKEW).unwrap_err();
        assert!(error.contains(&task.public.id.to_string()) && error.contains("VDAF"), "{error}");
    }
    let mut task = good.clone();
    task.collector_hpke_config.kem_id = 0x647a;
    assert!(write(&[task], SKEW).unwrap_err().contains("collector's key"));
}

fn any_vdaf() -> impl Strategy<Value = VdafConfig> {
    let sizes = || (1_u32..=64, 1_usize..1_000_000, 1_usize..1000, 2_u8..);
    prop_oneof![
        Just(VdafConfig::Prio3Count),
        (1_u32..=64).prop_map(|bits| VdafConfig::Prio3Sum { max: MaxMeasurement::of_bits(bits) }),
        sizes().prop_map(|(bits, length, chunk_length, _)| VdafConfig::Prio3SumVec {
            max: MaxMeasurement::of_bits(bits),
            length,
            chunk_length
        }),
        sizes().prop_map(|(_, length, chunk_length, _)| VdafConfig::Prio3Histogram { length, chunk_length }),
        sizes().prop_map(|(bits, length, chunk_length, proofs)| {
            let bits = bits as usize;
            VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits, length, chunk_length, proofs }
        }),
    ]
}

fn any_mode() -> impl Strategy<Value = BatchMode> {
    let fixed_size = any::<(Option<u64>, Option<u64>)>().prop_map(|(max_batch_size, window)| BatchMode::FixedSize {
        max_batch_size,
        batch_time_window_size: window.map(Duration),
    });
    prop_oneof![Just(BatchMode::TimeInterval), fixed_size]
}

fn any_party() -> impl Strategy<Value = Party> {
    prop_oneof![
        // Includes tokens that look like other YAML types.
        ("[-A-Za-z0-9._~+/=]{1,40}|null|true|1e5|0x10|-|~|[0-9]{1,30}", any::<[u8; 8]>()).prop_map(|(token, other)| {
            let collector_token = TokenHash::of(&other);
            Party::Leader { helper_token: Secret::new(token.into_bytes()), collector_token }
        }),
        any::<[u8; 8]>().prop_map(|token| Party::Helper { leader_token: TokenHash::of(&token) }),
    ]
}

prop_compose! {
    fn any_task()(
        party in any_party(),
        vdaf in any_vdaf(),
        epsilon in any::<Option<(u128, u128)>>(),
        batch_mode in any_mode(),
        id in any::<[u8; 32]>(),
        verify_key in prop_oneof![Just(16_usize), Just(32)],
        (kdf_id, aead_id, key_id, public_key) in (1_u16..=3, 1_u16..=3, any::<u8>(), any::<[u8; 32]>()),
        (min_batch_size, max_batch_query_count, precision) in any::<(u64, u64, u64)>(),
        (task_expiration, expiry) in any::<(Option<u64>, Option<u64>)>(),
        peer in "https?://[a-z]{1,10}\\.example(:[0-9]{2,4})?(/[a-z0-9%:'\"-]{0,8})?",
    ) -> Task {
        let is_leader = matches!(party, Party::Leader { .. });
        let (leader_url, helper_url) = if is_leader { (URL.to_owned(), peer) } else { (peer, URL.to_owned()) };
        let has_noise = !matches!(vdaf, VdafConfig::Prio3Count | VdafConfig::Prio3Sum { .. });
        let noise = epsilon.and_then(|(above, below)| Epsilon::new(above, below)).filter(|_| has_noise);
        Task {
            public: TaskParameters {
                id: TaskId::new(id),
                revision: Revision::Dap09,
                info: String::new(),
                leader_url,
                helper_url,
                batch_mode,
                vdaf,
                min_batch_size,
                time_precision: Duration(precision),
                task_expiration: task_expiration.map(Time),
                task_interval: None,
                noise,
            },
            verify_key: Secret::random(verify_key),
            verify_key_id: 0,
            max_batch_query_count,
            report_expiry_age: expiry.map(Duration),
            collector_hpke_config: HpkeConfig {
                id: key_id, kem_id: 0x20, kdf_id, aead_id, public_key: public_key.to_vec(),
            },
            party,
        }
    }
}

proptest! {
    #[test]
    fn round_trips_tasks(first in any_task(), second in any_task(), skew in any::<u64>()) {
        let tasks = vec![first, second];
        let text = write(&tasks, Duration(skew)).unwrap();
        let back = read(&text, overrides()).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert!(back.iter().all(|listed| listed.skew == Duration(skew) && listed.keys.is_empty()));
        let back: Vec<_> = back.into_iter().map(|listed| listed.task).collect();
        prop_assert_eq!(back, tasks);
    }
}
