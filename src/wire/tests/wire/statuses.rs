//! Errors as gRPC statuses.

use super::*;

#[test]
fn statuses_contain_texts_for_people_and_details_for_programs() {
    let full = resource_exhausted("QUEUE_FULL", "the queue is full", Duration::from_millis(250));
    assert_eq!(full.code(), tonic::Code::ResourceExhausted);
    assert_eq!(retry_delay(&full), Some(Duration::from_millis(250)));
    assert_eq!(reason_of(&full).as_deref(), Some("QUEUE_FULL"));
    assert_eq!(describe_status(&full), "the queue is full\n  try again in 250ms");
    let violation = |i: usize| Violation { field: format!("variations[{i}].key"), message: "wrong".to_owned() };
    let two = invalid_definition(&DefinitionError { violations: vec![violation(0), violation(1)] });
    assert_eq!(
        describe_status(&two),
        "2 errors; the first is variations[0].key: wrong\n  variations[0].key: wrong\n  variations[1].key: wrong"
    );
    let one = tonic::Status::from(WireError::field("state", "wrong"));
    assert_eq!((describe_status(&one).as_str(), one.code()), ("state: wrong", tonic::Code::InvalidArgument));
    assert_eq!(describe_status(&tonic::Status::new(tonic::Code::Internal, "")), tonic::Code::Internal.description());
    assert_eq!(retry_delay(&tonic::Status::internal("x")), None);
}

#[test]
fn statuses_with_many_errors_fit_into_headers() {
    let violation = |i| Violation { field: format!("variations[{i}].key"), message: "ü".repeat(5000) };
    let status = invalid_definition(&DefinitionError { violations: (0..10_000).map(violation).collect() });
    assert!(status.message().len() <= 1024 && status.details().len() < 6 * 1024, "{}", status.details().len());
    assert!(describe_status(&status).contains("more: fix these first"));
}
