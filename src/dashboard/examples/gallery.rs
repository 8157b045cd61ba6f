//! All charts on one page, with usual and with extreme data, to check them by eye:
//! `cargo run -p inroad-dashboard --example gallery > gallery.html`.

use std::io::Write as _;
use std::time::Duration;

use inroad_assignment::Timestamp;
use inroad_dashboard::chart::{
    Bucket, KillPeriod, LiftPoint, RevisionMark, allocation_bar, allocation_over_time, funnel, interval_bar,
    lift_distributions, lift_range, lifts_over_time, small_allocation_bar,
};
use inroad_policy::Interval;
use maud::{DOCTYPE, Markup, PreEscaped, html};

const PAGE: &str = "body{margin:0 auto;max-width:1100px;padding:16px;background:light-dark(#f7f7f5,#101317);\
    color:light-dark(#1b1f24,#e7eaee);color-scheme:light dark;font:15px/1.5 system-ui,sans-serif}:root{color-scheme:light dark}\
    section{margin:0 0 20px;padding:14px;border:1px solid light-dark(#dfe2e6,#2d343d);border-radius:10px;\
    background:light-dark(#fff,#181c22)}h2{margin:0 0 12px;font-size:16px}*{box-sizing:border-box}";

fn main() -> std::io::Result<()> {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Charts" }
                style { (PreEscaped(PAGE)) (PreEscaped(inroad_dashboard::asset::STYLE.content)) }
            }
            body { @for (title, chart) in charts() { section { h2 { (title) } (chart) } } }
        }
    };
    std::io::stdout().write_all(page.into_string().as_bytes())
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn many() -> Vec<String> {
    let variation = |i| if i == 7 { "ß<script>alert(1)</script> ".repeat(5) } else { format!("variation-number-{i}") };
    std::iter::once("control".to_owned()).chain((1..=64).map(variation)).collect()
}

fn at(hours: u64) -> Timestamp {
    Timestamp::from_micros(1_795_422_600_000_000).plus(Duration::from_secs(3600 * hours))
}

fn buckets(pieces: &[(f64, usize)]) -> Vec<Bucket> {
    let mut from = 0.0;
    let piece = |(width, arm): &(f64, usize)| {
        let bucket = Bucket { from, to: from + width, arm: *arm };
        from = bucket.to;
        bucket
    };
    pieces.iter().map(piece).collect()
}

fn shares(day: u64) -> Vec<f64> {
    let day = day as f64;
    let grown = [0.02 + 0.022 * day.min(14.0), 0.02 + 0.004 * day.min(4.0), 0.02 + 0.009 * day, 0.02];
    let control = 1.0 - grown.iter().sum::<f64>();
    std::iter::once(control).chain(grown).collect()
}

fn revisions(every: u64, until: u64) -> Vec<RevisionMark> {
    let mark = |i| RevisionMark {
        at: at(i * every),
        number: i + 1,
        title: "short-form <b>grew</b> by 2.2 points".to_owned(),
        href: format!("#revision-{}", i + 1),
    };
    (0..until / every).map(mark).collect()
}

fn lift(mean: f64, half: f64) -> Interval {
    Interval { estimate: mean.exp_m1(), low: (mean - half).exp_m1(), high: (mean + half).exp_m1() }
}

fn lift_history(mean: f64, days: u64) -> Vec<LiftPoint> {
    let point = |day: u64| {
        let half = 0.42 / (day as f64).sqrt();
        let wobble = mean + half * 0.4 * (day as f64 * 1.7).sin();
        LiftPoint { at: at(24 * day), lift: lift(wobble, half), anytime: Some(lift(wobble, half * 1.7)) }
    };
    (1..=days).map(point).collect()
}

