//! Which versions of each API a peer speaks, and which one to use with it.

use kafka_protocol::messages::ApiVersionsResponse;
use kafka_protocol::protocol::{Request, StrBytes, VersionRange};

/// What a peer answered to ApiVersions: the range of versions it serves for each API key, and which features its cluster
/// has finalized (KIP-584).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ApiVersions {
    ranges: Vec<(i16, VersionRange)>,
    features: Vec<(StrBytes, i16)>,
}

/// The peer and this library share no version of an API.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum UnsupportedApi {
    /// The peer does not list the API at all.
    #[error("the broker does not serve API key {api_key}")]
    Missing {
        /// The API key that was asked for.
        api_key: i16,
    },
    /// The peer lists it, but only in versions that this library does not know.
    #[error("no common version of API key {api_key}: the broker serves {theirs}, this library {ours}")]
    NoCommonVersion {
        /// The API key that was asked for.
        api_key: i16,
        /// What the peer serves.
        theirs: VersionRange,
        /// What this library encodes and decodes.
        ours: VersionRange,
    },
}

impl ApiVersions {
    /// Takes the ranges and features out of an ApiVersions response.
    pub fn from_response(response: &ApiVersionsResponse) -> Self {
        let ranges = response.api_keys.iter();
        let ranges =
            ranges.map(|api| (api.api_key, VersionRange { min: api.min_version, max: api.max_version }));
        let features = response.finalized_features.iter();
        let features = features.map(|feature| (feature.name.clone(), feature.max_version_level));
        Self { features: features.collect(), ..Self::from_ranges(ranges) }
    }

    /// Builds the table from `(api key, range)` pairs.
    pub fn from_ranges(ranges: impl IntoIterator<Item = (i16, VersionRange)>) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        ranges.sort_by_key(|&(api_key, _)| api_key);
        ranges.dedup_by_key(|&mut (api_key, _)| api_key);
        Self { ranges, features: Vec::new() }
    }

    /// The range the peer serves for `api_key`.
    pub fn range(&self, api_key: i16) -> Option<VersionRange> {
        let at = self.ranges.binary_search_by_key(&api_key, |&(key, _)| key).ok()?;
        self.ranges.get(at).map(|&(_, range)| range)
    }

    /// The level at which the peer's cluster has finalized a feature, such as `transaction.version`; 0 where it has not,
    /// or says nothing.
    pub fn feature(&self, name: &str) -> i16 {
        self.features.iter().find(|(known, _)| known.as_str() == name).map_or(0, |&(_, level)| level)
    }

    /// The highest version of `R` that both ends know.
    pub fn negotiate<R: Request>(&self) -> Result<i16, UnsupportedApi> {
        self.negotiate_up_to::<R>(i16::MAX)
    }

    /// The highest version of `R` that both ends know and that is not above `cap`.
    ///
    /// A cap is for versions that this library can encode but whose meaning it does not implement yet.
    pub fn negotiate_up_to<R: Request>(&self, cap: i16) -> Result<i16, UnsupportedApi> {
        let ours = R::VERSIONS.intersect(&VersionRange { min: i16::MIN, max: cap });
        let theirs = self.range(R::KEY).ok_or(UnsupportedApi::Missing { api_key: R::KEY })?;
        let common = ours.intersect(&theirs);
        if common.is_empty() {
            return Err(UnsupportedApi::NoCommonVersion { api_key: R::KEY, theirs, ours });
        }
        Ok(common.max)
    }
}

/// What an Apache Kafka 4.3 broker serves on a client listener, by API key (its `ApiKeys`, stable versions).
///
/// `None` for APIs that a broker does not serve to clients. Kafka *advertises* Produce from 0, because librdkafka
/// insists, and serves it from 3.
pub fn kafka_4_3(api_key: i16) -> Option<VersionRange> {
    let at = KAFKA_4_3.binary_search_by_key(&api_key, |&(key, _, _)| key).ok()?;
    KAFKA_4_3.get(at).map(|&(_, min, max)| VersionRange { min, max })
}

/// Every API key of [`kafka_4_3`], in order.
pub fn kafka_4_3_keys() -> impl Iterator<Item = i16> {
    KAFKA_4_3.iter().map(|&(key, _, _)| key)
}

#[rustfmt::skip]
const KAFKA_4_3: &[(i16, i16, i16)] = &[
    (0, 3, 13), (1, 4, 18), (2, 1, 11), (3, 0, 13), (8, 2, 10), (9, 1, 10), (10, 0, 6), (11, 0, 9),
    (12, 0, 4), (13, 0, 5), (14, 0, 5), (15, 0, 6), (16, 0, 5), (17, 0, 1), (18, 0, 4), (19, 2, 7),
    (20, 1, 6), (21, 0, 2), (22, 0, 5), (23, 2, 4), (24, 0, 5), (25, 0, 4), (26, 0, 5), (27, 1, 2),
    (28, 0, 5), (29, 1, 3), (30, 1, 3), (31, 1, 3), (32, 1, 4), (33, 0, 2), (34, 1, 2), (35, 1, 5),
    (36, 0, 2), (37, 0, 3), (38, 1, 3), (39, 1, 2), (40, 1, 2), (41, 1, 3), (42, 0, 2), (43, 0, 2),
    (44, 0, 1), (45, 0, 1), (46, 0, 0), (47, 0, 0), (48, 0, 1), (49, 0, 1), (50, 0, 0), (51, 0, 0),
    (55, 0, 2), (57, 0, 2), (60, 0, 2), (61, 0, 0), (64, 0, 0), (65, 0, 0), (66, 0, 2), (68, 0, 1),
    (69, 0, 1), (71, 0, 0), (72, 0, 0), (74, 0, 1), (75, 0, 0), (76, 1, 1), (77, 1, 1), (78, 1, 2),
    (79, 1, 2), (80, 0, 1), (81, 0, 0), (83, 0, 0), (84, 0, 0), (85, 0, 1), (86, 0, 0), (87, 0, 1),
    (88, 0, 0), (89, 0, 0), (90, 0, 1), (91, 0, 0), (92, 0, 0),
];

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::{FetchRequest, ProduceRequest};
    use kafka_protocol::protocol::Message;

    #[test]
    fn the_highest_common_version_wins() {
        let peer = ApiVersions::from_ranges([
            (0, VersionRange { min: 0, max: 9 }),
            (1, VersionRange { min: 4, max: 99 }),
        ]);
        assert_eq!(peer.negotiate::<ProduceRequest>().unwrap(), 9);
        assert_eq!(peer.negotiate::<FetchRequest>().unwrap(), FetchRequest::VERSIONS.max);
        assert_eq!(peer.negotiate_up_to::<FetchRequest>(12).unwrap(), 12);
    }

    #[test]
    fn a_missing_or_too_old_api_is_named() {
        let peer = ApiVersions::from_ranges([(0, VersionRange { min: 0, max: 2 })]);
        assert!(matches!(peer.negotiate::<FetchRequest>(), Err(UnsupportedApi::Missing { api_key: 1 })));
        let error = peer.negotiate::<ProduceRequest>().unwrap_err().to_string();
        assert!(error.contains("0..2"), "{error}");
    }

    #[test]
    fn the_table_is_sorted_for_its_binary_search() {
        assert!(KAFKA_4_3.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(kafka_4_3(0), Some(VersionRange { min: 3, max: 13 }));
        assert_eq!(kafka_4_3(4), None);
    }
}
