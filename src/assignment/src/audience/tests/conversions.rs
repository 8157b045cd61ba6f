//! Versions, times, durations, patterns and changes of case.

use std::time::{Duration, Instant};

use super::{parse, sample_context};
use crate::audience::convert::{Conversion, Version};
use crate::audience::{Audience, AudienceError};
use crate::context::{Context, Value};

#[test]
fn versions_are_ordered_by_their_numbers_then_by_pre_release() {
    // Each line is greater than the line before it; versions on one line are equal.
    let ascending: [&[&str]; 12] = [
        &["0", "0.0", "v0.0.0", "0.0.0.0"],
        &["9.9.9", "v9.9.9", "V9.9.9", "9.9.9.0", "09.9.9", "9.9.9+build.7"],
        &["10.0.0-alpha"],
        &["10.0.0-alpha.1", "10-alpha.1"],
        &["10.0.0-alpha.beta"],
        &["10.0.0-beta.2"],
        &["10.0.0-beta.11", "v10.0-beta.11+exp.sha-5114f85"],
        &["10.0.0-rc.1"],
        &["10", "10.0", "10.0.0"],
        &["10.4.0", "10.4"],
        &["10.10.0"],
        &["117.0.5938.62", "117.0.5938.062"],
    ];
    for (i, left) in ascending.iter().enumerate() {
        for (j, right) in ascending.iter().enumerate() {
            for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (a, b))) {
                let context = Context::new("u").with("app", *a);
                for (operator, expected) in
                    [("<", i < j), ("<=", i <= j), ("==", i == j), ("!=", i != j), (">=", i >= j), (">", i > j)]
                {
                    let source = format!("semver(app) {operator} semver('{b}')");
                    assert_eq!(parse(&source).evaluate(&context), Ok(expected), "{a}: {source}");
                    let reversed = format!("semver('{a}') {operator} semver(other)");
                    let other = Context::new("u").with("other", *b);
                    assert_eq!(parse(&reversed).evaluate(&other), Ok(expected), "{b}: {reversed}");
                }
            }
        }
    }
}

#[test]
fn text_that_is_no_version_is_outside_the_audience() {
    for text in [
        "",
        "v",
        "latest",
        "10.",
        ".4",
        "10..4",
        "1.2.3.4.5",
        "10.4.x",
        "10.4.0-",
        "10.4.0+",
        "-1",
        "1 .2",
        " 1",
        "１.2",
    ] {
        assert_eq!(Version::parse(text), None, "{text}");
        let context = Context::new("u").with("app", text);
        let audience = parse("semver(app) >= semver('0') || semver(app) < semver('0')");
        let error = audience.evaluate(&context).unwrap_err().to_string();
        assert!(error.contains("not a version: write a version like 10.4.0"), "{text}: {error}");
        assert_eq!(parse("isSemver(app)").evaluate(&context), Ok(false), "{text}");
        let guarded = parse("isSemver(app) && semver(app) >= semver('10.4')");
        assert_eq!(guarded.evaluate(&context), Ok(false), "{text}");
    }
    let long = format!("1.0.0-{}", "a".repeat(200));
    assert_eq!(Conversion::Version.of_text(&long), None);
    let largest = format!("{}.0.0", u64::MAX);
    assert!(Version::parse(&largest).is_some() && Version::parse(&format!("{largest}0")).is_some());
    assert_eq!(Version::parse("18446744073709551616"), None);
}

#[test]
fn times_are_compared_as_instants() {
    let at = |text: &str| Context::new("u").with("signup", text);
    let audience = parse("timestamp(signup) >= timestamp('2026-09-29T00:00:00Z')");
    for (text, expected) in [
        ("2026-09-29T00:00:00Z", true),
        ("2026-09-28T23:59:59.999999999Z", false),
        ("2026-09-29T01:00:00+02:00", false),
        ("2026-09-29T02:00:00+02:00", true),
        ("2026-09-28T19:00:00-05:00", true),
        ("2026-09-28T18:59:59-05:00", false),
        ("2026-09-29t00:00:00z", true),
        ("2026-09-29", true),
        ("2026-09-28", false),
        ("9998-12-31T23:59:59Z", true),
        ("0001-01-01T00:00:00Z", false),
    ] {
        assert_eq!(audience.evaluate(&at(text)), Ok(expected), "{text}");
    }
    for text in [
        "",
        "yesterday",
        "2026-09-29T00:00:00",
        "2026-09-29T00:00:00+0200",
        "2026-09-29 00:00:00Z",
        "20260929T000000Z",
        "2026-09-29T00:00:00Z[UTC]",
        "2026-09-29T25:00:00Z",
        "2026-02-30",
        "2026-9-29",
        "ü026-09-29",
        "1790640000",
    ] {
        let error = audience.evaluate(&at(text)).unwrap_err().to_string();
        assert!(error.contains("not a time: write a time with its offset"), "{text}: {error}");
    }
    let seconds = |seconds: f64| Context::new("u").with("signup", seconds);
    assert_eq!(audience.evaluate(&seconds(1_790_640_000.0)), Ok(true));
    assert_eq!(audience.evaluate(&seconds(1_790_639_999.9)), Ok(false));
    for invalid in [1_790_640_000_000.0, f64::NAN, f64::INFINITY, -1e300] {
        assert!(audience.evaluate(&seconds(invalid)).is_err(), "{invalid}");
    }
}

