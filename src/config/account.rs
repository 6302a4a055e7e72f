//! Reads the accounts: what is mounted, and who logs in there.
//!
//! Second generation: a `[COS_ACCOUNT_x]` is one mount with one user. First generation: `[COS_ACCOUNT]`
//! is one mount, and each login of `[FTP_ACCOUNT]` a user of it; logins of different authority are
//! different policies over it.

use std::{
    path::{Component, Path, PathBuf},
    time::Duration,
};

use super::{
    Addressing, Appearance, Authority, ByteSize, MountConfig, PasswordHash, PolicyConfig, QuotaConfig,
    RateLimits, Secret, StoreConfig, UserConfig,
    keys::SectionKind,
    limits::parse_count,
    section::{Place, Sections},
    values::{
        is_placeholder, parse_address, parse_bool, parse_duration, parse_mode, parse_number, parse_word,
        split_host_port,
    },
};

/// `resume_window` where none is set.
pub(super) const RESUME_WINDOW: Duration = Duration::from_secs(24 * 3600);
/// How long nobody may go on with a file whose last upload broke and left the older one: a client that goes on by itself
/// does so within minutes. Front and mount both remember such files, so it stands below both.
pub const OUTDATED_TIME: Duration = Duration::from_secs(3600);
/// The section of the first generation.
pub(super) const FIRST_GENERATION: &str = "COS_ACCOUNT";

/// All accounts, and what is still to be checked against this machine.
#[derive(Default)]
pub(super) struct Accounts {
    pub(super) mounts: Vec<MountConfig>,
    pub(super) users: Vec<UserConfig>,
    /// Of every account, even of those that have problems elsewhere.
    pub(super) homes: Vec<Home>,
    /// Logins, and the sections that they belong to.
    names: Vec<(String, String)>,
}

/// A home, and where it is written.
pub(super) struct Home {
    pub(super) section: String,
    pub(super) key: &'static str,
    pub(super) path: PathBuf,
    pub(super) nonempty: bool,
}

/// A login, before it is known where its session is mounted.
struct Login {
    name: String,
    password: Secret,
    policy: PolicyConfig,
}

/// Reads every account.
pub(super) fn read(sections: &mut Sections<'_>, timeout: Duration, runtime_dir: &Path) -> Accounts {
    let mut accounts = Accounts::default();
    let places = sections.places(SectionKind::Account);
    let logins = sections.places(SectionKind::Logins).pop();
    if places.is_empty() {
        sections.problem_of(None, "no account: at least one [COS_ACCOUNT_x] must be there");
    }
    if let (Some(logins), false) = (&logins, places.iter().any(is_first_generation)) {
        let why = "belongs to [COS_ACCOUNT], which is missing; [COS_ACCOUNT_x] has its login in itself";
        sections.problem_of(Some(&logins.name), why);
    }
    for place in places {
        accounts.read_one(sections, &place, logins.as_ref(), timeout, runtime_dir);
    }
    accounts.check_homes(sections);
    accounts
}

fn is_first_generation(place: &Place<'_>) -> bool {
    place.name.eq_ignore_ascii_case(FIRST_GENERATION)
}

