use std::collections::BTreeMap;
use std::fmt;

use super::java_order::hash_set_order;
use super::java_tree_set::TreeSet;
use super::{Graph, NodeKind, SubTopology};

/// A topology in words; its text is what Java's `Topology.describe().toString()` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyDescription {
    /// The sub-topologies, by number.
    pub subtopologies: Vec<SubTopologyDescription>,
}

/// One sub-topology of a [`TopologyDescription`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubTopologyDescription {
    /// Its number.
    pub id: usize,
    /// Its nodes: those with the most nodes behind them first.
    pub nodes: Vec<NodeDescription>,
}

/// One node of a [`SubTopologyDescription`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDescription {
    /// Its name.
    pub name: String,
    /// What it does.
    pub kind: NodeDescriptionKind,
    /// The nodes it forwards to.
    pub successors: Vec<String>,
    /// The nodes that forward to it.
    pub predecessors: Vec<String>,
}

/// What a node does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeDescriptionKind {
    /// Reads these topics; internal ones without the application's prefix.
    Source(Vec<String>),
    /// Processes, with these stores.
    Processor(Vec<String>),
    /// Writes to this topic.
    Sink(String),
    /// Writes to a topic that each record says.
    DynamicSink,
}

/// A node while the description is put together. Java counts paths, not nodes: a node behind two others counts
/// for both.
struct Counted {
    size: usize,
    predecessors: TreeSet,
    successors: TreeSet,
}

pub(super) fn describe(graph: &Graph, subtopologies: &[SubTopology]) -> TopologyDescription {
    TopologyDescription {
        subtopologies: subtopologies
            .iter()
            .map(|sub| SubTopologyDescription { id: sub.id, nodes: describe_nodes(graph, sub) })
            .collect(),
    }
}

fn describe_nodes(graph: &Graph, sub: &SubTopology) -> Vec<NodeDescription> {
    let names: BTreeMap<usize, &str> = sub
        .nodes
        .iter()
        .filter_map(|id| graph.nodes.get(*id).map(|node| (*id, node.name.as_str())))
        .collect();
    let mut counted: BTreeMap<usize, Counted> = names
        .keys()
        .map(|id| {
            (*id, Counted { size: 1, predecessors: TreeSet::default(), successors: TreeSet::default() })
        })
        .collect();
    // Nodes in one bucket keep the order in which they were added.
    let order = graph.in_order();
    let mut by_hash: Vec<Named<'_>> =
        order.iter().filter_map(|id| Some(Named(names.get(id)?, *id))).collect();
    hash_set_order(&mut by_hash);
    for Named(_, id) in by_hash {
        let parents = graph.nodes.get(id).map(|node| node.parents.clone()).unwrap_or_default();
        for parent in parents {
            insert(&mut counted, &names, id, parent, |node| &mut node.predecessors);
            insert(&mut counted, &names, parent, id, |node| &mut node.successors);
            let grown = counted.get(&id).map_or(0, |node| node.size);
            grow(&mut counted, parent, grown);
        }
    }
    let mut ids: Vec<usize> = names.keys().copied().collect();
    ids.sort_by(|a, b| compare(&counted, &names, *a, *b));
    let name_of = |id: &usize| names.get(id).map(|name| (*name).to_owned()).unwrap_or_default();
    ids.iter()
        .filter_map(|id| {
            let node = graph.nodes.get(*id)?;
            let counted = counted.get(id)?;
            Some(NodeDescription {
                name: node.name.clone(),
                kind: match &node.kind {
                    NodeKind::Source { topics, .. } => {
                        let mut topics: Vec<String> = topics.iter().map(|t| t.name().to_owned()).collect();
                        hash_set_order(&mut topics);
                        NodeDescriptionKind::Source(topics)
                    }
                    NodeKind::Processor { stores } => {
                        let mut stores = stores.clone();
                        hash_set_order(&mut stores);
                        NodeDescriptionKind::Processor(stores)
                    }
                    NodeKind::Sink { topic: Some(topic) } => {
                        NodeDescriptionKind::Sink(topic.name().to_owned())
                    }
                    NodeKind::Sink { topic: None } => NodeDescriptionKind::DynamicSink,
                },
                successors: counted.successors.items().iter().map(name_of).collect(),
                predecessors: counted.predecessors.items().iter().map(name_of).collect(),
            })
        })
        .collect()
}

struct Named<'a>(&'a str, usize);

impl AsRef<str> for Named<'_> {
    fn as_ref(&self) -> &str {
        self.0
    }
}

fn compare(
    counted: &BTreeMap<usize, Counted>,
    names: &BTreeMap<usize, &str>,
    a: usize,
    b: usize,
) -> std::cmp::Ordering {
    let size = |id| counted.get(&id).map_or(0, |node| node.size);
    size(b).cmp(&size(a)).then_with(|| names.get(&a).cmp(&names.get(&b)))
}

/// Java's comparison is by sizes as they are at this moment; the sizes go on growing, what is in the set stays.
fn insert(
    counted: &mut BTreeMap<usize, Counted>,
    names: &BTreeMap<usize, &str>,
    owner: usize,
    new: usize,
    set: fn(&mut Counted) -> &mut TreeSet,
) {
    let Some(mut items) = counted.get_mut(&owner).map(|node| std::mem::take(set(node))) else { return };
    items.insert(new, |a, b| compare(counted, names, a, b));
    if let Some(node) = counted.get_mut(&owner) {
        *set(node) = items;
    }
}

fn grow(counted: &mut BTreeMap<usize, Counted>, id: usize, by: usize) {
    let Some(node) = counted.get_mut(&id) else { return };
    node.size = node.size.saturating_add(by);
    for predecessor in node.predecessors.items() {
        grow(counted, predecessor, by);
    }
}

impl fmt::Display for TopologyDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Topologies:\n ")?;
        for subtopology in &self.subtopologies {
            write!(f, "  {subtopology}")?;
        }
        Ok(())
    }
}

impl fmt::Display for SubTopologyDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Sub-topology: {}", self.id)?;
        for node in &self.nodes {
            write!(f, "    {node}")?;
        }
        f.write_str("\n")
    }
}

impl fmt::Display for NodeDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        match &self.kind {
            NodeDescriptionKind::Source(topics) => {
                writeln!(f, "Source: {} (topics: [{}])", self.name, topics.join(", "))?;
                writeln!(f, "      --> {}", list(&self.successors))
            }
            NodeDescriptionKind::Processor(stores) => {
                writeln!(f, "Processor: {} (stores: [{}])", self.name, stores.join(", "))?;
                writeln!(f, "      --> {}", list(&self.successors))?;
                writeln!(f, "      <-- {}", list(&self.predecessors))
            }
            NodeDescriptionKind::Sink(topic) => {
                writeln!(f, "Sink: {} (topic: {topic})", self.name)?;
                writeln!(f, "      <-- {}", list(&self.predecessors))
            }
            // Java prints the extractor's `toString`; a closure has none.
            NodeDescriptionKind::DynamicSink => {
                writeln!(f, "Sink: {} (extractor class: closure)", self.name)?;
                writeln!(f, "      <-- {}", list(&self.predecessors))
            }
        }
    }
}
