use std::sync::Arc;

use super::options::SinkTarget;
use super::stream::SinkSpec;
use super::{KTable, Store, attach_sink, attach_table, source};
use crate::error::{StreamsError, TopologyError};
use crate::processor::{
    Change, Encoder, ForeignTableJoin, Forward, Node, Outlets, Partitions, ResponseJoin, StreamPartitioner,
    SubscriptionKeys, SubscriptionReceive, SubscriptionSend, TaskBuilder,
};
use crate::serde::{HasSerde, Nullable, SharedSerde};
use crate::state::{Subscription, SubscriptionResponse, SubscriptionResponseSerde, SubscriptionSerde};
use crate::topology::{
    Copartitioned, NodeKind, RepartitionSpec, StoreKind, StoreSpec, TableInfo, TopicRef, naming,
};

impl<K: Clone + Send + 'static, V: Clone + Send + 'static> KTable<K, V> {
    /// Joins each row with the row of another table whose key is somewhere in it (KIP-213): `foreign_key` finds it, `None`
    /// joins nothing. There is a result row, by this table's key, while both rows are there; it follows changes of either.
    ///
    /// Neither table is moved as a whole: each row of this one subscribes, by a repartition topic, at the partition of
    /// its foreign key, and is answered by another one. So results come a little later than those of other joins, and
    /// rows that are deleted may be deleted more than once. Serialized rows of this table must be the same for the same
    /// row: an answer is taken if the row has still the hash that it asked with. Result time: the later one's for a
    /// change of this table, the change's own for one of the other.
    ///
    /// ```
    /// use kafka_streams::{StreamsBuilder, testing::TestDriver};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let builder = StreamsBuilder::new();
    /// let users = builder.table::<String, String>("users");
    /// builder
    ///     .table::<i64, String>("orders")
    ///     .join_by_foreign_key(users, |_, user| Some(user.clone()), |id, _, name| format!("{id} by {name}"), "bills")
    ///     .to_stream()
    ///     .to("bills");
    /// let mut driver = TestDriver::new(&builder.build()?)?;
    /// driver.input::<i64, String>("orders").pipe(7, "u1".to_owned(), 0)?;
    /// driver.input::<String, String>("users").pipe("u1".to_owned(), "Ada".to_owned(), 1)?;
    /// assert_eq!(driver.output::<i64, String>("bills").read_all()?, [(7, "7 by Ada".to_owned())]);
    /// # Ok(()) }
    /// ```
    pub fn join_by_foreign_key<KO, VO, O>(
        self,
        other: KTable<KO, VO>,
        foreign_key: impl Fn(&K, &V) -> Option<KO> + Send + Sync + 'static,
        joiner: impl Fn(&K, &V, &VO) -> O + Send + Sync + 'static,
        joined: impl Into<ForeignKeyJoined<K, V, KO, VO, O>>,
    ) -> KTable<K, O>
    where
        KO: Send + 'static,
        VO: Clone + Send + 'static,
        O: Clone + Send + 'static,
    {
        let joiner = move |key: &K, row: &V, other: Option<&VO>| other.map(|other| joiner(key, row, other));
        self.foreign_key_joined(other, foreign_key, joiner, joined.into(), false)
    }

    /// As [`KTable::join_by_foreign_key`], with a row wherever this table has one.
    ///
    /// ```
    /// use kafka_streams::testing::Example;
    ///
    /// Example::of(|builder| {
    ///     let (orders, users) = (builder.table::<String, String>("orders"), builder.table::<String, String>("users"));
    ///     let bills = orders.left_join_by_foreign_key(
    ///         users,
    ///         |_id, user| Some(user.clone()),
    ///         |id, _user, name| format!("{id} by {}", name.map_or("?", String::as_str)),
    ///         "bills",
    ///     );
    ///     bills.to_stream().to("out");
    /// })
    /// .pipe("orders", [("o1", "u1")])
    /// .pipe("users", [("u1", "Ann")])
    /// .gives("out", [("o1", "o1 by ?"), ("o1", "o1 by Ann")]);
    /// ```
    pub fn left_join_by_foreign_key<KO, VO, O>(
        self,
        other: KTable<KO, VO>,
        foreign_key: impl Fn(&K, &V) -> Option<KO> + Send + Sync + 'static,
        joiner: impl Fn(&K, &V, Option<&VO>) -> O + Send + Sync + 'static,
        joined: impl Into<ForeignKeyJoined<K, V, KO, VO, O>>,
    ) -> KTable<K, O>
    where
        KO: Send + 'static,
        VO: Clone + Send + 'static,
        O: Clone + Send + 'static,
    {
        let joiner = move |key: &K, row: &V, other: Option<&VO>| Some(joiner(key, row, other));
        self.foreign_key_joined(other, foreign_key, joiner, joined.into(), true)
    }

