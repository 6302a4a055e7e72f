//! What /proc tells about the process behind a request.
//!
//! `Request::pid` is the number of a thread: a tokio program opens, writes and closes one file under three
//! of them, so they are compared by their thread group. A process that is being ended by a signal still
//! closes, and so flushes, what it had open; its exit code in `/proc/TGID/stat` tells it from an orderly end.
//! Everything here reads procfs: microseconds, but never in a FUSE loop.

use std::{fs::File, io::Read};

use crate::vfs::Closer;

/// The process of a thread. `None` for 0, which is the kernel itself or another pid namespace, and where
/// the thread has gone.
pub(super) fn process_of(thread: u32) -> Option<u32> {
    if thread == 0 {
        return None;
    }
    tgid_in(&beginning(&format!("/proc/{thread}/status"))?)
}

/// What one read gives: procfs makes the whole text for each, and what is looked for stands in its first half.
fn beginning(path: &str) -> Option<String> {
    let mut bytes = [0; 1024];
    let read = File::open(path).ok()?.read(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes[..read]).into_owned())
}

/// Who closes a descriptor: `thread` sent the FLUSH, `opener` opened the handle.
pub(super) fn closer(thread: u32, opener: Option<u32>) -> Closer {
    let process = process_of(thread);
    Closer {
        process,
        killed: process.and_then(life).is_some_and(|life| life.killed),
        opener_gone: opener.is_some_and(|opener| life(opener).is_none_or(|life| life.over)),
    }
}

/// What `/proc/TGID/stat` says of a process; `None` when it is not there any more.
fn life(process: u32) -> Option<Life> {
    life_in(&beginning(&format!("/proc/{process}/stat"))?)
}

#[derive(Debug, PartialEq, Eq)]
struct Life {
    /// All its threads have ended; it merely waits for its parent.
    over: bool,
    /// A signal is ending it.
    killed: bool,
}

fn tgid_in(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// proc_pid_stat(5): the name stands in parentheses and may hold any character, so fields are counted
/// behind the last one: the third is the state.
fn life_in(stat: &str) -> Option<Life> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    let threads: u32 = field(20)?.parse().ok()?;
    let exit_code: u32 = field(52)?.parse().ok()?;
    // A leader that has ended shows Z while other threads of its process live on.
    let over = matches!(field(3)?, "Z" | "X") && threads <= 1;
    // As wait(2) tells it: the low seven bits are the signal.
    Some(Life { over, killed: exit_code & 0x7f != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(name: &str, state: &str, threads: u32, exit_code: u32) -> String {
        let mut fields = vec!["7".to_owned(), format!("({name})"), state.to_owned()];
        fields.extend((4..=52).map(|number| match number {
            20 => threads.to_string(),
            52 => exit_code.to_string(),
            _ => "0".to_owned(),
        }));
        fields.join(" ")
    }

    #[test]
    fn an_exit_code_tells_a_signal_from_an_orderly_end() {
        for (exit_code, killed) in [(0, false), (768, false), (9, true), (15, true), (11, true), (134, true)]
        {
            let life = life_in(&stat("cp", "R", 1, exit_code)).expect("it is a stat line");
            assert_eq!(life, Life { over: false, killed }, "exit code {exit_code}");
        }
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        assert_eq!(life_in(&stat("a) Z 1 (b", "S", 3, 9)), Some(Life { over: false, killed: true }));
        assert_eq!(life_in("7 (short) S 1"), None);
    }

    #[test]
    fn a_process_whose_leader_has_ended_is_not_over() {
        assert_eq!(life_in(&stat("x", "Z", 4, 0)), Some(Life { over: false, killed: false }));
        assert_eq!(life_in(&stat("x", "Z", 1, 0)), Some(Life { over: true, killed: false }));
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
