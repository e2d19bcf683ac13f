//! A hostile client. It makes shares that no honest client makes, with code independent of the product.
//!
//! A vector of ones has a proof of zeros: its polynomials vanish for any joint randomness. A client can therefore make
//! the
//! aggregators use different joint randomness, with a wrong part in the public share, and the proof still holds.

use dapbox::{
    model::{MaxMeasurement, Revision, VdafConfig},
    vdaf::{Measurement, MeasurementShares},
};
use prio16::{
    codec::{Decode, Encode},
    field as field16,
    vdaf::xof::{self as xof16, IntoFieldVec as _, Xof as _},
};
use prio18::{
    field as field18,
    vdaf::xof::{self as xof18, IntoFieldVec as _, Xof as _},
};
use rand::RngCore;

/// What replaces an aggregator's joint randomness part in the public share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    Right,
    Random,
    /// The part of the other aggregator.
    Swapped,
}

/// What replaces the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    Honest,
    /// All elements are zero.
    Zero,
}

/// What a hostile client changes in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgery {
    /// For leader and helper.
    pub hints: [Hint; 2],
    pub proof: Proof,
}

impl Forgery {
    /// All combinations. Some VDAFs have no joint randomness.
    pub fn all(has_joint_randomness: bool) -> Vec<Self> {
        let hints: &[Hint] =
            if has_joint_randomness { &[Hint::Right, Hint::Random, Hint::Swapped] } else { &[Hint::Right] };
        let pairs = hints.iter().flat_map(|leader| hints.iter().map(|helper| [*leader, *helper]));
        pairs.flat_map(|hints| [Proof::Honest, Proof::Zero].map(|proof| Self { hints, proof })).collect()
    }

    /// Whether an aggregator finds its own part in the public share.
    pub fn has_right_hint(&self, aggregator: usize) -> bool {
        self.hints[aggregator] == Hint::Right
    }

    /// Changes the shares of an honest client.
    pub fn apply(&self, target: &Target, context: &[u8], honest: &MeasurementShares) -> MeasurementShares {
        let mut shares = honest.clone();
        if self.proof == Proof::Zero {
            target.set_zero_proof(context, &mut shares);
        }
        let length = honest.public_share.len() / 2;
        for (aggregator, hint) in self.hints.iter().enumerate() {
            let own = aggregator * length..(aggregator + 1) * length;
            match hint {
                Hint::Right => {}
                Hint::Random => rand::rng().fill_bytes(&mut shares.public_share[own]),
                Hint::Swapped => {
                    let other = (1 - aggregator) * length;
                    shares.public_share[own].copy_from_slice(&honest.public_share[other..other + length]);
                }
            }
        }
        shares
    }
}

/// A VDAF under attack.
#[derive(Clone, Debug)]
pub struct Target {
    pub revision: Revision,
    pub vdaf: VdafConfig,
    /// The measurement with the largest numbers.
    pub largest: Measurement,
    /// A second nonzero measurement whose proof is zeros as well.
    pub ordinary: Measurement,
    /// Whether a proof of zeros holds for the largest and for the second measurement.
    pub zeros_prove: [bool; 2],
}

impl Target {
    /// Every VDAF of a revision; vectors come in several shapes.
    pub fn all(revision: Revision) -> Vec<Self> {
        let of = |vdaf, largest, ordinary, zeros_prove| Self { revision, vdaf, largest, ordinary, zeros_prove };
        let vector = |numbers: &[u128]| Measurement::Vector(numbers.to_vec());
        let bits = MaxMeasurement::of_bits;
        let sum_vec = |max, length, chunk_length| VdafConfig::Prio3SumVec { max, length, chunk_length };
        let multihot = |max_weight| VdafConfig::Prio3MultihotCountVec { length: 3, max_weight, chunk_length: 1 };
        let histogram = |length, chunk_length| VdafConfig::Prio3Histogram { length, chunk_length };
        let l1 = |max_value, length, chunk_length| VdafConfig::Prio3L1BoundSum { max_value, length, chunk_length };
        let number = Measurement::Number;
        let (neither, largest, both) = ([false; 2], [true, false], [true; 2]);
        let mut all = vec![
            of(VdafConfig::Prio3Count, Measurement::Flag(true), Measurement::Flag(true), neither),
            of(VdafConfig::Prio3Sum { max: bits(3) }, number(7), number(2), neither),
            of(sum_vec(bits(1), 4, 2), vector(&[1; 4]), vector(&[1, 0, 0, 1]), largest),
            of(sum_vec(bits(2), 3, 3), vector(&[3; 3]), vector(&[3, 0, 1]), largest),
            // With a single chunk, each element is multiplied with itself.
            of(sum_vec(bits(1), 3, 3), vector(&[1; 3]), vector(&[0, 1, 0]), both),
            // The last chunk is padded with zeros.
            of(sum_vec(bits(1), 3, 2), vector(&[1; 3]), vector(&[0, 0, 1]), neither),
            of(histogram(1, 1), number(0), number(0), both),
            of(histogram(4, 2), number(3), number(1), neither),
            // Three flags and two bits for the weight, all ones.
            of(multihot(3), vector(&[1; 3]), vector(&[1, 0, 0]), largest),
            of(multihot(2), vector(&[1, 1, 0]), vector(&[0, 0, 1]), neither),
        ];
        if revision == Revision::Dap09 {
            let multiproof = VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 {
                bits: 1,
                length: 4,
                chunk_length: 2,
                proofs: 2,
            };
            all.push(of(multiproof, vector(&[1; 4]), vector(&[0, 1, 1, 1]), largest));
        } else {
            all.extend([
                // The bits of a single number and of the sum are all ones.
                of(l1(7, 1, 2), vector(&[7]), vector(&[2]), largest),
                // One chunk for the number and one for the sum, which are equal.
                of(l1(7, 1, 3), vector(&[7]), vector(&[2]), both),
                // A single chunk.
                of(l1(3, 3, 8), vector(&[3, 0, 0]), vector(&[1, 0, 1]), both),
                of(l1(5, 3, 4), vector(&[0, 0, 5]), vector(&[1, 0, 2]), neither),
            ]);
        }
        all
    }

