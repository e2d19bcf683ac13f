//! Tools beside the appliance: benchmarks and interoperability tests. The command line dispatches to them.

pub mod bench;
pub mod interop;
