//! What a user may do: `authority`, `delete_enable` and `overwrite_enable` are enforced here, nowhere else.
//!
//! Every way into the bucket asks here first, the front's ioctls too. The questions are about what is
//! published: a name that only a writer of this mount holds is nobody's loss, and may always be removed.
#![warn(clippy::wildcard_enum_match_arm)]

use super::{VfsError, VfsResult};
use crate::config::PolicyConfig;

/// The judge of one FUSE session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountPolicy {
    config: PolicyConfig,
}

/// What stands under a name that is to be removed or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing, or only a file of this mount that was never published.
    Free,
    /// An object, or a directory.
    Published,
}

impl MountPolicy {
    /// The judge for one configured policy.
    pub fn new(config: PolicyConfig) -> Self {
        Self { config }
    }

    /// To list a directory, or to read a file.
    pub(super) fn may_read(self) -> VfsResult<()> {
        if self.config.authority.read { Ok(()) } else { Err(VfsError::WriteOnly) }
    }

    /// To change anything at all: store, append, mkdir, rename, delete, times and modes.
    pub(super) fn may_change(self) -> VfsResult<()> {
        if self.config.authority.write { Ok(()) } else { Err(VfsError::ReadOnly) }
    }

    /// To put other content under `name`, by writing.
    pub(super) fn may_overwrite(self, name: &str, target: Standing) -> VfsResult<()> {
        self.may_change()?;
        match target {
            Standing::Published if !self.config.overwrite_enable => {
                Err(VfsError::OverwriteDisabled { name: name.to_owned() })
            }
            Standing::Published | Standing::Free => Ok(()),
        }
    }

    /// To remove `name`: unlink, rmdir.
    pub(super) fn may_remove(self, name: &str, target: Standing) -> VfsResult<()> {
        self.may_change()?;
        match target {
            Standing::Published if !self.config.delete_enable => {
                Err(VfsError::DeleteDisabled { name: name.to_owned() })
            }
            Standing::Published | Standing::Free => Ok(()),
        }
    }

    /// To rename onto `name`. To a free name it is no deletion: nothing of what is published is lost.
    pub(super) fn may_rename_onto(self, name: &str, target: Standing) -> VfsResult<()> {
        self.may_remove(name, target)?;
        self.may_overwrite(name, target)
    }

    /// Whether the store itself must refuse to replace an object, should one appear in a race.
    pub(super) fn forbids_overwrite(self) -> bool {
        !self.config.overwrite_enable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Authority;

    fn policy(read: bool, write: bool, delete_enable: bool, overwrite_enable: bool) -> MountPolicy {
        MountPolicy::new(PolicyConfig {
            authority: Authority { read, write },
            delete_enable,
            overwrite_enable,
        })
    }

    #[test]
    fn authority_says_who_reads_and_who_changes() {
        let reader = policy(true, false, true, true);
        assert!(reader.may_read().is_ok());
        assert!(matches!(reader.may_change(), Err(VfsError::ReadOnly)));
        assert!(matches!(reader.may_remove("a", Standing::Free), Err(VfsError::ReadOnly)));
        assert!(matches!(reader.may_overwrite("a", Standing::Free), Err(VfsError::ReadOnly)));
        assert!(matches!(reader.may_rename_onto("a", Standing::Free), Err(VfsError::ReadOnly)));
        let writer = policy(false, true, true, true);
        assert!(matches!(writer.may_read(), Err(VfsError::WriteOnly)));
        assert!(writer.may_change().is_ok());
    }

    #[test]
    fn delete_enable_guards_what_is_published_and_nothing_else() {
        let policy = policy(true, true, false, true);
        assert!(matches!(policy.may_remove("a", Standing::Published), Err(VfsError::DeleteDisabled { .. })));
        assert!(matches!(
            policy.may_rename_onto("a", Standing::Published),
            Err(VfsError::DeleteDisabled { .. })
        ));
        assert!(policy.may_remove("a", Standing::Free).is_ok());
        assert!(policy.may_rename_onto("a", Standing::Free).is_ok());
        assert!(policy.may_overwrite("a", Standing::Published).is_ok());
    }

    #[test]
    fn overwrite_enable_closes_writing_and_renaming_onto_a_name() {
        let policy = policy(true, true, true, false);
        assert!(matches!(
            policy.may_overwrite("a", Standing::Published),
            Err(VfsError::OverwriteDisabled { .. })
        ));
        assert!(matches!(
            policy.may_rename_onto("a", Standing::Published),
            Err(VfsError::OverwriteDisabled { .. })
        ));
        assert!(policy.may_overwrite("a", Standing::Free).is_ok());
        assert!(policy.may_remove("a", Standing::Published).is_ok());
        assert!(policy.forbids_overwrite());
    }
}