impl Accounts {
    fn read_one(
        &mut self,
        sections: &mut Sections<'_>,
        place: &Place<'_>,
        logins: Option<&Place<'_>>,
        timeout: Duration,
        runtime_dir: &Path,
    ) {
        if place.name.contains(|letter: char| letter == '/' || letter.is_whitespace()) {
            let why = "its name holds a slash or white space, allowed is all else: it names a directory and a mount";
            sections.problem_of(Some(&place.name), why);
        }
        let first_generation = is_first_generation(place);
        let home = read_home(sections, place);
        let logins = match (first_generation, logins) {
            (true, Some(logins)) => read_logins(sections, place, logins),
            (true, None) => {
                let why = "[FTP_ACCOUNT] login_users is missing; an account with its login in itself is called [COS_ACCOUNT_0]";
                sections.problem_of(Some(&place.name), why);
                Vec::new()
            }
            (false, _) => read_login(sections, place).into_iter().collect(),
        };
        let store = read_store(sections, place, timeout);
        let prefix = sections.value(place, "cos_prefix", String::new(), parse_prefix);
        let shows = read_appearance(sections, place);
        let posix_metadata = sections.value(place, "posix_metadata", false, parse_bool);
        let nonempty = sections.value(place, "nonempty", false, parse_bool);
        let quota = read_quota(sections, place);
        let resume_window = sections.value(place, "resume_window", RESUME_WINDOW, parse_duration);
        let rates = read_rates(sections, place);
        let sessions_max = sections.value(place, "max_sessions", 0, |text| parse_count(text, 0, 1_000_000));
        if let Some((key, path)) = home.clone() {
            self.homes.push(Home { section: place.name.clone(), key, path, nonempty });
        }
        for login in &logins {
            self.note_name(sections, place, &login.name);
        }
        let (Some(store), Some((_, home))) = (store, home) else { return };
        let mut policies: Vec<_> = logins.iter().map(|login| login.policy).collect();
        policies.sort_by(|left, right| right.cmp(left));
        policies.dedup();
        let name = place.name.clone();
        let mount = MountConfig {
            name,
            store,
            prefix,
            home,
            nonempty,
            shows,
            posix_metadata,
            quota,
            resume_window,
            policies,
        };
        self.users.extend(logins.into_iter().map(|login| UserConfig {
            name: login.name,
            password: login.password,
            mount: mount.name.clone(),
            root: mount.root_of(&login.policy, runtime_dir),
            directory: PathBuf::new(),
            policy: login.policy,
            posix_metadata,
            rates,
            sessions_max,
        }));
        self.mounts.push(mount);
    }

    /// Refuses a login that is there already.
    fn note_name(&mut self, sections: &mut Sections<'_>, place: &Place<'_>, name: &str) {
        let (section, key) = match is_first_generation(place) {
            true => ("FTP_ACCOUNT", "login_users"),
            false => (place.name.as_str(), "ftp_login_user_name"),
        };
        if let Some((_, other)) = self.names.iter().find(|(known, _)| known == name) {
            let why = match *other == place.name {
                true => format!("the name `{name}` stands there twice, allowed is once"),
                false => format!("`{name}` is a login of [{other}] already, allowed is a name of its own"),
            };
            sections.problem_at(section, key, why);
        }
        self.names.push((name.to_owned(), place.name.clone()));
    }

    /// Refuses a home that is, or lies within, the home of another account: one would hide the other.
    fn check_homes(&self, sections: &mut Sections<'_>) {
        for (index, home) in self.homes.iter().enumerate() {
            for other in &self.homes[..index] {
                let (path, their) = (home.path.display(), other.path.display());
                let why = if home.path == other.path {
                    format!(
                        "{path} is the home of [{}] already, allowed is a directory of its own",
                        other.section
                    )
                } else if home.path.starts_with(&other.path) {
                    format!(
                        "{path} lies within {their}, the home of [{}], and would be hidden",
                        other.section
                    )
                } else if other.path.starts_with(&home.path) {
                    format!("{path} would hide {their}, the home of [{}]", other.section)
                } else {
                    continue;
                };
                sections.problem_at(&home.section, home.key, why);
            }
        }
    }
}

/// The home, and the key that it stands under.
fn read_home(sections: &mut Sections<'_>, place: &Place<'_>) -> Option<(&'static str, PathBuf)> {
    let (key, other) = if is_first_generation(place) {
        ("cos_user_home_dir", "home_dir")
    } else {
        ("home_dir", "cos_user_home_dir")
    };
    if place.holds(other) {
        sections.problem(place, other, format!("is called {key} in this section"));
    }
    if !place.holds(key) && place.holds(other) {
        return None;
    }
    sections.required(place, key, parse_home).map(|home| (key, home))
}

/// The one login of a second-generation account.
fn read_login(sections: &mut Sections<'_>, place: &Place<'_>) -> Option<Login> {
    let name = sections.required(place, "ftp_login_user_name", |text| Ok(text.to_owned()));
    let password = sections.required(place, "ftp_login_user_password", parse_password);
    let authority = sections.value(place, "authority", PolicyConfig::default().authority, parse_authority);
    let policy = read_switches(sections, place, authority);
    Some(Login { name: name?, password: password?, policy })
}

