//! Missing and null attributes are one case, and an audience knows which attributes it needs.

use proptest::prelude::*;

use super::{object, parse, sample_context};
use crate::context::{Context, Value};

/// The contexts in which `country` and `account.tier` are absent, in every way that a caller can write.
fn contexts_without_values() -> [Context; 4] {
    let tier_is_null = object([("tier", Value::Null)]);
    [
        Context::new("u"),
        Context::new("u").with("country", Value::Null).with("account", Value::Null),
        Context::new("u").with("country", Value::Null).with("account", object([])),
        Context::new("u").with("country", Value::Null).with("account", tier_is_null),
    ]
}

#[test]
fn null_attribute_counts_as_missing() {
    for (source, expected) in [
        ("country == 'fr'", None),
        ("country != 'fr'", None),
        ("!(country in ['RU', 'CN'])", None),
        ("country in ['RU', 'CN']", None),
        ("country == account.tier", None),
        ("country > 'a'", None),
        ("!country", None),
        ("size(country) == 0", None),
        ("country.startsWith('f')", None),
        ("country.lowerAscii() == 'fr'", None),
        ("!country.matches('^f')", None),
        ("string(country) == 'null'", None),
        ("semver(country) != semver('1')", None),
        ("timestamp(country) < timestamp('2030-01-01')", None),
        ("!isSemver(country)", None),
        ("country.exists(c, true) || !country.exists(c, true)", None),
        ("[country].size() == 1", None),
        ("(country == 'fr') == (country == 'fr')", None),
        ("country ? true : true", None),
        ("account.tier != 'free'", None),
        ("account['tier'] != 'free'", None),
        ("has(country)", Some(false)),
        ("has(account.tier)", Some(false)),
        ("!has(country)", Some(true)),
        ("country == null && null == country && !(country != null)", Some(true)),
        ("account.tier == null && account['tier'] == null", Some(true)),
        ("country in [null, 'fr']", Some(true)),
        ("!(country in [null, 'fr'])", Some(false)),
        ("!has(country) || country == 'fr'", Some(true)),
        ("has(country) && country != 'fr'", Some(false)),
        ("country == 'fr' || true", Some(true)),
        ("country == 'fr' && false", Some(false)),
    ] {
        for context in contexts_without_values() {
            assert_eq!(parse(source).evaluate(&context).ok(), expected, "{source} with {context:?}");
        }
    }
}

#[test]
fn null_items_and_fields_count_as_missing() {
    let context = sample_context()
        .with("mixed", Value::List(vec![Value::Null, "a".into()]))
        .with("fields", object([("gone", Value::Null), ("here", true.into())]));
    for (source, expected) in [
        ("mixed[0] == null && mixed[1] != null", Some(true)),
        ("mixed[0] == 'a' || mixed[0] != 'a'", None),
        ("mixed[2] == null", None),
        ("mixed.exists(m, m == null)", Some(true)),
        ("mixed.all(m, m != 'b')", None),
        ("null in mixed && !(null in tags)", Some(true)),
        ("'gone' in fields", Some(false)),
        ("fields.all(name, name == 'here')", Some(true)),
        ("fields.gone == null && fields['gone'] == null", Some(true)),
        ("{'a': null}.a == null", Some(true)),
    ] {
        assert_eq!(parse(source).evaluate(&context).ok(), expected, "{source}");
    }
}

#[test]
fn reason_names_the_attribute_that_is_missing_or_null() {
    let error = parse("country != 'fr'").evaluate(&Context::new("u")).unwrap_err().to_string();
    assert!(error.ends_with("it has no `country`, or `country` is null"), "{error}");
}

