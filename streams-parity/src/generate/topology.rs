//! The families' topologies.

use serde_json::{Value as Json, json};

use super::Gen;

type Id = String;

impl Gen {
    pub(super) fn family(&mut self, family: &str) {
        match family {
            "stateless" => {
                let stream = self.source();
                let steps = 1 + self.random.below(5);
                let end = self.stateless(stream, steps);
                self.finish(end);
            }
            "branches" => self.branches(),
            "aggregate" => {
                let grouped = self.grouped();
                let steps = self.random.below(4);
                let table = self.fold(grouped, if steps == 0 { Fold::Stream } else { Fold::WithOldValues });
                let table = self.table_steps(table, steps);
                self.finish_table(table, 0);
            }
            "windows" => {
                let steps = self.random.below(2);
                let types = ["tumbling", "hopping", "sliding", "sliding", "unlimited"];
                let table = self.windowed(&types, true, steps > 0);
                self.finish_windowed(table, steps);
            }
            "sessions" => {
                let steps = self.random.below(2);
                let table = self.windowed(&["session"], true, steps > 0);
                self.finish_windowed(table, steps);
            }
            "tables" => {
                let table = self.table();
                let steps = self.random.below(5);
                let table = self.table_steps(table, steps);
                self.finish_table(table, 0);
            }
            "table-groups" => {
                let table = self.table();
                let steps = self.random.below(3);
                let table = self.table_steps(table, steps);
                let table = self.regrouped(table);
                self.finish_table(table, 0);
            }
            "stream-joins" => self.stream_join(),
            "table-joins" => {
                let table = self.table_join();
                self.finish_table(table, 1);
            }
            "stream-table-joins" => self.stream_table_join(),
            "suppress" => self.suppressed(),
            "processors" => self.processors(),
            _ => self.mixed(),
        }
    }

    // ---- parts

    fn add(&mut self, mut op: Json) -> Id {
        let id = format!("o{}", self.ops.len());
        op["id"] = id.clone().into();
        self.ops.push(op);
        id
    }

    /// Adds an operator that may have a name.
    fn add_named(&mut self, mut op: Json) -> Id {
        if self.named && self.random.percent(50) {
            op["name"] = format!("n{}", self.ops.len()).into();
        }
        self.add(op)
    }

    fn topic(&mut self, prefix: &str) -> String {
        let topic = format!("{prefix}{}", self.topics.len());
        self.topics.push(topic.clone());
        topic
    }

    fn source(&mut self) -> Id {
        let mut topics = vec![self.topic("in")];
        if self.random.percent(8) {
            topics.push(self.topic("in"));
        }
        self.add_named(json!({"op": "stream", "topics": topics}))
    }

    /// Whether nothing repartitions so far.
    fn is_one_task(&self) -> bool {
        self.ops.iter().all(|op| {
            let repartitions = ["repartition", "groupBy", "groupByKey", "toTable", "join", "joinTable"];
            !repartitions.iter().any(|operator| op["op"] == *operator)
        })
    }

    /// A store's options; with a cache every store has to say whether it uses it.
    fn store(&mut self) -> Json {
        let mut store = json!({"name": format!("s{}", self.ops.len())});
        if self.cache {
            store["caching"] = self.random.percent(60).into();
        }
        if self.random.percent(8) {
            store["logging"] = false.into();
        }
        store
    }

    fn stored(&mut self, mut op: Json, chance: u64) -> Json {
        if self.cache || self.random.percent(chance) {
            op["store"] = self.store();
        }
        op
    }

    fn to(&mut self, from: &str) {
        // At times two streams end in one topic; of different tasks their records come in no particular order.
        if self.outputs == 0 || !self.is_one_task() || self.random.percent(80) {
            self.outputs += 1;
        }
        let topic = format!("out{}", self.outputs);
        self.add_named(json!({"op": "to", "in": from, "topic": topic}));
    }

    fn finish(&mut self, from: Id) {
        if self.random.percent(5) {
            self.add_named(json!({"op": "foreach", "in": from}));
        }
        self.to(&from);
    }

    fn finish_table(&mut self, table: Id, steps: usize) {
        let steps = self.random.below(steps + 1);
        let table = self.table_steps(table, steps);
        let stream = self.changes_of(&table);
        self.to(&stream);
        if self.random.percent(15) {
            let stream = self.changes_of(&table);
            self.to(&stream);
        }
    }