#[test]
fn times_and_durations_can_be_calculated_with() {
    let context = Context::new("u").with("from", "2026-03-28T12:00:00+01:00").with("to", "2026-03-30T12:00:00+02:00");
    for (source, expected) in [
        ("timestamp(to) - timestamp(from) == duration('47h')", true),
        ("timestamp(from) + duration('47h') == timestamp(to)", true),
        ("duration('1d') + timestamp(from) < timestamp(to) - duration('-10s')", true),
        ("timestamp(to) - timestamp(from) > duration('1d 23h') + duration('1s')", false),
        ("timestamp('2026-01-31') + duration('24h') == timestamp('2026-02-01')", true),
        ("timestamp(0) == timestamp('1970-01-01')", true),
        ("duration('90m') == duration('1h30m') && duration('-1h') < duration('0s')", true),
        ("timestamp(from) != timestamp(to)", true),
    ] {
        assert_eq!(parse(source).evaluate(&context), Ok(expected), "{source}");
    }
}

#[test]
fn patterns_and_changes_of_case_select_text() {
    let context = sample_context().with("email", "Ann.Lee@Example.COM").with("plain", "größe-Ä").with("empty", "");
    for (source, expected) in [
        ("email.matches('(?i)@example\\\\.com$')", true),
        ("email.matches('@example')", false),
        ("email.matches(r'^\\w+\\.\\w+@')", true),
        ("email.lowerAscii() == 'ann.lee@example.com' && email.upperAscii() == 'ANN.LEE@EXAMPLE.COM'", true),
        ("email.lowerAscii().endsWith('@example.com')", true),
        ("plain.lowerAscii() == 'größe-Ä' && plain.upperAscii() == 'GRößE-Ä'", true),
        ("empty.lowerAscii() == '' && empty.matches('^$') && !empty.matches('.')", true),
        ("plain.matches('^gr.{2}e')", true),
        ("tags.exists(t, t.matches('^b'))", true),
        ("tags.map(t, t.upperAscii()) == ['RED', 'BLUE']", true),
    ] {
        assert_eq!(parse(source).evaluate(&context), Ok(expected), "{source}");
    }
    let error = parse("seats.matches('1')").evaluate(&context).unwrap_err().to_string();
    assert!(error.contains("`matches` needs text, not a number"), "{error}");
}

#[test]
fn invalid_constants_are_rejected_with_what_to_write() {
    for (source, at, message) in [
        ("semver(app) >= semver('10.x')", 23, "not a version: write a version like 10.4.0"),
        ("semver(app) >= semver(10)", 23, "not a version"),
        ("timestamp(a) > timestamp('soon')", 26, "not a time: write a time with its offset"),
        ("timestamp(a) > timestamp(1790640000000)", 26, "not a time"),
        ("timestamp(a) > timestamp(true)", 26, "not a time"),
        ("timestamp(a) - timestamp(b) > duration('1 fortnight')", 40, "not a duration: write a duration like 36h"),
        ("plan.matches('(')", 14, "the pattern is not valid or too large"),
        ("plan.matches('a{1000}{1000}')", 14, "too large"),
        ("plan.matches(r'\\p{Greek}')", 14, "not valid"),
        ("plan.matches(r'(a)\\1')", 14, "not valid"),
        ("semver(app) >= '10.4.0'", 16, "convert this side too"),
        ("app >= semver('10.4.0')", 1, "convert this side too"),
        ("semver(app) == timestamp('2026-01-01')", 13, "cannot compare a version and a time"),
        ("timestamp(a) == duration('1h')", 14, "cannot compare a time and a duration"),
        ("timestamp(a) + timestamp(b) > timestamp('2026-01-01')", 14, "cannot add a time and a time"),
        ("duration('1h') - timestamp(a) > duration('1h')", 16, "cannot subtract a duration and a time"),
        ("semver(a) + semver(b) > semver('1')", 11, "cannot add a version and a version"),
        ("timestamp(a) + duration('1h')", 14, "can only be compared"),
        ("semver(a) * semver(b)", 11, "can only be compared"),
        ("(beta ? '1' : '2') == semver('1')", 7, "convert this side too"),
    ] {
        let error = Audience::parse(source).unwrap_err();
        let AudienceError::WrongType { message: found, position } = &error else { panic!("{source}: {error}") };
        assert!(found.contains(message), "{source}: {found}");
        assert_eq!(*position, at, "{source}: {found}");
    }
}

#[test]
fn there_is_no_current_time() {
    for source in ["timestamp(signup) < now()", "today() == '2026-09-29'"] {
        let error = Audience::parse(source).unwrap_err();
        assert!(matches!(error, AudienceError::Unsupported { what: "the current time", .. }), "{source}: {error}");
    }
}

#[test]
fn pattern_costs_steps_in_proportion_to_its_size_and_to_the_text() {
    let text = |len: usize| Context::new("u").with("t", "a".repeat(len));
    let small = parse("t.matches('^a+$')");
    assert_eq!(small.evaluate(&text(1_000)), Ok(true));
    assert_eq!(small.evaluate(&text(16_000)), Ok(true));
    // The classic pattern that takes exponential time in engines with backtracking.
    let nested = parse("t.matches('^(a+)+$') || t.matches('(a|aa)+b') || t.matches('(a?){30}a{30}b')");
    for len in [30, 300, 3_000, 16_000, 100_000] {
        let start = Instant::now();
        let _ = nested.evaluate(&text(len));
        assert!(start.elapsed() < Duration::from_millis(500), "{len}: {:?}", start.elapsed());
    }
    let error = parse("t.matches('(a?){30}a{30}b')").evaluate(&text(16_000)).unwrap_err().to_string();
    assert!(error.contains("100000 steps"), "{error}");
    let many = Value::List(vec!["a".repeat(1_000).into(); 200]);
    let error = parse("l.exists(t, t.matches('(a?){40}b'))").evaluate(&Context::new("u").with("l", many)).unwrap_err();
    assert!(error.to_string().contains("100000 steps"), "{error}");
    assert!(Audience::parse(&format!("t.matches('{}')", "a".repeat(257))).is_err());
}