#[test]
fn needed_attributes_are_those_without_which_no_context_matches() {
    for (source, needed, used) in [
        ("true", "", ""),
        ("country == 'fr'", "country", "country"),
        ("!(country in ['RU'])", "country", "country"),
        ("a == 1 && b == 2", "a b", "a b"),
        ("a == 1 || b == 2", "", "a b"),
        ("a == 1 || a == 2", "a", "a"),
        ("!(a == 1 || b == 2)", "a b", "a b"),
        ("!(a == 1 && b == 2)", "", "a b"),
        ("!(a && !(b || c))", "", "a b c"),
        ("a && (b || c && b)", "a b", "a b c"),
        ("has(a)", "a", "a"),
        ("!has(a)", "", "a"),
        ("!has(a) || a == 1", "", "a"),
        ("a == null", "", "a"),
        ("a != null", "a", "a"),
        ("a in [null, 1]", "", "a"),
        ("a in [b, 1]", "b", "a b"),
        ("a in b", "a b", "a b"),
        ("a ? b : c", "a", "a b c"),
        ("a ? b && c : c", "a c", "a b c"),
        ("tags.exists(t, t == plan)", "tags", "plan tags"),
        ("tags.all(t, plan == t) && seats > 1", "seats tags", "plan seats tags"),
        ("account.tier == 'x' && account.id > 3", "account.id account.tier", "account.id account.tier"),
        ("semver(app) >= semver('1.2') && !email.matches('@x')", "app email", "app email"),
        ("timestamp(a) - timestamp(b) > duration('1h')", "a b", "a b"),
        ("(a || b) == c", "c", "a b c"),
        ("plan.lowerAscii() == {'k': w}.k", "plan w", "plan w"),
    ] {
        let audience = parse(source);
        assert_eq!(audience.needed_attributes().join(" "), needed, "{source}");
        assert_eq!(audience.attributes().join(" "), used, "{source}");
    }
}

fn conditions() -> impl Strategy<Value = String> {
    let name = || prop::sample::select(vec!["a", "b", "c"]);
    let leaf = prop_oneof![
        name().prop_map(|n| format!("{n} == 1")),
        name().prop_map(|n| format!("{n} != 1")),
        name().prop_map(|n| format!("{n} in [1, 2]")),
        name().prop_map(|n| format!("{n} in [null, 2]")),
        name().prop_map(|n| format!("has({n})")),
        name().prop_map(|n| format!("{n} == null")),
        (name(), name()).prop_map(|(n, m)| format!("{n} in [{m}, 1]")),
        (name(), name()).prop_map(|(n, m)| format!("({n} == 1 || {m} == 2) == ({n} != {m})")),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|x| format!("!({x})")),
            (inner.clone(), inner.clone()).prop_map(|(x, y)| format!("({x}) && ({y})")),
            (inner.clone(), inner.clone()).prop_map(|(x, y)| format!("({x}) || ({y})")),
            (inner.clone(), inner.clone(), inner).prop_map(|(x, y, z)| format!("({x}) ? ({y}) : ({z})")),
        ]
    })
}

proptest! {
    #[test]
    fn no_context_without_a_needed_attribute_is_in_the_audience(source in conditions()) {
        let audience = parse(&source);
        let needed = audience.needed_attributes();
        let values = [None, Some(Value::Null), Some(Value::Number(1.0)), Some(Value::Number(2.0))];
        for (a, b, c) in (0..64).map(|n| (n % 4, n / 4 % 4, n / 16)) {
            let mut context = Context::new("u");
            let mut same_with_missing = Context::new("u");
            for (name, choice) in [("a", a), ("b", b), ("c", c)] {
                if let Some(value) = &values[choice] {
                    context.insert(name.to_owned(), value.clone());
                    if *value != Value::Null {
                        same_with_missing.insert(name.to_owned(), value.clone());
                    }
                }
            }
            let found = audience.evaluate(&context).ok();
            prop_assert_eq!(found, audience.evaluate(&same_with_missing).ok(), "null differs from missing: {:?}", context);
            if needed.iter().any(|name| !context.has(name)) {
                prop_assert_ne!(found, Some(true), "{:?} lacks one of {:?}", context, needed);
            }
        }
    }
}
