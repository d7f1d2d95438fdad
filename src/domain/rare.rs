//! A value that is nearly always its default.
//!
//! Jobs are kept by the hundred thousand, and most leave their requirements and
//! their retry rule as they come. A [`Rare`] takes the room of a pointer then,
//! and reads like the value itself.
//!
//! Invariants
//!
//! * It equals, hashes into the state and is encoded exactly as the value: how it
//!   is kept can not be seen from outside.

use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A type whose default can be borrowed for ever.
pub trait Usual: Default + PartialEq + 'static {
    fn usual() -> &'static Self;
}

/// `T`, boxed if it is not the default.
#[derive(Clone, Debug)]
pub struct Rare<T>(Option<Box<T>>);

impl<T> Default for Rare<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Usual> From<T> for Rare<T> {
    fn from(value: T) -> Self {
        Self((value != *T::usual()).then(|| Box::new(value)))
    }
}

impl<T: Usual> Deref for Rare<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or_else(|| T::usual())
    }
}

impl<T: Usual> DerefMut for Rare<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

impl<T: Usual> PartialEq for Rare<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Usual + Eq> Eq for Rare<T> {}

impl<T: Usual + Serialize> Serialize for Rare<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de, T: Usual + Deserialize<'de>> Deserialize<'de> for Rare<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::Rare;
    use crate::domain::job::{Requirements, Retry};

    #[test]
    fn reads_compares_and_encodes_like_the_value() {
        let (usual, mut touched) = (Rare::<Retry>::default(), Rare::<Retry>::default());
        assert_eq!((usual.max_attempts, size_of_val(&usual)), (3, size_of::<usize>()));
        touched.max_attempts = 9;
        assert_ne!(usual, touched);
        touched.max_attempts = 3;
        assert_eq!(usual, touched, "boxed or not, it is the same value");
        let other = Requirements { min_cpu_cores: 4, ..Requirements::default() };
        for value in [Requirements::default(), other] {
            assert_eq!(encoded(&value), encoded(&Rare::from(value.clone())));
        }
    }

    fn encoded(value: &impl serde::Serialize) -> Vec<u8> {
        bincode::serde::encode_to_vec(value, bincode::config::standard()).unwrap()
    }
}
