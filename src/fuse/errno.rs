//! The errno that the kernel gets for each reason: the one table, chosen for what an FTP client then reads.
//!
//! Two rules beside the table itself, and a test for both. Above 511 the kernel refuses the reply and the
//! caller hangs in state D for ever. And ENOSYS means "never again": the kernel stops sending such requests
//! for the whole mount and reports success of flush and fsync by itself; what this file cannot do is
//! EOPNOTSUPP.

#![warn(clippy::wildcard_enum_match_arm)]

use fuser::Errno;

use crate::vfs::VfsError;

/// The errno of a failed file operation.
pub(super) fn errno(error: &VfsError) -> Errno {
    match error {
        VfsError::NotFound { .. } => Errno::ENOENT,
        VfsError::Exists { .. } => Errno::EEXIST,
        VfsError::IsDirectory { .. } => Errno::EISDIR,
        VfsError::NotDirectory { .. } => Errno::ENOTDIR,
        VfsError::NotEmpty { .. } => Errno::ENOTEMPTY,
        // EPERM rather than EACCES: no chmod would ever permit it.
        VfsError::DeleteDisabled { .. } | VfsError::OverwriteDisabled { .. } => Errno::EPERM,
        VfsError::ReadOnly => Errno::EROFS,
        VfsError::WriteOnly | VfsError::AccessDenied { .. } => Errno::EACCES,
        VfsError::TooLarge { .. } => Errno::EFBIG,
        VfsError::QuotaReached { .. } => Errno::EDQUOT,
        VfsError::NameTooLong => Errno::ENAMETOOLONG,
        VfsError::NameImpossible { .. } | VfsError::Invalid { .. } => Errno::EINVAL,
        VfsError::Busy { .. } | VfsError::Throttled { .. } | VfsError::QuotaUnknown => Errno::EBUSY,
        // ESTALE rather than EIO: the copy is whole, it is the name that moved on.
        VfsError::ReplacedMeanwhile { .. } => Errno::ESTALE,
        VfsError::TimedOut { .. } => Errno::ETIMEDOUT,
        VfsError::Store { .. } => Errno::EIO,
        VfsError::NotSupported { .. } => Errno::EOPNOTSUPP,
        VfsError::NotPermitted { .. } | VfsError::NotTheFront => Errno::EPERM,
        VfsError::WouldBlock => Errno::EAGAIN,
        VfsError::BadHandle => Errno::EBADF,
        VfsError::NoAttribute => Errno::ENODATA,
        // What a caller of a mount that has just gone gets from the kernel: "the mount is away", 450.
        VfsError::Stopping => Errno::ECONNABORTED,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cos::{CosError, Reason};

    /// Above this the kernel refuses a reply (`fuse_dev_do_write`: errors of the kernel's own begin at 512).
    const ERRNO_MAX: i32 = 511;

    fn every_reason() -> Vec<VfsError> {
        let name = String::new;
        let cause = || Arc::new(CosError::new("HeadObject", Reason::Unavailable));
        vec![
            VfsError::NotFound { name: name() },
            VfsError::Exists { name: name() },
            VfsError::IsDirectory { name: name() },
            VfsError::NotDirectory { name: name() },
            VfsError::NotEmpty { name: name() },
            VfsError::DeleteDisabled { name: name() },
            VfsError::OverwriteDisabled { name: name() },
            VfsError::ReadOnly,
            VfsError::WriteOnly,
            VfsError::AccessDenied { cause: cause() },
            VfsError::TooLarge { name: name(), bytes_max: 1 },
            VfsError::QuotaReached { name: name(), setting: "quota", limit: 1 },
            VfsError::QuotaUnknown,
            VfsError::NameTooLong,
            VfsError::NameImpossible { name: name() },
            VfsError::Busy { name: name() },
            VfsError::Throttled { cause: cause() },
            VfsError::ReplacedMeanwhile { name: name() },
            VfsError::TimedOut { cause: cause() },
            VfsError::Store { cause: cause() },
            VfsError::NotSupported { what: "" },
            VfsError::NotPermitted { what: "" },
            VfsError::WouldBlock,
            VfsError::Invalid { why: "" },
            VfsError::BadHandle,
            VfsError::NoAttribute,
            VfsError::NotTheFront,
            VfsError::Stopping,
        ]
    }

    #[test]
    fn the_kernel_takes_every_errno_and_never_hears_enosys() {
        for error in every_reason() {
            let code = errno(&error).code();
            assert!((1..=ERRNO_MAX).contains(&code), "{error:?} is {code}");
            assert_ne!(code, Errno::ENOSYS.code(), "{error:?}");
        }
    }

    #[test]
    fn what_no_retry_can_cure_is_no_transient_errno() {
        // FTP turns EBUSY, ENOTCONN, ECONNABORTED into 450 and EIO, ESTALE, ETIMEDOUT into 451.
        let transient =
            [Errno::EBUSY, Errno::ENOTCONN, Errno::ECONNABORTED, Errno::EIO, Errno::ESTALE, Errno::ETIMEDOUT];
        for error in every_reason() {
            let may_pass = matches!(
                error,
                VfsError::Busy { .. }
                    | VfsError::Throttled { .. }
                    | VfsError::QuotaUnknown
                    | VfsError::ReplacedMeanwhile { .. }
                    | VfsError::TimedOut { .. }
                    | VfsError::Store { .. }
                    | VfsError::Stopping
            );
            assert_eq!(transient.contains(&errno(&error)), may_pass, "{error:?}");
        }
    }
}
