//! When a file that was written becomes an object, and when it does not: the decisions, without their effects.
//!
//! FLUSH comes at every close(2) of any copy of a descriptor, in any process that inherited it, so it is not
//! always the end; RELEASE comes once, after the last, and its answer reaches nobody. So:
//!
//! ```text
//!            armed             else
//! FLUSH      nothing           publish, unless nothing was written, or it is not the end; killed: discard
//! FSYNC      invalid           publish, an empty file too
//! COMMIT     publish           invalid
//! RELEASE    discard or keep   publish what is not published yet
//! ```
//!
//! An error stays: every later answer is that error.
#![warn(clippy::wildcard_enum_match_arm)]

use super::Closer;

/// How things stand with an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one fact of the table above")]
pub(super) struct Standing {
    /// Publishes by commit alone.
    pub(super) armed: bool,
    /// It was created, truncated, or written to: there is something to publish, were it an empty file.
    pub(super) begun: bool,
    /// Bytes came since the beginning, the last truncation or the last publication.
    pub(super) dirty: bool,
    /// What was begun has been published, and nothing was truncated since.
    pub(super) published: bool,
    /// A request has failed; the handle keeps the error.
    pub(super) failed: bool,
    /// It was given up.
    pub(super) discarded: bool,
    /// The name was unlinked: what is written goes nowhere, as POSIX has it.
    pub(super) unlinked: bool,
    /// The opener has closed its descriptor after the last write.
    pub(super) opener_flushed: bool,
}

