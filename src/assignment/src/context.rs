//! The evaluation context, in OpenFeature's sense: a targeting key and attributes beside it.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// The attribute that names the unit where an experiment does not choose another.
pub const TARGETING_KEY: &str = "targetingKey";

/// An attribute's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// Any number; the wire knows doubles only.
    Number(f64),
    /// Text.
    String(String),
    /// Values in order.
    List(Vec<Value>),
    /// Values by name.
    Object(BTreeMap<String, Value>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

/// What a caller knows of whoever asks.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Context {
    targeting_key: Option<String>,
    attributes: BTreeMap<String, Value>,
}

impl Context {
    /// The most that a context may hold when it comes over a network, in bytes of names and text.
    pub const MAX_BYTES: usize = 16 * 1024;

    /// A context with a targeting key and nothing else.
    pub fn new(targeting_key: impl Into<String>) -> Self {
        Self { targeting_key: Some(targeting_key.into()), attributes: BTreeMap::new() }
    }

    /// The same context with one attribute more. `targetingKey` sets the targeting key.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.insert(name.into(), value.into());
        self
    }

    /// Sets an attribute; `targetingKey`, given as text, sets the targeting key. The last of two values holds.
    pub fn insert(&mut self, name: String, value: Value) {
        match value {
            Value::String(key) if name == TARGETING_KEY => {
                self.attributes.remove(TARGETING_KEY);
                self.targeting_key = Some(key);
            }
            value => {
                if name == TARGETING_KEY {
                    self.targeting_key = None;
                }
                self.attributes.insert(name, value);
            }
        }
    }

    /// The targeting key, if there is one.
    pub fn targeting_key(&self) -> Option<&str> {
        self.targeting_key.as_deref()
    }

    /// The attributes beside the targeting key.
    pub fn attributes(&self) -> &BTreeMap<String, Value> {
        &self.attributes
    }

    /// The unit key that an experiment's unit attribute names: the targeting key, or text or a whole number found by
    /// a dotted path through objects. `None` if the context does not have it.
    pub fn unit(&self, attribute: &str) -> Option<Cow<'_, str>> {
        if attribute == TARGETING_KEY
            && let Some(key) = &self.targeting_key
        {
            return Some(Cow::Borrowed(key));
        }
        let value = self.attributes.get(attribute).or_else(|| {
            let mut path = attribute.split('.');
            let first = self.attributes.get(path.next()?)?;
            path.try_fold(first, |value, name| match value {
                Value::Object(fields) => fields.get(name),
                _ => None,
            })
        });
        match value? {
            Value::String(text) => Some(Cow::Borrowed(text)),
            // Below 2^53 no two whole numbers share a double, and every language prints them alike.
            Value::Number(n) if n.fract() == 0.0 && n.abs() < 9_007_199_254_740_992.0 => {
                Some(Cow::Owned((*n as i64).to_string()))
            }
            _ => None,
        }
    }
}
