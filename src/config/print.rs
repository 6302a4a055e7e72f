//! The configuration as a file: what is meant, every key with its value.
//!
//! It is itself a configuration file, of the generation it came from, and read again gives an equal
//! [`Config`]. A value that is the default is marked so behind it.

use std::{fmt::Display, fmt::Write as _};

use super::{
    ByteSize, Config, FtpConfig, Limits, LogConfig, LogPeriod, MountConfig, PassiveHost, PolicyConfig,
    RateLimits, Secret, TlsConfig, TlsRequired, UserConfig, account,
    limits::{self, LEVELS, LOG_BACKUPS, PERIODS},
    mount::{Addressing, Appearance},
    tls::{REQUIRED, SESSION_REUSE},
    values::duration_text,
};

/// Whether secrets are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    /// `***` in their place.
    Masked,
    /// As they are: for a file that only its owner can read.
    Revealed,
}

/// The whole file.
pub(super) fn file_text(config: &Config, secrets: Secrets) -> String {
    let mut lines = Lines { text: String::new(), secrets };
    for mount in &config.mounts {
        lines.mount(config, mount);
    }
    lines.network(&config.ftp);
    lines.options(config);
    lines.text
}

struct Lines {
    text: String,
    secrets: Secrets,
}

impl Lines {
    fn section(&mut self, name: &str) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        self.push(format_args!("{gap}[{name}]\n"));
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("a String takes all that is written");
    }

    /// A value that has no default.
    fn must(&mut self, key: &str, value: impl Display) {
        self.push(format_args!("{key} = {value}\n"));
    }

    fn value(&mut self, key: &str, value: impl Display, is_default: bool) {
        let mark = if is_default { "   # default" } else { "" };
        self.push(format_args!("{key} = {value}{mark}\n"));
    }

    /// A value that may be missing, `none` says what that means.
    fn optional(&mut self, key: &str, value: Option<impl Display>, none: &str) {
        match value {
            Some(value) => self.must(key, value),
            None => self.push(format_args!("{key} = default   # default: {none}\n")),
        }
    }

    /// A size whose default is to have none.
    fn limit(&mut self, key: &str, value: Option<u64>) {
        self.value(key, ByteSize(value.unwrap_or(0)), value.is_none());
    }

    fn secret(&self, secret: &Secret) -> String {
        match self.secrets {
            Secrets::Masked => secret.to_string(),
            Secrets::Revealed => secret.reveal().to_owned(),
        }
    }

    fn mount(&mut self, config: &Config, mount: &MountConfig) {
        let first_generation = mount.name.eq_ignore_ascii_case(account::FIRST_GENERATION);
        let users: Vec<_> = config.ftp.users.iter().filter(|user| user.mount == mount.name).collect();
        self.section(&mount.name);
        self.store(mount);
        let home = mount.home.display();
        self.must(if first_generation { "cos_user_home_dir" } else { "home_dir" }, home);
        let policy = users.first().map_or_else(PolicyConfig::default, |user| user.policy);
        if !first_generation {
            for user in &users {
                self.must("ftp_login_user_name", &user.name);
                let password = self.secret(&user.password);
                self.must("ftp_login_user_password", password);
            }
            self.value("authority", policy.authority, policy.authority == PolicyConfig::default().authority);
        }
        self.value("delete_enable", policy.delete_enable, policy.delete_enable);
        self.value("overwrite_enable", policy.overwrite_enable, policy.overwrite_enable);
        self.value("posix_metadata", mount.posix_metadata, !mount.posix_metadata);
        self.value("nonempty", mount.nonempty, !mount.nonempty);
        self.appearance(mount.shows);
        self.limit("quota", mount.quota.bytes);
        self.limit("quota_files", mount.quota.files);
        let window = mount.resume_window;
        self.value("resume_window", duration_text(window), window == account::RESUME_WINDOW);
        let rates = users.first().map_or_else(RateLimits::default, |user| user.rates);
        self.limit("max_upload_rate", rates.upload);
        self.limit("max_download_rate", rates.download);
        self.limit("max_upload_rate_per_session", rates.upload_per_session);
        self.limit("max_download_rate_per_session", rates.download_per_session);
        let sessions = users.first().map_or(0, |user| user.sessions_max);
        self.value("max_sessions", sessions, sessions == 0);
        if first_generation {
            self.logins(&users);
        }
    }

    fn logins(&mut self, users: &[&UserConfig]) {
        self.section("FTP_ACCOUNT");
        let login = |user: &&UserConfig| {
            format!("{}:{}:{}", user.name, self.secret(&user.password), user.policy.authority)
        };
        let logins: Vec<_> = users.iter().map(login).collect();
        self.must("login_users", logins.join(";"));
    }

    fn store(&mut self, mount: &MountConfig) {
        let store = &mount.store;
        self.must("cos_secretid", &store.secret_id);
        let secret_key = self.secret(&store.secret_key);
        self.must("cos_secretkey", secret_key);
        let token = store.token.as_ref().map(|token| self.secret(token));
        self.optional("cos_token", token, "none");
        self.must("cos_bucket", &store.bucket);
        self.must("cos_endpoint", &store.endpoint);
        self.value("cos_protocol", if store.https { "https" } else { "http" }, store.https);
        let addressing = match store.addressing {
            Addressing::Virtual => "virtual",
            Addressing::Path => "path",
        };
        let usual = account::default_addressing(&store.endpoint);
        self.value("cos_addressing", addressing, store.addressing == usual);
        let prefix = Some(&mount.prefix).filter(|prefix| !prefix.is_empty());
        self.optional("cos_prefix", prefix, "the whole bucket");
        self.optional("cos_ca_file", store.ca_file.as_ref().map(|path| path.display()), "the system's roots");
        self.optional("cos_proxy", store.proxy.as_ref(), "none");
        self.optional("cos_storage_class", store.storage_class.as_ref(), "the bucket's own");
        self.optional("cos_sse", store.sse.as_ref(), "the bucket's own");
    }

    fn appearance(&mut self, shows: Appearance) {
        let default = Appearance::default();
        self.optional("uid", shows.uid, "owner of home_dir");
        self.optional("gid", shows.gid, "group of home_dir");
        let mode = |mode: u16| format!("{mode:04o}");
        self.value("file_mode", mode(shows.file_mode), shows.file_mode == default.file_mode);
        self.value("dir_mode", mode(shows.dir_mode), shows.dir_mode == default.dir_mode);
        self.value("allow_other", shows.allow_other, shows.allow_other == default.allow_other);
    }

    fn network(&mut self, ftp: &FtpConfig) {
        let default = FtpConfig::default();
        self.section("NETWORK");
        let host = ftp.passive_host.as_ref().map(|host| match host {
            PassiveHost::Address(address) => address.to_string(),
            PassiveHost::Name(name) => name.clone(),
        });
        self.optional("masquerade_address", host, "the address the client came to");
        self.value("listen_port", ftp.listen_port, ftp.listen_port == default.listen_port);
        let addresses: Vec<_> = ftp.listen_addresses.iter().map(ToString::to_string).collect();
        let is_default = ftp.listen_addresses == default.listen_addresses;
        self.value("listen_address", addresses.join(","), is_default);
        self.value("passive_port", ftp.passive_ports, ftp.passive_ports == default.passive_ports);
        for (key, value, usual) in [
            ("login_timeout", ftp.login_timeout, default.login_timeout),
            ("idle_timeout", ftp.idle_timeout, default.idle_timeout),
            ("stall_timeout", ftp.stall_timeout, default.stall_timeout),
        ] {
            self.value(key, duration_text(value), value == usual);
        }
        self.value("banner", &ftp.banner, ftp.banner == default.banner);
        self.value("name_encoding", ftp.name_encoding, ftp.name_encoding == default.name_encoding);
        self.value("active_mode", ftp.active_mode, ftp.active_mode == default.active_mode);
        self.value("data_foreign_address", ftp.data_foreign_address, !ftp.data_foreign_address);
        self.tls(ftp.tls.as_ref());
        let networks: Vec<_> = ftp.proxy_networks.iter().map(ToString::to_string).collect();
        self.optional("proxy_protocol", (!networks.is_empty()).then(|| networks.join(",")), "none");
        let sessions = ftp.sessions_per_address_max;
        self.value("max_connection_per_ip", sessions, sessions == default.sessions_per_address_max);
        let failures = ftp.failed_login_limit;
        self.value("failed_login_limit", failures, failures == default.failed_login_limit);
        let window = ftp.failed_login_window;
        self.value("failed_login_window", duration_text(window), window == default.failed_login_window);
    }

    fn tls(&mut self, tls: Option<&TlsConfig>) {
        self.optional("tls_cert", tls.map(|tls| tls.certificate_file.display()), "none");
        self.optional("tls_key", tls.map(|tls| tls.key_file.display()), "none");
        let required = tls.map_or(TlsRequired::None, |tls| tls.required);
        self.value("tls_required", word(REQUIRED, required), required == TlsRequired::None);
        let port = tls.and_then(|tls| tls.implicit_port);
        self.value("tls_implicit_port", port.unwrap_or(0), port.is_none());
        let reuse = tls.is_some_and(|tls| tls.session_reuse_required);
        self.value("tls_session_reuse", word(SESSION_REUSE, reuse), !reuse);
        let strict = tls.is_some_and(|tls| tls.strict_eof);
        self.value("tls_strict_eof", strict, !strict);
    }

    fn options(&mut self, config: &Config) {
        let Limits { memory_bytes, min_part_bytes, single_file_bytes_max, .. } = config.limits;
        let (limits, default) = (&config.limits, Limits::default());
        self.section("FILE_OPTION");
        let usual = limits::default_single_file_bytes(memory_bytes, min_part_bytes);
        self.value("single_file_max_size", ByteSize(single_file_bytes_max), single_file_bytes_max == usual);
        self.section("OPTIONAL");
        let usual = limits::default_min_part_bytes(memory_bytes);
        self.value("min_part_size", ByteSize(min_part_bytes), min_part_bytes == usual);
        let requests = limits.upload_requests_max;
        self.value("upload_thread_num", requests, requests == default.upload_requests_max);
        let sessions = config.ftp.sessions_max;
        self.value("max_connection_num", sessions, sessions == FtpConfig::default().sessions_max);
        self.optional("max_list_file", config.ftp.list_names_max, "no limit");
        self.value("memory_limit", ByteSize(memory_bytes), memory_bytes == default.memory_bytes);
        self.value("attr_ttl", duration_text(limits.attr_ttl), limits.attr_ttl == default.attr_ttl);
        let timeout = config.mounts.first().map_or(limits::STORE_TIMEOUT, |mount| mount.store.timeout);
        self.value("store_timeout", duration_text(timeout), timeout == limits::STORE_TIMEOUT);
        self.value("grace_timeout", duration_text(limits.grace), limits.grace == default.grace);
        self.value("state_prefix", &limits.state_prefix, limits.state_prefix == default.state_prefix);
        self.value("config_check_enable", config.check_memory, config.check_memory);
        self.log(&config.log);
        match &config.ftp.xferlog {
            Some(path) => self.must("xferlog", path.display()),
            None => self.value("xferlog", "off", true),
        }
        let anonymous = config.ftp.anonymous.as_ref();
        self.value("enable_anonymous", anonymous.is_some(), anonymous.is_none());
        self.optional("anonymous_home", anonymous.map(|anonymous| anonymous.home.display()), "none");
        let write = anonymous.is_some_and(|anonymous| anonymous.write);
        self.value("anonymous_write", write, !write);
    }

    fn log(&mut self, log: &LogConfig) {
        let default = LogConfig::default();
        let level = LEVELS.iter().find(|(_, level)| *level == log.level).map_or("INFO", |(word, _)| word);
        self.value("log_level", level, log.level == default.level);
        self.value("log_dir", log.directory.display(), log.directory == default.directory);
        self.value("log_format", if log.json { "json" } else { "text" }, log.json == default.json);
        let rotation = log.rotation;
        self.value("log_rotate_enabled", rotation.is_some(), rotation.is_none());
        let period = rotation.map_or(LogPeriod::Hour, |rotation| rotation.period);
        self.value("log_rotate_when", word(PERIODS, period), period == LogPeriod::Hour);
        let keep = rotation.map_or(LOG_BACKUPS, |rotation| rotation.keep);
        self.value("log_backup_count", keep, keep == LOG_BACKUPS);
    }
}

/// How a value is written.
fn word<T: PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, meant)| *meant == value).map_or("default", |(word, _)| word)
}
