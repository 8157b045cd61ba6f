//! A funnel, from recorded events to the CLI output.

use inroad_wire::v1;
use serde_json::{Value, json};

use crate::harness::{Server, exposure_of, flag, outcome, with_conversion_metrics};

const KEY: &str = "checkout";

#[tokio::test(flavor = "multi_thread")]
async fn funnel_shows_how_many_units_reach_each_step() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(with_conversion_metrics(flag(KEY, &[("a", 0.4)]))).await;
    let units: Vec<String> = (0..600).map(|i| format!("u-{i}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    let exposures: Vec<_> = units.iter().zip(&answers).map(|(unit, answer)| exposure_of(KEY, unit, answer)).collect();
    api.record(exposures.clone(), vec![]).await;
    let event = |unit: &String, name: &str| v1::Outcome { event: name.to_owned(), ..outcome(unit, 1.0, name) };
    let carts = units.iter().step_by(2).map(|unit| event(unit, "cart"));
    let purchases = units.iter().step_by(3).map(|unit| event(unit, "purchase"));
    // Recorded in separate calls, so that the times of the groups are in order.
    api.record(vec![], carts.collect()).await;
    api.record(vec![], purchases.collect()).await;
    // Duplicates change nothing.
    api.record(exposures, vec![]).await;

    let count = |variation: &str, every: usize| {
        units.iter().zip(&answers).step_by(every).filter(|(_, answer)| answer.variation == variation).count()
    };
    let funnel = server.cli(&["funnel", KEY, "cart", "purchase", "--wait", "--json"]).await.ok().json();
    for (arm, variation) in [(0, "control"), (1, "a")] {
        let arm: &Value = &funnel["arms"][arm];
        assert_eq!(arm["variation"], variation);
        assert_eq!(arm["exposed"], json!(count(variation, 1)));
        assert_eq!(arm["compared"], json!(count(variation, 1)), "no variation grew, so all units are comparable");
        let step = |i: usize| (arm["steps"][i]["reached"].clone(), arm["steps"][i]["dropped"].clone());
        let (all, carts, purchases) = (count(variation, 1), count(variation, 2), count(variation, 6));
        assert_eq!(step(0), (json!(carts), json!(all - carts)));
        assert_eq!(step(1), (json!(purchases), json!(carts - purchases)), "only units with a cart");
        let lift = &arm["steps"][0]["lift"]["credible"];
        if variation == "control" {
            assert!(lift.is_null(), "{lift}");
        } else {
            let end = |name: &str| lift[name].as_f64().expect("the value is a number");
            assert!(end("low") < end("estimate") && end("estimate") < end("high"), "{lift}");
        }
    }
    // A funnel of only the decision metric's event has the same lift as the results.
    let single = server.cli(&["funnel", KEY, "purchase", "--json"]).await.ok().json();
    let results = server.cli(&["results", KEY, "--json"]).await.ok().json();
    assert_eq!(single["arms"][1]["steps"][0]["lift"]["credible"], results["arms"][1]["lift"]);

    let before = server.cli(&["funnel", KEY, "cart", "--to", "2020-01-01", "--json"]).await.ok().json();
    assert_eq!((&before["arms"][0]["exposed"], &before["arms"][0]["steps"][0]["rate"]), (&json!(0), &Value::Null));
    let text = server.cli(&["funnel", KEY, "cart", "purchase"]).await.ok().stdout;
    assert!(text.contains("1 cart") && text.contains("2 purchase"), "{text}");
    let refused = server.cli(&["funnel", KEY, "cart", "--from", "2026-01-02", "--to", "2026-01-01"]).await;
    assert_ne!(refused.code(), Some(0));
}