    /// Whether honest aggregators accept a forged report of a measurement.
    pub fn is_valid(&self, measurement: &Measurement, forgery: &Forgery) -> bool {
        let measurements = [&self.largest, &self.ordinary];
        let zeros_prove = measurements.iter().zip(self.zeros_prove).any(|(one, holds)| *one == measurement && holds);
        (forgery.proof == Proof::Honest || zeros_prove) && forgery.hints == [Hint::Right; 2]
    }

    /// The leader's share of the proof becomes the negation of the helper's share, which is pseudorandom.
    fn set_zero_proof(&self, context: &[u8], shares: &mut MeasurementShares) {
        let blind = shares.public_share.len() / 2;
        let size = if self.is_field64() { 8 } else { 16 };
        let (start, end) = (self.encoded_length() * size, shares.leader_share.len() - blind);
        let opposite = self.opposite_of_helpers_proof(context, &shares.helper_share, (end - start) / size);
        shares.leader_share[start..end].copy_from_slice(&opposite);
    }

    fn is_field64(&self) -> bool {
        match self.vdaf {
            VdafConfig::Prio3Count | VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { .. } => true,
            VdafConfig::Prio3Sum { .. } => self.revision != Revision::Dap09,
            _ => false,
        }
    }

    /// The number of elements of an encoded measurement.
    fn encoded_length(&self) -> usize {
        match self.vdaf {
            VdafConfig::Prio3Count => 1,
            VdafConfig::Prio3Sum { max } => max.bit_length(),
            VdafConfig::Prio3SumVec { max, length, .. } => max.bit_length() * length,
            VdafConfig::Prio3Histogram { length, .. } => length,
            VdafConfig::Prio3MultihotCountVec { length, max_weight, .. } => {
                length + MaxMeasurement(max_weight as u64).bit_length()
            }
            VdafConfig::Prio3L1BoundSum { max_value, length, .. } => {
                MaxMeasurement(max_value).bit_length() * (length + 1)
            }
            VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { bits, length, .. } => bits * length,
        }
    }

    /// The algorithm's number (VDAF-08 and VDAF-18 section 10, draft-ietf-ppm-l1-bound-sum-02 section 6).
    fn algorithm(&self) -> u32 {
        let (older, newer) = match self.vdaf {
            VdafConfig::Prio3Count => (0, 1),
            VdafConfig::Prio3Sum { .. } => (1, 2),
            VdafConfig::Prio3SumVec { .. } => (2, 3),
            VdafConfig::Prio3Histogram { .. } => (3, 4),
            VdafConfig::Prio3MultihotCountVec { .. } => (0xffff_0000, 5),
            VdafConfig::Prio3L1BoundSum { .. } => (0, 7),
            VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { .. } => (0xffff_1003, 0),
        };
        if self.revision == Revision::Dap09 { older } else { newer }
    }

    /// The helper expands its share of the proof from a seed (VDAF-08 and VDAF-18 section 7.2.1).
    fn opposite_of_helpers_proof(&self, context: &[u8], helper_share: &[u8], elements: usize) -> Vec<u8> {
        let version = if self.revision == Revision::Dap09 { 8 } else { 18 };
        let usage = [&[version, 0], &self.algorithm().to_be_bytes()[..], &[0, 2]].concat();
        match (self.revision, &self.vdaf) {
            (Revision::Dap18 | Revision::Dap19, _) => {
                let seed: [u8; 32] = helper_share[..32].try_into().unwrap();
                let stream = || xof18::XofTurboShake128::seed_stream(&seed, &[&usage, context], &[&[1, 1]]);
                if self.is_field64() {
                    negative18::<field18::Field64>(stream().into_field_vec(elements))
                } else {
                    negative18::<field18::Field128>(stream().into_field_vec(elements))
                }
            }
            (_, VdafConfig::Prio3SumVecField64MultiproofHmacSha256Aes128 { proofs, .. }) => {
                let seed = xof16::Seed::<32>::get_decoded(&helper_share[32..64]).unwrap();
                let stream = xof16::XofHmacSha256Aes128::seed_stream(&seed, &usage, &[*proofs, 1]);
                negative16::<field16::Field64>(stream.into_field_vec(elements))
            }
            _ => {
                let seed = xof16::Seed::<16>::get_decoded(&helper_share[16..32]).unwrap();
                let stream = || xof16::XofTurboShake128::seed_stream(&seed, &usage, &[1, 1]);
                if self.is_field64() {
                    negative16::<field16::Field64>(stream().into_field_vec(elements))
                } else {
                    negative16::<field16::Field128>(stream().into_field_vec(elements))
                }
            }
        }
    }
}

fn negative16<F: field16::FieldElement>(elements: Vec<F>) -> Vec<u8> {
    elements.into_iter().flat_map(|element| Encode::get_encoded(&-element).unwrap()).collect()
}

fn negative18<F: field18::FieldElement>(elements: Vec<F>) -> Vec<u8> {
    elements.into_iter().flat_map(|element| (-element).get_encoded().unwrap()).collect()
}
