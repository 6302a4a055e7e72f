//! Who has begun an upload, and whether that one can still go on with it.
//!
//! A gateway is a process on a machine, or rather one mount in it. Another process of the same machine can
//! say at once whether it is gone: its number is free, belongs to a process that started later, or the
//! machine has been booted since. Of another machine nothing can be known but what arrives at COS.

use std::fs;

use md5::{Digest as _, Md5};

/// One mount in one process on one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gateway {
    /// A hash of what tells machines apart; shown to nobody, it only has to differ.
    machine: String,
    boot: String,
    process: u32,
    /// In clock ticks since the machine was booted.
    started: u64,
    instance: String,
}

/// What is known of another gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// It is this one.
    Own,
    /// Another mount or process of this machine, and its process is there.
    Running,
    /// Of this machine, and its process has ended.
    Gone,
    /// Of another machine.
    Elsewhere,
}

impl Gateway {
    /// This process, with a name of its own for one mount.
    pub(super) fn of_this_process() -> Self {
        let process = std::process::id();
        Self {
            machine: machine(),
            boot: read("/proc/sys/kernel/random/boot_id"),
            process,
            started: started(process).unwrap_or(0),
            instance: format!("{:016x}", fastrand::u64(..)),
        }
    }

    /// What `self`, as it has written itself down, is to the one who reads it.
    pub(super) fn seen_from(&self, reader: &Self) -> Life {
        if self == reader {
            return Life::Own;
        }
        if self.machine != reader.machine {
            return Life::Elsewhere;
        }
        let runs = self.boot == reader.boot && started(self.process) == Some(self.started);
        if runs { Life::Running } else { Life::Gone }
    }

    /// As one line of visible ASCII.
    pub(super) fn encode(&self) -> String {
        let Self { machine, boot, process, started, instance } = self;
        format!("{machine} {boot} {process} {started} {instance}")
    }

    /// From what [`Self::encode`] makes.
    pub(super) fn decode(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let gateway = Self {
            machine: words.next()?.to_owned(),
            boot: words.next()?.to_owned(),
            process: words.next()?.parse().ok()?,
            started: words.next()?.parse().ok()?,
            instance: words.next()?.to_owned(),
        };
        words.next().is_none().then_some(gateway)
    }
}

/// Images of virtual machines and containers are copied with their machine-id, so the host's name counts
/// too; and process numbers mean nothing outside their namespace.
fn machine() -> String {
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let parts = [
        read("/etc/machine-id"),
        read("/proc/sys/kernel/hostname"),
        namespace.to_string_lossy().into_owned(),
    ];
    let digest = Md5::digest(parts.join("\n"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A line without white space, `-` where there is none.
fn read(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line: String = text.trim().chars().filter(|letter| !letter.is_whitespace()).collect();
    if line.is_empty() { "-".to_owned() } else { line }
}

/// When a process was started; `None` where there is none, or it only waits to be reaped.
fn started(process: u32) -> Option<u64> {
    started_in(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// proc_pid_stat(5): fields are counted behind the last parenthesis, the third is the state.
fn started_in(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    if matches!(field(3)?, "Z" | "X") && field(20)? == "1" {
        return None;
    }
    field(22)?.parse().ok()
}

#[cfg(test)]
impl Gateway {
    pub(super) fn of_process(self, process: u32) -> Self {
        Self { process, ..self }
    }

    pub(super) fn on_machine(self, machine: &str) -> Self {
        Self { machine: machine.to_owned(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_survives_being_written_down() {
        let here = Gateway::of_this_process();
        let line = here.encode();
        assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{line}");
        assert_eq!(Gateway::decode(&line), Some(here));
        for line in ["", "a b c d e", "a b 1 2", "a b 1 2 c d"] {
            assert_eq!(Gateway::decode(line), None, "{line}");
        }
    }

    #[test]
    fn the_dead_are_told_from_the_living_of_the_same_machine() {
        let here = Gateway::of_this_process();
        let other_mount = Gateway::of_this_process();
        assert_eq!(here.seen_from(&here), Life::Own);
        assert_eq!(other_mount.seen_from(&here), Life::Running);
        let reused = Gateway { started: here.started + 1, ..other_mount.clone() };
        assert_eq!(reused.seen_from(&here), Life::Gone, "the number belongs to another process now");
        let rebooted = Gateway { boot: "before".to_owned(), ..other_mount.clone() };
        assert_eq!(rebooted.seen_from(&here), Life::Gone);
        let elsewhere = Gateway { machine: "far".to_owned(), ..other_mount };
        assert_eq!(elsewhere.seen_from(&here), Life::Elsewhere);
    }

    #[test]
    fn a_process_that_only_waits_to_be_reaped_is_gone() {
        let stat = |state: &str| {
            let mut fields = vec!["7".to_owned(), "(a) b)".to_owned(), state.to_owned()];
            fields.extend((4..=30).map(|number| if number == 20 { 1 } else { number }.to_string()));
            fields.join(" ")
        };
        assert_eq!(started_in(&stat("S")), Some(22));
        assert_eq!(started_in(&stat("Z")), None);
        assert_eq!(started_in(""), None);
    }
}