fn charts() -> Vec<(&'static str, Markup)> {
    let five = names(&["control", "short-form", "long-form-with-photographs", "free-shipping", "Später kaufen"]);
    let many = many();
    let line = buckets(&[
        (0.24, 1),
        (0.03, 0),
        (0.06, 2),
        (0.15, 0),
        (0.11, 3),
        (0.10, 0),
        (0.02, 4),
        (0.1, 0),
        (0.05, 1),
        (0.14, 0),
    ]);
    let crowded: Vec<(f64, usize)> = (1..=64).flat_map(|i| [(0.003 + 0.0001 * i as f64, i), (0.0085, 0)]).collect();
    let steps: Vec<(Timestamp, Vec<f64>)> = (0..21).map(|day| (at(24 * day), shares(day))).collect();
    let even = |i: u64| (0..65).map(|arm| if arm == 0 { 1.0 - 0.0064 * i as f64 } else { 0.0001 * i as f64 }).collect();
    let hourly: Vec<(Timestamp, Vec<f64>)> = (0..100).map(|i| (at(i), even(i))).collect();
    let killed = |arm, from, until: Option<u64>| KillPeriod { arm, from: at(from), until: until.map(at) };
    let kills = [killed(Some(1), 100, Some(150)), killed(None, 260, Some(300)), killed(Some(3), 400, None)];
    let known = [None, Some((0.062, 0.021)), Some((-0.031, 0.034)), Some((0.024, 0.026)), None];
    let extreme = [None, Some((0.05, 0.01)), Some((0.02, 0.015)), Some((3.0, 40.0)), Some((-0.4, 1e-9))];
    let many_lifts: Vec<Option<(f64, f64)>> = (0..65).map(|i| Some((0.002 * f64::from(i % 30), 0.03))).collect();
    let lift_histories: Vec<Vec<LiftPoint>> =
        vec![vec![], lift_history(0.062, 28), lift_history(-0.03, 28), lift_history(0.024, 1), vec![]];
    let reached = vec![
        vec![52_310, 23_001, 9_120, 3_402],
        vec![28_870, 13_720, 5_810, 2_190],
        vec![6_020, 2_100, 811, 290],
        vec![12_804, 5_705, 2_210, 802],
        vec![2, 0, 0, 0],
    ];
    let lifts = vec![
        vec![],
        vec![Some(lift(0.08, 0.02)), Some(lift(0.11, 0.04)), Some(lift(0.13, 0.06))],
        vec![],
        vec![None; 3],
    ];
    let funnel_steps = names(&["saw the form", "began to pay, which is a step with a very long name indeed", "paid"]);
    let bars = [lift(0.06, 0.04), lift(-0.03, 0.07), lift(3.0, 40.0), lift(-2.0, 0.1)];
    let range = lift_range(&bars[..2]);
    vec![
        ("Traffic allocation", allocation_bar(&five, &line, &[false, false, true, false, false], Some(0.1))),
        ("Traffic allocation, 64 variations", allocation_bar(&many, &buckets(&crowded), &[], None)),
        (
            "Traffic allocation, a foothold of 1e-12",
            allocation_bar(&five[..2], &buckets(&[(1e-12, 1), (1.0, 0)]), &[], Some(0.5)),
        ),
        (
            "Traffic allocation, small",
            html! { @for _ in 0..3 { p { (small_allocation_bar(&five, &line, &[false, false, true, false, false])) } } },
        ),
        ("Shares over time", allocation_over_time(&five, &steps, at(24 * 21), &revisions(24, 24 * 21), &[])),
        ("Shares with kills", allocation_over_time(&five, &steps, at(24 * 21), &revisions(24, 24 * 21), &kills)),
        (
            "Shares, 64 variations, hourly",
            allocation_over_time(
                &many,
                &hourly,
                at(100),
                &revisions(1, 100),
                &[killed(Some(9), 30, None), killed(None, 60, Some(70))],
            ),
        ),
        (
            "Shares, one step",
            allocation_over_time(&five, &[(at(0), shares(0))], at(7), &revisions(7, 7), &[killed(Some(2), 2, None)]),
        ),
        ("Shares, no data", allocation_over_time(&five, &[], at(7), &[], &[])),
        ("Lift distribution", lift_distributions(&five, &known)),
        ("Lift distribution, extreme values", lift_distributions(&five, &extreme)),
        ("Lift distribution, 64 variations", lift_distributions(&many, &many_lifts)),
        ("Lift over time", lifts_over_time(&five, &lift_histories)),
        ("Funnel", funnel(&five, &funnel_steps, &reached, &lifts)),
        (
            "Intervals in tables",
            html! {
                @for (i, bar) in bars.iter().enumerate() { p class={ "v" (i + 1) } { (interval_bar(*bar, range)) } }
            },
        ),
    ]
}