    fn finish_windowed(&mut self, table: Id, steps: usize) {
        let table = self.windowed_steps(table, steps);
        let stream = self.changes_of(&table);
        if self.random.percent(30) {
            let key = ["cat", "key", "val"];
            let stream = self.add_named(json!({"op": "map", "in": stream, "key": key, "value": "val"}));
            self.to(&stream);
        } else {
            self.to(&stream);
        }
    }

    fn changes_of(&mut self, table: &str) -> Id {
        if self.random.percent(10) {
            return self.add(json!({"op": "toStream", "in": table, "key": ["cat", "key", {"s": "x"}]}));
        }
        self.add_named(json!({"op": "toStream", "in": table}))
    }

    // ---- expressions

    /// A value that may be null where its inputs are.
    fn any(&mut self) -> Json {
        match self.random.below(6) {
            0 => json!("val"),
            1 => json!("key"),
            2 => json!(["if", ["null", "val"], {"s": "none"}, "val"]),
            3 => json!(["if", ["lt", ["len", "val"], 2], null, "val"]),
            _ => self.solid(),
        }
    }

    /// A value that is never null.
    fn solid(&mut self) -> Json {
        match self.random.below(8) {
            0 => json!(["cat", "val", {"s": "x"}]),
            1 => json!(["cat", "key", "val"]),
            2 => json!(["len", "val"]),
            3 => json!(["sub", "val", 0, 1 + self.random.below(2)]),
            4 => json!(["add", "val", self.random.below(5)]),
            5 => json!(["mod", "val", 2 + self.random.below(3)]),
            6 => json!(["cat", "val", "val"]),
            _ => json!(["int", "val"]),
        }
    }

    /// A key that few records share, never null.
    fn solid_key(&mut self) -> Json {
        match self.random.below(5) {
            0 => json!(["mod", "val", 3]),
            1 => json!(["sub", "val", 0, 1]),
            2 => json!(["cat", ["sub", "key", 0, 1], {"s": "g"}]),
            3 => json!(["len", "val"]),
            _ => json!({"s": "one"}),
        }
    }

    fn key(&mut self) -> Json {
        match self.random.below(6) {
            0 => json!("key"),
            1 => json!("val"),
            _ => self.solid_key(),
        }
    }

    fn test(&mut self) -> Json {
        match self.random.below(5) {
            0 => json!(["null", "val"]),
            1 => json!(["lt", ["len", "val"], 3]),
            2 => json!(["mod", "val", 2]),
            3 => json!(["eq", ["sub", "val", 0, 1], {"s": "a"}]),
            _ => json!(["lt", "val", 4]),
        }
    }

    /// What an aggregate becomes, never null.
    fn folding(&mut self) -> Json {
        match self.random.below(4) {
            0 => json!(["add", "agg", "val"]),
            1 => json!(["if", ["lt", "val", "agg"], ["int", "agg"], ["int", "val"]]),
            _ => json!(["cat", "agg", "val"]),
        }
    }

    fn joining(&mut self) -> Json {
        match self.random.below(3) {
            0 => json!(["cat", "val", ["cat", {"s": "+"}, "other"]]),
            1 => json!(["add", "val", "other"]),
            _ => {
                json!(["cat", ["if", ["null", "val"], {"s": "-"}, "val"], ["if", ["null", "other"], {"s": "-"}, "other"]])
            }
        }
    }

    // ---- streams

    fn stateless(&mut self, from: Id, steps: usize) -> Id {
        let mut from = from;
        for _ in 0..steps {
            from = match self.random.below(11) {
                0 => {
                    let test = self.test();
                    self.add_named(json!({"op": "filter", "in": from, "if": test}))
                }
                1 => {
                    let test = self.test();
                    self.add_named(json!({"op": "filterNot", "in": from, "if": test}))
                }
                2 | 3 => {
                    let value = self.any();
                    self.add_named(json!({"op": "mapValues", "in": from, "value": value}))
                }
                4 => {
                    let (key, value) = (self.key(), self.any());
                    self.add_named(json!({"op": "map", "in": from, "key": key, "value": value}))
                }
                5 => {
                    let key = self.key();
                    self.add_named(json!({"op": "selectKey", "in": from, "key": key}))
                }
                6 => {
                    let pairs: Vec<Json> =
                        (0..self.random.below(3)).map(|_| json!([self.key(), self.any()])).collect();
                    self.add_named(json!({"op": "flatMap", "in": from, "pairs": pairs}))
                }
                7 => {
                    let values: Vec<Json> = (0..self.random.below(4)).map(|_| self.any()).collect();
                    self.add_named(json!({"op": "flatMapValues", "in": from, "values": values}))
                }
                8 => self.add_named(json!({"op": "peek", "in": from})),
                9 => self.add_named(json!({"op": "repartition", "in": from})),
                _ => {
                    let test = self.test();
                    let other = self.add_named(json!({"op": "filter", "in": from, "if": test}));
                    self.add_named(json!({"op": "merge", "in": from, "other": other}))
                }
            };
        }
        from
    }

