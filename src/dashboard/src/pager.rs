//! Lists in pages: which entries a page shows, and the links to the other pages. The links keep the filter.

use std::ops::Range;

use maud::{Markup, html};

use crate::form::url_encode;
use crate::format::count;

/// Entries on one page.
pub const PAGE_SIZE: usize = 50;

/// One page of a list.
#[derive(Debug, Clone, Default)]
pub struct Pager {
    /// Number of the page, from 1.
    page: usize,
    /// Number of entries on all pages.
    total: usize,
}

impl Pager {
    /// The page with the number in `requested`. Text that is no number is page 1, and a number after the last page is the
    /// last page, so that an old link still shows something.
    #[must_use]
    pub fn new(requested: &str, total: usize) -> Self {
        let last = total.div_ceil(PAGE_SIZE).max(1);
        Self { page: requested.parse().unwrap_or(1).clamp(1, last), total }
    }

    /// The indices of the entries on this page.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        let start = self.page.saturating_sub(1) * PAGE_SIZE;
        start.min(self.total)..(start + PAGE_SIZE).min(self.total)
    }

    /// Number of entries on all pages.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// Such as "51–100 of 2,000".
    pub(crate) fn count(&self) -> Markup {
        let Range { start, end } = self.range();
        let int = |n: usize| count(n as u64);
        html! {
            @if end > start { (int(start + 1)) "–" (int(end)) " of " (int(self.total)) } @else { (int(0)) }
        }
    }

    /// Links to the previous and to the next page; nothing if there is one page. `query` has the filter's fields.
    pub(crate) fn links(&self, path: &str, query: &[(&str, &str)]) -> Markup {
        let href = |page: usize| {
            let mut fields: Vec<String> = query
                .iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| format!("{name}={}", url_encode(value)))
                .collect();
            if page > 1 {
                fields.push(format!("page={page}"));
            }
            if fields.is_empty() { path.to_owned() } else { format!("{path}?{}", fields.join("&")) }
        };
        let has_next = self.range().end < self.total;
        html! {
            @if self.page > 1 || has_next {
                nav.pager aria-label="Pages" {
                    @if self.page > 1 { a rel="prev" href=(href(self.page - 1)) { "← Previous" } " " }
                    span { "Page " (count(self.page as u64)) " of " (count(self.total.div_ceil(PAGE_SIZE) as u64)) }
                    @if has_next { " " a rel="next" href=(href(self.page + 1)) { "Next →" } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text that a person reads.
    fn text(html: &str) -> String {
        let outside_tags = |part: &str| part.split_once('>').map_or(part, |(_, text)| text).to_owned();
        html.split('<').map(outside_tags).collect()
    }

    #[test]
    fn requested_page_is_limited_to_those_that_exist() {
        let range = |requested, total| Pager::new(requested, total).range();
        assert_eq!(range("", 120), 0..50);
        assert_eq!(range("2", 120), 50..100);
        assert_eq!(range("3", 120), 100..120);
        for beyond in ["4", "99999999999"] {
            assert_eq!(range(beyond, 120), 100..120);
        }
        for invalid in ["0", "-1", "x", "99999999999999999999999"] {
            assert_eq!(range(invalid, 120), 0..50, "{invalid}");
        }
        assert_eq!(range("2", 0), 0..0);
        assert_eq!(range("2", 50), 0..50);
    }

    #[test]
    fn links_keep_the_filter_and_exist_only_where_there_is_a_page() {
        let html =
            |requested, total| Pager::new(requested, total).links("/", &[("q", "a b&c"), ("tag", "")]).into_string();
        assert_eq!(html("", 50), "");
        let first = html("", 120);
        assert!(!first.contains("Previous") && first.contains(r#"href="/?q=a+b%26c&amp;page=2""#), "{first}");
        let last = html("3", 120);
        assert!(!last.contains("Next") && last.contains("page=2") && text(&last).contains("Page 3 of 3"), "{last}");
        assert!(html("2", 120).contains(r#"href="/?q=a+b%26c""#), "the first page needs no number");
    }

    #[test]
    fn count_names_the_entries_on_the_page() {
        let count = |requested, total| text(&Pager::new(requested, total).count().into_string());
        assert_eq!(count("2", 2_000), "51–100 of 2,000");
        assert_eq!(count("", 0), "0");
    }
}
