//! The configuration as an operator meets it: old files, bad files, every key, the normalised file.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use cosgate::config::{
    Authority, Config, ConfigError, KEYS, KeyDefault, KeyState, PassiveHost, Secrets, SectionKind,
};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn problems(result: Result<Config, ConfigError>) -> Vec<String> {
    result.unwrap_err().problems.iter().map(ToString::to_string).collect()
}

/// An example of the replaced tool with its placeholders replaced, but for `masquerade_address`, and
/// homes that exist.
fn filled(name: &str, homes: &Path) -> String {
    let text = fs::read_to_string(data("old-config").join(name)).unwrap();
    for home in ["user0", "user1", "data"] {
        fs::create_dir_all(homes.join(home)).unwrap();
    }
    let homes = homes.to_str().unwrap();
    let mut lines = Vec::new();
    for line in text.lines() {
        let line = match line.split('=').next().unwrap().trim() {
            "cos_secretid" => "cos_secretid = AKID1\t\t# id",
            "cos_secretkey" => "cos_secretkey = key#with;signs",
            "cos_bucket" => "cos_bucket = demo-1250000000",
            "cos_region" => "cos_region = ap-guangzhou",
            _ => line,
        };
        lines.push(line.replace("/home/cos_ftp", homes).replace("/home", homes));
    }
    lines.join("\n")
}

fn load(text: &str, folder: &Path) -> Result<Config, ConfigError> {
    let path = folder.join("cosgate.conf");
    fs::write(&path, text).unwrap();
    Config::load(&path)
}

/// A second-generation account that is complete.
const ACCOUNT: &str = "[COS_ACCOUNT_0]\ncos_secretid = AKID1\ncos_secretkey = s3cr3t\ncos_bucket = demo-1250000000\n\
    cos_region = ap-guangzhou\nhome_dir = /srv/user0\nftp_login_user_name = user0\nftp_login_user_password = pass0\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text.as_bytes())
}

/// An account with further lines of its own.
fn account_with(lines: &str) -> Result<Config, ConfigError> {
    parse(&format!("{ACCOUNT}{lines}"))
}

#[test]
fn old_files_as_they_are_fail_by_their_placeholders_all_at_once() {
    let multi = Config::load(&data("old-config/multi-account.conf")).unwrap_err();
    let told: Vec<_> = multi.problems.iter().map(ToString::to_string).collect();
    for section in ["COS_ACCOUNT_0", "COS_ACCOUNT_1"] {
        for key in ["cos_secretid", "cos_secretkey", "cos_bucket", "cos_region"] {
            let start = format!("[{section}] {key}: `");
            let line = told
                .iter()
                .find(|line| line.starts_with(&start))
                .unwrap_or_else(|| panic!("{start} {told:?}"));
            assert!(line.contains("placeholder"), "{line}");
        }
    }
    let single = problems(Config::load(&data("old-config/single-account.conf")));
    for key in ["cos_secretid", "cos_secretkey", "cos_bucket", "cos_region"] {
        let start = format!("[COS_ACCOUNT] {key}: `");
        assert!(
            single.iter().any(|line| line.starts_with(&start) && line.contains("placeholder")),
            "{single:?}"
        );
    }
    // Besides the placeholders there may only be homes that this machine lacks.
    let others = |told: &[String]| {
        told.iter().filter(|line| !line.contains("placeholder")).cloned().collect::<Vec<_>>()
    };
    for line in others(&told).iter().chain(&others(&single)) {
        assert!(line.contains("home_dir: /home/"), "{line}");
    }
}

#[test]
fn the_old_file_of_many_accounts_loads_once_filled() {
    let folder = tempfile::tempdir().unwrap();
    let config = load(&filled("multi-account.conf", folder.path()), folder.path()).unwrap();
    assert_eq!(config.mounts.len(), 2);
    let (first, second) = (&config.mounts[0], &config.mounts[1]);
    assert_eq!(first.name, "COS_ACCOUNT_0");
    assert_eq!(first.home, folder.path().join("user0"));
    assert_eq!(first.store.endpoint, "cos.ap-guangzhou.myqcloud.com");
    assert_eq!(first.store.secret_key.reveal(), "key#with;signs");
    assert!(first.policies[0].delete_enable && !second.policies[0].delete_enable);
    let users: Vec<_> =
        config.ftp.users.iter().map(|user| (user.name.as_str(), user.password.reveal())).collect();
    assert_eq!(users, [("user0", "pass0"), ("user1", "pass1")]);
    assert_eq!(config.ftp.users[1].root, second.home);
    assert_eq!(config.ftp.passive_host, None);
    assert!(
        config.warnings.iter().any(|line| line.contains("masquerade_address") && line.contains("XXX.XXX"))
    );
    // The comment beside it says 200 GB; the value counts.
    assert_eq!(config.limits.single_file_bytes_max, 20 << 30);
    assert_eq!((config.ftp.sessions_max, config.ftp.list_names_max), (512, Some(10_000)));
    assert_eq!(config.log.directory, Path::new("log"));
}

