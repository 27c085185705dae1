//! Nodes that a task reaches by a token: those with several parents, and those that a commit or a clock calls.

use std::any::Any;
use std::marker::PhantomData;

use super::{Context, Node, NodeResult, Record};

/// What the task itself calls of a node.
pub(crate) trait Called: Any + Send {
    /// The task's state is restored and its work begins. `index` is the node's place among those that are called.
    fn init(&mut self, _index: usize, _cx: &mut Context<'_>) -> NodeResult {
        Ok(())
    }

    /// Pushes on what was held back until this commit.
    fn flush(&mut self, _cx: &mut Context<'_>) -> NodeResult {
        Ok(())
    }

    /// The clock came to a time that schedule `schedule` of this node waited for.
    fn punctuate(&mut self, _schedule: usize, _timestamp: i64, _cx: &mut Context<'_>) -> NodeResult {
        Ok(())
    }
}

/// The nodes of a task that have tokens.
#[derive(Default)]
pub(crate) struct Nodes {
    /// `None` while the node is at work: the graph has no cycles, so nobody asks for it then.
    slots: Vec<Option<Box<dyn Called>>>,
}

/// Where a node of this type lies.
pub(crate) struct NodeToken<N> {
    index: usize,
    node: PhantomData<fn() -> N>,
}

impl<N> Clone for NodeToken<N> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<N> Copy for NodeToken<N> {}

impl Nodes {
    pub(crate) fn add<N: Called>(&mut self, node: N) -> NodeToken<N> {
        self.slots.push(Some(Box::new(node)));
        NodeToken { index: self.slots.len() - 1, node: PhantomData }
    }

    /// Calls something of a node; nothing happens while it is at work.
    pub(crate) fn call(
        index: usize,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut dyn Called, &mut Context<'_>) -> NodeResult,
    ) -> NodeResult {
        let Some(mut node) = cx.nodes.take(index) else { return Ok(()) };
        let result = work(&mut *node, cx);
        cx.nodes.put_back(index, node);
        result
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn take(&mut self, index: usize) -> Option<Box<dyn Called>> {
        self.slots.get_mut(index)?.take()
    }

    pub(crate) fn put_back(&mut self, index: usize, node: Box<dyn Called>) {
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Some(node);
        }
    }
}

/// One way to a node that lies in [`Nodes`].
pub(crate) struct Relay<N>(pub(crate) NodeToken<N>);

impl<K, V, N: Node<K, V> + Called> Node<K, V> for Relay<N> {
    fn process(&mut self, record: Record<K, V>, cx: &mut Context<'_>) -> NodeResult {
        let Some(mut node) = cx.nodes.take(self.0.index) else { return Ok(()) };
        let any: &mut dyn Any = &mut *node;
        let result = match any.downcast_mut::<N>() {
            Some(node) => node.process(record, cx),
            None => Ok(()),
        };
        cx.nodes.put_back(self.0.index, node);
        result
    }
}
