//! Processors of one's own between the operators, and the stores that they use.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::windows::millis;
use super::{KStream, Store, StreamsBuilder};
use crate::error::StreamsError;
use crate::processor::{
    FixedKey, FixedKeyProcessor, KeyValueRef, Operator, Outlets, Processor, ProcessorNode, SessionRef,
    TaskBuilder, WindowRef,
};
use crate::topology::{AnyOutlets, NodeKind, StoreKind, StoreSpec, naming};

type Open<R> = Arc<dyn Fn(&mut TaskBuilder<'_>) -> Result<R, StreamsError> + Send + Sync>;

/// A store that was added to a topology, for processors to be connected to it.
pub struct StoreHandle<R> {
    name: String,
    open: Open<R>,
}

impl<R> Clone for StoreHandle<R> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), open: Arc::clone(&self.open) }
    }
}

impl<R> fmt::Debug for StoreHandle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StoreHandle").field(&self.name).finish()
    }
}

/// The stores of a processor: `()`, one `&StoreHandle`, or a tuple of them.
pub trait ProcessorStores: sealed::Connect {}

impl<S: sealed::Connect> ProcessorStores for S {}

mod sealed {
    use super::{Open, StoreHandle, StreamsError, TaskBuilder};

    pub trait Connect {
        /// What a processor gets to reach them.
        type Refs: 'static;

        fn names(&self) -> Vec<String>;

        #[expect(private_interfaces, reason = "nobody else can name this trait")]
        fn opener(&self) -> Open<Self::Refs>;
    }

    impl Connect for () {
        type Refs = ();

        fn names(&self) -> Vec<String> {
            Vec::new()
        }

        #[expect(private_interfaces, reason = "nobody else can name this trait")]
        fn opener(&self) -> Open<()> {
            std::sync::Arc::new(|_: &mut TaskBuilder<'_>| -> Result<(), StreamsError> { Ok(()) })
        }
    }

    impl<R: 'static> Connect for &StoreHandle<R> {
        type Refs = R;

        fn names(&self) -> Vec<String> {
            vec![self.name.clone()]
        }

        #[expect(private_interfaces, reason = "nobody else can name this trait")]
        fn opener(&self) -> Open<R> {
            std::sync::Arc::clone(&self.open)
        }
    }

    macro_rules! connect_tuple {
        ($($part:ident $at:tt),+) => {
            impl<$($part: Connect),+> Connect for ($($part,)+) {
                type Refs = ($($part::Refs,)+);

                fn names(&self) -> Vec<String> {
                    let mut names = Vec::new();
                    $(names.extend(self.$at.names());)+
                    names
                }

                #[expect(private_interfaces, reason = "nobody else can name this trait")]
                fn opener(&self) -> Open<Self::Refs> {
                    let openers = ($(self.$at.opener(),)+);
                    std::sync::Arc::new(move |tasks: &mut TaskBuilder<'_>| Ok(($((openers.$at)(tasks)?,)+)))
                }
            }
        };
    }

    connect_tuple!(A 0);
    connect_tuple!(A 0, B 1);
    connect_tuple!(A 0, B 1, C 2);
    connect_tuple!(A 0, B 1, C 2, D 3);
    connect_tuple!(A 0, B 1, C 2, D 3, E 4);
    connect_tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
}

impl StreamsBuilder {
    /// Adds a key-value store for processors (`addStateStore`).
    pub fn add_store<K: Send + 'static, V: Clone + Send + 'static>(
        &self,
        store: Store<K, V>,
    ) -> StoreHandle<KeyValueRef<K, V>> {
        let spec = self.add_spec(&store, StoreKind::KeyValue);
        let name = spec.name.clone();
        let open = move |tasks: &mut TaskBuilder<'_>| {
            Ok(KeyValueRef(tasks.key_value(&spec, &store.key, &store.value)?))
        };
        StoreHandle { name, open: Arc::new(open) }
    }

    /// Adds a store of windows for processors, which keeps what is put for the store's [retention](Store::retention), or
    /// for `retention` if it has none.
    pub fn add_window_store<K: Send + 'static, V: Clone + Send + 'static>(
        &self,
        store: Store<K, V>,
        retention: Duration,
    ) -> StoreHandle<WindowRef<K, V>> {
        let retention_ms = millis(store.retention.unwrap_or(retention));
        let spec = self
            .add_spec(&store, StoreKind::Window { retention_ms, retain_duplicates: false, scanned: true });
        let name = spec.name.clone();
        let open = move |tasks: &mut TaskBuilder<'_>| {
            Ok(WindowRef(tasks.window(&spec, &store.key, &store.value)?))
        };
        StoreHandle { name, open: Arc::new(open) }
    }

    /// Adds a store of sessions for processors, with a retention as [`StreamsBuilder::add_window_store`].
    pub fn add_session_store<K: Send + 'static, V: Clone + Send + 'static>(
        &self,
        store: Store<K, V>,
        retention: Duration,
    ) -> StoreHandle<SessionRef<K, V>> {
        let retention_ms = millis(store.retention.unwrap_or(retention));
        let spec = self.add_spec(&store, StoreKind::Session { retention_ms });
        let name = spec.name.clone();
        let open = move |tasks: &mut TaskBuilder<'_>| {
            Ok(SessionRef(tasks.session(&spec, &store.key, &store.value)?))
        };
        StoreHandle { name, open: Arc::new(open) }
    }

    fn add_spec<K, V>(&self, store: &Store<K, V>, kind: StoreKind) -> StoreSpec {
        let mut graph = self.graph.lock();
        let mut spec = store.spec(kind);
        if store.name.is_none() {
            spec.name = graph.generate_name(naming::STATE_STORE);
        }
        graph.stores.push(spec.clone());
        spec
    }
}

