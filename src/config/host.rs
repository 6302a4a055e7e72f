//! What only this machine knows: whether homes exist, who can read the file, how much memory there is.
//!
//! A home on which something is mounted already (by a running cosgate, or by one that died) is not
//! looked into: the answer would come from the mount, and a mount whose server hangs never answers.

use std::{
    env, fs, io,
    os::unix::{ffi::OsStringExt, fs::PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags};

use super::{
    FtpConfig, Limits, RUNTIME_DIR,
    account::{Accounts, Home},
    keys::SectionKind,
    section::Sections,
    values::ByteSize,
};

/// What the processes need beside `memory_limit`: code, runtime, connections.
const BASE_BYTES: u64 = 100 << 20;
/// What a logged-in session may take.
const SESSION_BYTES: u64 = 64 << 10;
/// Descriptors of an idle session: both of the client's and both of the inner connection.
const SESSION_DESCRIPTORS: u64 = 4;

/// `RUNTIME_DIRECTORY` as systemd sets it (the first of its list), else `/run/cosgate`.
pub(super) fn runtime_dir() -> PathBuf {
    let set = env::var_os("RUNTIME_DIRECTORY").filter(|text| !text.is_empty());
    let first = set.and_then(|text| text.into_vec().split(|byte| *byte == b':').next().map(<[u8]>::to_vec));
    first.map_or_else(|| PathBuf::from(RUNTIME_DIR), |bytes| std::ffi::OsString::from_vec(bytes).into())
}

/// A warning where others can read the file: it holds secrets.
pub(super) fn file_warning(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o004 != 0).then(|| {
        let (path, mode) = (path.display(), mode & 0o777);
        format!("{path} holds secrets and everybody can read it (mode {mode:04o}): chmod o-rwx {path}")
    })
}

/// Homes exist, and are empty unless `nonempty`; files of certificates can be read.
pub(super) fn check(accounts: &Accounts, sections: &mut Sections<'_>) {
    let mounted = mount_points();
    for home in &accounts.homes {
        if let Err(why) = check_home(home, &mounted) {
            sections.problem_at(&home.section, home.key, why);
        }
    }
    for mount in &accounts.mounts {
        if let Some(path) = &mount.store.ca_file
            && let Err(error) = fs::File::open(path)
        {
            sections.problem_at(
                &mount.name,
                "cos_ca_file",
                format!("{} cannot be read: {error}", path.display()),
            );
        }
    }
}

fn check_home(home: &Home, mounted: &[PathBuf]) -> Result<(), String> {
    let path = home.path.display();
    // O_PATH asks nobody, not even a dead FUSE mount.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, &home.path, flags, Mode::empty()).map_err(|error| match error
        .kind()
    {
        io::ErrorKind::NotFound => format!("{path} does not exist, allowed is a directory: mkdir -p {path}"),
        io::ErrorKind::NotADirectory => format!("{path} is not a directory"),
        _ => format!("{path} cannot be opened: {error}"),
    })?;
    let real = rustix::fs::readlinkat(CWD, format!("/proc/self/fd/{}", raw(&directory)), Vec::new());
    let real = real
        .map_or_else(|_| home.path.clone(), |name| std::ffi::OsString::from_vec(name.into_bytes()).into());
    if home.nonempty || mounted.contains(&real) {
        return Ok(());
    }
    let first = fs::read_dir(&home.path).and_then(|mut entries| entries.next().transpose());
    match first {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(format!(
            "{path} is not empty, and the mount would hide what is there; allowed is an empty directory, or nonempty = true"
        )),
        Err(error) => Err(format!("{path} cannot be listed: {error}")),
    }
}

fn raw(descriptor: &impl std::os::fd::AsFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(&descriptor.as_fd())
}

