//! The `io::Error`s that coracle makes itself: each names the option or the address it is about.

use std::fmt;
use std::io;

/// An operating system's error with what was being done when it came.
///
/// The kind is the source's; the raw code is found by walking [`std::error::Error::source`].
#[derive(Debug)]
struct Context {
    doing: String,
    source: io::Error,
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.doing, self.source)
    }
}

impl std::error::Error for Context {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Says what was being done, for example `bind 127.0.0.1:80`, when `error` came.
pub(crate) fn context(error: io::Error, doing: impl fmt::Display) -> io::Error {
    context_as(error.kind(), error, doing)
}

/// The same with a kind that says more than the source's.
pub(crate) fn context_as(
    kind: io::ErrorKind,
    error: io::Error,
    doing: impl fmt::Display,
) -> io::Error {
    io::Error::new(
        kind,
        Context {
            doing: doing.to_string(),
            source: error,
        },
    )
}

/// A contradictory, missing or malformed argument.
pub(crate) fn invalid(why: impl fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why.to_string())
}

/// An option this platform cannot honour.
pub(crate) fn unsupported(option: impl fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("{option} is not supported on {}", crate::sys::PLATFORM),
    )
}

/// An operation on an endpoint that is closing or closed.
pub(crate) fn closed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, format!("{what} is closed"))
}

/// A second error with the kind and the text of `error`, for a second reader.
pub(crate) fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    #[test]
    fn context_keeps_kind_text_and_raw_code() {
        let code = io::Error::from_raw_os_error(13);
        let kind = code.kind();
        let error = context(code, "bind 127.0.0.1:80");
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().starts_with("bind 127.0.0.1:80: "));
        let source = error.source().and_then(|s| s.downcast_ref::<io::Error>());
        assert_eq!(source.and_then(io::Error::raw_os_error), Some(13));
    }

    #[test]
    fn copies_keep_kind_and_text() {
        for error in [
            io::Error::from_raw_os_error(13),
            context(io::Error::from_raw_os_error(13), "bind"),
        ] {
            let twin = copy(&error);
            assert_eq!(twin.kind(), error.kind());
            assert_eq!(twin.to_string(), error.to_string());
        }
    }
}
