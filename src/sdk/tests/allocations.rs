//! Evaluating allocates nothing, and neither does an exposure that was recorded before.

mod support;

use allocation_counter::measure;
use support::{Made, Scripted, full, user};

#[tokio::test]
async fn the_plain_path_allocates_nothing() {
    let server = Scripted::with(full(1, &[Made::everybody("colour", 1).wire(), Made::new("size", 1).wire()])).await;
    let client = server.client().await;
    let context = user();
    client.assign("colour", &context);
    let evaluated = measure(|| assert_eq!(client.evaluate("colour", &context).string("blue"), "green"));
    let repeated = measure(|| assert_eq!(client.assign("colour", &context).string("blue"), "green"));
    let unknown = measure(|| assert!(client.assign("no-such", &context).variation().is_none()));
    let pinned = measure(|| assert!(client.snapshot().evaluate("size", &context).variation.is_some()));
    assert_eq!([evaluated, repeated, unknown, pinned].map(|m| m.count_total), [0; 4]);
}
