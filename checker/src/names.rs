//! Strings as small numbers, so that a million events fit in memory and compare at once.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Index of an interned value.
pub(crate) type Id = u32;

/// No value.
pub(crate) const NONE: Id = u32::MAX;

/// Values in order of first sight.
pub(crate) struct Interned<T> {
    ids: HashMap<T, Id>,
    values: Vec<T>,
}

impl<T: Clone + Eq + Hash> Interned<T> {
    pub(crate) fn new() -> Self {
        Interned {
            ids: HashMap::new(),
            values: Vec::new(),
        }
    }

    /// The id of `value`, and whether it is new.
    pub(crate) fn intern<Q>(&mut self, value: &Q) -> (Id, bool)
    where
        T: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = T> + ?Sized,
    {
        if let Some(&id) = self.ids.get(value) {
            return (id, false);
        }
        let id = Id::try_from(self.values.len()).expect("fewer than 2^32 names in one history");
        self.ids.insert(value.to_owned(), id);
        self.values.push(value.to_owned());
        (id, true)
    }

    pub(crate) fn find<Q>(&self, value: &Q) -> Option<Id>
    where
        T: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.ids.get(value).copied()
    }

    pub(crate) fn get(&self, id: Id) -> &T {
        &self.values[id as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }
}
