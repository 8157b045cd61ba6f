//! The chain of the audit log: each entry has a hash of its content and of the entry before it, so nobody can change,
//! remove or insert an entry without changing the hash of the newest one. Somebody who keeps that hash can verify all
//! entries until then. Pure: what is hashed, and how.
//!
//! ```text
//! texts   = SHA-256(before, after, context)
//! content = SHA-256("inroad audit entry 1", at, actor, action, experiment, texts)
//! hash    = SHA-256("inroad audit chain 1", hash of the entry before, id, content)
//! ```
//!
//! Each text is preceded by its length in bytes. Lengths, ids and times (microseconds) are 8 bytes, big-endian. The hash
//! before the first entry is 32 zero bytes. A released encoding is never changed: another one gets another name.

use std::fmt;
use std::str::FromStr;

use inroad_assignment::Timestamp;
use sha2::{Digest, Sha256};

/// A SHA-256 hash in the chain, written as 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AuditHash(pub(crate) [u8; 32]);

impl fmt::Display for AuditHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for AuditHash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = "not a hash of the audit log: use the 64 hex digits that `inroad audit verify` printed";
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(error);
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| error)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| error)?;
        }
        Ok(Self(bytes))
    }
}

/// The SHA-256 hash of parts; texts have their length in front.
struct Hasher(Sha256);

impl Hasher {
    fn new(name: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(name);
        Self(hash)
    }

    fn text(mut self, text: &str) -> Self {
        self.0.update((text.len() as u64).to_be_bytes());
        self.0.update(text);
        self
    }

    fn number(mut self, number: i64) -> Self {
        self.0.update(number.to_be_bytes());
        self
    }

    fn hash(mut self, hash: AuditHash) -> Self {
        self.0.update(hash.0);
        self
    }

    fn finish(self) -> AuditHash {
        AuditHash(self.0.finalize().into())
    }
}

/// The hash of an entry's texts. They may be long, so it is computed before the transaction.
pub(crate) fn hash_texts(before: &str, after: &str, context: &str) -> AuditHash {
    Hasher::new("").text(before).text(after).text(context).finish()
}

/// The hash of an entry's content.
pub(crate) fn hash_content(at: Timestamp, [actor, action, experiment]: [&str; 3], texts: AuditHash) -> AuditHash {
    let content = Hasher::new("inroad audit entry 1").number(at.as_micros());
    content.text(actor).text(action).text(experiment).hash(texts).finish()
}

/// The hash of an entry, given that of the entry before it.
pub(crate) fn hash_entry(before: AuditHash, id: i64, content: AuditHash) -> AuditHash {
    Hasher::new("inroad audit chain 1").hash(before).number(id).hash(content).finish()
}

/// The result of verifying the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditVerification {
    /// Entries from before the chain existed, which it does not cover.
    pub older: u64,
    /// Entries that were verified, up to the first broken one.
    pub verified: u64,
    /// The hash of the newest verified entry; zeros if there is none.
    pub newest: AuditHash,
    /// The first fault; `None` if the chain is unbroken.
    pub fault: Option<ChainFault>,
}

/// The first place where the chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// The content of an entry, its hash, or that of the entry before it, is not what was written.
    #[error("entry {entry} does not match its hash: it, or its place in the log, was changed after it was written")]
    Changed {
        /// The entry's id.
        entry: u64,
    },
    /// Entries are missing before an entry.
    #[error("entries {first} to {last} are missing: they were deleted after they were written")]
    Missing {
        /// The first missing id.
        first: u64,
        /// The last missing id.
        last: u64,
    },
    /// The log ends before the entry that was written last.
    #[error("the newest entries are missing, from entry {first} on: they were deleted after they were written")]
    Truncated {
        /// The first missing id.
        first: u64,
    },
    /// No entry has the hash that was expected.
    #[error("no entry has the expected hash {expected}: the log is another one, or it was cut off or rewritten since")]
    Unexpected {
        /// The expected hash.
        expected: AuditHash,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with Python's hashlib. If this fails, databases of this release can no longer be verified.
    #[test]
    fn hash_of_an_entry_never_changes() {
        let texts = hash_texts("", "{\"a\":1}", "");
        let content = hash_content(Timestamp::from_micros(5), ["ann", "create", "checkout"], texts);
        let hash = hash_entry(AuditHash::default(), 1, content);
        assert_eq!(hash.to_string(), "fb64c81396a32cff2f66626152a8cd88cf21eaf26a7eaa86a4c6946fb3a37404");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!("12".parse::<AuditHash>().is_err() && "é".repeat(32).parse::<AuditHash>().is_err());
    }
}
