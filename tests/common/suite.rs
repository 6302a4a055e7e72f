//! Suites in Python that judge the embedded store, from outside.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use cosgate::emulator::{Emulator, EmulatorLimits, EmulatorOptions, TemporaryCredential};

/// The interpreter that has both clients.
fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
    let has_clients = Command::new(&python).args(["-c", "import boto3, qcloud_cos"]).output();
    assert!(
        has_clients.is_ok_and(|output| output.status.success()),
        "boto3 or the vendor's SDK is missing; install them with:\n    \
         python3 -m venv target/venv && target/venv/bin/pip install boto3 cos-python-sdk-v5\n",
    );
    python
}

/// What the suites expect of a store.
pub(crate) fn options() -> EmulatorOptions {
    EmulatorOptions {
        buckets: vec!["demo-1250000000".into(), "other-1250000000".into()],
        admin: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        temporary: Some(TemporaryCredential {
            secret_id: "temporary".into(),
            secret_key: "temporary-secret".into(),
            token: "a token/with+signs==".into(),
            expires: 4_000_000_000,
        }),
        // Small enough that a test can be above them.
        limits: EmulatorLimits { put_bytes_max: 16 << 20, ..EmulatorLimits::default() },
        ..EmulatorOptions::default()
    }
}

/// Runs the tests in `folder` against an emulator of these options; `env` tells them how to address it.
pub(crate) async fn run(folder: &str, env: &[(&str, &str)], options: EmulatorOptions) {
    let python = python();
    let emulator = Emulator::start(options).await.expect("the emulator starts on a free port");
    let output = tokio::process::Command::new(python)
        .args(["-m", "unittest", "discover", "-s", folder, "-t", folder])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("STORE_PORT", emulator.local_addr().port().to_string())
        .env("STORE_ADMIN_PORT", emulator.admin_addr().expect("asked for").port().to_string())
        .envs(env.iter().copied())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(300), output)
        .await
        .expect("the suite ends within five minutes")
        .expect("Python starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{folder} disagrees ({env:?}):\n{told}");
    assert!(!told.contains("Ran 0 tests"), "no test was run:\n{told}");
    emulator.stop();
}