#[test]
fn the_old_file_of_one_account_loads_once_filled() {
    let folder = tempfile::tempdir().unwrap();
    let config = load(&filled("single-account.conf", folder.path()), folder.path()).unwrap();
    assert_eq!(config.mounts.len(), 1);
    assert_eq!(config.mounts[0].home, folder.path().join("data"));
    assert_eq!(config.mounts[0].policies.len(), 1);
    let names: Vec<_> = config.ftp.users.iter().map(|user| user.name.as_str()).collect();
    assert_eq!(names, ["user1", "user2"]);
    assert!(config.ftp.users.iter().all(|user| user.root == config.mounts[0].home));
}

#[test]
fn logins_of_different_authority_on_one_home_are_sessions_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let text = filled("single-account.conf", folder.path());
    let text = text.replace("user1:pass1:RW;user2:pass2:RW", "user1:p:a:s:s:R;user2:pass2:RW;user3:pass3:R;");
    let config = load(&text, folder.path()).unwrap();
    let mount = &config.mounts[0];
    let authorities: Vec<_> = mount.policies.iter().map(|policy| policy.authority).collect();
    assert_eq!(authorities, [Authority { read: true, write: true }, Authority { read: true, write: false }]);
    let users = &config.ftp.users;
    assert_eq!(users[0].password.reveal(), "p:a:s:s");
    assert_eq!(users[1].root, mount.home);
    assert_eq!(users[0].root, config.runtime_dir.join("COS_ACCOUNT/r"));
    assert_eq!(users[0].root, users[2].root);
}

#[test]
fn every_bad_file_tells_all_its_problems() {
    let mut count = 0;
    for entry in fs::read_dir(data("bad-config")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "conf") {
            continue;
        }
        count += 1;
        let told = problems(Config::parse(&fs::read(&path).unwrap())).join("\n") + "\n";
        let expected = path.with_extension("expected");
        let wanted = fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(told, wanted, "{} should tell what stands in {}", path.display(), expected.display());
        assert!(!told.contains("s3cr3t"), "{told}");
    }
    assert!(count >= 10, "only {count} bad files");
}

#[test]
fn what_is_printed_loads_again_to_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let many = filled("multi-account.conf", folder.path());
    let one = filled("single-account.conf", folder.path())
        .replace("user1:pass1:RW", "user1:p:a#s:R")
        .replace("[FTP_ACCOUNT]", "delete_enable = false\ncos_prefix=a/b\n[FTP_ACCOUNT]");
    let odd = format!(
        "{ACCOUNT}cos_endpoint=[::1]:9980\ncos_protocol=http\ncos_addressing=virtual\ncos_token=t0k3n\n\
         cos_proxy=http://10.0.0.1:3128\ncos_storage_class=standard_ia\ncos_sse=AES256\nposix_metadata=yes\nuid=7\n\
         gid=0\nfile_mode=600\ndir_mode=0700\nallow_other=off\nauthority=r\noverwrite_enable=0\nnonempty=1\n\
         quota=1T\nquota_files=7\nmax_upload_rate=1M\nmax_download_rate=2M\nmax_upload_rate_per_session=3\n\
         max_download_rate_per_session=4\nmax_sessions=5\n[NETWORK]\nmasquerade_address=ftp.example.org\nlisten_port=21\nlisten_address=::1, 127.0.0.1\n\
         passive_port=1,2\nlogin_timeout=1m\nbanner=C:\\new \"day\"\nname_encoding=Shift_JIS\nactive_mode=off\n\
         data_foreign_address=yes\ntls_cert=/a.pem\ntls_key=/b.pem\ntls_required=all\ntls_implicit_port=990\n\
         tls_session_reuse=required\ntls_strict_eof=1\nproxy_protocol=10.1.2.3/8, ::1\nmax_connection_per_ip=9\n\
         failed_login_limit=0\nfailed_login_window=1h\n\
         [FILE_OPTION]\nsingle_file_max_size=123456789\n[OPTIONAL]\nmemory_limit=1G\nmin_part_size=5000001\n\
         upload_thread_num=3\nmax_connection_num=0\nmax_list_file=5\nattr_ttl=0\nstore_timeout=90\n\
         grace_timeout=1h\nstate_prefix=.x/y\nconfig_check_enable=no\nlog_level=critical\nlog_dir=/var/log/c\nlog_format=json\n\
         xferlog=/var/log/x\nlog_rotate_enabled=on\nlog_rotate_when=d\nlog_backup_count=3\nenable_anonymous=1\n\
         anonymous_home=/srv/user0/pub/\n"
    );
    let guests = format!(
        "{ACCOUNT}delete_enable=0\n[OPTIONAL]\nenable_anonymous=on\nanonymous_home=/srv/user0\nanonymous_write=1\n"
    );
    for text in [many.as_str(), &one, ACCOUNT, &odd, &guests] {
        let config = parse(text).unwrap();
        let again = parse(&config.to_file_text(Secrets::Revealed)).unwrap();
        // The old address was a placeholder, and is told as unset now: nothing to warn about any more.
        assert_eq!(again, Config { warnings: Vec::new(), ..config });
    }
}

