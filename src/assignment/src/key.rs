//! The names that enter the hash, parsed once at the edge: whatever holds one of these types is known to be well formed.

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a key was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not `[a-z0-9][a-z0-9._-]{0,127}`.
    #[error(
        "key {0:?} is not well formed: use 1 to 128 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit"
    )]
    Slug(String),
    /// Not `[A-Za-z0-9]{1,32}`.
    #[error("salt {0:?} is not well formed: use 1 to 32 letters and digits")]
    Salt(String),
    /// A unit key with nothing in it.
    #[error("the unit key is empty: give the key of the unit to assign, such as a user or account id")]
    EmptyUnit,
    /// A unit key over [`UnitKey::MAX_BYTES`].
    #[error("the unit key has {bytes} bytes, over the limit of {max}: use a shorter id", max = UnitKey::MAX_BYTES)]
    LongUnit {
        /// How long it is.
        bytes: usize,
    },
}

fn is_slug(text: &str) -> bool {
    let ok = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    let first = text.as_bytes().first().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    first && text.len() <= 128 && text.as_bytes().iter().all(ok)
}

macro_rules! text_key {
    ($(#[$doc:meta])* $name:ident, $check:expr, $error:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks the text and keeps it.
            pub fn parse(text: &str) -> Result<Self, KeyError> {
                if $check(text) { Ok(Self(text.into())) } else { Err($error(shortened(text))) }
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = KeyError;
            fn try_from(text: String) -> Result<Self, KeyError> {
                // As [`Self::parse`], with the text's own room.
                if $check(&text) { Ok(Self(text.into())) } else { Err($error(shortened(&text))) }
            }
        }

        impl From<$name> for String {
            fn from(key: $name) -> Self {
                key.0.into()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

/// As much of a refused text as an error message should carry.
fn shortened(text: &str) -> String {
    text.chars().take(160).collect()
}

text_key!(
    /// An experiment's key: `[a-z0-9][a-z0-9._-]{0,127}`.
    ExperimentKey,
    is_slug,
    KeyError::Slug
);
text_key!(
    /// A variation's key, unique in its experiment: `[a-z0-9][a-z0-9._-]{0,127}`.
    VariationKey,
    is_slug,
    KeyError::Slug
);
text_key!(
    /// What sets one generation's line apart from the next: `[A-Za-z0-9]{1,32}`.
    Salt,
    |text: &str| (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric()),
    KeyError::Salt
);

/// The key of the unit that is randomised: any non-empty UTF-8 up to 1,024 bytes, hashed byte for byte, never trimmed
/// and never normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UnitKey<'a>(&'a str);

impl<'a> UnitKey<'a> {
    /// The longest unit key, in bytes.
    pub const MAX_BYTES: usize = 1024;

    /// Checks the text and borrows it.
    pub fn parse(text: &'a str) -> Result<Self, KeyError> {
        match text.len() {
            0 => Err(KeyError::EmptyUnit),
            bytes if bytes > Self::MAX_BYTES => Err(KeyError::LongUnit { bytes }),
            _ => Ok(Self(text)),
        }
    }

    /// The text itself.
    pub fn as_str(&self) -> &'a str {
        self.0
    }
}
