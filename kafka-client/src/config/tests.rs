use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::keys::SECTIONS;
use super::*;
use crate::Client;
use crate::producer::Producer;

thread_local! {
    static READ: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// Remembers which keys this thread looked at.
pub(super) fn note_read(key: &str) {
    READ.with_borrow_mut(|read| read.insert(key.to_owned()));
}

/// `bootstrap.servers`, which a client cannot do without, and `pairs`.
fn client(pairs: &[(&str, &str)]) -> Result<Client, ConfigError> {
    Client::from_properties([("bootstrap.servers", "a:1")].iter().chain(pairs).copied())
}

fn producer(pairs: &[(&str, &str)]) -> Result<Producer, ConfigError> {
    client(pairs)?.producer().build()
}

fn refusal(key: &str, value: &str) -> String {
    Properties::new([(key, value)]).expect_err(&format!("{key}={value}")).to_string()
}

#[test]
fn an_unknown_key_names_the_nearest_one() {
    let error = Properties::new([("bootstrap.server", "a:1")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"unknown configuration key "bootstrap.server"; did you mean "bootstrap.servers"?"#
    );
    let error = Properties::new([("colour", "red")]).unwrap_err();
    assert_eq!(error.to_string(), r#"unknown configuration key "colour""#);
    for (slip, meant) in [
        ("lingr.ms", "linger.ms"),
        ("LINGER.MS", "linger.ms"),
        ("compresion.codec", "compression.codec"),
        ("max.inflight", "max.in.flight"),
        ("request.required.ack", "request.required.acks"),
    ] {
        assert!(refusal(slip, "1").contains(&format!("{meant:?}?")), "{slip}");
    }
}

#[test]
fn values_are_parsed_by_kind() {
    let properties =
        Properties::new([("linger.ms", "0.5"), ("batch.size", " 7 "), ("enable.idempotence", "TRUE")])
            .unwrap();
    assert_eq!(properties.millis("linger.ms").unwrap(), Some(Duration::from_micros(500)));
    assert_eq!(properties.bytes("batch.size").unwrap(), Some(7));
    assert_eq!(properties.flag("enable.idempotence").unwrap(), Some(true));
    assert_eq!(properties.millis("delivery.timeout.ms").unwrap(), None);
    assert_eq!(
        refusal("batch.size", "many"),
        r#"invalid value "many" for batch.size: expected 0 to 2147483647 bytes"#
    );
    // As Java's ConfigDef answers.
    for (key, bad) in [
        ("linger.ms", "-1"),
        ("linger.ms", "NaN"),
        ("batch.size", "2147483648"),
        ("enable.idempotence", "yes"),
        ("acks", "ALL"),
        ("acks", "2"),
        ("auto.offset.reset", "newest"),
        ("compression.type", "GZIP"),
        ("compression.gzip.level", "0"),
        ("compression.zstd.level", "23"),
        ("send.buffer.bytes", "-2"),
        ("client.dns.lookup", "default"),
        ("retries", "-1"),
        ("metadata.max.idle.ms", "4999"),
        ("bootstrap.servers", " "),
    ] {
        assert!(refusal(key, bad).contains(key), "{key}={bad}");
    }
}

#[test]
fn spans_stay_within_what_the_clock_can_add() {
    let longest = Properties::new([("linger.ms", "9223372036854775807")]).unwrap();
    assert_eq!(longest.millis("linger.ms").unwrap(), Some(LONGEST));
    let forever = [("delivery.timeout.ms", "2147483647"), ("max.block.ms", "9223372036854775807")];
    assert!(producer(&forever).is_ok());
}

#[test]
fn every_key_of_javas_is_known_with_its_type_range_and_default() {
    for line in include_str!("java_keys.tsv").lines().filter(|line| !line.starts_with('#')) {
        let [name, _, kind, default, values] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line:?}");
        };
        let key = keys::all().find(|key| key.name == name).unwrap_or_else(|| panic!("{name} is missing"));
        let listed = values.rsplit_once('[').map(|(_, list)| list.trim_end_matches(']'));
        let differs = matches!(key.meaning, Meaning::Differs(_) | Meaning::Refused(_));
        match (kind, key.kind) {
            ("BOOLEAN", Kind::Flag) => {}
            ("INT" | "LONG", Kind::Number(min, max, _)) => {
                let bounds: Vec<i64> = listed
                    .into_iter()
                    .flat_map(|list| list.split(','))
                    .filter_map(|n| n.parse().ok())
                    .collect();
                let widest = if kind == "INT" { i64::from(i32::MAX) } else { i64::MAX };
                assert_eq!(min, bounds.first().copied().unwrap_or(i64::MIN), "{name}");
                assert_eq!(max, bounds.get(1).copied().unwrap_or(widest), "{name}");
            }
            ("LONG", Kind::Millis(i64::MAX)) => assert_eq!(values, "[0,...]"),
            ("INT", Kind::Level(min, max)) => {
                assert!(values.contains(&format!("[{min},...,{max}]")), "{name}");
            }
            ("STRING", Kind::Word(words) | Kind::AnyCaseWord(words)) => {
                let theirs: BTreeSet<_> = listed.unwrap().split(", ").map(str::to_ascii_lowercase).collect();
                let ours: BTreeSet<_> = words.iter().map(|word| word.to_ascii_lowercase()).collect();
                assert!(ours == theirs || (differs && ours.is_subset(&theirs)), "{name}: {theirs:?}");
            }
            ("STRING", Kind::WordOr(words, start)) => {
                let theirs: Vec<_> = listed.unwrap().split(", ").collect();
                assert!(theirs.iter().all(|word| words.contains(word) || word.starts_with(start)), "{name}");
            }
            ("STRING", Kind::Name) => assert_eq!(values, "non-empty string", "{name}"),
            ("STRING", Kind::Text) => assert_eq!(values, "null", "{name}"),
            ("LIST" | "CLASS", Kind::Text) => {}
            ("LIST", Kind::Name) => assert_eq!(name, "bootstrap.servers"),
            (kind, ours) => panic!("{name}: {kind} is not {ours:?}"),
        }
        let default = if matches!(default, "null" | "REQUIRED") { "" } else { default };
        // Where Java's clients differ among themselves, or from this one, the table says so.
        let same = default.eq_ignore_ascii_case(key.default);
        assert!(
            same || differs || name == "enable.metrics.push",
            "{name}: {default:?}, not {:?}",
            key.default
        );
    }
}

#[test]
fn every_key_takes_its_default_and_names_itself_when_a_value_does_not_fit() {
    for key in keys::all() {
        match key.meaning {
            Meaning::Refused(why) => {
                let value = if key.default.is_empty() { "x" } else { key.default };
                assert!(refusal(key.name, value).contains(why), "{}", key.name);
            }
            _ if key.default.is_empty() && !matches!(key.kind, Kind::Text) => {}
            _ => assert!(Properties::new([(key.name, key.default)]).is_ok(), "{}", key.name),
        }
        let bad = match key.kind {
            Kind::Text => continue,
            Kind::Name => "",
            _ => "no such value",
        };
        let error = refusal(key.name, bad);
        assert!(error.contains(key.name) && error.contains("expected"), "{error}");
    }
}

#[test]
fn every_key_that_has_an_effect_is_read_by_somebody_and_no_other_is() {
    READ.take();
    let client = client(&[("group.id", "g")]).unwrap();
    let _ = client.producer().build().unwrap();
    let _ = client.consumer();
    let _ = client.share_consumer("g");
    let read = READ.take();
    for key in keys::all() {
        let used = matches!(key.meaning, Meaning::Used | Meaning::Differs(_));
        assert_eq!(read.contains(key.name), used, "{}", key.name);
    }
}

#[tokio::test]
async fn a_share_consumer_starts_from_the_keys_and_what_its_builder_is_told_comes_before_them() {
    let client = client(&[
        ("share.acknowledgement.mode", "implicit"),
        ("share.acquire.mode", "RECORD_LIMIT"),
        ("max.poll.records", "7"),
        ("client.rack", "eu-1a"),
        ("fetch.max.wait.ms", "250"),
    ])
    .unwrap();
    let shown = format!("{:?}", client.share_consumer("g"));
    for option in ["is_implicit: true", "is_strict: true", "max_records: 7", r#"Some("eu-1a")"#, "250ms"] {
        assert!(shown.contains(option), "{option}: {shown}");
    }
    let told = format!("{:?}", client.share_consumer("g").max_records(9).explicit_acknowledgement());
    assert!(told.contains("max_records: 9") && told.contains("is_implicit: false"), "{told}");
    // The table allows it, and only a share consumer makes no sense of it.
    let nothing = self::client(&[("fetch.max.bytes", "0")]).unwrap().share_consumer("g").topics(["t"]);
    assert!(nothing.build().unwrap_err().to_string().contains("fetch.max.bytes"));
}

#[test]
fn librdkafkas_spellings_are_javas_keys() {
    for alias in ALIASES {
        assert!(keys::all().any(|key| key.name == alias.key), "{}", alias.key);
        assert!(keys::all().all(|key| key.name != alias.name), "{} is a key of its own", alias.name);
    }
    let get = |name: &str, value: &str| {
        let mut pairs = Properties::new([(name, value)]).unwrap().into_iter();
        pairs.next().map(|(key, value)| format!("{key}={value}")).unwrap()
    };
    assert_eq!(get("metadata.broker.list", "a:1"), "bootstrap.servers=a:1");
    assert_eq!(get("queue.buffering.max.ms", "0.5"), "linger.ms=0.5");
    assert_eq!(get("queue.buffering.max.kbytes", "1024"), "buffer.memory=1048576");
    assert_eq!(get("message.timeout.ms", "0"), "delivery.timeout.ms=2147483647");
    assert_eq!(get("message.timeout.ms", "9"), "delivery.timeout.ms=9");
    assert_eq!(get("topic.metadata.refresh.interval.ms", "-1"), "metadata.max.age.ms=9223372036854775807");
    assert_eq!(get("request.required.acks", "-1"), "acks=-1");
    assert_eq!(get("auto.offset.reset", "smallest"), "auto.offset.reset=earliest");
    assert!(refusal("queue.buffering.max.ms", "soon").contains("queue.buffering.max.ms"));
    assert!(refusal("queue.buffering.max.kbytes", "9223372036854775807").contains("KiB"));
}

#[test]
fn one_option_in_two_spellings_must_have_one_value() {
    let error = Properties::new([("linger.ms", "5"), ("queue.buffering.max.ms", "6")]).unwrap_err();
    assert!(matches!(error, ConfigError::GivenTwice { .. }), "{error}");
    let agreed = Properties::new([("linger.ms", "5"), ("queue.buffering.max.ms", "5")]).unwrap();
    assert_eq!(agreed.get("linger.ms"), Some("5"));
    let last = Properties::new([("linger.ms", "5"), ("linger.ms", "6")]).unwrap();
    assert_eq!(last.get("linger.ms"), Some("6"));
}

#[test]
fn defaults_fill_in_what_is_not_said_in_any_spelling() {
    let said = Properties::new([("metadata.broker.list", "a:1")]).unwrap();
    let defaults = Properties::new([("bootstrap.servers", "b:1"), ("client.id", "me")]).unwrap();
    let all: Vec<_> = said.or(defaults).into_iter().collect();
    assert_eq!(all, [("bootstrap.servers", "a:1".to_owned()), ("client.id", "me".to_owned())]);
}

#[test]
fn security_is_refused_rather_than_ignored_and_no_secret_is_repeated() {
    for (key, value) in [
        ("security.protocol", "SASL_SSL"),
        ("security.protocol", "ssl"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.jaas.config", "s3cret"),
        ("sasl.username", "alice"),
        ("ssl.keystore.type", "JKS"),
        ("ssl.truststore.password", "s3cret"),
        ("ssl.ca.location", "/etc/ca.pem"),
        ("enable.ssl.certificate.verification", "false"),
    ] {
        let error = refusal(key, value);
        assert!(
            error.contains(key) && error.contains("TLS and SASL") && !error.contains("s3cret"),
            "{error}"
        );
    }
    assert!(Properties::new([("security.protocol", "plaintext")]).is_ok());
}

#[test]
fn a_java_applications_file_needs_no_change() {
    let client = client(&[
        ("key.serializer", "org.apache.kafka.common.serialization.StringSerializer"),
        ("value.serializer", "org.apache.kafka.common.serialization.ByteArraySerializer"),
        ("metric.reporters", ""),
        ("partitioner.class", "org.apache.kafka.clients.producer.RoundRobinPartitioner"),
        ("group.protocol", "CLASSIC"),
        ("partition.assignment.strategy", "org.apache.kafka.clients.consumer.StickyAssignor, roundrobin"),
        ("group.id", "g"),
        ("client.rack", "eu-1a"),
        ("max.poll.records", "100"),
    ])
    .unwrap();
    let shown = format!("{:?}", client.producer());
    assert!(shown.contains("RoundRobin"), "{shown}");
    let error = client.producer().idempotence(true).retries(0).build().unwrap_err();
    assert!(error.to_string().contains("retries"), "{error}");
}

/// What Java's `ProducerConfig.postProcessParsedConfig` and `KafkaProducer` refuse, and what they let pass.
#[test]
fn options_that_contradict_each_other_are_refused_when_the_producer_is_built() {
    let refused: [(&[(&str, &str)], &str); 8] = [
        (&[("acks", "1"), ("enable.idempotence", "true")], "acks"),
        (&[("retries", "0"), ("enable.idempotence", "true")], "retries"),
        (&[("max.in.flight.requests.per.connection", "6")], "max.in.flight.requests.per.connection"),
        (&[("delivery.timeout.ms", "30004")], "delivery.timeout.ms"),
        (&[("delivery.timeout.ms", "100"), ("request.timeout.ms", "99")], "delivery.timeout.ms"),
        (&[("buffer.memory", "999"), ("batch.size", "1000")], "buffer.memory"),
        (&[("buffer.memory", "0")], "buffer.memory"),
        (&[("partitioner.class", "com.example.Mine")], "partitioner.class"),
    ];
    for (pairs, key) in refused {
        let error = producer(pairs).expect_err(&format!("{pairs:?}")).to_string();
        assert!(error.contains(key), "{pairs:?}: {error}");
    }
    let allowed: [&[(&str, &str)]; 7] = [
        &[("acks", "1")],
        &[("retries", "0")],
        &[("delivery.timeout.ms", "30005")],
        &[("linger.ms", "200000")],
        &[("request.timeout.ms", "200000")],
        &[("max.in.flight.requests.per.connection", "6"), ("enable.idempotence", "false")],
        &[("batch.size", "0")],
    ];
    for pairs in allowed {
        assert!(producer(pairs).is_ok(), "{pairs:?}");
    }
}

#[test]
fn a_level_goes_with_its_codec() {
    let level = |pairs: &[(&str, &str)]| format!("{:?}", producer(pairs).unwrap());
    assert!(level(&[("compression.type", "gzip"), ("compression.gzip.level", "3")]).contains("Gzip(3)"));
    assert!(level(&[("compression.type", "gzip"), ("compression.gzip.level", "-1")]).contains("Gzip(6)"));
    assert!(level(&[("compression.type", "zstd"), ("compression.gzip.level", "9")]).contains("Zstd(3)"));
    assert!(level(&[("compression.codec", "zstd"), ("compression.level", "7")]).contains("Zstd(7)"));
    assert!(producer(&[("compression.type", "gzip"), ("compression.level", "12")]).is_err());
}

/// `keys.md` is this table as text; with `UPDATE_DOCS` set it is written anew.
#[test]
fn the_documented_table_is_the_one_that_is_used() {
    let table = document();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/keys.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap() == table,
        "run this test with UPDATE_DOCS=1 to write keys.md"
    );
}

fn document() -> String {
    let mut text = String::new();
    for (title, keys) in SECTIONS {
        let _ = write!(text, "\n# {title}\n\n| Key | Values | Default | Here |\n|---|---|---|---|\n");
        for key in keys {
            let here = match key.meaning {
                Meaning::Used => "used".to_owned(),
                Meaning::Differs(how) => format!("used; {how}"),
                Meaning::NoEffect(why) => format!("no effect: {why}"),
                Meaning::Only(values, why) => {
                    let values: Vec<_> = values
                        .iter()
                        .map(|v| if v.is_empty() { "empty".to_owned() } else { format!("`{v}`") })
                        .collect();
                    format!("only {}: {why}", values.join(", "))
                }
                Meaning::Refused(why) => format!("refused: {why}"),
            };
            let default = if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) };
            let _ = writeln!(text, "| `{}` | {} | {default} | {here} |", key.name, key.kind);
        }
    }
    text.push_str("\n# Refused families\n\n| Keys | Why |\n|---|---|\n");
    for (start, why) in REFUSED_FAMILIES {
        let _ = writeln!(text, "| `{start}*` | {why} |");
    }
    text.push_str("\n# Other spellings\n\n| librdkafka's | Java's |\n|---|---|\n");
    for alias in ALIASES {
        let note = match alias.convert {
            Convert::Same => String::new(),
            Convert::Kibibytes => ", in KiB".to_owned(),
            Convert::Special(theirs, ours) => format!(", where `{theirs}` is `{ours}`"),
        };
        let _ = writeln!(text, "| `{}`{note} | `{}` |", alias.name, alias.key);
    }
    for (key, theirs, ours) in VALUE_ALIASES {
        let _ = writeln!(text, "| `{key}={theirs}` | `{key}={ours}` |");
    }
    text
}
