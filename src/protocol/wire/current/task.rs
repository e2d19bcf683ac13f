//! `TaskConfiguration` (DAP-18 section 4.2): the encoded task parameters, which input shares and aggregate shares are
//! bound to, and their validation.

use bytes::Bytes;

use crate::{
    model::{BatchMode, Interval, MaxMeasurement, TaskParameters, VdafConfig},
    wire::{
        codec::{Malformed, Reader, Writer},
        shared::{Decoded, decode, encode},
    },
};

use super::{
    Draft,
    messages::{TimeUnit, batch_mode},
};

/// `TaskExtensionType` (section 4.2.3).
pub(in crate::wire) mod extension {
    pub const TASK_INTERVAL: u16 = 1;
}

/// `VdafType` (VDAF-18 section 10, draft-ietf-ppm-l1-bound-sum-02 section 6).
mod vdaf_type {
    /// Not assigned to any VDAF.
    pub const RESERVED: u32 = 0;
    pub const PRIO3_COUNT: u32 = 1;
    pub const PRIO3_SUM: u32 = 2;
    pub const PRIO3_SUM_VEC: u32 = 3;
    pub const PRIO3_HISTOGRAM: u32 = 4;
    pub const PRIO3_MULTIHOT_COUNT_VEC: u32 = 5;
    pub const PRIO3_L1_BOUND_SUM: u32 = 7;
}

/// Checks that the protocol can express the task parameters. The error says what to change.
pub(super) fn check(draft: &Draft, task: &TaskParameters) -> Result<(), String> {
    let least = usize::from(draft.requires_info);
    if !(least..=255).contains(&task.info.len()) {
        return Err(format!("info must be {least} to 255 bytes long"));
    }
    for (name, url) in [("leader", &task.leader_url), ("helper", &task.helper_url)] {
        if !(1..=usize::from(u16::MAX)).contains(&url.len()) || !url.is_ascii() {
            return Err(format!("{name} URL must be 1 to 65535 bytes of ASCII"));
        }
    }
    if task.max_batch_size().is_some() {
        return Err(format!("maximum batch size is not supported in {} (hint: omit it)", draft.name));
    }
    if task.task_expiration.is_some() {
        return Err(format!("end requires a start in {} (hint: set both)", draft.name));
    }
    if task.task_interval.is_some_and(|interval| !interval.is_aligned(task.time_precision)) {
        return Err("start and end must be different multiples of the time precision".to_owned());
    }
    vdaf(&task.vdaf).map(drop)
}

/// Writes the `TaskConfiguration` of a [valid](check) task.
pub(super) fn put(w: &mut Writer, task: &TaskParameters) {
    let unit = TimeUnit::of(task);
    w.opaque8(task.info.as_bytes());
    w.opaque16(task.leader_url.as_bytes());
    w.opaque16(task.helper_url.as_bytes());
    w.u64(task.time_precision.0);
    w.u64(task.min_batch_size);
    w.u8(match task.batch_mode {
        BatchMode::TimeInterval => batch_mode::TIME_INTERVAL,
        BatchMode::FixedSize { .. } => batch_mode::LEADER_SELECTED,
    });
    // Both batch modes have an empty configuration.
    w.opaque16(&[]);
    let (vdaf_type, configuration) = vdaf(&task.vdaf).unwrap_or((vdaf_type::RESERVED, Vec::new()));
    w.u32(vdaf_type);
    w.opaque16(&configuration);
    w.vector16(|w| {
        if let Some(interval) = &task.task_interval {
            put_task_interval(w, unit, interval);
        }
    });
}

/// `TaskIntervalTaskExtension` (section 4.2.3) in its `TaskExtension`.
fn put_task_interval(w: &mut Writer, unit: TimeUnit, interval: &Interval) {
    w.u16(extension::TASK_INTERVAL);
    w.vector16(|w| unit.put_interval(w, interval));
}

