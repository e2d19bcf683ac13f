//! Task advertisements of in-band tasks: bytes, properties of the decoder, and the published Janus crate as an
//! independent implementation.

use bytes::Bytes;
use dapbox::{
    model::{
        BatchMode, Duration, MaxMeasurement, Revision, TaskId, TaskParameters, Time, VdafConfig,
        taskprov::TaskConfiguration,
    },
    wire::taskprov::{MAX_CONFIGURATION, Taskprov, UnsupportedTaskConfig, for_revision},
};
use janus_messages::{
    self as janus,
    codec::{Decode, Encode},
    taskprov as theirs,
};
use proptest::prelude::*;

fn taskprov() -> &'static dyn Taskprov {
    for_revision(Revision::Dap09).unwrap()
}

fn vdaf() -> impl Strategy<Value = VdafConfig> {
    let max = || (1..=64_u32).prop_map(MaxMeasurement::of_bits);
    let number = || any::<u32>().prop_map(|n| n as usize);
    prop_oneof![
        Just(VdafConfig::Prio3Count),
        max().prop_map(|max| VdafConfig::Prio3Sum { max }),
        (max(), number(), number()).prop_map(|(max, length, chunk_length)| VdafConfig::Prio3SumVec {
            max,
            length,
            chunk_length
        }),
        (number(), number()).prop_map(|(length, chunk_length)| VdafConfig::Prio3Histogram { length, chunk_length }),
        (any::<u8>(), number(), number(), any::<u8>()).prop_map(|(bits, length, chunk_length, proofs)| {
            let bits = bits.into();
            VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits, length, chunk_length, proofs }
        }),
    ]
}

fn batch_mode() -> impl Strategy<Value = BatchMode> {
    let max = prop::option::of(1..=u64::from(u32::MAX));
    prop_oneof![Just(BatchMode::TimeInterval), max.prop_map(BatchMode::fixed_size)]
}

prop_compose! {
    fn configuration()(
        info in prop::collection::vec(any::<u8>(), 1..=255),
        (leader, helper) in ("[a-z]{1,20}", "[a-z]{1,20}"),
        (vdaf, batch_mode) in (vdaf(), batch_mode()),
        (count, min, precision, end) in any::<(u16, u32, u64, u64)>(),
    ) -> TaskConfiguration {
        let public = TaskParameters {
            id: TaskId::new([0; 32]),
            revision: Revision::Dap09,
            info: String::new(),
            leader_url: format!("https://{leader}.example/"),
            helper_url: format!("https://{helper}.example/dap"),
            batch_mode,
            vdaf,
            min_batch_size: min.into(),
            time_precision: Duration(precision),
            task_expiration: Some(Time(end)),
            task_interval: None,
            noise: None,
        };
        let mut made = TaskConfiguration { public, info: info.into(), max_batch_query_count: count.into() };
        made.public.id = taskprov().task_id(&taskprov().encode(&made).unwrap());
        made
    }
}

/// The same task in Janus's types.
fn janus(ours: &TaskConfiguration) -> theirs::TaskConfig {
    use theirs::VdafType as V;
    let (public, number) = (&ours.public, |n: usize| u32::try_from(n).unwrap());
    let bits = |max: &MaxMeasurement| u8::try_from(max.bits().unwrap()).unwrap();
    let query = match public.batch_mode {
        BatchMode::TimeInterval => theirs::Query::TimeInterval,
        BatchMode::FixedSize { max_batch_size, .. } => {
            theirs::Query::FixedSize { max_batch_size: u32::try_from(max_batch_size.unwrap_or(0)).unwrap() }
        }
    };
    let vdaf = match &public.vdaf {
        VdafConfig::Prio3Count => V::Prio3Count,
        VdafConfig::Prio3Sum { max } => V::Prio3Sum { bits: bits(max) },
        VdafConfig::Prio3SumVec { max, length, chunk_length } => {
            V::Prio3SumVec { length: number(*length), bits: bits(max), chunk_length: number(*chunk_length) }
        }
        VdafConfig::Prio3Histogram { length, chunk_length } => {
            V::Prio3Histogram { length: number(*length), chunk_length: number(*chunk_length) }
        }
        VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits, length, chunk_length, proofs } => {
            V::Prio3SumVecField64MultiproofHmacSha256Aes128 {
                length: number(*length),
                bits: u8::try_from(*bits).unwrap(),
                chunk_length: number(*chunk_length),
                proofs: *proofs,
            }
        }
        VdafConfig::Prio3MultihotCountVec { .. } | VdafConfig::Prio3L1BoundSum { .. } => {
            unreachable!("it has no number")
        }
    };
    theirs::TaskConfig::new(
        ours.info.to_vec(),
        janus::Url::try_from(public.leader_url.as_bytes()).unwrap(),
        janus::Url::try_from(public.helper_url.as_bytes()).unwrap(),
        theirs::QueryConfig::new(
            janus::Duration::from_seconds(public.time_precision.0),
            u16::try_from(ours.max_batch_query_count).unwrap(),
            u32::try_from(public.min_batch_size).unwrap(),
            query,
        ),
        janus::Time::from_seconds_since_epoch(public.task_expiration.unwrap().0),
        theirs::VdafConfig::new(theirs::DpConfig::new(theirs::DpMechanism::None), vdaf).unwrap(),
    )
    .unwrap()
}

