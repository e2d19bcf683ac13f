//! The taskprov extension for DAP-19 (draft-ietf-ppm-dap-taskprov-04). A configuration is DAP's `TaskConfiguration`, which
//! shares are bound to, so reports need no extension.

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{
        DecodePaddingMode,
        general_purpose::{GeneralPurpose, GeneralPurposeConfig},
    },
};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{MAX_CONFIGURATION, Taskprov, UnsupportedTaskConfig};
use crate::{
    model::{
        BatchMode, Duration, Interval, Revision, TaskId, TaskParameters, Time, VdafConfig, taskprov::TaskConfiguration,
    },
    wire::{
        Wire,
        codec::{Malformed, Reader},
        current::{DAP_19, batch_mode, read_vdaf, task_extension},
        shared::{Decoded, decode, get_extensions},
    },
};

/// Base64 as in structured fields: padding and trailing bits do not matter (RFC 9651 section 4.2.7).
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The input of the hash that task ids begin with (section 3.3).
const TASK_ID_SALT: &[u8] = b"dap-taskprov task id";

/// draft-ietf-ppm-dap-taskprov-04.
#[derive(Clone, Copy, Debug)]
pub struct Taskprov04;

impl Taskprov for Taskprov04 {
    /// Section 3.2: a byte sequence of structured fields.
    fn encode_header(&self, configuration: &[u8]) -> String {
        format!(":{}:", BASE64.encode(configuration))
    }

    /// A value of another type is ignored, and so are parameters.
    fn decode_header(&self, value: &[u8]) -> Result<Option<Bytes>, Malformed> {
        if value.len() > MAX_CONFIGURATION.div_ceil(3) * 4 + 64 {
            return Err(Malformed::new("header dap-taskprov", "is too long"));
        }
        let Some(rest) = value.trim_ascii().strip_prefix(b":") else { return Ok(None) };
        let Some(end) = rest.iter().position(|byte| *byte == b':') else { return Ok(None) };
        let is_item = matches!(rest[end + 1..], [] | [b';', ..]);
        Ok(BASE64.decode(&rest[..end]).ok().filter(|_| is_item).map(Bytes::from))
    }

    /// Section 3.3.
    fn task_id(&self, configuration: &[u8]) -> TaskId {
        let hash = Sha256::new().chain_update(Sha256::digest(TASK_ID_SALT)).chain_update(configuration);
        TaskId::new(hash.finalize().into())
    }

    fn encode(&self, configuration: &TaskConfiguration) -> Result<Bytes, String> {
        let task = &configuration.public;
        DAP_19.check_task(task)?;
        if task.noise.is_some() || task.batch_window_size().is_some() {
            return Err("in-band tasks support neither noise nor batch time windows".to_owned());
        }
        let bytes = DAP_19.task_configuration(task);
        match bytes.len() {
            0..=MAX_CONFIGURATION => Ok(bytes.into()),
            _ => Err(format!("the task's configuration exceeds {MAX_CONFIGURATION} bytes")),
        }
    }

    fn decode(&self, configuration: &Bytes) -> Result<TaskConfiguration, UnsupportedTaskConfig> {
        let fields = decode("TaskConfiguration", configuration.clone(), get_fields)?;
        let public = fields.parameters(self.task_id(configuration))?;
        if DAP_19.task_configuration(&public) != configuration[..] {
            return Err(Malformed::new("TaskConfiguration", "is not what its content encodes to").into());
        }
        let info = Bytes::copy_from_slice(public.info.as_bytes());
        Ok(TaskConfiguration { public, info, max_batch_query_count: 1 })
    }

    fn report_extension(&self) -> Option<u16> {
        None
    }

    /// Section 3.2: anything else than a valid configuration is ignored.
    fn ignores_malformed(&self) -> bool {
        true
    }
}