#[test]
fn guests_have_a_policy_of_their_own_on_the_mount_of_their_home() {
    let guests = "delete_enable = off\n[OPTIONAL]\nenable_anonymous = on\nanonymous_home = ";
    let config = account_with(&format!("{guests}/srv/user0/pub/in/\n")).unwrap();
    let guest = config.ftp.anonymous.as_ref().unwrap();
    assert_eq!((guest.user.name.as_str(), guest.user.mount.as_str()), ("anonymous", "COS_ACCOUNT_0"));
    assert_eq!(guest.user.directory, Path::new("pub/in"));
    let [own, theirs] = config.mounts[0].policies.as_slice() else { panic!("two policies") };
    assert!(own.authority.write && !theirs.authority.write && theirs.authority.read && !theirs.delete_enable);
    assert_eq!(guest.user.root, config.mounts[0].root_of(theirs, &config.runtime_dir));
    assert_ne!(guest.user.root, config.mounts[0].home);
    assert_eq!(config.ftp.users.len(), 1, "the guest is no login of an account");
    // What is the same policy is the same session.
    let config = account_with(&format!("{guests}/srv/user0\nanonymous_write = on\n")).unwrap();
    assert_eq!(config.mounts[0].policies.len(), 1);
    let guest = config.ftp.anonymous.unwrap().user;
    assert_eq!((guest.root, guest.directory), (config.mounts[0].home.clone(), PathBuf::new()));
}

#[test]
fn no_secret_is_printed_and_defaults_are_marked() {
    let config = account_with("cos_token = t0k3n\n[NETWORK]\nlisten_port = 2100\n").unwrap();
    let text = config.to_file_text(Secrets::Masked);
    for secret in ["s3cr3t", "pass0", "t0k3n"] {
        assert!(!text.contains(secret), "{text}");
        assert!(!format!("{config:?}").contains(secret));
    }
    assert!(text.contains("cos_secretkey = ***\n"));
    assert!(text.contains("listen_port = 2100\n"));
    assert!(text.contains("memory_limit = 256M   # default\n"));
    assert!(text.contains("max_list_file = default   # default: no limit\n"));
}

#[test]
fn every_built_key_is_printed() {
    let second = parse(ACCOUNT).unwrap().to_file_text(Secrets::Masked);
    let first = ACCOUNT.replace("_ACCOUNT_0", "_ACCOUNT").replace("home_dir", "cos_user_home_dir");
    let first = first.split("ftp_login").next().unwrap().to_owned() + "[FTP_ACCOUNT]\nlogin_users = a:b:RW\n";
    let first = parse(&first).unwrap().to_file_text(Secrets::Masked);
    for key in KEYS.iter().filter(|key| key.state == KeyState::Built) {
        // A region is told as the endpoint that it gives.
        if key.name == "cos_region" {
            continue;
        }
        let start = format!("\n{} = ", key.name);
        assert!(second.contains(&start) || first.contains(&start), "{}", key.name);
    }
}

