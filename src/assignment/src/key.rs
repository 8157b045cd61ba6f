//! The keys that enter the hash. They are checked once, when they are parsed, so code that receives one of these types
//! need not check again.

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a key was rejected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not `[a-z0-9][a-z0-9._-]{0,127}`.
    #[error(
        "key {0:?} is not valid: use 1 to 128 of the characters a-z, 0-9, '.', '_' and '-', and start with a letter or digit"
    )]
    InvalidKey(String),
    /// Not `[A-Za-z0-9]{1,32}`.
    #[error("salt {0:?} is not valid: use 1 to 32 letters and digits")]
    InvalidSalt(String),
    /// The unit key is empty.
    #[error("the unit key is empty: send the key of the unit, such as a user id or an account id")]
    EmptyUnitKey,
    /// The unit key is longer than [`UnitKey::MAX_BYTES`].
    #[error("the unit key has {bytes} bytes, but the limit is {max}: use a shorter id", max = UnitKey::MAX_BYTES)]
    UnitKeyTooLong {
        /// The length of the unit key.
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
            /// Checks the text and copies it.
            pub fn parse(text: &str) -> Result<Self, KeyError> {
                if $check(text) { Ok(Self(text.into())) } else { Err($error(shortened(text))) }
            }

            /// The key as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = KeyError;
            fn try_from(text: String) -> Result<Self, KeyError> {
                // Like [`Self::parse`], but reuses the memory of the text.
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

/// The start of a rejected text, short enough for an error message.
fn shortened(text: &str) -> String {
    text.chars().take(160).collect()
}

text_key!(
    /// An experiment's key: `[a-z0-9][a-z0-9._-]{0,127}`.
    ExperimentKey,
    is_slug,
    KeyError::InvalidKey
);
text_key!(
    /// A variation's key, unique in its experiment: `[a-z0-9][a-z0-9._-]{0,127}`.
    VariationKey,
    is_slug,
    KeyError::InvalidKey
);
text_key!(
    /// The salt of a generation: a new salt gives every unit a new point. `[A-Za-z0-9]{1,32}`.
    Salt,
    |text: &str| (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric()),
    KeyError::InvalidSalt
);

/// The key of a randomised unit: any non-empty UTF-8 text up to 1,024 bytes. It is hashed byte for byte, without
/// trimming or normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UnitKey<'a>(&'a str);

impl<'a> UnitKey<'a> {
    /// The longest unit key, in bytes.
    pub const MAX_BYTES: usize = 1024;

    /// Checks the text and borrows it.
    pub fn parse(text: &'a str) -> Result<Self, KeyError> {
        match text.len() {
            0 => Err(KeyError::EmptyUnitKey),
            bytes if bytes > Self::MAX_BYTES => Err(KeyError::UnitKeyTooLong { bytes }),
            _ => Ok(Self(text)),
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &'a str {
        self.0
    }
}
