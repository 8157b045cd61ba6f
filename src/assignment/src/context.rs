//! The evaluation context, as in OpenFeature: a targeting key and attributes. It contains what a caller knows about the
//! unit to assign.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// The attribute that contains the unit key, unless an experiment chooses another one.
pub const TARGETING_KEY: &str = "targetingKey";

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Null.
    Null,
    /// True or false.
    Bool(bool),
    /// A number. The API has doubles only.
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

/// The evaluation context: what a caller knows about the unit to assign.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Context {
    targeting_key: Option<String>,
    attributes: BTreeMap<String, Value>,
}

impl Context {
    /// The largest context that is accepted over a network, in bytes of names and text.
    pub const MAX_BYTES: usize = 16 * 1024;

    /// Creates a context with a targeting key and no attributes.
    pub fn new(targeting_key: impl Into<String>) -> Self {
        Self { targeting_key: Some(targeting_key.into()), attributes: BTreeMap::new() }
    }

    /// Adds an attribute. `targetingKey` sets the targeting key.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.insert(name.into(), value.into());
        self
    }

    /// Sets an attribute and replaces its previous value. `targetingKey` as text sets the targeting key.
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

    /// The targeting key; `None` if it is not set.
    pub fn targeting_key(&self) -> Option<&str> {
        self.targeting_key.as_deref()
    }

    /// The attributes, without the targeting key.
    pub fn attributes(&self) -> &BTreeMap<String, Value> {
        &self.attributes
    }

    /// The attribute with this name; `None` if it is missing or null. A name with dots, like `account.id`, is first looked
    /// up as a whole name, then as a path through objects. `targetingKey` is not found if it is set as the targeting key.
    pub fn attribute(&self, name: &str) -> Option<&Value> {
        let value = self.attributes.get(name).or_else(|| {
            let mut path = name.split('.');
            let first = self.attributes.get(path.next()?)?;
            path.try_fold(first, |value, name| match value {
                Value::Object(fields) => fields.get(name),
                _ => None,
            })
        });
        value.filter(|value| **value != Value::Null)
    }

    /// Whether the context has a value for this name that is not null, as [`Self::attribute`] or as the targeting key.
    pub fn has(&self, name: &str) -> bool {
        name == TARGETING_KEY && self.targeting_key.is_some() || self.attribute(name).is_some()
    }

    /// The unit key that `attribute` contains. `targetingKey` means the targeting key; other names are looked up as by
    /// [`Self::attribute`]. `None` if the attribute is missing, or is neither text nor a whole number below 2^53.
    pub fn unit(&self, attribute: &str) -> Option<Cow<'_, str>> {
        if attribute == TARGETING_KEY
            && let Some(key) = &self.targeting_key
        {
            return Some(Cow::Borrowed(key));
        }
        match self.attribute(attribute)? {
            Value::String(text) => Some(Cow::Borrowed(text)),
            // Below 2^53 no two whole numbers share a double, and all languages print them the same way.
            Value::Number(n) if n.fract() == 0.0 && n.abs() < 9_007_199_254_740_992.0 => {
                Some(Cow::Owned((*n as i64).to_string()))
            }
            _ => None,
        }
    }
}
