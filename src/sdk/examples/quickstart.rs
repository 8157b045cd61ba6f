//! Assigns a variation of one experiment to a user and records a purchase. Start a server with `inroad serve`, then run
//! `cargo run -p inroad-sdk --example quickstart -- checkout-button user-123`.

use std::time::Duration;

use inroad_sdk::{Client, Context, Error, Outcome};

#[tokio::main]
#[allow(clippy::print_stdout)]
async fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let experiment = args.next().unwrap_or_else(|| "checkout-button".to_owned());
    let user = args.next().unwrap_or_else(|| "user-123".to_owned());
    let address = std::env::var("INROAD_SERVER").unwrap_or_else(|_| "http://127.0.0.1:7070".to_owned());

    let client = Client::builder(address).client_name("quickstart").build()?;
    if !client.ready(Duration::from_secs(5)).await {
        println!("no server yet, using defaults: {}", client.status().last_error.unwrap_or_default());
    }
    let context = Context::new(&user).with("country", "fr");
    let decision = client.assign(&experiment, &context);
    println!("{experiment} for {user}: {:?} because {}", decision.variation(), decision.reason().name());
    println!("  payload {:?}, revision {}, point {:?}", decision.payload(), decision.revision(), decision.point());

    let purchase = Outcome::new("purchase").targeting_key(&user).value(12.5);
    let receipt = client.record([purchase], Duration::from_secs(5)).await?;
    println!("purchase recorded: {} accepted, refused: {:?}", receipt.accepted, receipt.rejections);

    let result = client.shutdown(Duration::from_secs(5)).await;
    println!("{} events sent, {} not acknowledged", result.sent, result.unacknowledged);
    Ok(())
}
