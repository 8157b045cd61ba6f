//! Properties of every chart for any input: names stay text, no inline styles, no NaN or infinity in the markup.

use std::time::Duration;

use super::*;

const EVIL: &str = "<script>alert('x')</script>\" style=\"x";

fn lift(low: f64, high: f64) -> Interval {
    Interval { estimate: f64::midpoint(low, high), low, high }
}

/// All charts, with this many variations.
fn all_charts(variations: usize) -> Vec<String> {
    let names: Vec<String> =
        (0..=variations).map(|i| if i == 1 { EVIL.repeat(3) } else { format!("arm {i}") }).collect();
    let at = |i: u64| Timestamp::from_micros(1_795_422_600_000_000).plus(Duration::from_secs(i * 3600));
    let odd = [0.02, f64::NAN, 1e-12, f64::INFINITY, -3.0];
    let arms = || 0..=variations;
    let width = 1.0 / (variations + 1) as f64;
    let mut buckets: Vec<Bucket> =
        arms().map(|arm| Bucket { from: arm as f64 * width, to: (arm + 1) as f64 * width, arm }).collect();
    buckets.push(Bucket { from: f64::NAN, to: 2.0, arm: 1 });
    buckets.push(Bucket { from: 0.3, to: 0.3 + 1e-12, arm: variations + 3 });
    let killed: Vec<bool> = arms().map(|arm| arm % 3 == 2).collect();
    let steps: Vec<_> = (0..30).map(|i| (at(i), arms().map(|arm| odd[arm % 5]).collect())).collect();
    let mark = |i| RevisionMark { at: at(i), number: i, title: EVIL.to_owned(), href: EVIL.to_owned() };
    let marks: Vec<RevisionMark> = (0..30).map(mark).collect();
    let kill = |arm, from, until| KillPeriod { arm, from: at(from), until };
    let kills = [
        kill(Some(1), 3, Some(at(7))),
        kill(None, 5, Some(at(5))),
        kill(Some(variations + 9), 0, None),
        kill(None, 99, None),
    ];
    let odd_log_lifts: Vec<Option<(f64, f64)>> = arms().map(|arm| Some((odd[arm % 5], odd[(arm + 2) % 5]))).collect();
    let log_lifts: Vec<Option<(f64, f64)>> =
        arms().map(|arm| Some((0.01 * arm as f64, 50.0 / (arm as f64 + 1.0)))).collect();
    let lifts = [lift(-0.1, 0.2), lift(-1.0, 1e43), lift(f64::NAN, f64::INFINITY), lift(0.2, 0.1)];
    let point =
        |i: u64| LiftPoint { at: at(i), lift: lifts[i as usize % 4], anytime: Some(lifts[(i as usize + 1) % 4]) };
    let points: Vec<Vec<LiftPoint>> = arms().map(|arm| (0..arm as u64).map(point).collect()).collect();
    let reached: Vec<Vec<u64>> = arms().map(|arm| vec![1000 * arm as u64, 500, u64::MAX]).collect();
    let step_lifts: Vec<Vec<Option<Interval>>> = arms().map(|arm| vec![Some(lifts[arm % 4]), None]).collect();
    let mut charts = vec![
        allocation_bar(&names, &buckets, &killed, Some(0.1)),
        allocation_bar(&names, &buckets, &[], Some(f64::NAN)),
        small_allocation_bar(&names, &buckets, &killed),
        allocation_over_time(&names, &steps, at(30), &marks, &kills),
        allocation_over_time(&names, &steps[..1], at(0), &marks, &kills),
        lift_distributions(&names, &odd_log_lifts),
        lift_distributions(&names, &log_lifts),
        lifts_over_time(&names, &points),
        funnel(&names, &[EVIL.to_owned(), "b".to_owned()], &reached, &step_lifts),
    ];
    charts.extend(lifts.map(|lift| interval_bar(lift, (-0.5, 0.5))));
    charts.extend([
        allocation_bar(&names, &[], &[], None),
        small_allocation_bar(&[], &[], &[]),
        allocation_over_time(&names, &[], at(0), &[], &kills),
        lift_distributions(&[], &[]),
        lifts_over_time(&names, &[]),
        funnel(&names, &[], &[], &[]),
    ]);
    charts.into_iter().map(maud::PreEscaped::into_string).collect()
}

