//! Joins: clicks with the views that led to them, clicks with their users, and users with their addresses.
//!
//! Streams meet in time, tables by key, and a stream meets the rows of a table as they are when its record comes.

use std::error::Error;
use std::time::Duration;

use kafka_streams::testing::TestDriver;
use kafka_streams::{JoinWindows, StreamsBuilder};

fn main() -> Result<(), Box<dyn Error>> {
    let builder = StreamsBuilder::new();
    let clicks = builder.stream::<String, String>("clicks");
    let views = builder.stream::<String, String>("views");
    let users = builder.table::<String, String>("users");
    let addresses = builder.table::<String, String>("addresses");

    // A view without a click within ten seconds is a result too, once those are over.
    let windows = JoinWindows::within(Duration::ZERO).after(Duration::from_secs(10));
    views
        .left_join(
            clicks.clone(),
            |_user, view, click| format!("{view} -> {}", click.map_or("nothing", String::as_str)),
            windows,
            "views-and-clicks",
        )
        .to("paths");

    clicks
        .join_table(&users, |_id, click, name| format!("{name} clicked {click}"), "clicks-of-users")
        .to("named-clicks");

    users
        .left_join(
            addresses,
            |_id, name, address| format!("{name}, {}", address.map_or("somewhere", String::as_str)),
            "users-with-addresses",
        )
        .to_stream()
        .to("letters");

    let mut driver = TestDriver::new(&builder.build()?)?;
    for (topic, key, value, second) in [
        ("users", "u1", "Ann", 0),
        ("views", "u1", "shoes", 1),
        ("clicks", "u1", "buy", 5),
        ("views", "u1", "socks", 20),
        ("users", "u1", "Ann Lee", 21),
        ("addresses", "u1", "Oslo", 22),
        ("clicks", "u2", "help", 40),
        ("clicks", "u1", "pay", 41),
    ] {
        driver.input::<String, String>(topic).pipe(key.to_owned(), value.to_owned(), second * 1_000)?;
    }
    let mut read = |topic: &str| -> Result<Vec<String>, Box<dyn Error>> {
        let values = driver.output::<String, String>(topic).read_all()?;
        let values: Vec<_> = values.into_iter().map(|(_, value)| value).collect();
        println!("{topic}: {values:#?}");
        Ok(values)
    };
    assert_eq!(read("paths")?, ["shoes -> buy", "socks -> nothing"]);
    assert_eq!(read("named-clicks")?, ["Ann clicked buy", "Ann Lee clicked pay"]);
    assert_eq!(read("letters")?, ["Ann, somewhere", "Ann Lee, somewhere", "Ann Lee, Oslo"]);
    Ok(())
}