/// `TaskConfiguration` (DAP-18 section 4.2), with its opaque fields undecoded.
struct Fields {
    info: Bytes,
    leader_url: Bytes,
    helper_url: Bytes,
    time_precision: u64,
    min_batch_size: u64,
    batch_mode: u8,
    batch_config: Bytes,
    vdaf_type: u32,
    vdaf_config: Bytes,
    task_interval: Option<Bytes>,
    /// Types of extensions that are not known.
    unknown: Vec<u16>,
}

fn get_fields(r: &mut Reader) -> Decoded<Fields> {
    let mut fields = Fields {
        info: r.opaque8("TaskConfiguration.task_info", 0)?,
        leader_url: r.opaque16("TaskConfiguration.leader_aggregator_endpoint", 1)?,
        helper_url: r.opaque16("TaskConfiguration.helper_aggregator_endpoint", 1)?,
        time_precision: r.u64("TaskConfiguration.time_precision")?,
        min_batch_size: r.u64("TaskConfiguration.min_batch_size")?,
        batch_mode: r.u8("TaskConfiguration.batch_mode")?,
        batch_config: r.opaque16("TaskConfiguration.batch_config", 0)?,
        vdaf_type: r.u32("TaskConfiguration.vdaf_type")?,
        vdaf_config: r.opaque16("TaskConfiguration.vdaf_config", 0)?,
        task_interval: None,
        unknown: Vec::new(),
    };
    let extensions = get_extensions(r, "TaskConfiguration.extensions")?;
    if !extensions.is_sorted_by(|one, next| one.kind < next.kind) {
        return Err(Malformed::new("TaskConfiguration.extensions", "are not in strictly increasing order"));
    }
    for extension in extensions {
        match extension.kind {
            task_extension::TASK_INTERVAL => fields.task_interval = Some(extension.data),
            kind => fields.unknown.push(kind),
        }
    }
    Ok(fields)
}

impl Fields {
    /// Interprets the fields. Fails if a valid one is not supported.
    fn parameters(self, id: TaskId) -> Result<TaskParameters, UnsupportedTaskConfig> {
        let unsupported = |what: String| UnsupportedTaskConfig::Unsupported(what);
        if let [first, ..] = self.unknown[..] {
            return Err(unsupported(format!("task extension {first}")));
        }
        let batch_mode = match (self.batch_mode, &self.batch_config[..]) {
            (batch_mode::TIME_INTERVAL, []) => BatchMode::TimeInterval,
            (batch_mode::LEADER_SELECTED, []) => BatchMode::fixed_size(None),
            (mode, _) => return Err(unsupported(format!("batch mode {mode}"))),
        };
        let vdaf: Option<VdafConfig> = read_vdaf(self.vdaf_type, self.vdaf_config)?;
        let vdaf = vdaf.ok_or_else(|| unsupported(format!("VDAF {}", self.vdaf_type)))?;
        let unit = self.time_precision;
        let task_interval = self.task_interval.map(|data| get_task_interval(data, unit)).transpose()?;
        let text = |what: &'static str, bytes: Bytes| match String::from_utf8(bytes.into()) {
            Ok(text) => Ok(text),
            Err(_) => Err(unsupported(format!("{what} that is not text"))),
        };
        Ok(TaskParameters {
            id,
            revision: Revision::Dap19,
            info: text("an info", self.info)?,
            leader_url: text("a leader URL", self.leader_url)?,
            helper_url: text("a helper URL", self.helper_url)?,
            batch_mode,
            vdaf,
            min_batch_size: self.min_batch_size,
            time_precision: Duration(unit),
            task_expiration: None,
            task_interval,
            noise: None,
        })
    }
}

