//! Definitions as forms and back: fields that nobody edits must not change.

use inroad_assignment::{Definition, DefinitionDoc};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::from_definition::percent;
use super::*;

fn document(json: Value) -> DefinitionDoc {
    let doc: DefinitionDoc = serde_json::from_value(json).unwrap();
    Definition::try_from(doc).unwrap().into()
}

fn assert_round_trip(payloads: [Value; 3]) {
    let [control, green, plain] = payloads;
    let doc = document(json!({
        "key": "checkout", "description": "d", "owner": "me", "tags": ["a", "b"], "unit": "user",
        "audience": "country == \"fr\"", "clock": {"kind": "manual", "start": "2026-01-01T00:00:00Z"},
        "policy": {"kind": "thompson", "tick": "6h", "tau": 0.3, "shadow": true},
        "variations": [
            {"key": "control", "payload": control}, {"key": "green", "payload": green, "share": 0.125},
            {"key": "plain", "payload": plain, "description": "x"},
        ],
        "overrides": [{"units": ["qa-1", "qa-2"], "variation": "green"}, {"when": "a == 1", "variation": "plain"}],
        "metrics": [
            {"key": "bought", "event": "purchase", "decision": true, "window": "3d"},
            {"key": "revenue", "event": "purchase", "kind": "mean", "cap": 250.5},
            {"key": "ratio", "event": "x", "kind": "ratio", "denominator": "y", "direction": "down",
             "guardrail": {"margin": 0.1, "action": "freeze"}},
        ],
    }));
    let form = Form::from_definition(&doc);
    assert_eq!(form.to_definition(Some(&doc)).unwrap(), doc);
    assert_eq!(form.without_blank_rows(), form);
    assert_eq!([form.text("metrics.0.window"), form.text("policy.tick")], ["3d", "6h"]);
}

#[test]
fn definition_survives_the_round_trip_through_a_form() {
    assert_round_trip([json!("#00f"), json!("x"), json!("1.5")]);
    assert_round_trip([json!(true), json!(false), json!(true)]);
    assert_round_trip([json!(-1.5), json!(0.1), json!(3.0)]);
    assert_round_trip([json!({}), json!({"n": [1, "x"]}), json!({"a": {"b": null}})]);
}

#[test]
fn blank_rows_are_removed() {
    let form = Form::parse(b"variations.0.key=&variations.0.share=5&variations.3.key=a&variations.7.key=b");
    let compact = form.without_blank_rows();
    assert_eq!((form.row_count("variations"), compact.row_count("variations")), (8, 2));
    assert_eq!([compact.text("variations.0.key"), compact.text("variations.1.key")], ["a", "b"]);
}

#[test]
fn unreadable_value_is_reported_at_its_field() {
    let form = Form::parse(
        b"key=k&payload_kind=boolean&variations.0.key=c&variations.0.payload=maybe&variations.1.key=v\
          &variations.1.payload=x&variations.1.share=lots&metrics.0.key=m&metrics.0.event=e&metrics.0.window=soon\
          &policy.kind=thompson&policy.tick=often&policy.daily_cap=x",
    );
    let violations = form.to_definition(None).unwrap_err();
    let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "policy.tick",
            "policy.daily_cap",
            "variations[0].payload",
            "variations[1].payload",
            "variations[1].share",
            "metrics[0].window"
        ]
    );
}

#[test]
fn number_has_a_decimal_point_or_comma_and_ambiguous_one_is_rejected() {
    let read = |text: &str| parse_number(text).ok();
    assert_eq!(
        [" 12,5 ", "3", "0,125", "-0,500", "1,0000", "0.125", "12.345"].map(read),
        [12.5, 3.0, 0.125, -0.5, 1.0, 0.125, 12.345].map(Some)
    );
    assert_eq!(["x", "inf", "1,000", "-12,345", "1.000,5", "1,000.5", "1,2,3", "1.2.3"].map(read), [None; 8]);
    let message = parse_number("1,000").unwrap_err().message_or("no");
    assert_eq!(message, "1,000 is ambiguous. Enter 1000 or 1.0.");
    assert_eq!(parse_number("x").unwrap_err().message_or("no"), "no");
    assert_eq!(percent(0.1 + 0.2), "30");
}

/// The form that a browser sends if nobody edits it; HTML drops the first line end of a text area.
fn submitted(form: &Form) -> Form {
    let mut body = form_urlencoded::Serializer::new(String::new());
    for (name, value) in &form.fields {
        body.append_pair(name, &sent_back(name, value).replace('\n', "\r\n"));
    }
    Form::parse(body.finish().as_bytes())
}

