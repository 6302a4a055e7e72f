//! The real mount in a child process, over the embedded store.

mod common;