    fn foreign_key_joined<KO, VO, O, F, J>(
        self,
        other: KTable<KO, VO>,
        extract: F,
        joiner: J,
        joined: ForeignKeyJoined<K, V, KO, VO, O>,
        left: bool,
    ) -> KTable<K, O>
    where
        KO: Send + 'static,
        VO: Clone + Send + 'static,
        O: Clone + Send + 'static,
        F: Fn(&K, &V) -> Option<KO> + Send + Sync + 'static,
        J: Fn(&K, &V, Option<&VO>) -> Option<O> + Send + Sync + 'static,
    {
        let foreign = !Arc::ptr_eq(&self.graph, &other.graph);
        let mut graph = self.graph.lock();
        let named = |suffix: &str| joined.name.as_ref().map(|name| format!("{name}-subscription-{suffix}"));
        let topic = |name: String| TopicRef::Internal(Arc::from(format!("{name}-topic")));
        let registration = topic(graph.name_or(named("registration"), naming::FK_REGISTRATION));
        let send_name = graph.name_or(named("registration-processor"), naming::FK_REGISTRATION);
        let sink_name = graph.name_or(named("registration-sink"), naming::TABLE_SINK);
        let source_name = graph.name_or(named("registration-source"), naming::TABLE_SOURCE);
        let store_name = graph.name_or(named("store"), naming::FK_STORE);
        let receive_name = graph.name_or(named("receive"), naming::FK_PROCESSOR);
        let answer_name = graph.name_or(named("join-foreign"), naming::FK_PROCESSOR);
        let changes_name = joined.name.as_ref().map(|name| format!("{name}-foreign-join-subscription"));
        let changes_name = graph.name_or(changes_name, naming::FK_PROCESSOR);
        let response = topic(graph.name_or(named("response"), naming::FK_RESPONSE));
        let response_sink_name = graph.name_or(named("response-sink"), naming::TABLE_SINK);
        let response_source_name = graph.name_or(named("response-source"), naming::TABLE_SOURCE);
        let resolver_name = graph.name_or(named("response-resolver"), naming::FK_RESOLVER);
        let result_name =
            graph.name_or(joined.name.as_ref().map(|name| format!("{name}-result")), naming::FK_OUTPUT);
        let is_kept = joined.store.is_kept();
        let store = match joined.store.name {
            Some(_) => joined.store,
            None => {
                let name = graph.generate_name(&format!("{}{}", naming::FK_OUTPUT, naming::STATE_STORE));
                joined.store.named(name)
            }
        };

        // Where a row's foreign key was before is where its subscription must go.
        graph.send_old(self.node);
        let (rows_stores, other_stores, other_node) = if foreign {
            graph.problems.push(TopologyError::ForeignStream { node: send_name.clone() });
            (Vec::new(), Vec::new(), self.node)
        } else {
            graph.send_old(other.node);
            (graph.keep_rows(self.node), graph.keep_rows(other.node), other.node)
        };
        let subscriptions = StoreSpec { name: store_name.clone(), logged: true, ..StoreSpec::default() };
        graph.stores.push(subscriptions.clone());
        for topic in [&registration, &response] {
            graph.repartitions.push(RepartitionSpec { name: Arc::from(topic.name()), partitions: None });
        }
        let processor = |stores: Vec<String>| NodeKind::Processor { stores };
        let sink = |topic: &TopicRef| NodeKind::Sink { topic: Some(topic.clone()) };
        let send = graph.add_node(send_name, processor(Vec::new()), vec![self.node]);
        let registration_sink = graph.add_node(sink_name, sink(&registration), vec![send]);
        let registration_source = graph.add_source(source_name, vec![registration.clone()], None);
        let receive =
            graph.add_node(receive_name, processor(vec![store_name.clone()]), vec![registration_source]);
        let answer = graph.add_node(answer_name, processor(other_stores), vec![receive]);
        let changes = graph.add_node(changes_name, processor(vec![store_name]), vec![other_node]);
        let response_sink = graph.add_node(response_sink_name, sink(&response), vec![answer, changes]);
        let response_source = graph.add_source(response_source_name, vec![response.clone()], None);
        let resolver = graph.add_node(resolver_name, processor(rows_stores), vec![response_source]);
        let result = graph.add_node(result_name, processor(Vec::new()), vec![resolver]);
        let info = TableInfo { lazy_store: Some(store.spec(StoreKind::KeyValue)), ..TableInfo::default() };
        graph.tables.insert(result, info);
        for (node, sides) in
            [(receive, vec![registration_source, other_node]), (resolver, vec![response_source, self.node])]
        {
            graph.copartitioned.push(Copartitioned { node, sides });
        }
        if is_kept {
            graph.keep_rows(result);
        }

        let serdes = Serdes {
            key: Arc::clone(&store.key),
            row: joined.value,
            foreign_key: joined.foreign_key,
            foreign_row: joined.foreign_value,
        };
        let subscription: SharedSerde<Subscription<K>> = Arc::new(SubscriptionSerde(Arc::clone(&serdes.key)));
        let nullable_key: SharedSerde<Option<KO>> = Arc::new(Nullable(Arc::clone(&serdes.foreign_key)));
        let answer_serde: SharedSerde<SubscriptionResponse<VO>> =
            Arc::new(SubscriptionResponseSerde(Arc::clone(&serdes.foreign_row)));
        let asked = Outlets::<Option<KO>, Subscription<K>>::new();
        let arrived = Outlets::<Option<KO>, Subscription<K>>::new();
        let answered = Outlets::<K, SubscriptionResponse<VO>>::new();
        let returned = Outlets::<K, SubscriptionResponse<VO>>::new();
        let results = Outlets::<K, Option<O>>::new();
        graph.add_source_factory(
            registration_source,
            source(registration_source, Arc::clone(&nullable_key), Arc::clone(&subscription), &arrived),
        );
        graph.add_source_factory(
            response_source,
            source(response_source, Arc::clone(&serdes.key), Arc::clone(&answer_serde), &returned),
        );
        drop(graph);

        let (extract, out, row, foreign_key) =
            (Arc::new(extract), Arc::clone(&asked), Arc::clone(&serdes.row), Arc::clone(&serdes.foreign_key));
        let factory = move |tasks: &mut TaskBuilder<'_>| {
            let place = tasks.place(send);
            let node: Box<dyn Node<K, Change<V>>> = Box::new(SubscriptionSend {
                extract: Arc::clone(&extract),
                foreign_key: Encoder::new(&foreign_key, place.clone()),
                row: Encoder::new(&row, place),
                left,
                out: out.build(tasks)?,
            });
            Ok(node)
        };
        self.outlets.attach(send, Arc::new(factory));
        let other_partitioner = joined.other_partitioner.map(|choose| {
            let by_key = move |topic: &str, key: &Option<KO>, _: &Subscription<K>, count: i32| match key {
                Some(key) => choose(topic, key, count),
                None => Partitions::Default,
            };
            Arc::new(by_key) as StreamPartitioner<Option<KO>, Subscription<K>>
        });
        let spec = SinkSpec {
            target: SinkTarget::Topic(registration),
            key: nullable_key,
            value: Arc::clone(&subscription),
            partitioner: other_partitioner,
            repartition: None,
        };
        attach_sink(&asked, registration_sink, spec);

