//! Suggestions after a typo: the key or field name that is most similar to what the user typed. Keys are listed from the
//! server only after it has refused the typed one.

use std::time::Duration;

use inroad_wire::status::reason_of;
use tonic::Status;

use crate::connect::{Connection, ServerArgs};
use crate::failure::RefusedEvent;
use crate::lookup;

/// How similar a name must be, from 0 to 1. Clap uses the same measure and limit for commands and flags.
const MIN_SIMILARITY: f64 = 0.7;
/// The longest wait for the server's keys. A suggestion must not delay the error for long.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The keys on the command line, and the server that was called with them.
#[derive(Debug)]
pub(crate) struct TypedKeys {
    /// The server.
    pub(crate) server: ServerArgs,
    /// The experiment's key.
    pub(crate) experiment: String,
    /// The variation's key, if one was typed.
    pub(crate) variation: Option<String>,
}

/// The kind of key that the server does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UnknownKey {
    Experiment,
    Variation,
}

impl UnknownKey {
    fn of(error: &anyhow::Error) -> Option<Self> {
        let status = error.chain().find_map(|e| e.downcast_ref::<Status>()).and_then(reason_of);
        let refused = || error.downcast_ref::<RefusedEvent>().map(|event| event.reason.clone());
        match status.or_else(refused)?.as_str() {
            "UNKNOWN_EXPERIMENT" => Some(Self::Experiment),
            "UNKNOWN_VARIATION" => Some(Self::Variation),
            _ => None,
        }
    }
}

/// The key on the server that is most similar to the one that `error` says is unknown. `None` for other errors, if no key
/// is similar, or if the server does not list its keys in time.
pub(crate) async fn similar_key(error: &anyhow::Error, typed: &TypedKeys) -> Option<String> {
    let unknown = UnknownKey::of(error)?;
    tokio::time::timeout(TIMEOUT, find_similar_key(unknown, typed)).await.ok().flatten()
}

async fn find_similar_key(unknown: UnknownKey, typed: &TypedKeys) -> Option<String> {
    let connection = Connection::open(&typed.server).await.ok()?;
    let (wrong, known): (&str, Vec<String>) = match unknown {
        UnknownKey::Experiment => {
            let experiments = lookup::list_experiments(&connection, "").await.ok()?;
            (&typed.experiment, experiments.into_iter().map(|experiment| experiment.key).collect())
        }
        UnknownKey::Variation => {
            let experiment = lookup::find_experiment(&connection, &typed.experiment).await.ok()??;
            let keys = experiment.variations.into_iter().map(|variation| variation.key).collect();
            (typed.variation.as_deref()?, keys)
        }
    };
    most_similar(wrong, known.iter().map(String::as_str)).map(str::to_owned)
}

/// A note that the server has no experiment with this key, and what to do.
pub(crate) async fn unknown_experiment_note(connection: &Connection, key: &str) -> String {
    let listed = tokio::time::timeout(TIMEOUT, lookup::list_experiments(connection, "")).await;
    let experiments = listed.ok().and_then(Result::ok).unwrap_or_default();
    let action = match most_similar(key, experiments.iter().map(|experiment| experiment.key.as_str())) {
        Some(similar) => format!("Did you mean {similar:?}?"),
        None => "List all keys with `inroad experiment list`.".to_owned(),
    };
    format!("there is no experiment {key:?}. {action}")
}

/// ` Did you mean "floor"?`, to append to a message; empty if no name is similar enough to `wrong`.
pub(crate) fn did_you_mean<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    most_similar(wrong, known).map_or_else(String::new, |similar| format!(" Did you mean {similar:?}?"))
}

/// The name that is most similar to `wrong`, in upper or lower case; `None` if none is similar enough.
pub(crate) fn most_similar<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let similarity = |name: &&'a str| strsim::jaro(&wrong.to_lowercase(), &name.to_lowercase());
    let best =
        known.into_iter().filter(|name| *name != wrong).max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    (similarity(&best) > MIN_SIMILARITY).then_some(best)
}

