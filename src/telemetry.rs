//! The log subscriber.
