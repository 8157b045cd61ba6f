//! Warnings about valid audiences: which comparisons of text cause one, and that the suggested form is valid.

use super::parse;
use crate::audience::{Audience, WarningKind};

#[test]
fn text_that_looks_like_a_version_number_or_date_causes_a_warning() {
    use WarningKind as K;
    for (source, kind, attribute, position, suggestion) in [
        ("app >= \"10.4.0\"", K::TextOrder, Some("app"), 5, "`semver(app) >= semver(\"10.4.0\")`"),
        (
            "beta && '10.4.0-rc.1' < os.version",
            K::TextOrder,
            Some("os.version"),
            23,
            "`semver(\"10.4.0-rc.1\") < semver(os.version)`",
        ),
        ("app > 'v2'", K::TextOrder, Some("app"), 5, "`semver(app) > semver(\"v2\")`"),
        ("app < '10.4'", K::TextOrder, Some("app"), 5, "`app < 10.4` for numbers"),
        ("seats > '12'", K::TextOrder, Some("seats"), 7, "`seats > 12`"),
        ("!(seats <= '-1.5e3')", K::TextOrder, Some("seats"), 9, "`seats <= -1.5e3`"),
        (
            "signup >= '2026-09-29T00:00:00Z'",
            K::TextOrder,
            Some("signup"),
            8,
            "`timestamp(signup) >= timestamp(\"2026-09-29T00:00:00Z\")`",
        ),
        ("signup < '2026-09-29'", K::TextOrder, Some("signup"), 8, "`timestamp(signup) < timestamp(\"2026-09-29\")`"),
        ("signup < '2026-09-29T01:00:00+02:00'", K::TextOrder, Some("signup"), 8, "timestamp("),
        ("app == '10.4.0'", K::TextEquality, Some("app"), 5, "`semver(app) == semver(\"10.4.0\")`"),
        ("app in ['beta', '10.4.0']", K::TextEquality, Some("app"), 5, "`semver(app) == semver(\"10.4.0\")`"),
        ("signup != '2026-09-29T00:00:00Z'", K::TextEquality, Some("signup"), 8, "timestamp("),
        ("seats == '12'", K::NumberAsText, Some("seats"), 7, "`seats == 12`"),
        ("seats in ['12', '13']", K::NumberAsText, Some("seats"), 7, "`seats in [12]`"),
        ("tags.exists(t, t == '12')", K::NumberAsText, None, 18, "`value == 12`"),
        ("app.lowerAscii() >= '10.4.0'", K::TextOrder, None, 18, "semver"),
        ("now > 5", K::CurrentTime, Some("now"), 1, "not the current time"),
        ("timestamp(signup) < timestamp(today)", K::CurrentTime, Some("today"), 31, "not the current time"),
    ] {
        let audience = parse(source);
        let [warning] = audience.warnings() else { panic!("{source}: {:?}", audience.warnings()) };
        assert_eq!((warning.kind, warning.attribute.as_deref()), (kind, attribute), "{source}");
        assert_eq!(warning.position, position, "{source}");
        assert!(warning.message.contains(suggestion), "{source}: {}", warning.message);
        assert!(!warning.message.ends_with('.'), "{source}: {}", warning.message);
    }
}

#[test]
fn other_comparisons_cause_no_warning() {
    for source in [
        "plan == 'free'",
        "plan < 'm'",
        "country in ['fr', 'de']",
        "seats >= 12",
        "version == 10.4",
        "semver(app) >= semver('10.4.0')",
        "timestamp(signup) >= timestamp('2026-09-29T00:00:00Z')",
        "app.startsWith('10.4')",
        "app.matches('^10')",
        "'12' == '13' || plan == ''",
        "'10.4' in tags",
        "plan == 'infinity' || plan == 'nan' || plan == '1-2-3-4' || plan == 'v'",
        "knows > 5 && nowhere == 1",
        "name + '12' == other",
        "email == 'a1@b.c'",
        "ip == '10.0.0.1' || ip in ['10.0.0.2']",
    ] {
        assert_eq!(parse(source).warnings(), [], "{source}");
    }
}

#[test]
fn suggested_forms_are_valid_and_cause_no_warning() {
    for source in [
        "app >= '10.4.0'",
        "signup < '2026-09-29T00:00:00Z'",
        "seats == '12'",
        "'1.2.3' > app",
        "app < '10.4'",
        "signup > '2026-09-29 10:00'",
    ] {
        let message = parse(source).warnings()[0].message.clone();
        let (_, suggestions) = message.split_once(": write ").unwrap();
        let written: Vec<&str> = suggestions.split('`').skip(1).step_by(2).filter(|s| s.contains(' ')).collect();
        assert!(!written.is_empty(), "{message}");
        for suggestion in written {
            let audience = Audience::parse(suggestion).unwrap_or_else(|error| panic!("{suggestion}: {error}"));
            assert_eq!(audience.warnings(), [], "{suggestion}");
        }
    }
}