/// `user:password:RW;user2:password2:R`, and the switches of `[COS_ACCOUNT]` for all of them.
fn read_logins(sections: &mut Sections<'_>, place: &Place<'_>, logins: &Place<'_>) -> Vec<Login> {
    for key in ["ftp_login_user_name", "ftp_login_user_password", "authority"] {
        if place.holds(key) {
            sections.problem(place, key, "stands in [FTP_ACCOUNT] login_users in this generation");
        }
    }
    let switches = read_switches(sections, place, PolicyConfig::default().authority);
    let parse = |text: &str| {
        let pieces = text.split(';').filter(|piece| !piece.trim().is_empty()).enumerate();
        pieces
            .map(|(index, piece)| parse_login(piece).map_err(|why| format!("login {}: {why}", index + 1)))
            .collect()
    };
    let found: Vec<_> = sections.required(logins, "login_users", parse).unwrap_or_default();
    let login = |(name, password, authority)| Login {
        name,
        password,
        policy: PolicyConfig { authority, ..switches },
    };
    found.into_iter().map(login).collect()
}

/// `authority`.
fn parse_authority(text: &str) -> Result<Authority, String> {
    let letter = |wanted: char| text.chars().any(|letter| letter.eq_ignore_ascii_case(&wanted));
    let others = text.chars().any(|letter| !matches!(letter.to_ascii_uppercase(), 'R' | 'W'));
    let authority = Authority { read: letter('R'), write: letter('W') };
    if others || text.is_empty() {
        // Not repeated: in `login_users` it may be the end of a password.
        return Err("not an authority, allowed are R, W or RW".to_owned());
    }
    Ok(authority)
}

/// One piece of `login_users`. A password may hold colons, so the first and the last one count. Nothing
/// of the piece is told in an answer: a password that holds `;` makes its tail look like a name.
fn parse_login(text: &str) -> Result<(String, Secret, Authority), String> {
    let why = |why: &str| format!("{why}, allowed is user:password:authority, several separated by ;");
    let (name, rest) = text.split_once(':').ok_or_else(|| why("there is no colon"))?;
    let (password, authority) = rest.rsplit_once(':').ok_or_else(|| why("there is no authority"))?;
    let name = name.trim();
    if name.is_empty() || password.is_empty() {
        return Err(why("the name or the password is empty"));
    }
    if password.trim() != password {
        return Err(why("there is white space around the password"));
    }
    Ok((name.to_owned(), parse_password(password)?, parse_authority(authority.trim())?))
}

fn read_switches(sections: &mut Sections<'_>, place: &Place<'_>, authority: Authority) -> PolicyConfig {
    PolicyConfig {
        authority,
        delete_enable: sections.value(place, "delete_enable", true, parse_bool),
        overwrite_enable: sections.value(place, "overwrite_enable", true, parse_bool),
    }
}

fn read_quota(sections: &mut Sections<'_>, place: &Place<'_>) -> QuotaConfig {
    QuotaConfig {
        bytes: sections.value(place, "quota", None, parse_limit),
        files: sections.value(place, "quota_files", None, parse_limit),
    }
}

fn read_rates(sections: &mut Sections<'_>, place: &Place<'_>) -> RateLimits {
    let mut rate = |key| sections.value(place, key, None, parse_limit);
    RateLimits {
        upload: rate("max_upload_rate"),
        download: rate("max_download_rate"),
        upload_per_session: rate("max_upload_rate_per_session"),
        download_per_session: rate("max_download_rate_per_session"),
    }
}

/// 0 = none.
fn parse_limit(text: &str) -> Result<Option<u64>, String> {
    ByteSize::parse(text).map(|limit| (limit.0 != 0).then_some(limit.0))
}