fn text() -> impl Strategy<Value = String> {
    proptest::string::string_regex("[ab ,.\"\n\r\t0é]{0,9}").unwrap()
}

fn unit() -> impl Strategy<Value = String> {
    proptest::string::string_regex("[ab ,.\"\n\r\t0é]{1,9}").unwrap()
}

proptest! {
    #[test]
    fn unedited_fields_never_change(
        payloads in [text(), text()],
        descriptions in [text(), text(), text()],
        tags in proptest::collection::btree_set(unit(), 0..3),
        units in proptest::collection::btree_set(unit(), 1..4),
        share in 0.0..0.5_f64,
        cap in 0.1..1e6_f64,
        tau in 0.1..1.0_f64,
    ) {
        let doc = json!({
            "key": "checkout", "description": descriptions[0], "owner": descriptions[1], "tags": tags,
            "policy": {"kind": "thompson", "tau": tau, "daily_cap": share + 0.1},
            "variations": [
                {"key": "control", "payload": payloads[0], "description": descriptions[2]},
                {"key": "green", "payload": payloads[1], "share": share},
            ],
            "overrides": [{"units": units, "variation": "green"}, {"when": "a ==\n 1", "variation": "green"}],
            "metrics": [{"key": "revenue", "event": "purchase", "kind": "mean", "cap": cap, "decision": true}],
        });
        let read = serde_json::from_value::<DefinitionDoc>(doc).map(Definition::try_from);
        let Ok(Ok(definition)) = read else { return Err(TestCaseError::reject("no definition")) };
        let doc = DefinitionDoc::from(definition);
        let mut form = submitted(&Form::from_definition(&doc));
        prop_assert_eq!(form.to_definition(Some(&doc)).unwrap(), doc.clone());
        // The same holds if another field is edited and the form is shown again in between.
        form.set("owner", "somebody else");
        let mut edited = doc;
        edited.owner = "somebody else".to_owned();
        prop_assert_eq!(submitted(&form).without_blank_rows().to_definition(Some(&edited)).unwrap(), edited);
    }
}

#[test]
fn text_is_kept_exactly_and_units_may_contain_commas() {
    let form = Form::parse(
        b"key=k&payload_kind=string&variations.0.key=c&variations.0.payload=%0D%0Aone%0D%0Atwo++&variations.1.key=v\
          &variations.1.payload=x&overrides.0.variation=v&overrides.0.units=Smith,+John%0D%0A+lead%0D%0A%0D%0A%22a%5Cnb%22",
    );
    let doc = form.to_definition(None).unwrap();
    assert_eq!(serde_json::to_value(&doc.variations[0].payload).unwrap(), json!("\none\ntwo  "));
    assert_eq!(doc.overrides[0].units, ["Smith, John", " lead", "a\nb"]);
}

#[test]
fn invalid_quoted_unit_is_reported() {
    let form = Form::parse(b"key=k&overrides.0.variation=v&overrides.0.units=%22a");
    let violations = form.to_definition(None).unwrap_err();
    assert_eq!(violations[0].field, "overrides[0].units");
}

#[test]
fn rows_that_move_up_keep_their_values() {
    let doc = document(json!({
        "key": "checkout", "policy": {"kind": "manual"},
        "variations": [{"key": "control", "payload": "x"}, {"key": "a", "payload": "y"}, {"key": "b", "payload": "1\r2"}],
    }));
    let mut form = submitted(&Form::from_definition(&doc));
    for column in ["key", "payload", "description"] {
        form.set(format!("variations.1.{column}"), "");
    }
    let left = form.without_blank_rows().to_definition(Some(&doc)).unwrap();
    assert_eq!(left.variations[1], doc.variations[2]);
}

#[test]
fn form_that_is_shown_again_keeps_its_blank_rows() {
    let mut sent = Form::new_experiment();
    for (name, value) in
        [("metrics.0.key", ""), ("metrics.1.key", ""), ("metrics.1.window", ""), ("variations.2.key", "")]
    {
        sent.set(name, value);
    }
    let compact = sent.without_blank_rows();
    assert_eq!(compact.row_count("metrics"), 0);
    let shown = compact.with_blank_rows_of(&sent);
    assert_eq!((shown.row_count("metrics"), shown.text("metrics.0.window")), (1, "7d"));
    assert_eq!(shown.row_count("variations"), 2);
}