/// Where something is mounted (proc_pid_mountinfo(5): the fifth field, blanks and backslashes in octal).
fn mount_points() -> Vec<PathBuf> {
    let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let field = |line: &[u8]| line.split(|byte| *byte == b' ').nth(4).map(<[u8]>::to_vec);
    let points = text.split(|byte| *byte == b'\n').filter_map(field);
    points.map(|point| std::ffi::OsString::from_vec(without_octal(&point)).into()).collect()
}

fn without_octal(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, behind)) = rest.split_first() {
        let code = behind.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) if *byte == b'\\' => {
                plain.push(code);
                rest = &behind[3..];
            }
            _ => {
                plain.push(*byte);
                rest = behind;
            }
        }
    }
    plain
}

/// Memory that could be had, and who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Available {
    bytes: u64,
    from: &'static str,
}

/// `memory_limit` and what comes beside it within 60 % of available memory.
pub(super) fn check_memory(limits: &Limits, ftp: &FtpConfig, sections: &mut Sections<'_>) {
    let sessions = match ftp.sessions_max {
        0 => sessions_by_descriptors(),
        sessions => sessions as u64,
    };
    let Some(available) = available() else { return };
    if let Some(why) = too_little(limits.memory_bytes, sessions, available) {
        let place = sections.place(SectionKind::Options, "OPTIONAL");
        sections.problem(&place, "memory_limit", why);
    }
}

/// `max_connection_num = 0`: as many as the descriptors allow.
fn sessions_by_descriptors() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.unwrap_or(1 << 20) / SESSION_DESCRIPTORS
}

fn too_little(memory_bytes: u64, sessions: u64, available: Available) -> Option<String> {
    let sessions_bytes = SESSION_BYTES.saturating_mul(sessions);
    let needed = memory_bytes.saturating_add(BASE_BYTES).saturating_add(sessions_bytes);
    let allowed = available.bytes / 10 * 6;
    (needed > allowed).then(|| {
        let (memory, base) = (ByteSize(memory_bytes), ByteSize(BASE_BYTES));
        let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
        format!(
            "{memory} + {base} + 64K x {sessions} sessions = {}M, more than 60 % of the {}M available ({}) = {}M; \
             lower memory_limit or max_connection_num, or set config_check_enable = false",
            mebibytes(needed),
            available.bytes >> 20,
            available.from,
            allowed >> 20,
        )
    })
}

/// What the kernel estimates, or the control group's limit if that is less.
fn available() -> Option<Available> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok();
    let of_machine = meminfo.as_deref().and_then(mem_available);
    let of_machine = of_machine.map(|bytes| Available { bytes, from: "MemAvailable" });
    let of_group = control_group_limit().map(|bytes| Available { bytes, from: "limit of the control group" });
    of_machine.into_iter().chain(of_group).min_by_key(|available| available.bytes)
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// The least `memory.max` from this process's control group up to the root (version 2; in a container
/// the root itself has one).
fn control_group_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limit = |group: &Path| {
        let file = Path::new("/sys/fs/cgroup").join(group).join("memory.max");
        fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()
    };
    Path::new(own).ancestors().filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_refused_with_the_arithmetic() {
        let available = Available { bytes: 600 << 20, from: "MemAvailable" };
        let why = too_little(256 << 20, 512, available).unwrap();
        assert!(why.starts_with("256M + 100M + 64K x 512 sessions = 388M, more than 60 % of the 600M available (MemAvailable) = 360M"), "{why}");
        let available = Available { bytes: 648 << 20, ..available };
        assert_eq!(too_little(256 << 20, 512, available), None);
        assert!(too_little(u64::MAX, u64::MAX, available).is_some());
    }

    #[test]
    fn available_memory_is_read_from_meminfo() {
        assert_eq!(mem_available("MemTotal:  10 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(mem_available("MemTotal: 10 kB\n"), None);
        assert!(available().is_some_and(|available| available.bytes > 1 << 20));
    }

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(without_octal(br"/mnt/a\040b\134c"), br"/mnt/a b\c");
        assert_eq!(without_octal(br"/x\9"), br"/x\9");
        assert!(mount_points().contains(&PathBuf::from("/")));
    }
}
