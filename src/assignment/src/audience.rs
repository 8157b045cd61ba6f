//! placeholder while the real one is being written
use crate::context::Context;
#[derive(Debug, Clone, PartialEq)]
pub struct Audience { source: Box<str> }
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("x")]
pub enum AudienceError { Empty }
impl Audience {
    pub fn parse(source: &str) -> Result<Self, AudienceError> { Ok(Self { source: source.into() }) }
    pub fn source(&self) -> &str { &self.source }
    pub fn contains(&self, _c: &Context) -> bool { true }
}
