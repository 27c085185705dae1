use std::sync::Arc;

use super::{Context, Node, NodeResult, Out, Record};

pub(crate) type Predicate<K, V> = Arc<dyn Fn(&K, &V) -> bool + Send + Sync>;

/// One way out of a [`Split`].
pub(crate) struct Arm<K, V> {
    pub(crate) takes: Predicate<K, V>,
    pub(crate) out: Out<K, V>,
}

/// Moves each record into the first branch that takes it, so no branch needs a clone.
pub(crate) struct Split<K, V> {
    pub(crate) arms: Vec<Arm<K, V>>,
    /// What no arm takes; `Out::None` drops it.
    pub(crate) default: Out<K, V>,
}

impl<K: Send, V: Send> Node<K, V> for Split<K, V> {
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        let arm = self.arms.iter_mut().find(|arm| (arm.takes)(&record.key, &record.value));
        arm.map_or(&mut self.default, |arm| &mut arm.out).forward(record, cx)
    }
}