fn read_appearance(sections: &mut Sections<'_>, place: &Place<'_>) -> Appearance {
    let default = Appearance::default();
    // The largest number means "leave it" to chown(2).
    let id = |text: &str| {
        let number = parse_number(text, 0, u64::from(u32::MAX) - 1)?;
        u32::try_from(number).map_err(|error| error.to_string())
    };
    Appearance {
        uid: sections.optional(place, "uid", id),
        gid: sections.optional(place, "gid", id),
        file_mode: sections.value(place, "file_mode", default.file_mode, parse_mode),
        dir_mode: sections.value(place, "dir_mode", default.dir_mode, parse_mode),
        allow_other: sections.value(place, "allow_other", default.allow_other, parse_bool),
    }
}

fn read_store(sections: &mut Sections<'_>, place: &Place<'_>, timeout: Duration) -> Option<StoreConfig> {
    let secret_id = sections
        .required(place, "cos_secretid", |text| parse_secret(text).map(|secret| secret.reveal().to_owned()));
    let secret_key = sections.required(place, "cos_secretkey", parse_secret);
    let bucket = sections.required(place, "cos_bucket", parse_bucket);
    let endpoint = read_endpoint(sections, place, bucket.as_deref());
    let usual = match &endpoint {
        Some(endpoint) => default_addressing(endpoint),
        None => Addressing::Virtual,
    };
    let addressings = &[("virtual", Addressing::Virtual), ("path", Addressing::Path)];
    let protocols = &[("https", true), ("http", false)];
    let https = sections.value(place, "cos_protocol", true, |text| parse_word(text, protocols));
    let addressing = sections.value(place, "cos_addressing", usual, |text| parse_word(text, addressings));
    let token = sections.optional(place, "cos_token", parse_secret);
    let ca_file = sections.optional(place, "cos_ca_file", |text| match Path::new(text) {
        path if path.is_absolute() => Ok(path.to_owned()),
        _ => Err(format!("`{text}` is not absolute, allowed is the path of a PEM file")),
    });
    let proxy = sections.optional(place, "cos_proxy", parse_proxy);
    let storage_class = sections.optional(place, "cos_storage_class", parse_storage_class);
    let sse = sections.optional(place, "cos_sse", |text| {
        parse_word(text, &[("AES256", "AES256"), ("SM4", "SM4"), ("cos/kms", "cos/kms")]).map(str::to_owned)
    });
    Some(StoreConfig {
        bucket: bucket?,
        endpoint: endpoint?,
        https,
        addressing,
        secret_id: secret_id?,
        secret_key: secret_key?,
        token,
        ca_file,
        proxy,
        storage_class,
        sse,
        timeout,
    })
}

/// `cos_addressing` where none is set: a bucket's name cannot stand before an IP address.
pub(super) fn default_addressing(endpoint: &str) -> Addressing {
    let host = split_host_port(endpoint).map_or(endpoint, |(host, _)| host);
    if parse_address(host).is_some() { Addressing::Path } else { Addressing::Virtual }
}

/// `cos_endpoint`, or what `cos_region` gives.
fn read_endpoint(sections: &mut Sections<'_>, place: &Place<'_>, bucket: Option<&str>) -> Option<String> {
    let region = sections.optional(place, "cos_region", parse_region);
    let region_set = sections.text(place, "cos_region").is_some();
    if sections.text(place, "cos_endpoint").is_some() {
        return sections.optional(place, "cos_endpoint", |text| parse_endpoint(text, bucket));
    }
    if !region_set {
        sections.problem(place, "cos_region", "missing, it or cos_endpoint must be set");
    }
    region.map(|region| format!("cos.{region}.myqcloud.com"))
}

fn parse_region(text: &str) -> Result<String, String> {
    refuse_placeholder(text)?;
    // The vendor's SDK takes both forms, so both stand in files.
    let region = text.strip_prefix("cos.").unwrap_or(text);
    let plain = region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    match plain && !region.is_empty() {
        true => Ok(region.to_owned()),
        false => Err(format!("`{text}` is not a region, allowed are such as ap-guangzhou")),
    }
}

