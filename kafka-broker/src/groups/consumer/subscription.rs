//! Which topics a group's members read: by name, and by pattern (KIP-1082).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use kafka_wire::{ErrorCode, Uuid};
use regex::{Regex, RegexBuilder};
use rustc_hash::FxHasher;

use super::super::assignor::{Spec, Subscriber};
use super::heartbeat::ClusterView;
use super::member::Metadata;
use super::record::{ConsumerRecord, ResolvedRegex};
use super::{ConsumerGroup, Edit, Refused, refuse};
use crate::cluster::image::{Image, TopicImage};

/// The most memory that a compiled pattern may take. Patterns come from clients.
const REGEX_SIZE_BYTES: usize = 1024 * 1024;
/// How deep a pattern may nest.
const REGEX_NESTING: u32 = 50;
/// Names and a pattern.
type Subscription<'a> = (&'a BTreeSet<String>, Option<&'a str>);

/// What a member without a target has.
static NOTHING: super::Partitions = super::Partitions::new();

/// Compiles a pattern in RE2's syntax, which has to match a topic's whole name.
pub(super) fn compile(pattern: &str) -> Result<Regex, Refused> {
    let built = RegexBuilder::new(&format!(r"\A(?:{})\z", without_quotes(pattern)))
        .size_limit(REGEX_SIZE_BYTES)
        .nest_limit(REGEX_NESTING)
        .build();
    built.or_else(|error| {
        refuse(
            ErrorCode::InvalidRegularExpression,
            format!("SubscribedTopicRegex `{pattern}` is not a valid regular expression: {error}."),
        )
    })
}

/// `\Q...\E` is RE2's and not this library's: what lies between is escaped one by one.
fn without_quotes(pattern: &str) -> String {
    let mut plain = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        plain.push_str(before);
        if let Some(quoted) = escape.strip_prefix(r"\Q") {
            let (literal, after) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
            plain.push_str(&regex::escape(literal));
            rest = after;
        } else {
            let end = escape.char_indices().nth(2).map_or(escape.len(), |(end, _)| end);
            plain.push_str(&escape[..end]);
            rest = &escape[end..];
        }
    }
    plain + rest
}

impl ConsumerGroup {
    /// Whether any member reads the topic.
    pub(in crate::groups) fn is_subscribed_to(&self, topic: &str) -> bool {
        let by_name = self.members.values().any(|member| member.metadata.topics.contains(topic));
        by_name || self.used_regexes().any(|pattern| self.matches(pattern, topic))
    }

    fn used_regexes(&self) -> impl Iterator<Item = &str> {
        self.members.values().filter_map(|member| member.metadata.regex.as_deref())
    }

    fn matches(&self, pattern: &str, topic: &str) -> bool {
        let Some(resolved) = self.regexes.get(pattern) else { return false };
        resolved.topics.binary_search_by(|name| name.as_str().cmp(topic)).is_ok()
    }