impl<K: Send + 'static, V: Send + 'static> KStream<K, V> {
    /// Hands each record to a [`Processor`] of one's own, which may forward others. Grouping after it repartitions, for
    /// it may change keys.
    ///
    /// `make` is called once for each task, with what reaches the `stores` in it: `()`, one `&handle`, or a tuple of
    /// them.
    ///
    /// ```
    /// use kafka_streams::processor::{KeyValueRef, ProcessorContext, ProcessorResult};
    /// use kafka_streams::{Processor, Record, Store, StreamsBuilder, testing::TestDriver};
    ///
    /// /// Lets the first record of each key through.
    /// struct First(KeyValueRef<String, i64>);
    ///
    /// impl Processor for First {
    ///     type KIn = String;
    ///     type VIn = String;
    ///     type KOut = String;
    ///     type VOut = String;
    ///
    ///     fn process(
    ///         &mut self,
    ///         record: Record<String, String>,
    ///         cx: &mut ProcessorContext<'_, Self>,
    ///     ) -> ProcessorResult {
    ///         if cx.store(self.0).put_if_absent(&record.key, record.timestamp)?.is_none() {
    ///             cx.forward(record)?;
    ///         }
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let builder = StreamsBuilder::new();
    /// let seen = builder.add_store(Store::kv("seen"));
    /// builder.stream::<String, String>("in").process(&seen, First).to("out");
    ///
    /// let mut driver = TestDriver::new(&builder.build()?)?;
    /// for value in ["one", "two"] {
    ///     driver.input::<String, String>("in").pipe("a".into(), value.into(), 0)?;
    /// }
    /// assert_eq!(driver.output::<String, String>("out").read_all()?, [("a".to_owned(), "one".to_owned())]);
    /// # Ok(()) }
    /// ```
    pub fn process<P, S>(
        self,
        stores: S,
        make: impl Fn(S::Refs) -> P + Send + Sync + 'static,
    ) -> KStream<P::KOut, P::VOut>
    where
        P: Processor<KIn = K, VIn = V>,
        S: ProcessorStores,
    {
        self.operated(naming::PROCESSOR, true, &stores, make)
    }

    /// Hands each record to a [`FixedKeyProcessor`] of one's own: as [`KStream::process`], but keys stay as they are and
    /// nothing is repartitioned.
    pub fn process_values<P, S>(
        self,
        stores: S,
        make: impl Fn(S::Refs) -> P + Send + Sync + 'static,
    ) -> KStream<K, P::VOut>
    where
        P: FixedKeyProcessor<K = K, VIn = V>,
        S: ProcessorStores,
    {
        self.operated(naming::PROCESS_VALUES, false, &stores, move |stores| FixedKey(make(stores)))
    }

    fn operated<O, S>(
        self,
        prefix: &str,
        changes_key: bool,
        stores: &S,
        make: impl Fn(S::Refs) -> O + Send + Sync + 'static,
    ) -> KStream<O::KOut, O::VOut>
    where
        O: Operator<KIn = K, VIn = V>,
        S: ProcessorStores,
    {
        let mut graph = self.graph.lock();
        let name = graph.generate_name(prefix);
        let node = graph.add_node(name, NodeKind::Processor { stores: stores.names() }, vec![self.node]);
        graph.give_back_number(node);
        let outlets = Outlets::new();
        if changes_key {
            graph.optimizer.key_changing.insert(node);
            graph.optimizer.outlets.insert(node, Arc::clone(&outlets) as AnyOutlets);
        } else {
            graph.optimizer.value_changing.insert(node);
        }
        drop(graph);
        let (children, open) = (Arc::clone(&outlets), stores.opener());
        let factory = move |tasks: &mut TaskBuilder<'_>| {
            let operator = make(open(tasks)?);
            let out = children.build(tasks)?;
            let node = ProcessorNode::new(tasks.name(node), operator, out);
            Ok(tasks.called_if(true, node))
        };
        self.outlets.attach(node, Arc::new(factory));
        KStream::new(&self.graph, node, outlets, self.repartition_required || changes_key)
    }
}