/// Explains a serde message: names Rust's number types in plain words, and adds the most similar name to a message such as
/// "unknown field `flor`, expected one of `floor`, `tick`".
pub(crate) fn explain_serde_error(message: String) -> String {
    let plain = [
        ("expected f64", "expected a number"),
        ("expected u64", "expected a whole number"),
        ("expected u32", "expected a whole number"),
        ("expected a sequence", "expected a list"),
    ];
    let message =
        plain.iter().fold(message.trim_end().to_owned(), |message, (rust, plain)| message.replace(rust, plain));
    let unknown = ["unknown field `", "unknown variant `"].iter().find_map(|start| message.split_once(start));
    let Some((wrong, expected)) = unknown.and_then(|(_, rest)| rest.split_once("`, expected ")) else {
        return message;
    };
    // TOML and JSON errors have the names in backticks, YAML errors do not; both end before the line number or a new line.
    let names = expected.lines().next().unwrap_or_default();
    let names = names.split(" at line ").next().unwrap_or_default();
    let names = names.split([',', ' ']).map(|name| name.trim_matches('`'));
    let names = names.filter(|name| !["", "one", "of", "or"].contains(name));
    match most_similar(wrong, names) {
        Some(name) if message.contains('\n') => format!("{message}\ndid you mean `{name}`?"),
        Some(name) => format!("{message}; did you mean `{name}`?"),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_server::TestServer;
    use inroad_assignment::{Definition, DefinitionDoc, Experiment, Timestamp};
    use serde_json::json;
    use tonic::Code;

    #[test]
    fn most_similar_name_is_found() {
        let keys = ["checkout-button", "search-ranking", "checkout-basket"];
        assert_eq!(most_similar("chekout-buton", keys), Some("checkout-button"));
        assert_eq!(most_similar("serach-ranking", keys), Some("search-ranking"));
    }

    #[test]
    fn nothing_is_suggested_without_a_similar_name() {
        assert_eq!(most_similar("zzz", ["checkout-button", "search"]), None);
        assert_eq!(most_similar("search", []), None);
        assert_eq!(most_similar("search", ["search"]), None, "the typed name itself is no suggestion");
        assert_eq!(
            (did_you_mean("serach", ["search"]).as_str(), did_you_mean("zzz", ["search"]).as_str()),
            (" Did you mean \"search\"?", "")
        );
    }

    #[test]
    fn unknown_field_is_answered_with_the_nearest_expected_one() {
        let message = "unknown field `variation`, expected one of `key`, `variations`, `metrics`".to_owned();
        assert_eq!(explain_serde_error(message.clone()), format!("{message}; did you mean `variations`?"));
        let message =
            "line 3: unknown variant `thomson`, expected `manual` or `thompson` at line 3 column 8".to_owned();
        assert_eq!(explain_serde_error(message.clone()), format!("{message}; did you mean `thompson`?"));
        let message = "line 2: unknown field `flor`, expected one of floor, tick\n --> input".to_owned();
        assert_eq!(explain_serde_error(message.clone()), format!("{message}\ndid you mean `floor`?"));
    }

    #[test]
    fn number_types_are_named_in_plain_words() {
        let message = explain_serde_error("policy.floor: invalid type: string \"x\", expected f64\n".to_owned());
        assert_eq!(message, "policy.floor: invalid type: string \"x\", expected a number");
    }

    #[test]
    fn other_messages_are_unchanged() {
        for message in ["missing field `key`", "unknown field `zzz`, expected `key` or `tags`", "unknown field `x`"] {
            assert_eq!(explain_serde_error(message.to_owned()), message);
        }
    }

    /// A server with the experiment `checkout-button`.
    async fn start_server() -> ServerArgs {
        let server = TestServer::default();
        let doc = json!({
            "key": "checkout-button", "variations": [{"key": "blue", "payload": 0}, {"key": "green", "payload": 1}],
        });
        let doc: DefinitionDoc = serde_json::from_value(doc).unwrap();
        let stored = Experiment::create(Definition::try_from(doc).unwrap(), Timestamp::default());
        server.state().experiments.insert("checkout-button".to_owned(), stored);
        server.start().await
    }

    async fn suggested(reason: &'static str, experiment: &str, variation: Option<&str>) -> Option<String> {
        let typed = TypedKeys {
            server: start_server().await,
            experiment: experiment.to_owned(),
            variation: variation.map(str::to_owned),
        };
        let status = inroad_wire::status::status(Code::NotFound, reason, "not found");
        similar_key(&anyhow::Error::new(status).context("cannot grow"), &typed).await
    }

    #[tokio::test]
    async fn unknown_experiment_is_answered_with_a_similar_key() {
        assert_eq!(suggested("UNKNOWN_EXPERIMENT", "chekout-button", None).await.as_deref(), Some("checkout-button"));
        assert_eq!(suggested("UNKNOWN_EXPERIMENT", "zzz", None).await, None);
    }

    #[tokio::test]
    async fn unknown_variation_is_answered_with_a_similar_key() {
        let found = suggested("UNKNOWN_VARIATION", "checkout-button", Some("gren")).await;
        assert_eq!(found.as_deref(), Some("green"));
        assert_eq!(suggested("UNKNOWN_VARIATION", "checkout-button", None).await, None);
    }

    #[tokio::test]
    async fn note_about_an_unknown_experiment_suggests_a_similar_key_or_a_list() {
        let connection = Connection::open(&start_server().await).await.unwrap();
        let note = unknown_experiment_note(&connection, "chekout-button").await;
        assert_eq!(note, "there is no experiment \"chekout-button\". Did you mean \"checkout-button\"?");
        let note = unknown_experiment_note(&connection, "zzz").await;
        assert_eq!(note, "there is no experiment \"zzz\". List all keys with `inroad experiment list`.");
    }

    #[tokio::test]
    async fn other_errors_get_no_suggestion() {
        assert_eq!(suggested("WRONG_STATE", "chekout-button", None).await, None);
    }
}
