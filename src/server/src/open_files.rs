//! The limit on open files of this process. Each connection is one, and many systems begin with a limit of 1,024, although
//! the process itself may raise it.

/// Raises the limit as far as the process may, and returns it. None if the system has no such limit.
pub(crate) fn raise_limit() -> Option<u64> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let found = getrlimit(Resource::Nofile);
        if found.current == found.maximum {
            return found.current;
        }
        match setrlimit(Resource::Nofile, Rlimit { current: found.maximum, maximum: found.maximum }) {
            Ok(()) => found.maximum,
            Err(error) => {
                tracing::warn!(%error, limit = found.current, "the limit on open files could not be raised");
                found.current
            }
        }
    }
    #[cfg(not(unix))]
    None
}