#[test]
fn default_means_the_default_everywhere() {
    let plain = parse(ACCOUNT).unwrap();
    let mut text = ACCOUNT.to_owned();
    for (kind, header) in [
        (SectionKind::Account, ""),
        (SectionKind::Network, "[NETWORK]\n"),
        (SectionKind::Options, "[OPTIONAL]\n"),
    ] {
        text.push_str(header);
        for key in KEYS.iter().filter(|key| key.section == kind && key.default != KeyDefault::Must) {
            if !["cos_region", "cos_user_home_dir"].contains(&key.name) {
                text.push_str(&format!("{} = Default\n", key.name));
            }
        }
    }
    assert_eq!(parse(&text).unwrap(), plain);
}

#[test]
fn a_key_whose_feature_is_not_built_is_refused_unless_it_asks_for_nothing() {
    let header = |kind| match kind {
        SectionKind::Network => "[NETWORK]\n",
        SectionKind::Options => "[OPTIONAL]\n",
        SectionKind::Account | SectionKind::Logins => "",
    };
    let mut count = 0;
    for key in KEYS {
        let KeyState::NotBuilt(harmless) = key.state else { continue };
        count += 1;
        let header = header(key.section);
        let told = problems(account_with(&format!("{header}{} = 77\n", key.name)));
        assert!(told.len() == 1 && told[0].contains("not built yet"), "{told:?}");
        for value in harmless.iter().chain(&["default"]) {
            account_with(&format!("{header}{} = {value}\n", key.name)).unwrap();
        }
    }
    assert!(count > 0);
}

#[test]
fn sizes_of_parts_and_files_fit_the_memory() {
    let with = |lines: &str| account_with(&format!("[OPTIONAL]\n{lines}"));
    let config = with("").unwrap();
    assert_eq!((config.limits.min_part_bytes, config.limits.single_file_bytes_max), (4 << 20, 200 << 30));
    let config = with("memory_limit = 24M\n").unwrap();
    assert_eq!(config.limits.min_part_bytes, 2 << 20);
    assert!(config.limits.single_file_bytes_max < 20 << 30);
    let told = problems(with("memory_limit = 24M\nsingle_file_max_size = 20G\n"));
    assert!(told.len() == 1 && told[0].contains("set memory_limit to 25M or more"), "{told:?}");
    with("memory_limit = 25M\nsingle_file_max_size = 20G\n").unwrap();

    for (set, moved) in [("100", 1 << 20), ("1G", 22_347_776 / 65_536 * 65_536)] {
        let config = with(&format!("min_part_size = {set}\n")).unwrap();
        assert_eq!(config.limits.min_part_bytes, moved);
        assert!(
            config.warnings[0].contains("[OPTIONAL] min_part_size:")
                && config.warnings[0].contains("is moved to")
        );
    }
}

#[test]
fn masquerade_address_is_an_address_or_a_name() {
    let host = |text: &str| {
        account_with(&format!("[NETWORK]\nmasquerade_address = {text}\n")).unwrap().ftp.passive_host
    };
    assert_eq!(host("203.0.113.7"), Some(PassiveHost::Address("203.0.113.7".parse().unwrap())));
    assert_eq!(host("2001:db8::1"), Some(PassiveHost::Address("2001:db8::1".parse().unwrap())));
    assert_eq!(host("ftp.xxx.org"), Some(PassiveHost::Name("ftp.xxx.org".to_owned())));
    assert_eq!(host("xxx.xxx.xxx.xxx"), None);
    assert_eq!(host(""), None);
}

#[test]
fn homes_are_looked_at_before_anything_is_mounted() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("user0");
    let text = ACCOUNT.replace("/srv/user0", &format!("{}/", home.display()));
    let told = problems(load(&text, folder.path()));
    assert!(told.len() == 1 && told[0].contains("does not exist"), "{told:?}");
    fs::write(&home, "").unwrap();
    assert!(problems(load(&text, folder.path()))[0].contains("is not a directory"));
    fs::remove_file(&home).unwrap();
    fs::create_dir(&home).unwrap();
    assert_eq!(load(&text, folder.path()).unwrap().mounts[0].home, home);
    fs::write(home.join("local"), "").unwrap();
    assert!(problems(load(&text, folder.path()))[0].contains("is not empty"));
    load(&format!("{text}nonempty = true\n"), folder.path()).unwrap();
}

