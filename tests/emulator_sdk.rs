//! The embedded store, judged by a client that shares nothing with it: the vendor's own Python SDK does
//! every operation against it, by each way a client can be pointed at a store. The suite is `tests/sdk/`.

#[path = "common/suite.rs"]
mod suite;

use cosgate::emulator::EmulatorOptions;

fn options() -> EmulatorOptions {
    EmulatorOptions { chunked_parts: true, ..suite::options() }
}

/// Runs the suite's tests against an emulator of these options, addressed by `form`.
async fn run_suite(form: &str, options: EmulatorOptions) {
    suite::run("tests/sdk", &[("STORE_FORM", form)], options).await;
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
