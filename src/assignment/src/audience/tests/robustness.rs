//! Tests with malicious sources and contexts: deep nesting, random expressions and random text.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::sample_context;
use crate::audience::{Audience, AudienceError};
use crate::context::{Context, Value};

/// Every kind of nesting that needs few characters, at this depth.
fn nested_sources(depth: usize) -> Vec<String> {
    let repeat = |s: &str| s.repeat(depth);
    vec![
        format!("{}beta{}", repeat("("), repeat(")")),
        format!("beta == {}1{}", repeat("["), repeat("]")),
        format!("beta == {}1{}", repeat("{'a':"), repeat("}")),
        format!("{}beta", repeat("!")),
        format!("1 == {}1", repeat("-")),
        format!("1 == {}1", repeat("- ")),
        format!("{}beta", repeat("a ? b : ")),
        format!("{}beta{}", repeat("a ? "), repeat(" : b")),
        format!("{}beta", repeat("a || b ? c && d : ")),
        format!("1 == 1{}", repeat("+1")),
        format!("beta{}", repeat("==a")),
        format!("beta{}", repeat(" in a")),
        format!("beta{}", repeat(".a")),
        format!("beta{}", repeat("[0]")),
        format!("beta{}", repeat(".f()")),
        format!("{}beta{}", repeat("has("), repeat(")")),
        format!("{}beta{}", repeat("a||("), repeat(")")),
        format!("semver({}beta{}) > semver('1')", repeat("("), repeat(")")),
        format!("timestamp(a){} > timestamp(b)", repeat(" + duration('1h')")),
        format!("{}timestamp(a){} > timestamp(b)", repeat("duration('1h') + ("), repeat(")")),
        format!("a.matches('{}a{}')", repeat("("), repeat(")")),
        format!("beta{}", repeat(".lowerAscii()")),
        format!("{}beta{}", repeat("a.all(x,"), repeat(")")),
        repeat("("),
        repeat("a.all(x,"),
        repeat("!("),
    ]
}

#[test]
fn deep_nesting_does_not_overflow_a_small_stack() {
    let on_a_small_stack = || {
        for depth in [1, 2, 5, 10, 14, 20, 28, 31, 32, 33, 64, 300, 450, 1000, 4000] {
            for source in nested_sources(depth) {
                match Audience::parse(&source) {
                    Ok(audience) => {
                        audience.contains(&sample_context());
                    }
                    Err(AudienceError::TooDeep { max, .. }) => {
                        assert!(max == Audience::MAX_DEPTH && depth > 5, "{source}");
                    }
                    Err(AudienceError::TooLong { .. }) => assert!(source.len() > Audience::MAX_BYTES),
                    Err(_) => {}
                }
                if depth > Audience::MAX_DEPTH {
                    assert!(Audience::parse(&source).is_err(), "{source}");
                }
            }
        }
    };
    // A quarter of the default stack of a thread.
    let thread = std::thread::Builder::new().stack_size(512 * 1024).spawn(on_a_small_stack).unwrap();
    thread.join().unwrap();
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<f64>().prop_map(Value::Number),
        (-3..20_i32).prop_map(|n| Value::Number(n.into())),
        "[a-c]{0,3}|\\PC{0,8}".prop_map(Value::String),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
            prop::collection::btree_map("[a-c]", inner, 0..4).prop_map(Value::Object),
        ]
    })
}

fn context() -> impl Strategy<Value = Context> {
    (prop::option::of("[a-z]{0,4}"), prop::collection::btree_map("[a-c]", value(), 0..4)).prop_map(
        |(key, attributes): (Option<String>, BTreeMap<String, Value>)| {
            let mut context = key.map_or_else(Context::default, Context::new);
            for (name, value) in attributes {
                context.insert(name, value);
            }
            context
        },
    )
}