        let right = Arc::new(Right { response_sink, subscriptions, subscription, answered });
        let keys = {
            let (key, foreign_key) = (Arc::clone(&serdes.key), Arc::clone(&serdes.foreign_key));
            move |tasks: &TaskBuilder<'_>, node| SubscriptionKeys {
                foreign: Encoder::new(&foreign_key, tasks.place(node)),
                primary: Encoder::new(&key, tasks.place(node)),
            }
        };
        let (plan, rows, keys_of) = (Arc::clone(&right), other.getter, keys.clone());
        let factory = move |tasks: &mut TaskBuilder<'_>| {
            let node: Box<dyn Node<Option<KO>, Subscription<K>>> = Box::new(SubscriptionReceive {
                keys: keys_of(tasks, receive),
                subscriptions: tasks.subscriptions(&plan.subscriptions, &plan.subscription)?,
                rows: rows(tasks)?,
                out: plan.out(tasks)?,
            });
            Ok(node)
        };
        arrived.attach(answer, Arc::new(factory));
        let plan = Arc::clone(&right);
        let factory = move |tasks: &mut TaskBuilder<'_>| {
            let node: Box<dyn Node<KO, Change<VO>>> = Box::new(ForeignTableJoin {
                keys: keys(tasks, changes),
                subscriptions: tasks.subscriptions(&plan.subscriptions, &plan.subscription)?,
                out: plan.out(tasks)?,
            });
            Ok(node)
        };
        other.outlets.attach(changes, Arc::new(factory));
        // An answer goes where its question came from.
        let by_key = joined.partitioner;
        let partitioner: StreamPartitioner<K, SubscriptionResponse<VO>> =
            Arc::new(move |topic, key, response, count| match (&by_key, response.primary_partition) {
                (Some(choose), _) => choose(topic, key, count),
                (None, Some(partition)) => Partitions::One(partition),
                (None, None) => Partitions::Default,
            });
        let spec = SinkSpec {
            target: SinkTarget::Topic(response),
            key: Arc::clone(&serdes.key),
            value: answer_serde,
            partitioner: Some(partitioner),
            repartition: None,
        };
        attach_sink(&right.answered, response_sink, spec);

        let (out, rows, joiner, row) = (Arc::clone(&results), self.getter, Arc::new(joiner), serdes.row);
        let factory = move |tasks: &mut TaskBuilder<'_>| {
            let node: Box<dyn Node<K, SubscriptionResponse<VO>>> = Box::new(ResponseJoin {
                rows: rows(tasks)?,
                row: Encoder::new(&row, tasks.place(resolver)),
                left,
                joiner: Arc::clone(&joiner),
                out: out.build(tasks)?,
            });
            Ok(node)
        };
        returned.attach(resolver, Arc::new(factory));
        let outlets = Outlets::new();
        attach_table(result, store.clone(), &results, &outlets);
        KTable::kept(&self.graph, result, outlets, store)
    }
}

