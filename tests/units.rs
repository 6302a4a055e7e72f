//! The units of systemd: what they must not say, and that what they start is a command line of ours.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{fs, path::Path};

use clap::Parser;
use cosgate::cli::Cli;

/// Each of these gives a service a mount namespace of its own (systemd.exec(5), *Sandboxing*;
/// `exec_needs_mount_namespace`).
const OWN_MOUNTS: &[&str] = &[
    "BindPaths",
    "BindReadOnlyPaths",
    "DynamicUser",
    "ExecPaths",
    "ExtensionDirectories",
    "ExtensionImages",
    "InaccessiblePaths",
    "LogNamespace",
    "MountAPIVFS",
    "MountFlags",
    "MountImages",
    "NoExecPaths",
    "PrivateDevices",
    "PrivateIPC",
    "PrivateMounts",
    "PrivateNetwork",
    "PrivatePIDs",
    "PrivateTmp",
    "PrivateUsers",
    "ProcSubset",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "RootDirectory",
    "RootImage",
    "TemporaryFileSystem",
];

/// The settings of a unit, in order.
fn unit(name: &str) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name);
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with(['#', '[']) && !line.is_empty());
    lines
        .map(|line| line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())).unwrap())
        .collect()
}

fn values<'a>(unit: &'a [(String, String)], key: &str) -> Vec<&'a str> {
    unit.iter().filter(|(name, _)| name == key).map(|(_, value)| value.as_str()).collect()
}

#[test]
fn the_mounts_are_seen_by_everybody() {
    let mount = unit("cosgate-mount.service");
    for key in OWN_MOUNTS {
        assert_eq!(values(&mount, key), Vec::<&str>::new(), "{key} would hide the mounts from every shell");
    }
}

#[test]
fn the_front_sees_homes_wherever_they_lie() {
    let front = unit("cosgate-ftp.service");
    for key in [
        "ProtectHome",
        "PrivateTmp",
        "TemporaryFileSystem",
        "InaccessiblePaths",
        "RootDirectory",
        "PrivateMounts",
    ] {
        assert_eq!(values(&front, key), Vec::<&str>::new(), "{key} may hide homes");
    }
    // Anything stricter makes homes read-only.
    assert_eq!(values(&front, "ProtectSystem"), ["full"]);
}

#[test]
fn the_front_is_a_service_user_with_three_capabilities() {
    let front = unit("cosgate-ftp.service");
    assert_eq!(values(&front, "User"), ["cosgate"]);
    for key in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        assert_eq!(values(&front, key), ["CAP_DAC_OVERRIDE CAP_FOWNER CAP_NET_BIND_SERVICE"]);
    }
}

#[test]
fn both_tell_systemd_when_they_are_ready_and_come_back_after_a_crash() {
    for name in ["cosgate-mount.service", "cosgate-ftp.service"] {
        let unit = unit(name);
        assert_eq!(values(&unit, "Type"), ["notify"], "{name}");
        assert_eq!(values(&unit, "Restart"), ["on-failure"], "{name}");
        assert_eq!(values(&unit, "RestartPreventExitStatus"), ["64 78"], "{name}");
        assert_eq!(values(&unit, "NoNewPrivileges"), ["yes"], "{name}");
        assert_eq!(values(&unit, "PartOf"), ["cosgate.target"], "{name}");
        let seconds: u64 = values(&unit, "RestartSec")[0].parse().unwrap();
        assert!(seconds <= 2, "{name}: back within 5 s");
        let stop: u64 = values(&unit, "TimeoutStopSec")[0].parse().unwrap();
        assert!(stop >= 45, "{name}: grace_timeout is 30 s");
        // A socket for readiness and the journal.
        assert!(values(&unit, "RestrictAddressFamilies")[0].contains("AF_UNIX"), "{name}");
    }
}

/// `Type=notify-reload` would do without it, but systemd knows that word since version 253 only.
#[test]
fn a_reload_is_a_hangup_of_the_main_process() {
    for name in ["cosgate-mount.service", "cosgate-ftp.service"] {
        assert_eq!(values(&unit(name), "ExecReload"), ["/bin/kill -HUP $MAINPID"], "{name}");
    }
}

#[test]
fn what_units_start_is_a_command_line_of_ours() {
    let mut starts = Vec::new();
    for name in ["cosgate-mount.service", "cosgate-ftp.service"] {
        let unit = unit(name);
        for (key, value) in unit.iter().filter(|(key, _)| key.starts_with("Exec") && key != "ExecReload") {
            let words: Vec<_> = value.split_whitespace().collect();
            assert_eq!(words[0], "/usr/local/bin/cosgate", "{name}");
            assert!(value.ends_with("-c /etc/cosgate/cosgate.conf"), "{name}");
            let cli = Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{name}: {value}: {error}"));
            starts.push((key.clone(), format!("{cli:?}")));
        }
    }
    assert_eq!(starts.len(), 3, "{starts:?}");
    let cleanup = starts.iter().find(|(key, _)| key == "ExecStopPost").unwrap();
    assert!(cleanup.1.contains("cleanup: true"), "{cleanup:?}");
}

#[test]
fn the_target_wants_both() {
    assert_eq!(values(&unit("cosgate.target"), "Wants"), ["cosgate-mount.service cosgate-ftp.service"]);
    assert_eq!(values(&unit("cosgate.target"), "WantedBy"), ["multi-user.target"]);
}
