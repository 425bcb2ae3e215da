//! Update numbers and their states as `muster.state.v1.Compliance` carries them: the
//! numbers ascending and delta-coded, the states 2 bits each.

use muster_domain::{UpdateNo, states::Detection};

/// The most updates one report may carry.
pub const MAX_UPDATES: usize = 65_536;

/// The two packed columns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// The first number, then differences.
    pub update_numbers: Vec<u32>,
    /// Four states to a byte, the first in the lowest bits.
    pub states: Vec<u8>,
}

/// Why packed columns are refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PackedError {
    /// More than [`MAX_UPDATES`].
    #[error("{0} updates in one report, at most {MAX_UPDATES} are allowed")]
    TooMany(usize),
    /// The state column is not as long as the number column says.
    #[error("{states} bytes of states do not fit {updates} updates")]
    LengthMismatch {
        /// Updates listed.
        updates: usize,
        /// Bytes of states.
        states: usize,
    },
    /// A number is zero, repeated, or beyond `i32::MAX` (the database's integer).
    #[error("update numbers are not ascending from 1 to {}", i32::MAX)]
    NotAscending,
}

/// Packs states, which must be in ascending order of their number without repeats, as
/// [`ClientStates`](crate::ClientStates) gives them.
pub fn pack(states: impl IntoIterator<Item = (UpdateNo, Detection)>) -> Packed {
    let mut packed = Packed::default();
    let mut before = 0;
    for (at, (UpdateNo(number), state)) in states.into_iter().enumerate() {
        debug_assert!(number > before, "update numbers must ascend");
        packed.update_numbers.push(number - before);
        before = number;
        if at % 4 == 0 {
            packed.states.push(0);
        }
        if let Some(byte) = packed.states.last_mut() {
            *byte |= state.id() << (2 * (at % 4));
        }
    }
    packed
}

/// Unpacks and checks what came from the network.
pub fn unpack(
    update_numbers: &[u32],
    states: &[u8],
) -> Result<Vec<(UpdateNo, Detection)>, PackedError> {
    let updates = update_numbers.len();
    if updates > MAX_UPDATES {
        return Err(PackedError::TooMany(updates));
    }
    if states.len() != updates.div_ceil(4) {
        return Err(PackedError::LengthMismatch {
            updates,
            states: states.len(),
        });
    }
    let mut number = 0_u32;
    let mut unpacked = Vec::with_capacity(updates);
    for (at, step) in update_numbers.iter().enumerate() {
        let next = number
            .checked_add(*step)
            .filter(|n| *step > 0 && *n <= i32::MAX as u32);
        number = next.ok_or(PackedError::NotAscending)?;
        let bits = (states[at / 4] >> (2 * (at % 4))) & 0b11;
        // Two bits always are one of the four states.
        let state = Detection::from_id(bits).unwrap_or(Detection::Unknown);
        unpacked.push((UpdateNo(number), state));
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_and_states_that_do_not_fit_are_refused() {
        assert_eq!(
            unpack(&[1, 1, 1, 1, 1], &[0]),
            Err(PackedError::LengthMismatch {
                updates: 5,
                states: 1
            })
        );
        assert_eq!(unpack(&[0], &[0]), Err(PackedError::NotAscending));
        assert_eq!(unpack(&[3, 0], &[0]), Err(PackedError::NotAscending));
        assert_eq!(unpack(&[u32::MAX], &[0]), Err(PackedError::NotAscending));
        assert_eq!(unpack(&[1, u32::MAX], &[0]), Err(PackedError::NotAscending));
        assert_eq!(
            unpack(&vec![1; MAX_UPDATES + 1], &[]),
            Err(PackedError::TooMany(MAX_UPDATES + 1))
        );
    }

    proptest! {
        #[test]
        fn packing_loses_nothing(states in proptest::collection::btree_map(1_u32..=i32::MAX as u32, 0_u8..4, 0..400)) {
            let states: BTreeMap<UpdateNo, Detection> =
                states.into_iter().map(|(n, s)| (UpdateNo(n), Detection::from_id(s).unwrap())).collect();
            let packed = pack(states.clone());
            let unpacked = unpack(&packed.update_numbers, &packed.states).unwrap();
            prop_assert_eq!(unpacked, states.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn random_columns_never_panic(numbers in proptest::collection::vec(any::<u32>(), 0..50), states in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = unpack(&numbers, &states);
        }
    }
}
