//! Reports on audiences in words, the same in the command line and on pages.

use crate::v1::AudienceReport;

/// The most missing attributes that a sentence lists.
const MAX_LISTED: usize = 5;

/// What "seen lately" means, for people.
pub const SEEN_LATELY: &str =
    "seen lately: the newest context of each unit, from all experiments, at most 500 and a day old";

/// What a report found out about the audience, one sentence each, in lower case and without a full stop: the attributes
/// that it needs, and how many recent contexts it selects. Empty if there is nothing to report; warnings are not
/// included.
pub fn describe_audience(report: &AudienceReport) -> Vec<String> {
    let mut facts = Vec::new();
    let names: Vec<String> = report.needed_attributes.iter().map(|name| format!("`{name}`")).collect();
    match names.as_slice() {
        [] => {}
        [name] => facts.push(format!("needs {name}: a context without it, or with null, is not in the audience")),
        [others @ .., last] => facts.push(format!(
            "needs {} and {last}: a context without one of them, or with null, is not in the audience",
            others.join(", ")
        )),
    }
    if report.contexts == 0 {
        return facts;
    }
    let plural = |count: u32, one: &'static str, many: &'static str| if count == 1 { one } else { many };
    let mut parts = vec![match report.contexts {
        1 if report.matching_contexts == 1 => "the one context seen lately matches".to_owned(),
        1 => "the one context seen lately does not match".to_owned(),
        seen => {
            let matching = report.matching_contexts;
            format!("{matching} of the {seen} contexts seen lately {}", plural(matching, "matches", "match"))
        }
    }];
    parts.extend(report.missing_attributes.iter().take(MAX_LISTED).map(|missing| {
        let verb = plural(missing.contexts, "lacks", "lack");
        format!("{} {verb} `{}`", missing.contexts, missing.attribute)
    }));
    if report.missing_attributes.len() > MAX_LISTED {
        parts.push(format!("some lack one of {} more", report.missing_attributes.len() - MAX_LISTED));
    }
    if report.failed_contexts > 0 {
        parts.push(format!("{} without a result ({})", report.failed_contexts, report.failure));
    }
    facts.push(parts.join("; "));
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::MissingAttribute;

    #[test]
    fn report_names_needed_attributes_and_counts_contexts() {
        let report = AudienceReport {
            needed_attributes: vec!["app".to_owned(), "country".to_owned(), "plan".to_owned()],
            contexts: 200,
            matching_contexts: 31,
            missing_attributes: vec![MissingAttribute { attribute: "country".to_owned(), contexts: 12 }],
            failed_contexts: 1,
            failure: "a value is not a version".to_owned(),
            ..AudienceReport::default()
        };
        assert_eq!(
            describe_audience(&report),
            [
                "needs `app`, `country` and `plan`: a context without one of them, or with null, is not in the audience",
                "31 of the 200 contexts seen lately match; 12 lack `country`; 1 without a result (a value is not a version)",
            ]
        );
    }

    #[test]
    fn report_without_contexts_counts_none() {
        let report = AudienceReport { needed_attributes: vec!["app".to_owned()], ..AudienceReport::default() };
        assert_eq!(
            describe_audience(&report),
            ["needs `app`: a context without it, or with null, is not in the audience"]
        );
        assert!(describe_audience(&AudienceReport::default()).is_empty());
    }
}