    /// The topics that a member reads and that exist, by id.
    pub(super) fn topics_of<'a>(
        &'a self,
        metadata: &'a Metadata,
        image: &'a Image,
    ) -> impl Iterator<Item = (&'a str, &'a TopicImage)> {
        let by_regex = metadata.regex.as_ref().and_then(|pattern| self.regexes.get(pattern));
        let by_regex = by_regex.into_iter().flat_map(|resolved| &resolved.topics);
        let names = metadata.topics.iter().chain(by_regex);
        names.filter_map(|name| Some((name.as_str(), image.topic(name)?)))
    }

    /// What an assignor needs to know.
    pub(super) fn spec<'a>(&'a self, image: &'a Image) -> Spec<'a> {
        let mut spec = Spec::default();
        // Most groups have one subscription that all members share.
        let mut known: BTreeMap<Subscription<'_>, Rc<BTreeSet<Uuid>>> = BTreeMap::new();
        for (id, member) in &self.members {
            let metadata = &member.metadata;
            let topics = known.entry((&metadata.topics, metadata.regex.as_deref())).or_insert_with(|| {
                let mut topics = BTreeSet::new();
                for (_, topic) in self.topics_of(metadata, image) {
                    topics.insert(topic.id);
                    let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
                    spec.partition_counts.insert(topic.id, count);
                }
                Rc::new(topics)
            });
            spec.members.push(Subscriber {
                id,
                instance_id: metadata.instance_id.as_deref(),
                topics: Rc::clone(topics),
                assigned: self.targets.get(id).map_or(&NOTHING, |target| &**target),
            });
        }
        spec
    }

    /// Changes when a topic that is read appears, disappears, grows, or moves to other racks. It is compared with
    /// nothing but its own earlier value.
    fn metadata_hash(&self, image: &Image) -> i64 {
        let subscriptions = self.members.values().map(|member| &member.metadata);
        let subscriptions: BTreeSet<Subscription<'_>> =
            subscriptions.map(|metadata| (&metadata.topics, metadata.regex.as_deref())).collect();
        let mut topics: BTreeMap<&str, &TopicImage> = BTreeMap::new();
        for (names, regex) in subscriptions {
            let regex = regex.and_then(|pattern| self.regexes.get(pattern));
            let names = names.iter().chain(regex.into_iter().flat_map(|resolved| &resolved.topics));
            topics.extend(names.filter_map(|name| Some((name.as_str(), image.topic(name)?))));
        }
        if topics.is_empty() {
            return 0;
        }
        let mut hasher = FxHasher::default();
        for (name, topic) in topics {
            (name, topic.id, topic.partitions.len()).hash(&mut hasher);
            for partition in topic.partitions.values() {
                let brokers = partition.replicas.iter().filter_map(|id| image.brokers().get(id));
                let racks: BTreeSet<&String> = brokers.filter_map(|broker| broker.rack.as_ref()).collect();
                racks.hash(&mut hasher);
            }
        }
        hasher.finish().cast_signed()
    }
}

impl Edit<'_> {
    /// Resolves the patterns that have no topics yet, and all of them when the cluster's topics may have changed.
    pub(super) fn resolve_regexes(&mut self, view: ClusterView<'_>) -> Result<(), Refused> {
        let is_new = view.offset > self.group.metadata_seen;
        let used: BTreeSet<String> = self.group.used_regexes().map(str::to_owned).collect();
        for pattern in used {
            let resolved = self.group.regexes.get(&pattern);
            if resolved.is_some() && !is_new {
                continue;
            }
            let regex = compile(&pattern)?;
            let names = view.image.topics().keys().filter(|name| regex.is_match(name));
            let topics: Vec<String> = names.cloned().collect();
            if resolved.is_none_or(|resolved| resolved.topics != topics) {
                let resolved = ResolvedRegex { topics, version: view.offset, at_ms: self.now.ms };
                self.push(ConsumerRecord::Regex(pattern, Some(Arc::new(resolved))));
            }
        }
        Ok(())
    }

    pub(super) fn forget_unused_regexes(&mut self) {
        let used: BTreeSet<&str> = self.group.used_regexes().collect();
        let unused: Vec<String> =
            self.group.regexes.keys().filter(|pattern| !used.contains(pattern.as_str())).cloned().collect();
        for pattern in unused {
            self.push(ConsumerRecord::Regex(pattern, None));
        }
    }

    /// Raises the group epoch if members, subscriptions or topics have `changed`.
    pub(super) fn follow_metadata(&mut self, changed: bool, view: ClusterView<'_>) {
        if !changed && view.offset <= self.group.metadata_seen {
            return;
        }
        let metadata_hash = self.group.metadata_hash(view.image);
        if changed || metadata_hash != self.group.epoch.metadata_hash {
            self.bump_epoch(metadata_hash);
        }
        self.group.metadata_seen = view.offset;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names_in_the_syntax_of_re2() {
        let matches = |pattern: &str, name: &str| compile(pattern).unwrap().is_match(name);
        assert!(matches("t.*", "topic") && !matches("t", "topic") && !matches("opic", "topic"));
        assert!(matches("a|b", "b") && !matches("a|b", "ab"));
        assert!(matches(r"\Qa.b\E.", "a.bc") && !matches(r"\Qa.b\E.", "axbc"));
        assert!(matches(r"\\Q", r"\Q") && matches(r"a\.b", "a.b") && matches(r"(?i)A\d", "a1"));
        for invalid in ["(", "[z-a]", r"(?=a)", r"(a)\1", r"a{1000}{1000}", "\\"] {
            assert_eq!(compile(invalid).unwrap_err().code, ErrorCode::InvalidRegularExpression, "{invalid}");
        }
    }
}
