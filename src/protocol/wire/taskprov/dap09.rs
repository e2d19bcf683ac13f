//! The taskprov extension for DAP-09 (draft-wang-ppm-dap-taskprov-06).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{MAX_CONFIGURATION, Taskprov, UnsupportedTaskConfig};
use crate::{
    model::{
        BatchMode, Duration, MaxMeasurement, Revision, TaskId, TaskParameters, Time, VdafConfig,
        taskprov::TaskConfiguration,
    },
    wire::{
        codec::{Malformed, Reader, Writer},
        dap09::query_type,
        shared::{Decoded, decode, encode},
    },
};

/// The report extension (`ExtensionType.taskprov`, section 4).
const REPORT_EXTENSION: u16 = 0xff00;

/// `VdafType` (section 3). The last codepoint is the one that deployed peers use.
mod vdaf_type {
    pub const PRIO3_COUNT: u32 = 0;
    pub const PRIO3_SUM: u32 = 1;
    pub const PRIO3_SUM_VEC: u32 = 2;
    pub const PRIO3_HISTOGRAM: u32 = 3;
    pub const PRIO3_SUM_VEC_HMAC: u32 = 0xffff_1003;
}

/// `DpMechanism.none` (section 3).
const DP_NONE: u8 = 1;

/// draft-wang-ppm-dap-taskprov-06.
#[derive(Clone, Copy, Debug)]
pub struct Taskprov06;

impl Taskprov for Taskprov06 {
    /// Section 3: unpadded base64url.
    fn encode_header(&self, configuration: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(configuration)
    }

    fn decode_header(&self, value: &[u8]) -> Result<Option<Bytes>, Malformed> {
        let wrong = |why| Malformed::new("header dap-taskprov", why);
        if value.len() > MAX_CONFIGURATION.div_ceil(3) * 4 {
            return Err(wrong("is too long"));
        }
        let bytes = URL_SAFE_NO_PAD.decode(value).map_err(|_| wrong("is not unpadded base64url"))?;
        Ok(Some(bytes.into()))
    }

    /// Section 3.1.
    fn task_id(&self, configuration: &[u8]) -> TaskId {
        TaskId::new(Sha256::digest(configuration).into())
    }

    fn encode(&self, configuration: &TaskConfiguration) -> Result<Bytes, String> {
        check(configuration)?;
        let TaskConfiguration { public: task, info, .. } = configuration;
        let vdaf = vdaf_config(&task.vdaf)?;
        let query = query_config(configuration)?;
        let expiration = task.task_expiration.ok_or("the task has no end (hint: set when it expires)")?;
        let bytes = encode(64 + info.len() + task.leader_url.len() + task.helper_url.len(), |w| {
            w.opaque8(info);
            w.opaque16(task.leader_url.as_bytes());
            w.opaque16(task.helper_url.as_bytes());
            w.opaque16(&query);
            w.u64(expiration.0);
            w.opaque16(&vdaf);
        });
        match bytes.len() {
            0..=MAX_CONFIGURATION => Ok(bytes.into()),
            _ => Err(format!("the task's configuration exceeds {MAX_CONFIGURATION} bytes")),
        }
    }

    fn decode(&self, configuration: &Bytes) -> Result<TaskConfiguration, UnsupportedTaskConfig> {
        let fields = decode("TaskConfig", configuration.clone(), get_task_config_fields)?;
        let query = get_query_config(fields.query_config)?;
        let vdaf = get_vdaf_config(fields.vdaf_config)?;
        let public = TaskParameters {
            id: self.task_id(configuration),
            revision: Revision::Dap09,
            info: String::new(),
            leader_url: fields.leader_url,
            helper_url: fields.helper_url,
            batch_mode: query.batch_mode,
            vdaf,
            min_batch_size: query.min_batch_size,
            time_precision: query.time_precision,
            task_expiration: Some(fields.task_expiration),
            task_interval: None,
            noise: None,
        };
        Ok(TaskConfiguration { public, info: fields.info, max_batch_query_count: query.max_batch_query_count })
    }

    fn report_extension(&self) -> Option<u16> {
        Some(REPORT_EXTENSION)
    }

    fn ignores_malformed(&self) -> bool {
        false
    }
}