    fn branches(&mut self) {
        let source = self.source();
        let steps = self.random.below(3);
        let from = self.stateless(source, steps);
        let mut branches = Vec::new();
        let count = 1 + self.random.below(3);
        for number in 0..count {
            let mut branch = json!({"if": self.test()});
            if self.named && self.random.percent(50) {
                branch["name"] = format!("branch{number}").into();
            }
            branches.push(branch);
        }
        let mut op = json!({"op": "split", "in": from, "branches": branches});
        let with_default = self.random.percent(60);
        if with_default {
            op["default"] = json!({});
        }
        let split = self.add_named(op);
        let mut ends: Vec<Id> = (1..=count).map(|number| format!("{split}.{number}")).collect();
        if with_default {
            ends.push(format!("{split}.0"));
        }
        if ends.len() > 1 && self.random.percent(40) {
            let (first, second) = (ends.remove(0), ends.remove(0));
            ends.push(self.add_named(json!({"op": "merge", "in": first, "other": second})));
        }
        for end in ends {
            let steps = self.random.below(3);
            let end = self.stateless(end, steps);
            self.to(&end);
        }
    }

    /// A stream, perhaps with some operators behind it.
    fn stream(&mut self) -> Id {
        let source = self.source();
        let steps = self.random.below(3);
        self.stateless(source, steps)
    }

    fn grouped(&mut self) -> Id {
        let stream = self.stream();
        self.group(stream)
    }

    fn group(&mut self, stream: Id) -> Id {
        if self.random.percent(50) {
            return self.add_named(json!({"op": "groupByKey", "in": stream}));
        }
        let key = self.key();
        self.add_named(json!({"op": "groupBy", "in": stream, "key": key}))
    }

    fn fold(&mut self, grouped: Id, of: Fold) -> Id {
        let kind = match of {
            Fold::WithOldValues => 1,
            Fold::Session { may_reduce: false } | Fold::Windows { may_reduce: false } => {
                2 * self.random.below(2)
            }
            _ => self.random.below(3),
        };
        let mut op = match kind {
            0 => json!({"op": "count", "in": grouped}),
            1 => json!({"op": "reduce", "in": grouped, "fn": self.folding()}),
            _ => {
                let init = if self.random.percent(50) { json!({"s": "i"}) } else { json!(0) };
                json!({"op": "aggregate", "in": grouped, "init": init, "fn": self.folding()})
            }
        };
        match of {
            Fold::Stream | Fold::WithOldValues | Fold::Windows { .. } => {}
            Fold::Table if op["op"] != "count" => {
                op["sub"] = json!(["cat", "agg", ["cat", {"s": "-"}, "val"]]);
            }
            Fold::Session { .. } if op["op"] == "aggregate" => {
                op["merge"] = json!(["cat", "agg", ["cat", {"s": "&"}, "other"]]);
            }
            Fold::Table | Fold::Session { .. } => {}
        }
        let op = self.stored(op, 60);
        // The names of what repartitions for an aggregated table follow the aggregate's, which comes later here.
        if matches!(of, Fold::Table) { self.add(op) } else { self.add_named(op) }
    }