struct Serdes<K, V, KO, VO> {
    key: SharedSerde<K>,
    row: SharedSerde<V>,
    foreign_key: SharedSerde<KO>,
    foreign_row: SharedSerde<VO>,
}

/// What both ways to an answer are built from.
struct Right<K, VO> {
    response_sink: usize,
    subscriptions: StoreSpec,
    subscription: SharedSerde<Subscription<K>>,
    answered: Arc<Outlets<K, SubscriptionResponse<VO>>>,
}

impl<K: Send + 'static, VO: Send + 'static> Right<K, VO> {
    fn out(
        &self,
        tasks: &mut TaskBuilder<'_>,
    ) -> Result<crate::processor::Out<K, SubscriptionResponse<VO>>, StreamsError> {
        let sink = tasks.relay(self.response_sink, |tasks| Ok(Forward(self.answered.build(tasks)?)))?;
        Ok(crate::processor::Out::One(sink))
    }
}

type KeyPartitioner<K> = Arc<dyn Fn(&str, &K, i32) -> Partitions + Send + Sync>;

/// How tables are joined by a foreign key: serdes, names, and where the result is kept.
pub struct ForeignKeyJoined<K, V, KO, VO, O> {
    name: Option<String>,
    value: SharedSerde<V>,
    foreign_key: SharedSerde<KO>,
    foreign_value: SharedSerde<VO>,
    partitioner: Option<KeyPartitioner<K>>,
    other_partitioner: Option<KeyPartitioner<KO>>,
    store: Store<K, O>,
}

impl<K, V, KO, VO, O> ForeignKeyJoined<K, V, KO, VO, O> {
    /// With serdes of one's own: for this table's rows, the other table's keys and rows, and, in `store`, for this
    /// table's keys and the result. The result is kept if the store has a name, or as soon as somebody needs its rows.
    pub fn with(
        value: SharedSerde<V>,
        foreign_key: SharedSerde<KO>,
        foreign_value: SharedSerde<VO>,
        store: Store<K, O>,
    ) -> Self {
        let (name, partitioner, other_partitioner) = (None, None, None);
        Self { name, value, foreign_key, foreign_value, partitioner, other_partitioner, store }
    }

    /// Names the operators and the topics between them.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How this table's topic is partitioned, by topic, key and number of partitions, if not by Java's default (KIP-775).
    pub fn partitioner(
        mut self,
        choose: impl Fn(&str, &K, i32) -> Partitions + Send + Sync + 'static,
    ) -> Self {
        self.partitioner = Some(Arc::new(choose));
        self
    }

    /// How the other table's topic is partitioned, if not by Java's default (KIP-775).
    pub fn other_partitioner(
        mut self,
        choose: impl Fn(&str, &KO, i32) -> Partitions + Send + Sync + 'static,
    ) -> Self {
        self.other_partitioner = Some(Arc::new(choose));
        self
    }

    /// Keeps the result in a store.
    pub fn kept_in(mut self, store: Store<K, O>) -> Self {
        self.store = store;
        self
    }
}

impl<K: HasSerde, V: HasSerde, KO: HasSerde, VO: HasSerde, O: HasSerde> ForeignKeyJoined<K, V, KO, VO, O> {
    /// With the types' own serdes and generated names.
    pub fn auto() -> Self {
        Self::from(Store::auto())
    }
}

impl<K: HasSerde, V: HasSerde, KO: HasSerde, VO: HasSerde, O: HasSerde> From<&str>
    for ForeignKeyJoined<K, V, KO, VO, O>
{
    fn from(name: &str) -> Self {
        Self::auto().named(name)
    }
}

impl<K, V: HasSerde, KO: HasSerde, VO: HasSerde, O> From<Store<K, O>> for ForeignKeyJoined<K, V, KO, VO, O> {
    fn from(store: Store<K, O>) -> Self {
        Self::with(V::serde(), KO::serde(), VO::serde(), store)
    }
}
