//! Placeholder until generated.
use super::{Shape, Versions};
pub(super) const REQUEST_HEADER: Shape =
    Shape { versions: Versions { first: 0, last: 2 }, flexible: Versions { first: 2, last: 2 }, fields: &[] };
pub(super) const RESPONSE_HEADER: Shape =
    Shape { versions: Versions { first: 0, last: 1 }, flexible: Versions { first: 1, last: 1 }, fields: &[] };
pub(super) const REQUESTS: &[(i16, &Shape)] = &[];
pub(super) const RESPONSES: &[(i16, &Shape)] = &[];