/// What the kernel, or the front, says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Flush { opener: Option<u32>, closer: Closer },
    Fsync,
    Commit,
    Release,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Success, and nothing happens.
    Nothing,
    Publish,
    Discard(&'static str),
    /// It broke: kept where it may be gone on with, else as above.
    Break(&'static str),
    /// The handle's error, once more.
    TellAgain,
    /// Not with this handle.
    Invalid(&'static str),
}

/// What follows from a word.
pub(super) fn decide(standing: Standing, word: Word) -> Verdict {
    match word {
        Word::Release => on_release(standing),
        Word::Flush { .. } | Word::Fsync if standing.unlinked && !standing.armed => Verdict::Nothing,
        Word::Flush { .. } | Word::Fsync | Word::Commit if standing.failed || standing.discarded => {
            Verdict::TellAgain
        }
        Word::Flush { opener, closer } => on_flush(standing, opener, closer),
        Word::Fsync if standing.armed => {
            Verdict::Invalid("an armed descriptor publishes by commit, not by fsync")
        }
        Word::Fsync => publish_if(standing.dirty || (standing.begun && !standing.published)),
        Word::Commit if !standing.armed => Verdict::Invalid("commit is for armed descriptors"),
        Word::Commit => publish_if(standing.begun),
    }
}

fn on_flush(standing: Standing, opener: Option<u32>, closer: Closer) -> Verdict {
    if standing.armed || !is_end(standing, opener, closer) {
        return Verdict::Nothing;
    }
    // A process that dies by a signal still closes what it had open: the file is not whole.
    if closer.killed && (standing.dirty || (standing.begun && !standing.published)) {
        return Verdict::Discard("the process that wrote it was killed");
    }
    publish_if(standing.dirty)
}

/// Whether this close can be the last one that matters. A child that inherited the descriptor closes its
/// copy when it ends, while the shell that opened it goes on writing.
fn is_end(standing: Standing, opener: Option<u32>, closer: Closer) -> bool {
    let (Some(opener), Some(process)) = (opener, closer.process) else { return true };
    opener == process || closer.opener_gone || standing.opener_flushed
}

fn on_release(standing: Standing) -> Verdict {
    if standing.discarded {
        return Verdict::Nothing;
    }
    if standing.unlinked {
        return Verdict::Discard("its name was unlinked");
    }
    if standing.failed {
        return Verdict::Discard("a request has failed");
    }
    let is_unpublished = standing.dirty || (standing.begun && !standing.published);
    if standing.armed && is_unpublished {
        return Verdict::Break("closed without a commit");
    }
    publish_if(is_unpublished)
}

fn publish_if(condition: bool) -> Verdict {
    if condition { Verdict::Publish } else { Verdict::Nothing }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CREATED: Standing = Standing {
        armed: false,
        begun: true,
        dirty: false,
        published: false,
        failed: false,
        discarded: false,
        unlinked: false,
        opener_flushed: false,
    };
    const WRITTEN: Standing = Standing { dirty: true, ..CREATED };
    const OPENER: u32 = 7;

    fn flush(process: Option<u32>, killed: bool, opener_gone: bool) -> Word {
        Word::Flush { opener: Some(OPENER), closer: Closer { process, killed, opener_gone } }
    }

    fn by_opener() -> Word {
        flush(Some(OPENER), false, false)
    }

    #[test]
    fn close_publishes_what_was_written_and_nothing_else() {
        assert_eq!(decide(WRITTEN, by_opener()), Verdict::Publish);
        // dd and `echo >` close a duplicate before they write.
        assert_eq!(decide(CREATED, by_opener()), Verdict::Nothing);
        let untouched = Standing { begun: false, ..CREATED };
        for word in [by_opener(), Word::Fsync, Word::Release] {
            assert_eq!(decide(untouched, word), Verdict::Nothing, "{word:?}");
        }
        let done = Standing { published: true, ..CREATED };
        for word in [by_opener(), Word::Fsync, Word::Release] {
            assert_eq!(decide(done, word), Verdict::Nothing, "{word:?}");
        }
    }

    #[test]
    fn empty_files_are_published_by_fsync_and_release() {
        assert_eq!(decide(CREATED, Word::Fsync), Verdict::Publish);
        assert_eq!(decide(CREATED, Word::Release), Verdict::Publish);
    }

    #[test]
    fn a_childs_close_is_not_the_end_while_its_parent_goes_on() {
        let child = flush(Some(8), false, false);
        assert_eq!(decide(WRITTEN, child), Verdict::Nothing);
        assert_eq!(decide(WRITTEN, flush(Some(8), true, false)), Verdict::Nothing);
        assert_eq!(decide(WRITTEN, flush(Some(8), false, true)), Verdict::Publish);
        assert_eq!(decide(Standing { opener_flushed: true, ..WRITTEN }, child), Verdict::Publish);
        let unknown = Closer { process: Some(8), killed: false, opener_gone: false };
        assert_eq!(decide(WRITTEN, Word::Flush { opener: None, closer: unknown }), Verdict::Publish);
        assert_eq!(decide(WRITTEN, flush(None, false, false)), Verdict::Publish);
    }

    #[test]
    fn a_killed_process_publishes_nothing() {
        let killed = flush(Some(OPENER), true, false);
        assert!(matches!(decide(WRITTEN, killed), Verdict::Discard(_)));
        assert!(matches!(decide(CREATED, killed), Verdict::Discard(_)));
        assert!(matches!(decide(WRITTEN, flush(Some(8), true, true)), Verdict::Discard(_)));
        let done = Standing { published: true, ..CREATED };
        assert_eq!(decide(done, killed), Verdict::Nothing);
    }

    #[test]
    fn an_armed_descriptor_publishes_by_commit_alone() {
        let armed = Standing { armed: true, ..WRITTEN };
        assert_eq!(decide(armed, by_opener()), Verdict::Nothing);
        assert!(matches!(decide(armed, Word::Fsync), Verdict::Invalid(_)));
        assert!(matches!(decide(armed, Word::Release), Verdict::Break(_)));
        assert_eq!(decide(armed, Word::Commit), Verdict::Publish);
        assert_eq!(decide(Standing { armed: true, ..CREATED }, Word::Commit), Verdict::Publish);
        assert!(matches!(decide(WRITTEN, Word::Commit), Verdict::Invalid(_)));
        let committed = Standing { dirty: false, published: true, ..armed };
        assert_eq!(decide(committed, Word::Release), Verdict::Nothing);
        assert!(matches!(decide(Standing { dirty: true, ..committed }, Word::Release), Verdict::Break(_)));
    }

    #[test]
    fn who_writes_to_an_unlinked_file_hears_nothing_of_it_but_the_front() {
        let unlinked = Standing { unlinked: true, failed: true, ..WRITTEN };
        assert_eq!(decide(unlinked, by_opener()), Verdict::Nothing);
        assert_eq!(decide(unlinked, Word::Fsync), Verdict::Nothing);
        assert!(matches!(decide(unlinked, Word::Release), Verdict::Discard(_)));
        assert_eq!(decide(Standing { armed: true, ..unlinked }, Word::Commit), Verdict::TellAgain);
    }

    #[test]
    fn what_is_written_after_a_publication_is_published_again() {
        let again = Standing { published: true, ..WRITTEN };
        assert_eq!(decide(again, by_opener()), Verdict::Publish);
        assert_eq!(decide(again, Word::Release), Verdict::Publish);
    }

    proptest! {
        #[test]
        fn nothing_is_published_that_failed_was_given_up_or_lacks_its_commit(
            armed: bool, begun: bool, dirty: bool, published: bool, failed: bool, discarded: bool,
            unlinked: bool, opener_flushed: bool, process in prop::option::of(6_u32..9), killed: bool, opener_gone: bool,
        ) {
            let standing = Standing {
                armed, begun, dirty, published, failed, discarded, unlinked, opener_flushed,
            };
            for word in [flush(process, killed, opener_gone), Word::Fsync, Word::Release] {
                let verdict = decide(standing, word);
                if !armed || failed || discarded || unlinked {
                    prop_assert!(!matches!(verdict, Verdict::Break(_)), "nothing of the shell's is kept");
                }
                if armed || failed || discarded || unlinked {
                    prop_assert_ne!(verdict, Verdict::Publish);
                }
                if (failed || discarded) && (armed || !unlinked) && word != Word::Release {
                    prop_assert_eq!(verdict, Verdict::TellAgain);
                }
            }
        }
    }
}
