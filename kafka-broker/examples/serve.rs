//! A broker on an address, in memory or in a folder: `cargo run --example serve -- 127.0.0.1:9092 [DIR] [nodes=3]
//! [key=value ...]`.
//! `RUST_LOG=kafka_broker=debug` shows what it does. Ctrl-C stops it in an orderly way.

use std::error::Error;
use std::io::Write;

use kafka_broker::Broker;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let mut args = std::env::args().skip(1);
    let mut builder = Broker::builder().listen(args.next().unwrap_or_else(|| "127.0.0.1:9092".to_owned()));
    for arg in args {
        builder = match arg.split_once('=') {
            Some(("nodes", nodes)) => builder.nodes(nodes.parse()?),
            Some((key, value)) => builder.config(key, value),
            None => builder.data_dir(arg),
        };
    }
    let broker = builder.start().await?;
    writeln!(std::io::stdout(), "serving on {}", broker.bootstrap_servers())?;
    tokio::signal::ctrl_c().await?;
    broker.shutdown().await;
    Ok(())
}