proptest! {
    #[test]
    fn agrees_with_janus(ours in configuration()) {
        let (bytes, theirs) = (taskprov().encode(&ours).unwrap(), janus(&ours));
        prop_assert_eq!(&theirs.get_encoded().unwrap(), &bytes[..]);
        prop_assert_eq!(theirs::TaskConfig::get_decoded(&bytes).unwrap(), theirs);
        prop_assert_eq!(taskprov().decode(&bytes), Ok(ours));
        let header = taskprov().encode_header(&bytes);
        prop_assert_eq!(taskprov().decode_header(header.as_bytes()), Ok(Some(bytes)));
    }

    #[test]
    fn decodes_canonical_encoding_only(ours in configuration(), damage in any::<(prop::sample::Index, u8)>()) {
        let bytes = taskprov().encode(&ours).unwrap();
        for len in 0..bytes.len() {
            prop_assert!(matches!(taskprov().decode(&bytes.slice(..len)), Err(UnsupportedTaskConfig::Malformed(_))));
        }
        let longer = [&bytes[..], &[0]].concat();
        prop_assert!(matches!(taskprov().decode(&longer.into()), Err(UnsupportedTaskConfig::Malformed(_))));
        let mut damaged = bytes.to_vec();
        damaged[damage.0.index(bytes.len())] = damage.1;
        let damaged = Bytes::from(damaged);
        if let Ok(read) = taskprov().decode(&damaged) {
            prop_assert_eq!(taskprov().encode(&read), Ok(damaged));
        }
    }
}

/// A task encoded field by field in the order of section 3 of the draft: `steps`, two URLs, batches of 250 to 400
/// reports with times in hours, until 2030, a histogram of 12 bins.
const STEPS: &str = "057374657073001e68747470733a2f2f6c65616465722e6578616d706c652f6461702d30392f001768747470733a2f2f68656c706572\
2e6578616d706c652f00130000000000000e100001000000fa02000001900000000070dbd880000f000101000000030000000c000000\
04";

fn bytes(hex: &str) -> Bytes {
    data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap().into()
}

#[test]
fn decodes_known_bytes() {
    let read = taskprov().decode(&bytes(STEPS)).unwrap();
    assert_eq!((&read.info[..], read.max_batch_query_count), (&b"steps"[..], 1));
    let task = &read.public;
    assert_eq!(
        (task.leader_url.as_str(), task.helper_url.as_str()),
        ("https://leader.example/dap-09/", "https://helper.example/")
    );
    assert_eq!(
        (task.time_precision, task.min_batch_size, task.task_expiration),
        (Duration(3600), 250, Some(Time(1_893_456_000)))
    );
    assert_eq!(task.batch_mode, BatchMode::fixed_size(Some(400)));
    assert_eq!(task.vdaf, VdafConfig::Prio3Histogram { length: 12, chunk_length: 4 });
    assert_eq!(taskprov().encode(&read).unwrap(), bytes(STEPS));
    assert_eq!(task.id.to_string(), "lY2ogIRo0IC7j__TF4QvibDka-iyJGDyGE2Bx7A7LnY");
}

#[test]
fn distinguishes_unsupported_from_malformed() {
    let unsupported = |from: &str, to: &str| {
        let changed = STEPS.replace(from, to);
        assert_ne!(changed, STEPS);
        match taskprov().decode(&bytes(&changed)) {
            Err(UnsupportedTaskConfig::Unsupported(why)) => why,
            other => panic!("{from} -> {to}: {other:?}"),
        }
    };
    assert!(unsupported("00010100000003", "00010200000003").contains("differential privacy"));
    assert!(unsupported("00010100000003", "00010000000003").contains("differential privacy"));
    assert!(unsupported("00010100000003", "00010100001000").contains("VDAF"));
    assert!(unsupported("000000fa02", "000000fa07").contains("query type"));
    let in_url = |byte: &str| STEPS.replacen("68747470", &format!("68{byte}7470"), 1);
    for malformed in [STEPS.replacen("057374657073", "00", 1), in_url("ff"), in_url("1b"), in_url("20"), String::new()]
    {
        assert!(
            matches!(taskprov().decode(&bytes(&malformed)), Err(UnsupportedTaskConfig::Malformed(_))),
            "{malformed}"
        );
    }
}

#[test]
fn header_is_short_and_unpadded() {
    let header = |value: &[u8]| taskprov().decode_header(value);
    assert_eq!(header(b"AQID"), Ok(Some(Bytes::from_static(&[1, 2, 3]))));
    for wrong in ["AQ==", "AQI+", "AQ ID", "ä"] {
        assert!(header(wrong.as_bytes()).is_err(), "{wrong}");
    }
    assert!(header(&vec![b'A'; MAX_CONFIGURATION * 2]).unwrap_err().to_string().contains("too long"));
}