    /// An aggregate by windows of one of these types.
    fn windowed(&mut self, types: &[&str], may_close: bool, old_values: bool) -> Id {
        let stream = self.stream();
        // A window's first value is its reduction, and a null one deletes what is not there; a row here is no null.
        let value = self.solid();
        let stream = if old_values || self.random.percent(50) {
            self.add_named(json!({"op": "mapValues", "in": stream, "value": value}))
        } else {
            stream
        };
        let may_reduce = self.ops.last().is_some_and(|op| op["op"] == "mapValues" && op["value"] == value);
        let grouped = self.group(stream);
        let kind = *self.random.pick(types);
        let size = *self.random.pick(&[2i64, 5, 10, 20]);
        let grace = *self.random.pick(&[0i64, 0, 3, 10, 25]);
        self.boundaries.extend([size, size + grace]);
        self.boundaries.extend((grace > 0).then_some(grace));
        let mut op = json!({"op": "window", "in": grouped, "type": kind, "size": size, "grace": grace});
        match kind {
            "hopping" => {
                op["advance"] = self.random.pick(&[1, size / 2, (size / 3).max(1), size]).to_owned().into();
            }
            "unlimited" => {
                op = json!({"op": "window", "in": grouped, "type": kind, "start": self.random.pick(&[0, 7])});
            }
            _ => {}
        }
        let close = may_close && kind != "unlimited" && self.random.percent(35);
        if close {
            // Java's persistent session store has another order than the one in memory, which is ours.
            self.rocksdb = false;
            op["emit"] = "close".into();
        }
        let window = self.add(op);
        let fold = match kind {
            _ if old_values => Fold::WithOldValues,
            "session" => Fold::Session { may_reduce },
            _ => Fold::Windows { may_reduce },
        };
        let table = self.fold(window, fold);
        // Without long retention Java loses windows that it forgets before it looks for those that closed, and forwards
        // cached rows that its store has dropped.
        if let Some(aggregate) = self.ops.last_mut().filter(|_| close || self.cache) {
            if aggregate.get("store").is_none() {
                aggregate["store"] = json!({"name": "closing"});
            }
            aggregate["store"]["retention"] = 1_000_000.into();
        }
        table
    }

    fn windowed_steps(&mut self, table: Id, steps: usize) -> Id {
        let mut table = table;
        for _ in 0..steps {
            table = if self.random.percent(50) {
                let test = self.test();
                self.add_named(json!({"op": "filter", "in": table, "if": test}))
            } else {
                let value = self.solid();
                self.add_named(json!({"op": "mapValues", "in": table, "value": value}))
            };
        }
        table
    }

    // ---- tables

    fn table(&mut self) -> Id {
        match self.random.below(4) {
            0 => {
                let stream = self.stream();
                let op = self.stored(json!({"op": "toTable", "in": stream}), 50);
                self.add(op)
            }
            1 => {
                let grouped = self.grouped();
                self.fold(grouped, Fold::WithOldValues)
            }
            _ => {
                let topic = self.topic("table");
                let op = self.stored(json!({"op": "table", "topic": topic}), 50);
                self.add_named(op)
            }
        }
    }

    fn table_steps(&mut self, table: Id, steps: usize) -> Id {
        let mut table = table;
        for _ in 0..steps {
            let op = match self.random.below(3) {
                0 => json!({"op": "filter", "in": table, "if": self.test()}),
                1 => json!({"op": "filterNot", "in": table, "if": self.test()}),
                _ => json!({"op": "mapValues", "in": table, "value": self.solid()}),
            };
            let op = self.stored(op, 40);
            table = self.add_named(op);
        }
        table
    }

    fn regrouped(&mut self, table: Id) -> Id {
        let (key, value) = (self.solid_key(), self.solid());
        let grouped = self.add_named(json!({"op": "groupBy", "in": table, "key": key, "value": value}));
        self.fold(grouped, Fold::Table)
    }

    // ---- joins

    fn stream_join(&mut self) {
        // With itself only where that needs no repartition topic, which Java has once and ours refuses to have twice.
        let (left, right) = if self.random.percent(10) {
            let source = self.source();
            (source.clone(), source)
        } else {
            (self.stream(), self.stream())
        };
        let joined = self.join_streams(left, right);
        let steps = self.random.below(2);
        let joined = self.stateless(joined, steps);
        self.to(&joined);
    }

    fn join_streams(&mut self, left: Id, right: Id) -> Id {
        let (before, after) = (*self.random.pick(&[0i64, 2, 5, 10]), *self.random.pick(&[0i64, 2, 5, 10]));
        let grace = *self.random.pick(&[0i64, 0, 3, 10]);
        self.boundaries.extend([before.max(1), after.max(1), before + after + grace + 1]);
        let kind = *self.random.pick(&["inner", "left", "outer"]);
        let mut op = json!({
            "op": "join", "kind": kind, "in": left, "other": right, "before": before, "after": after, "grace": grace,
            "fn": self.joining(),
        });
        if self.random.percent(30) {
            op["store"] = json!({"name": format!("s{}", self.ops.len())});
        }
        // A null value moves the time of Java's store in memory, as of ours, and not that of its persistent one.
        self.rocksdb = false;
        self.add_named(op)
    }