/// Checks that the extension can express the task.
fn check(TaskConfiguration { public: task, info, .. }: &TaskConfiguration) -> Result<(), String> {
    if !(1..=usize::from(u8::MAX)).contains(&info.len()) {
        return Err("the task's info must be 1 to 255 bytes long".to_owned());
    }
    for (name, url) in [("leader", &task.leader_url), ("helper", &task.helper_url)] {
        if !(1..=MAX_CONFIGURATION).contains(&url.len()) || !is_visible(url.as_bytes()) {
            return Err(format!("the {name} URL must be 1 to {MAX_CONFIGURATION} bytes of visible ASCII"));
        }
    }
    if !task.info.is_empty() || task.task_interval.is_some() {
        return Err("the task has an info text or a start, which DAP-09 does not support".to_owned());
    }
    let has_windows = matches!(task.batch_mode, BatchMode::FixedSize { batch_time_window_size: Some(_), .. });
    if task.noise.is_some() || has_windows {
        return Err("in-band tasks support neither noise nor batch time windows".to_owned());
    }
    Ok(())
}

/// `TaskConfig` (section 3), with its opaque fields undecoded.
struct TaskConfigFields {
    info: Bytes,
    leader_url: String,
    helper_url: String,
    query_config: Bytes,
    task_expiration: Time,
    vdaf_config: Bytes,
}

fn get_task_config_fields(r: &mut Reader) -> Decoded<TaskConfigFields> {
    Ok(TaskConfigFields {
        info: r.opaque8("TaskConfig.task_info", 1)?,
        leader_url: get_url(r, "TaskConfig.leader_aggregator_endpoint")?,
        helper_url: get_url(r, "TaskConfig.helper_aggregator_endpoint")?,
        query_config: r.opaque16("TaskConfig.query_config", 1)?,
        task_expiration: Time(r.u64("TaskConfig.task_expiration")?),
        vdaf_config: r.opaque16("TaskConfig.vdaf_config", 1)?,
    })
}

/// Reads a `Url` (DAP-09 section 4). Rejects control characters, because terminals show the URL.
fn get_url(r: &mut Reader, what: &'static str) -> Decoded<String> {
    let bytes = r.opaque16(what, 1)?;
    match std::str::from_utf8(&bytes) {
        Ok(url) if is_visible(&bytes) => Ok(url.to_owned()),
        _ => Err(Malformed::new(what, "is not visible ASCII")),
    }
}

fn is_visible(url: &[u8]) -> bool {
    url.iter().all(u8::is_ascii_graphic)
}

/// `QueryConfig` (section 3).
struct QueryConfig {
    time_precision: Duration,
    max_batch_query_count: u64,
    min_batch_size: u64,
    batch_mode: BatchMode,
}

fn query_config(
    TaskConfiguration { public: task, max_batch_query_count, .. }: &TaskConfiguration,
) -> Result<Vec<u8>, String> {
    let (count, min) = (u16::try_from(*max_batch_query_count), u32::try_from(task.min_batch_size));
    let count = count.map_err(|_| "the task's maximum batch query count must be below 65536")?;
    let min = min.map_err(|_| "the task's minimum batch size must be below 2^32")?;
    // Zero encodes "no maximum".
    let max = u32::try_from(task.max_batch_size().unwrap_or(0));
    let max = max.map_err(|_| "the task's maximum batch size must be below 2^32")?;
    Ok(encode(19, |w| {
        w.u64(task.time_precision.0);
        w.u16(count);
        w.u32(min);
        match task.batch_mode {
            BatchMode::TimeInterval => w.u8(query_type::TIME_INTERVAL),
            BatchMode::FixedSize { .. } => {
                w.u8(query_type::FIXED_SIZE);
                w.u32(max);
            }
        }
    }))
}

fn get_query_config(bytes: Bytes) -> Result<QueryConfig, UnsupportedTaskConfig> {
    let mut r = Reader::new(bytes);
    let time_precision = Duration(r.u64("QueryConfig.time_precision")?);
    let max_batch_query_count = r.u16("QueryConfig.max_batch_query_count")?.into();
    let min_batch_size = r.u32("QueryConfig.min_batch_size")?.into();
    let batch_mode = match r.u8("QueryConfig.query_type")? {
        query_type::TIME_INTERVAL => BatchMode::TimeInterval,
        query_type::FIXED_SIZE => {
            let max = r.u32("QueryConfig.max_batch_size")?;
            BatchMode::fixed_size((max > 0).then_some(max.into()))
        }
        other => {
            return Err(UnsupportedTaskConfig::Unsupported(format!("query type {other}")));
        }
    };
    r.finish("QueryConfig")?;
    Ok(QueryConfig { time_precision, max_batch_query_count, min_batch_size, batch_mode })
}

