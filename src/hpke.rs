//! Hybrid public-key encryption (RFC 9180): key pairs, seal and open, with the cipher suite chosen at run time.
//!
//! Only single-shot base mode is used (RFC 9180 section 6.1), as DAP asks.
