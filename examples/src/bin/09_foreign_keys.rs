//! A join by a foreign key: each order with the user it belongs to, whichever of the two changes.

use std::error::Error;

use kafka_streams::testing::TestDriver;
use kafka_streams::{ForeignKeyJoined, Store, StreamsBuilder};

fn main() -> Result<(), Box<dyn Error>> {
    let builder = StreamsBuilder::new();
    // Orders by their number: who ordered, and what. Users by their id: their names.
    let orders = builder.table::<i64, String>("orders");
    let users = builder.table::<String, String>("users");
    orders
        .left_join_by_foreign_key(
            users,
            |_number, order| order.split_once(' ').map(|(user, _)| user.to_owned()),
            |number, order, name| format!("#{number} {order}: {}", name.map_or("unknown", String::as_str)),
            ForeignKeyJoined::from("orders-of-users").kept_in(Store::kv("bills")),
        )
        .to_stream()
        .to("bills");

    let mut driver = TestDriver::new(&builder.build()?)?;
    driver.input("orders").pipe(1i64, "u1 shoes".to_owned(), 1)?;
    driver.input("users").pipe("u1".to_owned(), "Ann".to_owned(), 2)?;
    driver.input("orders").pipe(2i64, "u1 socks".to_owned(), 3)?;
    // One change of a user changes all of their bills.
    driver.input("users").pipe("u1".to_owned(), "Ann Lee".to_owned(), 4)?;
    let bills = driver.output::<i64, String>("bills").read_all()?;
    let bills: Vec<&str> = bills.iter().map(|(_, bill)| bill.as_str()).collect();
    println!("{bills:#?}");
    assert_eq!(
        bills,
        [
            "#1 u1 shoes: unknown",
            "#1 u1 shoes: Ann",
            "#2 u1 socks: Ann",
            "#1 u1 shoes: Ann Lee",
            "#2 u1 socks: Ann Lee",
        ]
    );
    let kept = driver.store::<i64, String>("bills")?.all()?;
    assert_eq!(kept.len(), 2);
    Ok(())
}
