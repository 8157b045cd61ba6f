//! Evaluation contexts, and the part of one that is sent with an exposure.

use super::*;

fn text(text: &str) -> prost_types::Value {
    prost_types::Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

fn sent(fields: impl IntoIterator<Item = (String, prost_types::Value)>) -> Option<prost_types::Struct> {
    Some(prost_types::Struct { fields: fields.into_iter().collect() })
}

#[test]
fn contexts_over_their_limits_are_refused() {
    let of_bytes = |max: usize| sent([("n".to_owned(), text(&"x".repeat(max - 1)))]);
    assert!(context_from_struct(of_bytes(Context::MAX_BYTES)).is_ok());
    assert!(error_message(context_from_struct(of_bytes(Context::MAX_BYTES + 1))).contains("16384"));
    let many = |n: usize| sent((0..n).map(|i| (i.to_string(), prost_types::Value { kind: None })));
    assert!(context_from_struct(many(MAX_VALUES)).is_ok());
    assert!(error_message(context_from_struct(many(MAX_VALUES + 1))).contains("512"));
    let deep = |n: usize| {
        let nest = |inner, _| {
            let values = vec![inner];
            prost_types::Value { kind: Some(Kind::ListValue(prost_types::ListValue { values })) }
        };
        sent([("n".to_owned(), (1..n).fold(text("x"), nest))])
    };
    assert!(context_from_struct(deep(MAX_DEPTH)).is_ok());
    assert!(error_message(context_from_struct(deep(MAX_DEPTH + 1))).contains("over the limit of 8"));
    // Deeper than a context may be, but not deeper than a message: what is beyond the limit becomes null.
    assert!(struct_to_json(deep(40).unwrap()).contains("null"));
}

#[test]
fn null_targeting_key_counts_as_missing() {
    let null = prost_types::Value { kind: Some(Kind::NullValue(0)) };
    assert_eq!(context_from_struct(sent([("targetingKey".to_owned(), null)])).unwrap(), Context::default());
    assert_eq!(context_from_struct(None).unwrap(), Context::default());
    assert_eq!(context_from_struct(sent([("targetingKey".to_owned(), text("u"))])).unwrap(), Context::new("u"));
}

/// The trimmed context as JSON, and whether an attribute was removed for its size.
fn trimmed(context: &Context, unit: &str) -> (String, bool) {
    let mut sent = context_to_struct(context);
    let is_trimmed = trim_context(&mut sent, unit, MAX_EXPOSURE_CONTEXT_BYTES);
    (struct_to_json(sent), is_trimmed)
}

#[test]
fn large_context_is_trimmed_and_loses_the_unit_key() {
    let context = Context::new("user-1")
        .with("account", "acme")
        .with("bulk", "x".repeat(5000))
        .with("country", "fr")
        .with("quoted", "\"\n")
        .with("plan", 3.0)
        .with("odd", f64::NAN);
    let rest = r#""country":"fr","odd":null,"plan":3,"quoted":"\"\n"}"#;
    assert_eq!(trimmed(&context, "account"), (format!("{{{rest}"), true));
    assert_eq!(trimmed(&context, "targetingKey"), (format!(r#"{{"account":"acme",{rest}"#), true));
    assert_eq!(trimmed(&Context::new("u"), "user"), (String::new(), false));
    let owner = Value::Object([("id", "acme"), ("tier", "gold")].map(|(k, v)| (k.to_owned(), Value::from(v))).into());
    let nested = Context::default().with("owner", owner.clone()).with("a.b", "c");
    assert_eq!(trimmed(&nested, "owner.id"), (r#"{"a.b":"c","owner":{"tier":"gold"}}"#.to_owned(), false));
    assert_eq!(trimmed(&nested, "a.b"), (r#"{"owner":{"id":"acme","tier":"gold"}}"#.to_owned(), false));
    for absent in ["owner.id.x", "unknown.id", "owner."] {
        assert_eq!(trimmed(&nested, absent).0.len(), 47, "{absent}");
    }
}

#[test]
fn many_small_attributes_are_trimmed_to_two_kibibytes() {
    let mut context = Context::default();
    for n in 0..500 {
        context.insert(format!("attribute-{n:03}"), Value::List(vec![Value::Number(0.1), Value::from("a\u{1}b")]));
    }
    let (json, is_trimmed) = trimmed(&context, "user");
    assert!(is_trimmed && json.len() <= MAX_EXPOSURE_CONTEXT_BYTES && json.matches("attribute").count() > 20, "{json}");
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<f64>().prop_filter("equal to itself", |x| !x.is_nan()).prop_map(Value::Number),
        ".{0,12}".prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
            prop::collection::btree_map(".{0,6}", inner, 0..4).prop_map(Value::Object),
        ]
    })
}

proptest! {
    #[test]
    fn contexts_round_trip(
        key in prop::option::of(".{0,20}"),
        attributes in prop::collection::btree_map("[a-z]{1,6}", value(), 0..6),
    ) {
        let mut context = key.map_or_else(Context::default, Context::new);
        attributes.into_iter().for_each(|(name, value)| context.insert(name, value));
        prop_assert_eq!(context_from_struct(Some(context_to_struct(&context))), Ok(context));
    }
}