fn parse_endpoint(text: &str, bucket: Option<&str>) -> Result<String, String> {
    refuse_placeholder(text)?;
    if text.contains("://") {
        return Err(format!(
            "`{text}` holds a scheme, allowed is host[:port]; http or https is told by cos_protocol"
        ));
    }
    if bucket.is_some_and(|bucket| text.strip_prefix(bucket).is_some_and(|rest| rest.starts_with('.'))) {
        return Err(format!("`{text}` holds the bucket, allowed is host[:port] without it"));
    }
    match split_host_port(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("`{text}` is not an endpoint, allowed is host[:port]")),
    }
}

/// `name-appid` (*Bucket Overview*).
fn parse_bucket(text: &str) -> Result<String, String> {
    refuse_placeholder(text)?;
    let why = || format!("`{text}` is not a bucket, allowed is name-appid such as photos-1250000000");
    let (name, appid) = text.rsplit_once('-').ok_or_else(why)?;
    let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let digits = !appid.is_empty() && appid.bytes().all(|byte| byte.is_ascii_digit());
    if name.ends_with("-x-") {
        return Err(format!(
            "`{text}` is a rapid bucket, which speaks another protocol and is not supported"
        ));
    }
    let ends = name.starts_with('-') || name.ends_with('-') || name.is_empty();
    if letters && digits && !ends && text.len() <= 60 { Ok(text.to_owned()) } else { Err(why()) }
}

fn parse_proxy(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
    match host.and_then(split_host_port) {
        Some((_, Some(_))) => Ok(text.trim_end_matches('/').to_owned()),
        // The text may hold a login, so it is not repeated.
        _ => Err("not a proxy, allowed is http://host:port".to_owned()),
    }
}

/// Not a closed set: COS adds classes.
fn parse_storage_class(text: &str) -> Result<String, String> {
    let class = text.to_ascii_uppercase();
    match class.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_') {
        true => Ok(class),
        false => Err(format!("`{text}` is not a storage class, allowed are such as STANDARD_IA")),
    }
}

/// What is sent in a header, and never told.
fn parse_secret(text: &str) -> Result<Secret, String> {
    refuse_placeholder_of_secret(text)?;
    Ok(Secret::new(text))
}

/// Plain, or a hash that can be used; never told.
fn parse_password(text: &str) -> Result<Secret, String> {
    PasswordHash::parse(text)?;
    parse_secret(text)
}

fn refuse_placeholder(text: &str) -> Result<(), String> {
    match is_placeholder(text) {
        true => {
            Err(format!("`{text}` is still the placeholder of the example, allowed is a value of your own"))
        }
        false => Ok(()),
    }
}

/// A secret may hold anything, so only what is nothing but a placeholder is taken for one.
fn refuse_placeholder_of_secret(text: &str) -> Result<(), String> {
    match text.bytes().all(|byte| byte == b'X' || byte == b'x') {
        true => refuse_placeholder(text),
        false => Ok(()),
    }
}

/// A leading piece of keys: empty, or ending in `/`.
pub(super) fn parse_prefix(text: &str) -> Result<String, String> {
    let bare = text.strip_suffix('/').unwrap_or(text);
    let odd = |piece: &str| matches!(piece, "" | "." | "..") || piece.len() > 255;
    if text.is_empty() {
        return Ok(String::new());
    }
    if bare.split('/').any(odd) {
        let allowed = "allowed are names of up to 255 bytes between single slashes, without a leading one";
        return Err(format!("`{text}` cannot be a directory, {allowed}"));
    }
    // A key has 850 bytes; something must be left for the file.
    if bare.len() > 500 {
        return Err("longer than 500 bytes, which leaves too little of the 850 of a key".to_owned());
    }
    Ok(format!("{bare}/"))
}

/// An absolute path, its trailing slash dropped.
pub(super) fn parse_home(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let why = |why: &str| format!("`{text}` {why}, allowed is an absolute path of a directory");
    if !path.is_absolute() {
        return Err(why("is not absolute"));
    }
    if path.components().any(|piece| piece == Component::ParentDir) {
        return Err(why("goes back by .."));
    }
    let path: PathBuf = path.components().collect();
    if path.parent().is_none() { Err(why("is the root of this machine")) } else { Ok(path) }
}
