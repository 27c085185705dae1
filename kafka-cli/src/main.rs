//! kafka-cli
fn main() {}
