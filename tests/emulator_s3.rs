//! The embedded store as S3 clients see it, judged by one that shares nothing with it: boto3 does every
//! operation against it, in both styles of addressing, beside the vendor's SDK on the same objects. The suite
//! is `tests/s3/`.

#[path = "common/suite.rs"]
mod suite;

use cosgate::emulator::EmulatorOptions;
use suite::options;

/// Runs the suite's tests against an emulator of these options, the bucket named in that style.
async fn run_suite(style: &str, options: EmulatorOptions) {
    let env = [
        ("PYTHONPATH", "tests/sdk"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("S3_STYLE", style),
        ("STORE_FORM", "proxy"),
    ];
    suite::run("tests/s3", &env, options).await;
}

#[tokio::test]
async fn boto3_with_the_bucket_in_the_path_agrees() {
    run_suite("path", options()).await;
}

#[tokio::test]
async fn boto3_with_the_bucket_in_the_host_agrees() {
    run_suite("virtual", options()).await;
}

#[tokio::test]
async fn boto3_agrees_on_a_directory() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = Some(directory.path().join("data"));
    run_suite("virtual", EmulatorOptions { data, ..options() }).await;
}