#[test]
fn any_input_gives_escaped_names_and_finite_numbers() {
    for variations in [1, 3, 64] {
        for chart in all_charts(variations) {
            assert!(!chart.contains("<script") && !chart.contains(" style=\""), "{chart}");
            assert!(
                !chart.contains("<style")
                    && !chart.contains("NaN")
                    && !chart.contains(">inf")
                    && !chart.contains("\"inf")
            );
            assert!(!chart.contains("-inf") && !chart.contains("inf "), "{chart}");
            assert_eq!(
                chart.matches("<svg").count(),
                chart.matches("role=\"img\"").count() + chart.matches("role=\"group\"").count()
            );
            assert_eq!(
                chart.matches("<svg").count(),
                chart
                    .split("<svg")
                    .skip(1)
                    .filter(|s| s.split('>').next().is_some_and(|s| s.contains("aria-label=\"")))
                    .count()
            );
            assert!(!chart.contains(" id=\""), "two charts on a page would share an id");
        }
    }
}

#[test]
fn chart_has_a_table_and_empty_chart_has_a_sentence() {
    let charts = all_charts(3);
    let drawn = charts.iter().filter(|chart| chart.contains("<figure") && chart.contains("<svg"));
    // The funnel page has the funnel's table.
    for chart in drawn.filter(|chart| !chart.contains("chart funnel")) {
        assert!(
            chart.contains("<summary>Show as table</summary>")
                && chart.contains("<caption>")
                && chart.contains("scope=\"row\"")
        );
    }
    assert_eq!(charts.iter().filter(|chart| chart.starts_with("<p class=\"chart-none\">")).count(), 5);
}

#[test]
fn small_allocation_bar_needs_little_markup() {
    let names: Vec<String> = (0..5).map(|i| format!("arm {i}")).collect();
    let buckets: Vec<Bucket> =
        (0..9).map(|i| Bucket { from: f64::from(i) / 9.0, to: f64::from(i + 1) / 9.0, arm: i as usize % 5 }).collect();
    assert!(small_allocation_bar(&names, &buckets, &[]).into_string().len() < 1000);
}

#[test]
fn shares_over_time_end_at_the_time_of_the_page_also_when_no_time_has_passed() {
    let at = |minutes: u64| Timestamp::default().plus(Duration::from_secs(60 * minutes));
    let steps = [(at(10), vec![0.6, 0.4])];
    let until =
        |minutes| allocation_over_time(&["a".to_owned(), "b".to_owned()], &steps, at(minutes), &[], &[]).into_string();
    assert!(until(10).contains("1 step until 1970-01-01 00:10 UTC"), "{}", until(10));
    assert!(until(25).contains("1 step until 1970-01-01 00:25 UTC"), "{}", until(25));
}

#[test]
fn allocation_says_of_each_variation_whether_it_is_served() {
    let names: Vec<String> = ["control", "green", "red", "blue"].map(str::to_owned).to_vec();
    let bucket = |from, to, arm| Bucket { from, to, arm };
    let states = |buckets: &[Bucket], killed: &[bool]| -> Vec<String> {
        let html = allocation_bar(&names, buckets, killed, None).into_string();
        let (_, table) = html.split_once("Total by variation").expect("a table");
        let rows = table.split("</tr>").skip(1).take(4);
        rows.map(|row| row.rsplit("<td").next().unwrap_or_default().replace("</td>", "").replace('>', "")).collect()
    };
    let running = [bucket(0.0, 0.3, 1), bucket(0.3, 0.5, 2), bucket(0.5, 0.6, 3), bucket(0.6, 1.0, 0)];
    assert_eq!(states(&running, &[false, false, true, false]), ["served", "served", "killed", "served"]);
    let shipped = [bucket(0.0, 1.0, 1)];
    assert_eq!(states(&shipped, &[false; 4]), ["not served", "served", "not served", "not served"]);
    assert_eq!(states(&shipped, &[false, true, false, false]), ["served", "killed", "not served", "not served"]);
}
