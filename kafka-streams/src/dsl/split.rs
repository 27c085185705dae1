use std::sync::Arc;

use parking_lot::Mutex;

use super::{KStream, SharedGraph};
use crate::processor::{Arm, Node, Out, Outlets, Predicate, Split, TaskBuilder};
use crate::topology::{NodeId, NodeKind, naming};

/// A branch as the builder knows it; `takes` is `None` for the default branch.
struct Branch<K, V> {
    node: NodeId,
    takes: Option<Predicate<K, V>>,
    outlets: Arc<Outlets<K, V>>,
}

/// A stream that is being split: each record goes to the first branch whose predicate is true for it.
///
/// `BranchedKStream` in Java, which collects the branches in a map by name; here each one is the stream that
/// [`SplitStream::branch`] returns. Records that no branch takes are dropped, unless there is a
/// [`SplitStream::default_branch`].
///
/// ```
/// use kafka_streams::{StreamsBuilder, testing::TestDriver};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let builder = StreamsBuilder::new();
/// let mut orders = builder.stream::<String, i64>("orders").split();
/// orders.branch(|_, cents| *cents >= 100_00).to("large");
/// orders.default_branch().to("small");
///
/// let mut driver = TestDriver::new(&builder.build()?)?;
/// driver.input::<String, i64>("orders").pipe("a".into(), 250_00, 0)?;
/// driver.input::<String, i64>("orders").pipe("b".into(), 3_00, 1)?;
/// assert_eq!(driver.output::<String, i64>("large").read_all()?, [("a".to_owned(), 250_00)]);
/// assert_eq!(driver.output::<String, i64>("small").read_all()?, [("b".to_owned(), 3_00)]);
/// # Ok(()) }
/// ```
#[must_use = "a split stream does nothing until it has branches"]
pub struct SplitStream<K, V> {
    graph: SharedGraph,
    node: NodeId,
    name: String,
    repartition_required: bool,
    branches: Arc<Mutex<Vec<Branch<K, V>>>>,
}

impl<K, V> std::fmt::Debug for SplitStream<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SplitStream").field("node", &self.node).finish_non_exhaustive()
    }
}

impl<K: Send + 'static, V: Send + 'static> SplitStream<K, V> {
    pub(super) fn new(stream: &KStream<K, V>) -> Self {
        let mut graph = stream.graph.lock();
        let name = graph.generate_name(naming::BRANCH);
        let kind = NodeKind::Processor { stores: Vec::new() };
        let node = graph.add_node(name.clone(), kind, vec![stream.node]);
        drop(graph);
        let branches: Arc<Mutex<Vec<Branch<K, V>>>> = Arc::default();
        let known = Arc::clone(&branches);
        let factory = move |tasks: &mut TaskBuilder<'_>| {
            let mut split = Split { arms: Vec::new(), default: Out::None };
            for branch in known.lock().iter() {
                if !tasks.knows(branch.node) {
                    continue;
                }
                let out = branch.outlets.build(tasks)?;
                match &branch.takes {
                    Some(takes) => split.arms.push(Arm { takes: Arc::clone(takes), out }),
                    None => split.default = out,
                }
            }
            let node: Box<dyn Node<K, V>> = Box::new(split);
            Ok(node)
        };
        stream.outlets.attach(node, Arc::new(factory));
        let (graph, repartition_required) = (Arc::clone(&stream.graph), stream.repartition_required);
        Self { graph, node, name, repartition_required, branches }
    }

    /// Names the split: the names of the branches that follow begin with it, as `Named` given to Java's `split`.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let mut numbers = builder.stream::<String, i64>("in").split().named("size-");
    ///     numbers.branch(|_key, n| *n > 1).to("large");
    /// })
    /// .pipe("in", [("a", 1), ("b", 2)])
    /// .gives("large", [("b", 2)]);
    /// ```
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self.graph.lock().rename(self.node, self.name.clone());
        self
    }

    /// The records for which `takes` is true and which no branch before took. The node is named after the split and
    /// the branch's number, from 1.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let mut numbers = builder.stream::<String, i64>("in").split();
    ///     numbers.branch(|_key, n| *n > 1).to("large");
    /// })
    /// .pipe("in", [("a", 1), ("b", 2)])
    /// .gives("large", [("b", 2)]);
    /// ```
    pub fn branch(&mut self, takes: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> KStream<K, V> {
        let number = self.branches.lock().len() + 1;
        self.add(&number.to_string(), Some(Arc::new(takes)))
    }

    /// As [`SplitStream::branch`], its node named after the split and `name` (`Branched.as` in Java).
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let mut numbers = builder.stream::<String, i64>("in").split().named("size-");
    ///     numbers.branch_named("large", |_key, n| *n > 1).to("large");
    /// })
    /// .pipe("in", [("a", 1), ("b", 2)])
    /// .gives("large", [("b", 2)]);
    /// ```
    pub fn branch_named(
        &mut self,
        name: impl AsRef<str>,
        takes: impl Fn(&K, &V) -> bool + Send + Sync + 'static,
    ) -> KStream<K, V> {
        self.add(name.as_ref(), Some(Arc::new(takes)))
    }

    /// The records that no branch took. The node is named after the split and 0.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let mut numbers = builder.stream::<String, i64>("in").split();
    ///     numbers.branch(|_key, n| *n > 1).to("large");
    ///     numbers.default_branch().to("small");
    /// })
    /// .pipe("in", [("a", 1), ("b", 2)])
    /// .gives("small", [("a", 1)]);
    /// ```
    pub fn default_branch(self) -> KStream<K, V> {
        self.default_branch_named("0")
    }

    /// As [`SplitStream::default_branch`], its node named after the split and `name`.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let numbers = builder.stream::<String, i64>("in").split();
    ///     numbers.default_branch_named("all").to("all");
    /// })
    /// .pipe("in", [("a", 1), ("b", 2)])
    /// .gives("all", [("a", 1), ("b", 2)]);
    /// ```
    pub fn default_branch_named(mut self, name: impl AsRef<str>) -> KStream<K, V> {
        self.add(name.as_ref(), None)
    }

    fn add(&mut self, suffix: &str, takes: Option<Predicate<K, V>>) -> KStream<K, V> {
        let name = format!("{}{suffix}", self.name);
        let kind = NodeKind::Processor { stores: Vec::new() };
        let mut graph = self.graph.lock();
        // Java burns a number for each branch, though its name has none (BranchedKStreamImpl).
        let name = graph.name_or(Some(name), naming::BRANCH);
        let node = graph.add_node(name, kind, vec![self.node]);
        drop(graph);
        let outlets = Outlets::new();
        self.branches.lock().push(Branch { node, takes, outlets: Arc::clone(&outlets) });
        KStream::new(&self.graph, node, outlets, self.repartition_required)
    }
}
