//! Attribution against a recount of the whole set of events.
