use std::collections::{BTreeMap, BTreeSet};

use super::{Graph, NodeId, NodeKind, TopicRef};

/// Nodes that must run in one task: connected by edges or by a shared store.
#[derive(Debug, Clone)]
pub(crate) struct SubTopology {
    pub(crate) id: usize,
    pub(crate) nodes: BTreeSet<NodeId>,
    pub(crate) source_topics: BTreeSet<TopicRef>,
    pub(crate) sink_topics: BTreeSet<TopicRef>,
    pub(crate) stores: BTreeSet<String>,
}

/// Union-find over edges and shared stores. Numbers go by the nodes' order, as Java gives them
/// (`InternalTopologyBuilder.makeNodeGroups`).
pub(super) fn cut(graph: &Graph) -> Vec<SubTopology> {
    let mut roots: Vec<usize> = (0..graph.nodes.len()).collect();
    let mut store_owner = BTreeMap::<&str, NodeId>::new();
    let order = graph.in_order();
    for (id, node) in order.iter().filter_map(|id| Some((*id, graph.nodes.get(*id)?))) {
        for parent in &node.parents {
            unite(&mut roots, id, *parent);
        }
        let NodeKind::Processor { stores } = &node.kind else { continue };
        for store in stores {
            let owner = *store_owner.entry(store).or_insert(id);
            unite(&mut roots, id, owner);
        }
    }
    let mut by_root = BTreeMap::<usize, usize>::new();
    let mut subtopologies = Vec::<SubTopology>::new();
    for id in order {
        let root = find(&mut roots, id);
        let index = *by_root.entry(root).or_insert_with(|| {
            subtopologies.push(SubTopology {
                id: subtopologies.len(),
                nodes: BTreeSet::new(),
                source_topics: BTreeSet::new(),
                sink_topics: BTreeSet::new(),
                stores: BTreeSet::new(),
            });
            subtopologies.len() - 1
        });
        let (Some(sub), Some(node)) = (subtopologies.get_mut(index), graph.nodes.get(id)) else { continue };
        sub.nodes.insert(id);
        match &node.kind {
            NodeKind::Source { topics, .. } => sub.source_topics.extend(topics.iter().cloned()),
            NodeKind::Sink { topic } => {
                sub.sink_topics.extend(topic.clone());
            }
            NodeKind::Processor { stores } => sub.stores.extend(stores.iter().cloned()),
        }
    }
    subtopologies
}

fn find(roots: &mut [usize], mut id: usize) -> usize {
    while let Some(&parent) = roots.get(id)
        && parent != id
    {
        let grandparent = roots.get(parent).copied().unwrap_or(parent);
        if let Some(slot) = roots.get_mut(id) {
            *slot = grandparent;
        }
        id = grandparent;
    }
    id
}

fn unite(roots: &mut [usize], a: usize, b: usize) {
    let (a, b) = (find(roots, a), find(roots, b));
    if let Some(slot) = roots.get_mut(a.max(b)) {
        *slot = a.min(b);
    }
}
