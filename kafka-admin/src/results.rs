use crate::AdminError;

/// The outcome of an operation for each of its items, in the order they were given; an item given twice is there once.
#[derive(Debug, Clone)]
#[must_use = "items may have failed: see `all`"]
pub struct ItemResults<K, V> {
    items: Vec<(K, Result<V, AdminError>)>,
}

impl<K, V> ItemResults<K, V> {
    pub(crate) fn new(items: Vec<(K, Result<V, AdminError>)>) -> Self {
        Self { items }
    }

    /// The results; `Err` if no broker said anything about any item.
    pub(crate) fn if_anybody_answered(items: Vec<(K, Result<V, AdminError>)>) -> Result<Self, AdminError> {
        let nobody = items.iter().all(|(_, result)| matches!(result, Err(AdminError::Request(_))));
        match items.first() {
            Some((_, Err(error))) if nobody => Err(error.clone()),
            _ => Ok(Self::new(items)),
        }
    }

    /// Every item's value, or the first error.
    pub fn all(self) -> Result<Vec<(K, V)>, AdminError> {
        self.items.into_iter().map(|(key, result)| Ok((key, result?))).collect()
    }

    /// The items and their outcomes.
    pub fn iter(&self) -> std::slice::Iter<'_, (K, Result<V, AdminError>)> {
        self.items.iter()
    }

    /// The outcome of an item.
    pub fn get<Q: ?Sized>(&self, key: &Q) -> Option<&Result<V, AdminError>>
    where
        K: PartialEq<Q>,
    {
        self.items.iter().find(|(item, _)| item == key).map(|(_, result)| result)
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

impl<K, V> IntoIterator for ItemResults<K, V> {
    type Item = (K, Result<V, AdminError>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

impl<'a, K, V> IntoIterator for &'a ItemResults<K, V> {
    type Item = &'a (K, Result<V, AdminError>);
    type IntoIter = std::slice::Iter<'a, (K, Result<V, AdminError>)>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}
