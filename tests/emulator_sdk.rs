//! The embedded store, judged by a client that shares nothing with it: the vendor's own Python SDK does
//! every operation against it, by each way a client can be pointed at a store. The suite is `tests/sdk/`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use cosgate::emulator::{Emulator, EmulatorLimits, EmulatorOptions, TemporaryCredential};

/// The interpreter that has the SDK.
fn python() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/venv/bin/python");
    let has_sdk = Command::new(&python).args(["-c", "import qcloud_cos"]).output();
    assert!(
        has_sdk.is_ok_and(|output| output.status.success()),
        "the vendor's SDK is missing; install it with:\n    \
         python3 -m venv target/venv && target/venv/bin/pip install cos-python-sdk-v5\n",
    );
    python
}

fn options() -> EmulatorOptions {
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
        chunked_parts: true,
        ..EmulatorOptions::default()
    }
}

/// Runs the suite's tests against an emulator of these options, addressed by `form`.
async fn run_suite(form: &str, options: EmulatorOptions) {
    let python = python();
    let emulator = Emulator::start(options).await.expect("the emulator starts on a free port");
    let output = tokio::process::Command::new(python)
        .args(["-m", "unittest", "discover", "-s", "tests/sdk", "-t", "tests/sdk"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("STORE_FORM", form)
        .env("STORE_PORT", emulator.local_addr().port().to_string())
        .env("STORE_ADMIN_PORT", emulator.admin_addr().expect("asked for").port().to_string())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(300), output)
        .await
        .expect("the suite ends within five minutes")
        .expect("Python starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the vendor's SDK disagrees ({form}):\n{told}");
    assert!(!told.contains("Ran 0 tests"), "no test was run:\n{told}");
    emulator.stop();
}

#[tokio::test]
async fn sdk_through_a_proxy_agrees() {
    run_suite("proxy", options()).await;
}

#[tokio::test]
async fn sdk_with_an_endpoint_agrees() {
    run_suite("endpoint", options()).await;
}

#[tokio::test]
async fn sdk_with_a_domain_agrees() {
    run_suite("domain", options()).await;
}

#[tokio::test]
async fn sdk_agrees_on_a_directory() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = Some(directory.path().join("data"));
    run_suite("proxy", EmulatorOptions { data, ..options() }).await;
}
