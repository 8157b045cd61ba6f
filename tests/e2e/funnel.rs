//! A funnel, from events sent over the network to the table that a person reads.

use inroad_wire::v1;
use serde_json::{Value, json};

use crate::harness::{Server, conversions, exposure_of, flag, outcome};

const KEY: &str = "checkout";

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sees_where_units_are_lost() {
    let server = Server::start().await;
    let api = server.api();
    api.launch(conversions(flag(KEY, &[("a", 0.4)]))).await;
    let units: Vec<String> = (0..600).map(|i| format!("u-{i}")).collect();
    let answers = api.assign_all(KEY, &units).await;
    let exposures: Vec<_> = units.iter().zip(&answers).map(|(unit, answer)| exposure_of(KEY, unit, answer)).collect();
    api.record(exposures.clone(), vec![]).await;
    let event = |unit: &String, name: &str| v1::Outcome { event: name.to_owned(), ..outcome(unit, 1.0, name) };
    let carts = units.iter().step_by(2).map(|unit| event(unit, "cart"));
    let purchases = units.iter().step_by(3).map(|unit| event(unit, "purchase"));
    // One group after another, so that each happens after what was recorded before it.
    api.record(vec![], carts.collect()).await;
    api.record(vec![], purchases.collect()).await;
    // Whatever is sent twice changes nothing.
    api.record(exposures, vec![]).await;

    let of = |variation: &str, every: usize| {
        units.iter().zip(&answers).step_by(every).filter(|(_, answer)| answer.variation == variation).count()
    };
    let funnel = server.cli(&["funnel", KEY, "cart", "purchase", "--wait", "--json"]).await.ok().json();
    for (arm, variation) in [(0, "control"), (1, "a")] {
        let arm: &Value = &funnel["arms"][arm];
        assert_eq!(arm["variation"], variation);
        assert_eq!(arm["exposed"], json!(of(variation, 1)));
        assert_eq!(arm["compared"], json!(of(variation, 1)), "nothing grew: everybody stayed");
        let step = |i: usize| (arm["steps"][i]["reached"].clone(), arm["steps"][i]["dropped"].clone());
        let (all, carts, purchases) = (of(variation, 1), of(variation, 2), of(variation, 6));
        assert_eq!(step(0), (json!(carts), json!(all - carts)));
        assert_eq!(step(1), (json!(purchases), json!(carts - purchases)), "only those with a cart");
        let lift = &arm["steps"][0]["lift"]["credible"];
        if variation == "control" {
            assert!(lift.is_null(), "{lift}");
        } else {
            let end = |name: &str| lift[name].as_f64().expect("a number");
            assert!(end("low") < end("estimate") && end("estimate") < end("high"), "{lift}");
        }
    }
    // A step that is the decision metric's event, asked for alone, has the lift of the results.
    let alone = server.cli(&["funnel", KEY, "purchase", "--json"]).await.ok().json();
    let results = server.cli(&["results", KEY, "--json"]).await.ok().json();
    assert_eq!(alone["arms"][1]["steps"][0]["lift"]["credible"], results["arms"][1]["lift"]);

    let before = server.cli(&["funnel", KEY, "cart", "--to", "2020-01-01", "--json"]).await.ok().json();
    assert_eq!((&before["arms"][0]["exposed"], &before["arms"][0]["steps"][0]["rate"]), (&json!(0), &Value::Null));
    let text = server.cli(&["funnel", KEY, "cart", "purchase"]).await.ok().stdout;
    assert!(text.contains("1 cart") && text.contains("2 purchase"), "{text}");
    let refused = server.cli(&["funnel", KEY, "cart", "--from", "2026-01-02", "--to", "2026-01-01"]).await;
    assert_ne!(refused.code(), Some(0));
}
