//! The dashboard's pages: view structs in, HTML and SVG out.
//!
//! This crate knows no store, no clock and no network. The server fills a view struct (such as
//! [`experiment::ExperimentPage`]), calls its `render`, and wraps the result in [`layout::PageLayout`].
//!
//! - **Pages**: [`overview`], [`experiment`], [`edit`] (create and edit), [`action`] (confirm an action), [`funnel`],
//!   [`playground`], [`feed`], [`clients`], [`audit`], [`error_page`].
//! - **Around every page**: [`layout`], conditions of the server ([`server_notice`]), and the files that pages load
//!   ([`asset`]).
//! - **Building blocks**: [`audience`] (the report on an audience), [`chart`] (SVG charts), [`pager`] (lists in pages),
//!   [`mod@format`] (numbers and times), [`form`] (submitted forms, and experiment definitions as forms and back).
//!
//! All text goes through `maud`, which escapes it, so that no name can become markup. Pages work without JavaScript;
//! the script (`asset/inroad.js`) adds live updates and writes numbers and times in the viewer's language.

pub mod action;
pub mod asset;
pub mod audience;
pub mod audit;
pub mod chart;
pub mod clients;
pub mod edit;
pub mod error_page;
pub mod experiment;
pub mod feed;
pub mod form;
pub mod format;
pub mod funnel;
pub mod layout;
pub mod overview;
pub mod pager;
pub mod playground;
pub mod server_notice;