#[test]
fn a_file_that_others_can_read_gets_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("user0");
    fs::create_dir(&home).unwrap();
    let text = ACCOUNT.replace("/srv/user0", home.to_str().unwrap());
    let path = folder.path().join("cosgate.conf");
    fs::write(&path, text).unwrap();
    for (mode, warnings) in [(0o644, 1), (0o640, 0), (0o600, 0)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let config = Config::load(&path).unwrap();
        assert_eq!(config.warnings.len(), warnings, "{:?}", config.warnings);
        assert_eq!(config.source.as_deref(), Some(path.as_path()));
    }
}

#[test]
fn memory_that_is_not_there_is_refused_with_the_arithmetic() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("user0");
    fs::create_dir(&home).unwrap();
    let text = ACCOUNT.replace("/srv/user0", home.to_str().unwrap()) + "[OPTIONAL]\nmemory_limit = 9T\n";
    let told = problems(load(&text, folder.path()));
    assert!(told.len() == 1, "{told:?}");
    assert!(told[0].starts_with("[OPTIONAL] memory_limit: 9T + 100M + 64K x 512 sessions = "), "{told:?}");
    load(&(text + "config_check_enable = false\n"), folder.path()).unwrap();
}

#[test]
fn a_file_that_is_not_there_is_a_problem_of_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let error = Config::load_from(Some(&folder.path().join("none"))).unwrap_err();
    assert!(error.to_string().contains("cannot be read"), "{error}");
}

fn project_file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn the_example_holds_every_key_and_its_default() {
    let example = project_file("conf/cosgate.conf.example");
    for key in KEYS {
        let lines =
            || example.lines().filter(|line| line.trim_start_matches(['#', ' ']).starts_with(key.name));
        assert!(lines().any(|line| line.contains(&format!("{} = ", key.name))), "{} is missing", key.name);
    }
    // As it is: refused by its placeholders alone.
    for line in problems(parse(&example)) {
        assert!(line.contains("placeholder"), "{line}");
    }
    let filled = |example: &str| {
        let example = example.replace("{name}-{appid}", "demo-1250000000").replace("ap-xxx", "ap-guangzhou");
        parse(&example.replace("XXXXXX", "filled")).unwrap()
    };
    let is_key =
        |line: &str| line.as_bytes().get(1).is_some_and(u8::is_ascii_lowercase) && line.starts_with('#');
    let set: Vec<_> = example.lines().map(|line| if is_key(line) { &line[1..] } else { line }).collect();
    assert!(set.iter().filter(|line| line.contains(" = ")).count() >= KEYS.len() - 2);
    assert_eq!(filled(&set.join("\n")), filled(&example));
    // A default that can be written is written.
    for key in KEYS.iter().filter(|key| key.state == KeyState::Built) {
        if let KeyDefault::Value(value) = key.default {
            let start = format!("#{} = {value}", key.name);
            assert!(example.lines().any(|line| line.split("   ").next().unwrap() == start), "{start}");
        }
    }
}

#[test]
fn the_table_of_defaults_tells_the_defaults() {
    let mut text = ACCOUNT.to_owned();
    for (kind, header) in [
        (SectionKind::Account, ""),
        (SectionKind::Network, "[NETWORK]\n"),
        (SectionKind::Options, "[OPTIONAL]\n"),
    ] {
        text.push_str(header);
        for key in KEYS.iter().filter(|key| key.section == kind && key.state == KeyState::Built) {
            if let KeyDefault::Value(value) = key.default {
                text.push_str(&format!("{} = {value}\n", key.name));
            }
        }
    }
    assert_eq!(parse(&text).unwrap(), parse(ACCOUNT).unwrap());
}

#[test]
fn every_key_is_explained() {
    let manual = project_file("docs/CONFIGURATION.md");
    let rows: Vec<_> = manual.lines().filter(|line| line.starts_with('|')).collect();
    for key in KEYS {
        let row = rows.iter().find(|row| row.split('|').nth(1).unwrap().contains(&format!("`{}`", key.name)));
        let row = row.unwrap_or_else(|| panic!("{} is not explained", key.name));
        let not_built = matches!(key.state, KeyState::NotBuilt(_));
        let told = row.contains("**not built yet**");
        assert_eq!(told, not_built, "{row}");
        if let KeyDefault::Value(value) = key.default {
            assert!(row.contains(&format!("`{value}`")), "{value} is not told in {row}");
        }
    }
}
