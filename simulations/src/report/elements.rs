//! Elements of the page: tables, collapsed tables of numbers, cards with a chart, and the marker of a policy in text.

use super::plot::marker;
use super::text::escape;

/// A table whose first column names the row. Cells are text and are escaped here.
pub(super) fn table(caption: &str, head: &[String], rows: &[Vec<String>]) -> String {
    let heads: String = head.iter().map(|name| format!("<th scope=\"col\">{}</th>", escape(name))).collect();
    let row = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(i, cell)| match i {
            0 => format!("<th scope=\"row\">{}</th>", escape(cell)),
            _ => format!("<td>{}</td>", escape(cell)),
        });
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    let body: String = rows.iter().map(row).collect();
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" \
         aria-label=\"{caption}\"><table><caption>{caption}</caption>\
         <thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>",
        caption = escape(caption)
    )
}

/// The numbers of a chart, collapsed until the reader opens them.
pub(super) fn collapsed_numbers(table: &str) -> String {
    format!("<details><summary>Show numbers</summary>{table}</details>")
}

/// A card with a title, an explanation, a chart, and the numbers of the chart.
pub(super) fn card(title: &str, explanation: &str, chart: &str, table: &str) -> String {
    format!(
        "<article class=\"card\"><h4>{}</h4><p class=\"sub\">{}</p>{chart}{}</article>",
        escape(title),
        escape(explanation),
        collapsed_numbers(table)
    )
}

/// The marker of a policy, to put before its name in text.
pub(super) fn policy_marker(series: usize) -> String {
    format!(
        "<svg class=\"swatch\" viewBox=\"0 0 12 12\" aria-hidden=\"true\"><title>marker</title>{}</svg>",
        marker(series, 6.0, 6.0, 4.2)
    )
}
