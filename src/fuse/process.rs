//! What /proc tells about the process behind a request.
//!
//! `Request::pid` is the number of a thread: a tokio program opens, writes and closes one file under three
//! of them, so they are compared by their thread group. A process that is being ended by a signal still
//! closes, and so flushes, what it had open; its exit code in `/proc/TGID/stat` tells it from an orderly end.
//!
//! A program that starts another closes what it had open within execve(2), under a lock (`exec_update_lock`) that
//! whoever reads `/proc/TGID/stat` waits for, on kernels of 2026: the lock waits for the FLUSH, so the FLUSH must not
//! wait for the lock. `/proc/TID/status` needs none. It shows memory as long as a thread has any, and a thread that
//! ends lets go of its memory before its files; only then is `stat` looked at.
//!
//! Everything here reads procfs: microseconds, but never in a FUSE loop.

use std::fs;

use crate::vfs::Closer;

/// The process of a thread. `None` for 0, which is the kernel itself or another pid namespace, and where
/// the thread has gone.
pub(super) fn process_of(thread: u32) -> Option<u32> {
    status(thread).map(|status| status.process)
}

/// Who closes a descriptor: `thread` sent the FLUSH, `opener` opened the handle.
pub(super) fn closer(thread: u32, opener: Option<u32>) -> Closer {
    let closer = status(thread);
    Closer {
        process: closer.map(|closer| closer.process),
        killed: closer.is_some_and(|closer| closer.ends && is_killed(closer.process)),
        opener_gone: opener.is_some_and(|opener| status(opener).is_none_or(|opener| opener.over)),
    }
}

/// What `/proc/TID/status` says of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Status {
    process: u32,
    /// It has no memory any more: nothing of the program runs in it.
    ends: bool,
    /// All threads of its process have ended; it merely waits for its parent.
    over: bool,
}

fn status(thread: u32) -> Option<Status> {
    if thread == 0 {
        return None;
    }
    status_in(&text(&format!("/proc/{thread}/status"))?)
}

/// Whether a signal is ending a process. To be asked of one that ends.
fn is_killed(process: u32) -> bool {
    text(&format!("/proc/{process}/stat")).and_then(|stat| signal_in(&stat)).is_some_and(|signal| signal != 0)
}

fn text(path: &str) -> Option<String> {
    Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned())
}

/// proc_pid_status(5).
fn status_in(status: &str) -> Option<Status> {
    let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let threads: u32 = field("Threads:")?.parse().ok()?;
    Some(Status {
        process: field("Tgid:")?.parse().ok()?,
        ends: field("VmSize:").is_none(),
        // A leader that has ended shows Z while other threads of its process live on.
        over: field("State:")?.starts_with(['Z', 'X']) && threads <= 1,
    })
}

/// proc_pid_stat(5): the name stands in parentheses and may hold any character, so fields are counted
/// behind the last one: the third is the state, the 52nd the exit code as wait(2) tells it, whose low seven bits are
/// the signal.
fn signal_in(stat: &str) -> Option<u32> {
    let exit_code: u32 = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(52 - 3)?.parse().ok()?;
    Some(exit_code & 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(name: &str, exit_code: u32) -> String {
        let mut fields = vec!["7".to_owned(), format!("({name})"), "R".to_owned()];
        fields
            .extend((4..=52).map(|number| if number == 52 { exit_code.to_string() } else { "0".to_owned() }));
        fields.join(" ")
    }

    #[test]
    fn an_exit_code_tells_a_signal_from_an_orderly_end() {
        for (exit_code, signal) in [(0, 0), (768, 0), (9, 9), (15, 15), (11, 11), (134, 6)] {
            assert_eq!(signal_in(&stat("cp", exit_code)), Some(signal), "exit code {exit_code}");
        }
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        assert_eq!(signal_in(&stat("a) Z 1 (b", 9)), Some(9));
        assert_eq!(signal_in("7 (short) S 1"), None);
    }

    #[test]
    fn a_status_tells_who_ends_and_whose_process_is_over() {
        let status = |state: &str, threads: u32, memory: &str| {
            let text = format!("Name:\tx\nState:\t{state}\nTgid:\t7\nPid:\t8\n{memory}Threads:\t{threads}\n");
            status_in(&text).expect("it has all lines")
        };
        let memory = "VmSize:\t    5764 kB\n";
        assert_eq!(status("S (sleeping)", 4, memory), Status { process: 7, ends: false, over: false });
        assert_eq!(status("D (disk sleep)", 4, ""), Status { process: 7, ends: true, over: false });
        assert_eq!(status("Z (zombie)", 4, ""), Status { process: 7, ends: true, over: false });
        assert_eq!(status("Z (zombie)", 1, ""), Status { process: 7, ends: true, over: true });
        assert_eq!(status_in("Name:\tcut short\n"), None);
    }

    #[test]
    fn threads_belong_to_their_process() {
        let me = std::process::id();
        let thread = std::thread::spawn(|| {
            let thread = rustix::thread::gettid().as_raw_nonzero().get();
            process_of(u32::try_from(thread).expect("thread numbers are positive"))
        });
        assert_eq!(thread.join().expect("it does not panic"), Some(me));
        assert_eq!(process_of(0), None);
        assert_eq!(closer(me, Some(me)), Closer { process: Some(me), killed: false, opener_gone: false });
    }

    #[test]
    fn an_opener_that_has_ended_is_gone_even_before_it_is_reaped() {
        let mut child = std::process::Command::new("true").spawn().expect("true starts");
        let opener = child.id();
        let gone = || closer(std::process::id(), Some(opener)).opener_gone;
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !gone() {
            assert!(std::time::Instant::now() < end, "a zombie counts as gone");
            std::thread::yield_now();
        }
        child.wait().expect("it is our child");
        assert!(gone());
    }
}