/// Random expressions of CEL's grammar, with any types.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "a",
        "b",
        "c",
        "x",
        "true",
        "false",
        "null",
        "1",
        "2.5",
        "-3",
        "0",
        "'a'",
        "''",
        "[]",
        "targetingKey",
        "'10.4.0-rc.1'",
        "'2026-09-29T00:00:00+02:00'",
        "1790640000",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 32, 3, |inner| {
        let binary =
            prop::sample::select(vec!["&&", "||", "==", "!=", "<", "<=", ">", ">=", "in", "+", "-", "*", "/", "%"]);
        let member = prop::sample::select(vec!["all", "exists", "exists_one", "map", "filter"]);
        let call = prop::sample::select(vec!["size", "int", "double", "string", "has", "!", "-", ""]);
        let text = prop::sample::select(vec!["contains", "startsWith", "endsWith", "size"]);
        let convert = prop::sample::select(vec!["semver", "timestamp"]);
        let order = prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]);
        let case = prop::sample::select(vec!["lowerAscii", "upperAscii"]);
        let pattern = prop_oneof!["[a-c.*+?(){}|^$0-9]{0,12}", "\\PC{0,20}"];
        prop_oneof![
            (inner.clone(), binary, inner.clone()).prop_map(|(a, op, b)| format!("({a}) {op} ({b})")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a}) ? ({b}) : ({c})")),
            (inner.clone(), member, inner.clone()).prop_map(|(a, f, b)| format!("({a}).{f}(x, {b})")),
            (call, inner.clone()).prop_map(|(f, a)| format!("{f}({a})")),
            (convert, order, inner.clone(), inner.clone())
                .prop_map(|(f, operator, a, b)| format!("{f}({a}) {operator} {f}({b})")),
            inner.clone().prop_map(|a| format!("timestamp({a}) - timestamp(b) > duration('1h')")),
            inner.clone().prop_map(|a| format!("isSemver({a})")),
            (inner.clone(), case).prop_map(|(a, f)| format!("({a}).{f}()")),
            (inner.clone(), pattern).prop_map(|(a, pattern)| format!("({a}).matches({pattern:?})")),
            (inner.clone(), text, inner.clone()).prop_map(|(a, f, b)| format!("({a}).{f}({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}][{b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{'a': {a}, 'b': {b}}}")),
            inner.prop_map(|a| format!("({a}).b")),
        ]
    })
}

/// Random sequences of tokens and fragments of tokens.
fn fragments() -> impl Strategy<Value = String> {
    let fragment = prop::sample::select(vec![
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "!",
        "-",
        "+",
        "*",
        "/",
        "%",
        "?",
        ":",
        ".",
        ",",
        "&&",
        "||",
        "==",
        "<",
        "in",
        "'",
        "\"",
        "'''",
        "\"\"\"",
        "\\",
        "r'",
        "b\"",
        "//",
        "\n",
        "a",
        "x",
        "1",
        "0x",
        "1e",
        "1u",
        ".5",
        "'a'",
        "true",
        "null",
        "has(",
        ".all(x,",
        ".map(",
        ".matches('",
        "semver(",
        "timestamp(",
        "duration('1h')",
        ".lowerAscii()",
        "\u{e9}",
        "\0",
        "`",
        "as",
        "@in",
        "_&&_",
        "9223372036854775808",
        "\\u00",
        "\\xff",
        " ",
    ]);
    prop::collection::vec(fragment, 0..40).prop_map(|fragments| fragments.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn no_source_and_no_context_causes_a_panic(
        source in prop_oneof![expression(), fragments(), "\\PC{0,60}", ".{0,60}"],
        context in context(),
    ) {
        if let Ok(audience) = Audience::parse(&source) {
            let evaluated = audience.evaluate(&context);
            prop_assert!(audience.warnings().iter().all(|w| w.position <= source.chars().count() + 1));
            if evaluated == Ok(true) {
                prop_assert!(audience.needed_attributes().iter().all(|name| context.has(name)));
            }
            prop_assert_eq!(audience.contains(&context), evaluated == Ok(true));
        }
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1000)
}
