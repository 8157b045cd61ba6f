//! The four gRPC services, one file each. They parse a request, call the rest of the server and convert the answer;
//! they decide nothing themselves.

pub mod assignment;
mod clients;
pub mod event;
pub mod experiment;
pub mod result;

use tonic::{Request, Status};

use crate::config::MAX_PAGE;
use crate::error::ServerError;

/// The caller's name for the audit log: metadata `inroad-actor`, at most 128 bytes.
fn actor<T>(request: &Request<T>) -> Result<String, Status> {
    let Some(value) = request.metadata().get("inroad-actor") else { return Ok("anonymous".to_owned()) };
    let text = value.to_str().unwrap_or_default();
    if text.is_empty() || text.len() > 128 {
        let violation = ("metadata inroad-actor".to_owned(), "give 1 to 128 printable ASCII characters".to_owned());
        return Err(inroad_wire::status::invalid_fields([violation]));
    }
    Ok(text.to_owned())
}

/// The number of entries on a page; 0 requests the default.
fn page_size(requested: u32) -> Result<usize, ServerError> {
    match requested {
        0 => Ok(100),
        size if size <= MAX_PAGE => Ok(size as usize),
        size => {
            let message = format!("{size} is over the limit of {MAX_PAGE}: request smaller pages");
            Err(ServerError::Invalid { field: "page_size", message })
        }
    }
}

/// The id that a page token refers to; entries with smaller ids follow. The first page has no token.
fn page_before(token: &str) -> Result<u64, ServerError> {
    if token.is_empty() { Ok(u64::MAX) } else { token.parse().map_err(|_| invalid_page_token()) }
}

fn invalid_page_token() -> ServerError {
    let message = "this is not a page token: use the one that the previous page returned".to_owned();
    ServerError::Invalid { field: "page_token", message }
}
