//! Reads experiments from the server, for commands that need them before they do something else.

use inroad_assignment::TARGETING_KEY;
use inroad_wire::v1::{self, Experiment};
use tonic::Code;

use crate::connect::Connection;

/// The largest page that the server returns.
const PAGE_SIZE: u32 = 1_000;

/// The experiment with this key.
///
/// # Errors
///
/// When it does not exist.
pub(crate) async fn get_experiment(connection: &Connection, key: &str) -> anyhow::Result<Experiment> {
    let request = v1::GetExperimentRequest { key: key.to_owned() };
    Ok(connection.experiments().get_experiment(request).await?.into_inner())
}

/// The experiment with this key; `None` if it does not exist.
pub(crate) async fn find_experiment(connection: &Connection, key: &str) -> anyhow::Result<Option<Experiment>> {
    let request = v1::GetExperimentRequest { key: key.to_owned() };
    match connection.experiments().get_experiment(request).await {
        Ok(found) => Ok(Some(found.into_inner())),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// All experiments whose keys start with `prefix`.
pub(crate) async fn list_experiments(connection: &Connection, prefix: &str) -> anyhow::Result<Vec<Experiment>> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListExperimentsRequest { page_size: PAGE_SIZE, page_token, prefix: prefix.to_owned() };
        let page = connection.experiments().list_experiments(request).await?.into_inner();
        all.extend(page.experiments);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

/// All revisions of one generation; 0 for the running one.
pub(crate) async fn list_revisions(
    connection: &Connection,
    key: &str,
    generation: u32,
) -> anyhow::Result<Vec<v1::Revision>> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListRevisionsRequest { key: key.to_owned(), generation, page_token, ..Default::default() };
        let page = connection.experiments().list_revisions(request).await?.into_inner();
        all.extend(page.revisions);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

/// The context attribute that contains the unit key of an experiment; the targeting key if the experiment does not exist.
pub(crate) async fn unit_attribute(connection: &Connection, experiment: &str) -> anyhow::Result<String> {
    let found = find_experiment(connection, experiment).await?;
    Ok(found.map(|e| e.unit).filter(|unit| !unit.is_empty()).unwrap_or_else(|| TARGETING_KEY.to_owned()))
}