/// `VdafConfig` (section 3).
fn vdaf_config(vdaf: &VdafConfig) -> Result<Vec<u8>, String> {
    let mut w = Writer::with_capacity(17);
    w.vector16(|w| w.u8(DP_NONE));
    match *vdaf {
        VdafConfig::Prio3Count => w.u32(vdaf_type::PRIO3_COUNT),
        VdafConfig::Prio3Sum { max } => {
            w.u32(vdaf_type::PRIO3_SUM);
            w.u8(bits(max)?);
        }
        VdafConfig::Prio3SumVec { max, length, chunk_length } => {
            w.u32(vdaf_type::PRIO3_SUM_VEC);
            w.u32(number("length", length)?);
            w.u8(bits(max)?);
            w.u32(number("chunk length", chunk_length)?);
        }
        VdafConfig::Prio3Histogram { length, chunk_length } => {
            w.u32(vdaf_type::PRIO3_HISTOGRAM);
            w.u32(number("length", length)?);
            w.u32(number("chunk length", chunk_length)?);
        }
        VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits, length, chunk_length, proofs } => {
            w.u32(vdaf_type::PRIO3_SUM_VEC_HMAC);
            w.u32(number("length", length)?);
            w.u8(u8::try_from(bits).map_err(|_| "the VDAF has too many bits")?);
            w.u32(number("chunk length", chunk_length)?);
            w.u8(proofs);
        }
        VdafConfig::Prio3MultihotCountVec { .. } | VdafConfig::Prio3L1BoundSum { .. } => {
            return Err("the VDAF is not supported in in-band tasks".to_owned());
        }
    }
    Ok(w.finish())
}

fn bits(max: MaxMeasurement) -> Result<u8, String> {
    let bits = max.bits().and_then(|bits| u8::try_from(bits).ok());
    bits.ok_or_else(|| format!("maximum {} does not have the form 2^bits - 1, which DAP-09 requires", max.0))
}

fn number(name: &str, value: usize) -> Result<u32, String> {
    u32::try_from(value).map_err(|_| format!("the VDAF's {name} must be below 2^32"))
}

fn get_vdaf_config(bytes: Bytes) -> Result<VdafConfig, UnsupportedTaskConfig> {
    let mut r = Reader::new(bytes);
    get_dp_config(r.opaque16("VdafConfig.dp_config", 1)?)?;
    let vdaf = match r.u32("VdafConfig.vdaf_type")? {
        vdaf_type::PRIO3_COUNT => VdafConfig::Prio3Count,
        vdaf_type::PRIO3_SUM => VdafConfig::Prio3Sum { max: get_max(&mut r)? },
        vdaf_type::PRIO3_SUM_VEC => {
            let length = get_number(&mut r)?;
            let max = get_max(&mut r)?;
            VdafConfig::Prio3SumVec { max, length, chunk_length: get_number(&mut r)? }
        }
        vdaf_type::PRIO3_HISTOGRAM => {
            VdafConfig::Prio3Histogram { length: get_number(&mut r)?, chunk_length: get_number(&mut r)? }
        }
        vdaf_type::PRIO3_SUM_VEC_HMAC => {
            let length = get_number(&mut r)?;
            let bits = r.u8("VdafConfig.bits")?.into();
            let chunk_length = get_number(&mut r)?;
            let proofs = r.u8("VdafConfig.proofs")?;
            VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits, length, chunk_length, proofs }
        }
        other => {
            return Err(UnsupportedTaskConfig::Unsupported(format!("VDAF {other:#010x}")));
        }
    };
    r.finish("VdafConfig")?;
    Ok(vdaf)
}

fn get_max(r: &mut Reader) -> Result<MaxMeasurement, UnsupportedTaskConfig> {
    match r.u8("VdafConfig.bits")? {
        bits @ 1..=64 => Ok(MaxMeasurement::of_bits(bits.into())),
        bits => Err(UnsupportedTaskConfig::Unsupported(format!("numbers of {bits} bits"))),
    }
}

fn get_number(r: &mut Reader) -> Result<usize, UnsupportedTaskConfig> {
    Ok(r.u32("VdafConfig.length")? as usize)
}

/// Checks `DpConfig` (section 3): in-band tasks have no noise.
fn get_dp_config(bytes: Bytes) -> Result<(), UnsupportedTaskConfig> {
    let mut r = Reader::new(bytes);
    match r.u8("DpConfig.dp_mechanism")? {
        DP_NONE => Ok(r.finish("DpConfig")?),
        other => Err(UnsupportedTaskConfig::Unsupported(format!("differential privacy mechanism {other}"))),
    }
}
