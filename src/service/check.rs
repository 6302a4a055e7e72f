//! `cosgate check`: what a configuration means, and whether its buckets can be used.

use std::{fmt::Write as _, io::Write as _};

use anyhow::{Context as _, ensure};
use futures_util::future::join_all;

use crate::{
    config::{Config, MountConfig, Secrets},
    cos::{CosClient, HttpPool, ObjectStore as _},
};

/// Prints the configuration as a file: every key with its value, defaults marked, secrets masked;
/// warnings and notes above it, as comments. `online`: also asks each bucket.
///
/// # Errors
/// Where standard output cannot be written, or a bucket cannot be used.
pub fn run(config: &Config, online: bool) -> anyhow::Result<()> {
    say(&report(config))?;
    if !online {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let pool = HttpPool::new();
    let answers = runtime.block_on(join_all(config.mounts.iter().map(|mount| ask(mount, &pool))));
    let mut text = "\n".to_owned();
    let mut refused = 0;
    for (mount, answer) in config.mounts.iter().zip(answers) {
        refused += usize::from(answer.is_err());
        let told =
            answer.map_or_else(|error| format!("cannot be used: {error:#}"), |()| "answers".to_owned());
        writeln!(text, "# online: [{}] {} {told}", mount.name, mount.store.bucket)?;
    }
    say(&text)?;
    ensure!(refused == 0, "{refused} of {} buckets cannot be used", config.mounts.len());
    Ok(())
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).context("standard output")
}

/// A signed HEAD, retried as every request is.
async fn ask(mount: &MountConfig, pool: &HttpPool) -> anyhow::Result<()> {
    CosClient::new(&mount.store, pool)?.head_bucket().await?;
    Ok(())
}

/// What is printed; itself a configuration file.
fn report(config: &Config) -> String {
    let mut text = String::new();
    let mut line = |prefix: &str, line: &str| {
        writeln!(text, "# {prefix}{line}").expect("a String takes all that is written")
    };
    if let Some(source) = &config.source {
        line("", &format!("{}, as it is meant", source.display()));
    }
    for warning in &config.warnings {
        line("warning: ", warning);
    }
    for note in notes(config) {
        line("note: ", &note);
    }
    text.push('\n');
    text.push_str(&config.to_file_text(Secrets::Masked));
    text
}

/// Settings that allow what their names may seem to forbid.
fn notes(config: &Config) -> Vec<String> {
    let lenient = |name: &String| {
        let policies = || config.ftp.users.iter().filter(|user| user.mount == *name).map(|user| user.policy);
        policies().any(|policy| !policy.delete_enable && policy.overwrite_enable && policy.authority.write)
    };
    let names = config.mounts.iter().map(|mount| &mount.name).filter(|name| lenient(name));
    names
        .map(|name| {
            format!(
                "[{name}] delete_enable = false stops unlink, rmdir and rename onto an existing name; writing may still \
                 overwrite or truncate a file, which overwrite_enable = false stops too"
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[COS_ACCOUNT_0]\ncos_secretid=a\ncos_secretkey=s3cr3t\ncos_bucket=demo-1250000000\n\
        cos_region=ap-guangzhou\nhome_dir=/srv/a\nftp_login_user_name=u\nftp_login_user_password=p4ss\ndelete_enable=false\n";

    #[test]
    fn the_report_is_a_configuration_file_that_means_the_same() {
        let config = Config::parse(FILE.as_bytes()).unwrap();
        let text = report(&config);
        assert!(!text.contains("s3cr3t") && !text.contains("p4ss"), "{text}");
        let filled = text
            .replace("cos_secretkey = ***", "cos_secretkey = s3cr3t")
            .replace("password = ***", "password = p4ss");
        assert_eq!(Config::parse(filled.as_bytes()).unwrap(), config);
    }

    #[test]
    fn the_report_says_what_delete_enable_leaves_open() {
        let note = |file: String| notes(&Config::parse(file.as_bytes()).unwrap());
        assert_eq!(note(FILE.to_owned()).len(), 1);
        assert_eq!(note(format!("{FILE}overwrite_enable=false\n")), Vec::<String>::new());
        assert_eq!(note(FILE.replace("delete_enable=false", "")), Vec::<String>::new());
    }
}