/// The approximate length of an encoded `TaskConfiguration`.
pub(super) fn len(task: &TaskParameters) -> usize {
    96 + task.info.len() + task.leader_url.len() + task.helper_url.len()
}

/// The code and the configuration of a VDAF (appendix B, draft-ietf-ppm-l1-bound-sum-02 section 4). Fails if the VDAF
/// has none.
fn vdaf(vdaf: &VdafConfig) -> Result<(u32, Vec<u8>), String> {
    Ok(match *vdaf {
        VdafConfig::Prio3Count => (vdaf_type::PRIO3_COUNT, Vec::new()),
        VdafConfig::Prio3Sum { max: MaxMeasurement(max) } => (vdaf_type::PRIO3_SUM, encode(8, |w| w.u64(max))),
        VdafConfig::Prio3SumVec { max: MaxMeasurement(max), length, chunk_length } => {
            (vdaf_type::PRIO3_SUM_VEC, vector_config(length, max, chunk_length)?)
        }
        VdafConfig::Prio3L1BoundSum { max_value, length, chunk_length } => {
            (vdaf_type::PRIO3_L1_BOUND_SUM, vector_config(length, max_value, chunk_length)?)
        }
        VdafConfig::Prio3Histogram { length, chunk_length } => {
            let (length, chunk_length) = (count(length)?, count(chunk_length)?);
            let put = |w: &mut Writer| {
                w.u32(length);
                w.u32(chunk_length);
            };
            (vdaf_type::PRIO3_HISTOGRAM, encode(8, put))
        }
        VdafConfig::Prio3MultihotCountVec { length, max_weight, chunk_length } => {
            let (length, chunk_length) = (count(length)?, count(chunk_length)?);
            let put = |w: &mut Writer| {
                w.u32(length);
                w.u32(chunk_length);
                w.u64(max_weight as u64);
            };
            (vdaf_type::PRIO3_MULTIHOT_COUNT_VEC, encode(16, put))
        }
        VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { .. } => {
            return Err("VDAF is supported in DAP-09 only (hint: use Prio3SumVec)".to_owned());
        }
    })
}

/// `Prio3SumVecConfig` and `Prio3L1BoundSumConfig`, whose fields have the same types.
fn vector_config(length: usize, max: u64, chunk_length: usize) -> Result<Vec<u8>, String> {
    let (length, chunk_length) = (count(length)?, count(chunk_length)?);
    Ok(encode(16, |w| {
        w.u32(length);
        w.u64(max);
        w.u32(chunk_length);
    }))
}

/// Reads the configuration of a VDAF: the inverse of [`vdaf`]. `None` for a VDAF without a code here.
pub(in crate::wire) fn read_vdaf(vdaf_type: u32, configuration: Bytes) -> Decoded<Option<VdafConfig>> {
    const WHAT: &str = "TaskConfiguration.vdaf_config";
    let size = |r: &mut Reader| r.u32(WHAT).map(|size| size as usize);
    let read: &dyn Fn(&mut Reader) -> Decoded<VdafConfig> = match vdaf_type {
        vdaf_type::PRIO3_COUNT => &|_| Ok(VdafConfig::Prio3Count),
        vdaf_type::PRIO3_SUM => &|r| Ok(VdafConfig::Prio3Sum { max: MaxMeasurement(r.u64(WHAT)?) }),
        vdaf_type::PRIO3_SUM_VEC => &|r| {
            let (length, max, chunk_length) = (size(r)?, MaxMeasurement(r.u64(WHAT)?), size(r)?);
            Ok(VdafConfig::Prio3SumVec { max, length, chunk_length })
        },
        vdaf_type::PRIO3_HISTOGRAM => &|r| Ok(VdafConfig::Prio3Histogram { length: size(r)?, chunk_length: size(r)? }),
        vdaf_type::PRIO3_MULTIHOT_COUNT_VEC => &|r| {
            let (length, chunk_length, max_weight) = (size(r)?, size(r)?, r.u64(WHAT)?);
            let max_weight = usize::try_from(max_weight).map_err(|_| Malformed::out_of_range(WHAT))?;
            Ok(VdafConfig::Prio3MultihotCountVec { length, max_weight, chunk_length })
        },
        vdaf_type::PRIO3_L1_BOUND_SUM => &|r| {
            let (length, max_value, chunk_length) = (size(r)?, r.u64(WHAT)?, size(r)?);
            Ok(VdafConfig::Prio3L1BoundSum { max_value, length, chunk_length })
        },
        _ => return Ok(None),
    };
    decode(WHAT, configuration, read).map(Some)
}