    fn table_join(&mut self) -> Id {
        let mut table = self.table();
        for _ in 0..=self.random.below(2) {
            let other = self.table();
            let steps = self.random.below(2);
            let other = self.table_steps(other, steps);
            let kind = *self.random.pick(&["inner", "left", "outer"]);
            let op =
                json!({"op": "joinTables", "kind": kind, "in": table, "other": other, "fn": self.joining()});
            let op = self.stored(op, 40);
            table = self.add_named(op);
        }
        table
    }

    fn stream_table_join(&mut self) {
        let stream = self.stream();
        let table = self.table();
        let steps = self.random.below(2);
        let table = self.table_steps(table, steps);
        let kind = *self.random.pick(&["inner", "left"]);
        let op = json!({"op": "joinTable", "kind": kind, "in": stream, "other": table, "fn": self.joining()});
        let joined = self.add_named(op);
        let steps = self.random.below(2);
        let joined = self.stateless(joined, steps);
        self.to(&joined);
    }

    // ---- the rest

    fn suppressed(&mut self) {
        // A cached change comes with another record's place in its topic, and the buffer's format tells it.
        self.cache = false;
        let windowed = self.random.percent(60);
        let (table, closes) = if windowed {
            let table = self.windowed(&["tumbling", "hopping", "session"], false, true);
            (table, self.random.percent(60))
        } else {
            (self.table(), false)
        };
        let mut op = json!({"op": "suppress", "in": table});
        if closes {
            op["until"] = "close".into();
        } else {
            let limit = *self.random.pick(&[0i64, 3, 10]);
            self.boundaries.push(limit.max(1));
            op["until"] = limit.into();
        }
        match self.random.below(4) {
            0 => op["records"] = (1 + self.random.below(3)).into(),
            1 => op["bytes"] = (50 + self.random.below(200)).into(),
            _ => {}
        }
        if self.random.percent(20) {
            op["full"] = "shutdown".into();
        }
        let suppressed = self.add_named(op);
        let stream = self.changes_of(&suppressed);
        self.to(&stream);
    }

    fn processors(&mut self) {
        let mut stream = self.stream();
        for _ in 0..=self.random.below(2) {
            let fixed = self.random.percent(30);
            let libraries: &[&str] = match fixed {
                true => &["dedupe", "running", "twice"],
                false => &["dedupe", "running", "streamTick", "wallTick", "twice"],
            };
            let library = match *self.random.pick(libraries) {
                // Java's driver has all sub-topologies in one task, and so one stream time.
                "streamTick" if !self.is_one_task() => "running",
                library => library,
            };
            let operator = if fixed { "processValues" } else { "process" };
            let mut op = json!({"op": operator, "in": stream, "lib": library});
            if library != "twice" {
                op["store"] = json!({"name": format!("s{}", self.ops.len())});
            }
            stream = self.add_named(op);
            let steps = self.random.below(2);
            stream = self.stateless(stream, steps);
        }
        if self.random.percent(40) {
            let grouped = self.add_named(json!({"op": "groupByKey", "in": stream}));
            let table = self.fold(grouped, Fold::Stream);
            stream = self.changes_of(&table);
        }
        self.to(&stream);
    }

    /// Aggregates that are streams again and go on, several times.
    fn mixed(&mut self) {
        let mut stream = self.stream();
        for _ in 0..=self.random.below(2) {
            let key = self.key();
            let grouped = self.add_named(json!({"op": "groupBy", "in": stream, "key": key}));
            let table = self.fold(grouped, Fold::Stream);
            let changes = self.changes_of(&table);
            let value = self.solid();
            stream = self.add_named(json!({"op": "mapValues", "in": changes, "value": value}));
            if self.random.percent(30) {
                self.to(&stream);
            }
            if self.random.percent(30) {
                let other = self.stream();
                stream = self.join_streams(stream, other);
            }
        }
        self.to(&stream);
    }
}

/// What is folded.
#[derive(Clone, Copy)]
enum Fold {
    Stream,
    /// Somebody downstream asks what rows were: of a new row Java without a cache says that it was what the initializer
    /// makes, and with a cache that there was none. Reductions have no initializer.
    WithOldValues,
    Table,
    Windows {
        may_reduce: bool,
    },
    Session {
        may_reduce: bool,
    },
}
