//! Tests of audiences: which expressions are rejected, which contexts are in an audience, and that no input makes an
//! evaluation panic or run for long.

use std::time::{Duration, Instant};

mod absence;
mod conversions;
mod robustness;
mod warnings;

use super::{Audience, AudienceError};
use crate::context::{Context, Value};

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn numbers(count: usize) -> Value {
    Value::List((0..count).map(|n| Value::Number(n as f64)).collect())
}

fn sample_context() -> Context {
    Context::new("user-1")
        .with("beta", true)
        .with("plan", "free")
        .with("seats", 12.0)
        .with("share", 0.25)
        .with("nothing", Value::Null)
        .with("nan", f64::NAN)
        .with("tags", Value::List(vec!["red".into(), "blue".into()]))
        .with("sizes", Value::List(vec![Value::Number(1.0), Value::Number(2.5), "three".into()]))
        .with("account", object([("tier", "internal".into()), ("age", Value::Number(3.0)), ("größe", true.into())]))
        .with("flat.name", "dotted")
        .with("int", 4.0)
}

fn parse(source: &str) -> Audience {
    Audience::parse(source).unwrap_or_else(|error| panic!("`{source}`: {error}"))
}

#[test]
fn expression_selects_contexts() {
    for (source, expected) in [
        ("true", true),
        ("false", false),
        ("beta", true),
        ("!beta", false),
        ("!!beta", true),
        ("plan == 'free'", true),
        ("plan != \"free\"", false),
        ("account.tier == 'internal'", true),
        ("account['tier'] == 'internal'", true),
        ("account.tier in ['internal', 'partner']", true),
        ("!(account.tier in ['partner'])", true),
        ("'tier' in account && !('plan' in account)", true),
        ("plan == 'paid' || account.age >= 3", true),
        ("plan == 'free' && account.age > 3", false),
        ("plan == 'paid' ? seats > 5 : seats < 50", true),
        ("targetingKey.startsWith('user-')", true),
        ("targetingKey == 'user-1'", true),
        (".plan == 'free'", true),
        ("int == 4", true),
        ("flat.name == 'dotted'", true),
        ("plan.contains('re') && plan.endsWith('e') && !plan.startsWith('x')", true),
        ("size(tags) == 2 && tags.size() == 2 && size(plan) == 4 && size(account) == 3", true),
        ("size('größe') == 5", true),
        ("'red' in tags", true),
        ("tags[0] == 'red' && tags[1] == 'blue'", true),
        ("[plan, 'x'][0] == 'free'", true),
        ("{'free': 1, 'paid': 2}[plan] == 1", true),
        ("{plan: true}.free", true),
        ("tags.exists(t, t == 'blue')", true),
        ("tags.all(t, t.size() > 3)", false),
        ("tags.exists_one(t, t.startsWith('b'))", true),
        ("tags.existsOne(t, true)", false),
        ("tags.filter(t, t != 'red') == ['blue']", true),
        ("tags.map(t, t + '!') == ['red!', 'blue!']", true),
        ("tags.map(t, t != 'red', size(t)) == [4]", true),
        ("account.exists(key, key == 'age')", true),
        ("tags.exists(t, ['blue'].exists(u, t == u && plan == 'free'))", true),
        ("tags.exists(plan, plan == 'red') && plan == 'free'", true),
        ("tags + ['green'] == ['red', 'blue', 'green']", true),
        ("string(seats) + plan == '12free'", true),
        ("string(true) == 'true' && string(0.5) == '0.5'", true),
        ("nothing == null && plan != null && missing == null && null == missing", true),
        ("'a' < 'b' && false < true", true),
        ("beta // a comment\n && plan == 'free'", true),
        (r#"r"a\b" == 'a\\b' && "\x41\u0041\101" == 'AAA' && """a"b""" == 'a"b'"#, true),
        ("'((((((((((((((((((((((((((((((((((((((((((' != plan", true),
    ] {
        assert_eq!(parse(source).evaluate(&sample_context()), Ok(expected), "{source}");
        assert_eq!(parse(source).contains(&sample_context()), expected, "{source}");
    }
}

#[test]
fn whole_numbers_and_fractions_are_one_type() {
    for source in [
        "seats > 10",
        "seats > 10.5",
        "seats == 12",
        "seats == 12.0",
        "seats == 12u",
        "seats == 0xC",
        "12 == 12.0",
        "seats in [1, 12]",
        "seats in [1.0, 12.0]",
        "share < 1",
        "share == .25 && share == 25e-2",
        "seats + 1 > 12.5",
        "seats + 0.5 == 12.5",
        "seats - 13 == -1 && -seats == -12",
        "seats * share == 3",
        "7 / 2 == 3.5 && int(7 / 2) == 3 && int(-7 / 2) == -3",
        "seats % 5 == 2 && -7 % 5 == -2",
        "size(tags) / 4 == 0.5",
        "size(tags) < 2.5",
        "double('2.5') == 2.5 && int('12') == seats && int(12.9) == seats && double(seats) == 12",
        "sizes[1] == 2.5 && sizes[seats - 12] == 1 && sizes[2] == 'three'",
        "9007199254740992 > seats && -9007199254740992 < seats",
        "!(nan == nan) && !(nan < 1) && !(nan >= 1)",
        "{'a': 1} == {'a': 1.0} && [1, [2]] == [1.0, [2.0]]",
    ] {
        assert_eq!(parse(source).evaluate(&sample_context()), Ok(true), "{source}");
    }
}

#[test]
fn failed_evaluation_is_outside_the_audience_and_gives_a_reason() {
    for (source, reason) in [
        ("missing", "no `missing`"),
        ("missing.field == 'x'", "no `missing.field`"),
        ("account.missing == 1", "no `account.missing`"),
        ("plan.tier == 'x'", "no `plan.tier`"),
        ("!(account.missing == 1)", "no `account.missing`"),
        ("plan", "needs true or false, not text"),
        ("plan && true", "`&&` needs true or false, not text"),
        ("!seats", "`!` needs true or false, not a number"),
        ("plan > 1", "an ordering needs text, not a number"),
        ("tags < tags", "numbers or text, not a list"),
        ("plan + seats == 'x'", "`+` needs"),
        ("plan * 2 == 4", "a calculation needs a number, not text"),
        ("1 in plan", "`in` needs a list or an object, not text"),
        ("seats in account", "a key needs text"),
        ("seats.exists(s, s == 1)", "a loop needs"),
        ("seats.startsWith('1')", "text, not a number"),
        ("size(seats) == 2", "`size` needs"),
        ("tags[2] == 'x'", "an index does not exist"),
        ("tags[-1] == 'x'", "does not exist"),
        ("tags[0.5] == 'x'", "whole numbers"),
        ("tags['a'] == 'x'", "a number, not text"),
        ("account[1] == 'x'", "text, not a number"),
        ("account['x' + 'y'] == 1", "does not exist"),
        ("seats / 0 == 1", "divided by zero"),
        ("seats % 0 == 1", "divided by zero"),
        ("seats % 2.5 == 1", "whole numbers"),
        ("int(plan) == 1", "not a number"),
        ("double('NaN') == 1", "not a number"),
        ("int(tags) == 1", "a conversion needs"),
        ("{'a': 1, 'a': 2}.a == 1", "same key twice"),
    ] {
        let audience = parse(source);
        assert!(!audience.contains(&sample_context()), "{source}");
        let error = audience.evaluate(&sample_context()).unwrap_err().to_string();
        assert!(error.contains(reason), "{source}: {error}");
    }
}

#[test]
fn error_on_one_side_is_ignored_if_the_other_side_decides() {
    for (source, expected) in [
        ("missing || true", Some(true)),
        ("true || missing", Some(true)),
        ("missing && false", Some(false)),
        ("false && missing", Some(false)),
        ("missing || false", None),
        ("false || missing", None),
        ("missing && true", None),
        ("true && missing", None),
        ("missing || missing", None),
        ("missing.a == 1 || account.tier == 'internal'", Some(true)),
        ("true ? beta : missing", Some(true)),
        ("missing ? true : true", None),
        ("[1, 2].exists(n, n == 2 || missing)", Some(true)),
        ("[1, 2].exists(n, n == 3 || missing)", None),
        ("[1, 2].all(n, n == 1 && missing)", Some(false)),
        ("[1, 2].all(n, n < 3 && missing)", None),
        ("[1, 2].exists_one(n, n == 1 || missing)", None),
        ("[].all(n, missing) && ![].exists(n, missing)", Some(true)),
    ] {
        assert_eq!(parse(source).evaluate(&sample_context()).ok(), expected, "{source}");
    }
}

#[test]
fn has_tests_whether_an_attribute_exists() {
    for (source, expected) in [
        ("has(beta)", true),
        ("has(missing)", false),
        ("!has(missing)", true),
        ("has(nothing)", false),
        ("has(account.tier)", true),
        ("has(account.missing)", false),
        ("has(missing.tier)", false),
        ("has(plan.tier)", false),
        ("has(flat.name)", true),
        ("has(targetingKey)", true),
        ("has({'a': 1}.a) && !has({'a': 1}.b)", true),
        ("has(account.tier) && account.tier == 'internal'", true),
    ] {
        assert_eq!(parse(source).evaluate(&sample_context()), Ok(expected), "{source}");
    }
    assert_eq!(parse("has(targetingKey)").evaluate(&Context::default()), Ok(false));
}

#[test]
fn expression_that_cannot_be_boolean_is_rejected() {
    for (source, found) in [
        ("1 + 1", "a number"),
        ("\"x\"", "text"),
        ("null", "null"),
        ("[true]", "a list"),
        ("{'a': true}", "an object"),
        ("targetingKey", "text"),
        ("size(tags)", "a number"),
        ("tags.map(t, t == 'x')", "a list"),
        ("beta ? 1 : 2", "a number"),
        ("plan + 'x'", "text"),
        ("-seats", "a number"),
    ] {
        let error = Audience::parse(source).unwrap_err();
        assert!(matches!(error, AudienceError::NotBoolean { found: f } if f == found), "{source}: {error}");
    }
}

#[test]
fn wrong_type_is_rejected_with_its_position() {
    for (source, at, message) in [
        ("account.tier && 5", 17, "each side of `&&` must be true or false, not a number"),
        ("'a' || beta", 1, "each side of `||` must be true or false, not text"),
        ("size(5)", 6, "`size` needs text, a list or an object, not a number"),
        ("!\"a\"", 2, "the operand of `!` must be true or false, not text"),
        ("beta && -'a' == 1", 10, "the operand of `-` must be a number, not text"),
        ("1 < \"a\"", 3, "cannot order a number and text"),
        ("[1] < [2]", 5, "cannot order a list and a list"),
        ("1 == \"a\"", 3, "cannot compare a number and text"),
        ("'größe' == 1", 9, "cannot compare text and a number"),
        ("beta &&\n 1 == \"a\"", 12, "cannot compare a number and text"),
        ("targetingKey > 5", 14, "cannot order text and a number"),
        ("1 in ['a']", 3, "a number cannot be in a list of text"),
        ("1 in {'a': 1}", 3, "a key must be text, not a number"),
        ("1 in 'a'", 6, "`in` needs a list or an object on its right, not text"),
        ("1 + 'a' == 2", 3, "cannot add a number and text"),
        ("'a' * 2 == 2", 5, "cannot calculate with text and a number"),
        ("beta + true == 2", 6, "cannot add anything and true or false"),
        ("1 ? true : false", 1, "the condition before `?` must be true or false, not a number"),
        ("seats.startsWith(1)", 18, "the argument of `startsWith` must be text, not a number"),
        ("[1].startsWith('a')", 1, "the text before `.startsWith` must be text, not a list"),
        ("'abc'.all(c, true)", 1, "`all` needs a list or an object, not text"),
        ("[1, 2].exists(n, n == 'a')", 20, "cannot compare a number and text"),
        ("tags.all(t, 5)", 13, "the condition of `all` must be true or false, not a number"),
        ("[1]['a'] == 1", 5, "the index of a list must be a number, not text"),
        ("'a'[0] == 'a'", 1, "text has no items"),
        ("'a'.b == 1", 4, "text has no fields, so `b` does not exist"),
        ("targetingKey.b == 1", 13, "`targetingKey` is text and has no fields"),
        ("{1: 2}.a == 1", 2, "a key must be text, not a number"),
        ("int([1]) == 1", 5, "`int` cannot convert a list"),
        ("seats == 9007199254740993", 10, "exact up to 2^53"),
    ] {
        match Audience::parse(source) {
            Err(AudienceError::WrongType { message: found, position }) => {
                assert!(found.contains(message), "{source}: {found}");
                assert_eq!(position, at, "{source}");
            }
            other => panic!("{source}: {other:?}"),
        }
    }
}

#[test]
fn unknown_functions_and_wrong_calls_are_rejected() {
    for source in ["nosuch(1)", "datetime() > 1", "optional.of(1) == 1", "dyn(1) == 1", "type(1) == 1"] {
        let error = Audience::parse(source).unwrap_err();
        assert!(matches!(error, AudienceError::UnknownFunction { .. }), "{source}: {error}");
        assert!(error.to_string().contains("use one of `has`"), "{error}");
    }
    for source in [
        "size()",
        "size(tags, 1) == 1",
        "tags.size(1) == 1",
        "has()",
        "has(1)",
        "has(tags[0])",
        "account.has('tier')",
        "contains(plan, 'a')",
        "plan.contains()",
        "plan.startsWith('a', 'b')",
        "int() == 1",
        "tags.all(t)",
        "tags.all(1, true)",
        "tags.all(t.u, true)",
        "all(tags, t, true)",
        "tags.map(a, b, c, d) == []",
        "plan.lower() == 'x'",
        "plan.lowerAscii('x') == 'x'",
        "lowerAscii(plan) == 'x'",
        "plan.matches()",
        "plan.matches(tags)",
        "matches(plan, 'x')",
        "version(plan) > 1",
        "semver(plan)",
        "semver() == semver('1')",
        "semver(a) in [semver('1')]",
        "(beta ? semver(a) : semver('1')) == semver('1')",
        "semver(plan, 'x') == semver('1')",
        "[semver(plan)] == []",
        "{'a': semver(plan)}.a == 1",
        "!semver(plan)",
        "beta && timestamp(plan)",
        "duration(plan) > duration('1h')",
        "isSemver()",
    ] {
        let error = Audience::parse(source).unwrap_err();
        assert!(matches!(error, AudienceError::WrongUsage { .. }), "{source}: {error}");
    }
}

#[test]
fn syntax_errors_are_rejected_with_their_position() {
    for (source, at) in [
        ("plan ==", 8),
        ("plan = 'free'", 6),
        ("beta & beta", 6),
        ("(beta", 1),
        ("[(beta]", 2),
        ("'größe' beta", 9),
        ("a == 'größe' && &&", 17),
        ("beta)", 5),
        ("beta]", 5),
        ("plan == 'free", 9),
        ("plan == 'fr\nee'", 9),
        (r"plan == '\q'", 10),
        ("größe == 1", 3),
        ("a#b", 2),
        ("1 +* 2", 4),
        ("beta beta", 6),
        ("x'a'", 2),
        ("a.?b", 2),
        ("`a`", 1),
        ("seats == 1e999", 10),
        ("beta &&\n&& beta", 9),
    ] {
        match Audience::parse(source) {
            Err(AudienceError::Syntax { position, message }) => assert_eq!(position, at, "{source}: {message}"),
            other => panic!("{source}: {other:?}"),
        }
    }
    for source in ["b'a' == plan", "rb'a' == plan", "Account{a: 1}.a", "google.Any{}"] {
        let error = Audience::parse(source).unwrap_err();
        assert!(matches!(error, AudienceError::Unsupported { .. }), "{source}: {error}");
    }
    for source in ["", " \n\t", "// comment", "// a\n// b\n"] {
        assert_eq!(Audience::parse(source), Err(AudienceError::Empty), "{source}");
    }
}

#[test]
fn messages_start_in_lower_case_and_have_no_full_stop() {
    for source in ["", "1", "a b", "nosuch()", "size()", "1 < 'a'", "b''", "(", "a.b.", "[1"] {
        let message = Audience::parse(source).unwrap_err().to_string();
        assert!(!message.ends_with('.') && !message.contains('\n'), "{message}");
        assert!(!message.starts_with(char::is_uppercase), "{message}");
    }
}

#[test]
fn long_flat_expressions_are_accepted() {
    let or = (100..250).map(|n| format!("account.tier == '{n}'")).collect::<Vec<_>>().join(" || ");
    let list = (100..600).map(|n| format!("'{n}'")).collect::<Vec<_>>().join(", ");
    for source in [or, format!("account.tier in [{list}]")] {
        assert_eq!(parse(&source).evaluate(&sample_context()), Ok(false));
    }
    assert!(matches!(Audience::parse(&" ".repeat(4097)), Err(AudienceError::TooLong { len: 4097, max: 4096 })));
}

#[test]
fn loops_nest_up_to_the_limit() {
    parse("a.all(x, b.all(y, x == y)) && a.all(x, b.all(y, x == y))");
    parse("a.all(x, b.map(y, x).all(z, z == x))");
    let error = Audience::parse("a.all(x, b.all(y, c.all(z, true)))").unwrap_err();
    assert_eq!(error, AudienceError::TooManyLoops { name: "all".to_owned(), max: 2, position: 24 });
}

#[test]
fn expensive_evaluation_stops_at_the_step_limit() {
    let context =
        sample_context().with("list", numbers(2000)).with("text", "x".repeat(16_000)).with("long", numbers(1_000_000));
    let doubled = format!("[text].map(t, {}).exists(t, t == '')", ["t"; 14].join(" + "));
    for (source, stops) in [
        ("list.exists(x, x == 1999)", false),
        ("list.all(x, list.exists(y, x == y))", true),
        ("list.exists(x, list.exists(y, x + y == -1))", true),
        ("list.map(x, list.map(y, list)) == []", true),
        ("list.map(x, list) == []", true),
        ("list.exists(x, x in list && x < 0)", true),
        ("[list, list, list].map(l, l + l + l + l + l + l).map(l, l + l + l) == []", true),
        ("list.exists(x, text.contains('xy'))", true),
        ("long.exists(x, x == -1)", true),
        ("long == long", true),
        ("long + long == long", true),
        ("list.all(x, missing) || list.all(x, list.all(y, missing))", true),
        (&doubled, false),
    ] {
        let audience = parse(source);
        let start = Instant::now();
        let error = audience.evaluate(&context).err().map(|error| error.to_string());
        let took = start.elapsed();
        assert_eq!(error.is_some_and(|e| e.contains("100000 steps")), stops, "{source}");
        assert!(took < Duration::from_millis(500), "{source}: {took:?}");
    }
}

#[test]
fn audiences_with_equal_sources_are_equal_and_are_thread_safe() {
    fn assert_thread_safe<T: Send + Sync + Clone + std::fmt::Debug>(_: &T) {}
    let audience = parse("beta == true");
    assert_thread_safe(&audience);
    assert_eq!(audience.clone(), audience);
    assert_ne!(audience, parse("beta  == true"));
    assert_eq!(audience.source(), "beta == true");
    assert_eq!(audience.to_string().parse::<Audience>(), Ok(audience));
}

#[test]
fn loops_and_patterns_are_expensive_and_steps_are_counted() {
    let parse = |source: &str| Audience::parse(source).unwrap();
    for cheap in
        ["country == \"FR\"", "tier in [\"a\", \"b\"] && seats > 3", "has(beta)", "semver(app) > semver(\"1.2.3\")"]
    {
        assert!(!parse(cheap).is_expensive(), "{cheap}");
    }
    for expensive in ["tags.exists(t, t == \"a\")", "!(mail.matches(\".*@x\"))", "size([1, 2].map(n, n)) > 1"] {
        assert!(parse(expensive).is_expensive(), "{expensive}");
    }
    let audience = parse("tags.exists(t, t == \"z\")");
    let context = |tags: usize| {
        let tags = (0..tags).map(|i| Value::String(format!("t{i}"))).collect();
        Context::new("u").with("tags", Value::List(tags))
    };
    let (few, many) =
        (audience.contains_counting_steps(&context(10)), audience.contains_counting_steps(&context(1_000)));
    assert!(!few.0 && !many.0);
    assert!(many.1 > 50 * few.1 && many.1 <= Audience::MAX_STEPS, "{few:?} and {many:?}");
}