fn count(n: usize) -> Result<u32, String> {
    n.try_into().map_err(|_| format!("VDAF length {n} does not fit in 32 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Duration, Revision, TaskId, Time},
        wire::current::{DAP_18, DAP_19},
    };

    fn task() -> TaskParameters {
        TaskParameters {
            id: TaskId::new([1; 32]),
            revision: Revision::Dap18,
            info: "info".to_owned(),
            leader_url: "https://leader.example/".to_owned(),
            helper_url: "https://helper.example".to_owned(),
            batch_mode: BatchMode::TimeInterval,
            vdaf: VdafConfig::Prio3Count,
            min_batch_size: 10,
            time_precision: Duration(60),
            task_expiration: None,
            task_interval: None,
            noise: None,
        }
    }

    fn interval(start: u64, duration: u64) -> Option<Interval> {
        Interval::new(Time(start), Duration(duration))
    }

    #[test]
    fn accepts_expressible_tasks() {
        for accepted in [
            task(),
            TaskParameters { info: "i".repeat(255), ..task() },
            TaskParameters { leader_url: "x".repeat(65535), ..task() },
            TaskParameters { task_interval: interval(120, 60), ..task() },
            TaskParameters { batch_mode: BatchMode::fixed_size(None), ..task() },
            TaskParameters { vdaf: VdafConfig::Prio3Sum { max: MaxMeasurement(u64::MAX) }, ..task() },
        ] {
            assert_eq!([&DAP_18, &DAP_19].map(|draft| check(draft, &accepted)), [Ok(()), Ok(())], "{accepted:?}");
        }
    }

    #[test]
    fn rejects_inexpressible_tasks() {
        let too_long = VdafConfig::Prio3Histogram { length: 1 << 32, chunk_length: 1 };
        let without_code =
            VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits: 1, length: 1, chunk_length: 1, proofs: 2 };
        for (refused, why) in [
            (TaskParameters { info: String::new(), ..task() }, "info must"),
            (TaskParameters { info: "i".repeat(256), ..task() }, "info must"),
            (TaskParameters { leader_url: String::new(), ..task() }, "leader URL must"),
            (TaskParameters { helper_url: "x".repeat(65536), ..task() }, "helper URL must"),
            (TaskParameters { helper_url: "https://hälper.example".to_owned(), ..task() }, "helper URL must"),
            (TaskParameters { task_interval: interval(120, 0), ..task() }, "start and end must"),
            (TaskParameters { task_interval: interval(121, 60), ..task() }, "start and end must"),
            (TaskParameters { task_interval: interval(120, 61), ..task() }, "start and end must"),
            (TaskParameters { task_expiration: Some(Time(120)), ..task() }, "end requires a start"),
            (TaskParameters { batch_mode: BatchMode::fixed_size(Some(20)), ..task() }, "maximum batch"),
            (TaskParameters { vdaf: too_long, ..task() }, "VDAF length 4294967296"),
            (TaskParameters { vdaf: without_code, ..task() }, "VDAF is supported in DAP-09 only"),
        ] {
            let found = check(&DAP_18, &refused).unwrap_err();
            assert!(found.starts_with(why), "{found}");
        }
        assert_eq!(check(&DAP_19, &TaskParameters { info: String::new(), ..task() }), Ok(()));
    }
}