/// `TaskIntervalTaskExtension` (DAP-18 section 4.2.3): times in units of the time precision.
fn get_task_interval(data: Bytes, unit: u64) -> Decoded<Interval> {
    const WHAT: &str = "TaskIntervalTaskExtension";
    let [start, duration] = decode(WHAT, data, |r| Ok([r.u64(WHAT)?, r.u64(WHAT)?]))?;
    let seconds = |units: u64| units.checked_mul(unit).ok_or(Malformed::out_of_range(WHAT));
    Interval::new(Time(seconds(start)?), Duration(seconds(duration)?)).ok_or(Malformed::out_of_range(WHAT))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of section 3.2.
    const EXAMPLE: &[u8] =
        b":BHRlc3QAG2h0dHBzOi8vbGVhZGVyLmV4YW1wbGUuY29tLwAbaHR0cHM6Ly9oZWxwZXIuZXhhbXBsZS5jb20vAAAAAAA\
AADwAAAAAAAAACgEAAAAAAAEAAAAUAAEAEAAAAAAAAAA8AAAAAAAAAGQ=:";

    fn example() -> (Bytes, TaskConfiguration) {
        let bytes = Taskprov04.decode_header(EXAMPLE).unwrap().unwrap();
        let configuration = Taskprov04.decode(&bytes).unwrap();
        (bytes, configuration)
    }

    #[test]
    fn reads_the_example_of_the_draft() {
        let (bytes, TaskConfiguration { public, info, .. }) = example();
        assert_eq!((&public.info[..], &info[..]), ("test", &b"test"[..]));
        assert_eq!(public.leader_url, "https://leader.example.com/");
        assert_eq!(public.helper_url, "https://helper.example.com/");
        assert_eq!((public.time_precision, public.min_batch_size), (Duration(60), 10));
        assert_eq!((public.batch_mode, &public.vdaf), (BatchMode::TimeInterval, &VdafConfig::Prio3Count));
        assert_eq!(public.task_interval, Interval::new(Time(3600), Duration(6000)));
        // Computed with Python's hashlib.
        assert_eq!(public.id.to_string(), "NYSKiYrbFGtVk4UkfH5J2xy9KK9S48Ec-wHU_EtJBHk");
        assert_eq!(Taskprov04.encode(&example().1).unwrap(), bytes);
        assert_eq!(Taskprov04.encode_header(&bytes).as_bytes(), EXAMPLE);
    }

    #[test]
    fn ignores_values_of_other_types() {
        let (bytes, _) = example();
        let value = std::str::from_utf8(EXAMPLE).unwrap();
        let without_padding = value.replace("=:", ":");
        for same in [format!("{value};v=1"), format!(" {value}"), without_padding] {
            assert_eq!(Taskprov04.decode_header(same.as_bytes()).unwrap().as_ref(), Some(&bytes), "{same}");
        }
        for other in ["", ":", "token", "\"text\"", "1", ":AA", &format!("{value}, {value}"), ":A?:", "AA:"] {
            assert_eq!(Taskprov04.decode_header(other.as_bytes()), Ok(None), "{other}");
        }
        assert!(Taskprov04.decode_header(&[b'A'; 8192]).is_err());
    }

    #[test]
    fn refuses_malformed_and_unsupported_configurations() {
        let (bytes, _) = example();
        let with = |at: usize, byte: u8| {
            let mut changed = bytes.to_vec();
            changed[at] = byte;
            Taskprov04.decode(&changed.into())
        };
        for len in 0..bytes.len() {
            let short = Taskprov04.decode(&bytes.slice(..len));
            assert!(matches!(short, Err(UnsupportedTaskConfig::Malformed(_))), "{len}: {short:?}");
        }
        // The batch mode, the VDAF and the first extension.
        let mode = 5 + 2 * (2 + 27) + 16;
        for (at, byte, says) in
            [(mode, 9, "batch mode 9"), (mode + 6, 77, "VDAF 77"), (mode + 12, 7, "task extension 7")]
        {
            let error = with(at, byte).unwrap_err();
            assert!(matches!(error, UnsupportedTaskConfig::Unsupported(_)), "{error:?}");
            assert!(error.to_string().contains(says), "{error}");
        }
        assert!(matches!(with(1, 0xff), Err(UnsupportedTaskConfig::Unsupported(_))), "an info that is not text");
    }
}
