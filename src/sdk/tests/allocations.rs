//! Evaluations allocate no memory, and neither does a repeated exposure.

mod support;

use allocation_counter::measure;
use support::{ScriptedServer, TestExperiment, full_snapshot, user};

#[tokio::test]
async fn evaluation_and_repeated_exposure_allocate_no_memory() {
    let server = ScriptedServer::with_first_message(full_snapshot(
        1,
        &[TestExperiment::all_in_variation("colour", 1).wire(), TestExperiment::new("size", 1).wire()],
    ))
    .await;
    let client = server.client().await;
    let context = user();
    client.assign("colour", &context);
    let evaluated = measure(|| assert_eq!(client.evaluate("colour", &context).string("blue"), "green"));
    let repeated = measure(|| assert_eq!(client.assign("colour", &context).string("blue"), "green"));
    let unknown = measure(|| assert!(client.assign("no-such", &context).variation().is_none()));
    let pinned = measure(|| assert!(client.snapshot().evaluate("size", &context).variation.is_some()));
    assert_eq!([evaluated, repeated, unknown, pinned].map(|m| m.count_total), [0; 4]);
}
