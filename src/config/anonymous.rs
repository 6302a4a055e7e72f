//! Guests: who gets in without a name of his own, and where.
//!
//! A guest is one more user, with a policy of his own over the mount of the account whose home it is: what
//! he may do is judged where it is for everybody.

use std::path::{Path, PathBuf};

use super::{
    Authority, PolicyConfig, Secret, UserConfig,
    account::{Accounts, parse_home},
    keys::SectionKind,
    section::{Place, Sections},
    values::parse_bool,
};

/// Names that guests log in with, in any case.
const GUEST_NAMES: [&str; 2] = ["anonymous", "ftp"];

/// Who gets in without a name of his own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnonymousConfig {
    /// Absolute: the home of an account, or a directory in it.
    pub home: PathBuf,
    pub write: bool,
    /// The guest. His password is empty and counts for nothing.
    pub user: UserConfig,
}

/// `enable_anonymous` and the two keys that depend on it. Adds the guest's policy to his mount.
pub(super) fn read(
    sections: &mut Sections<'_>,
    accounts: &mut Accounts,
    runtime_dir: &Path,
) -> Option<AnonymousConfig> {
    let place = sections.place(SectionKind::Options, "OPTIONAL");
    let enabled = sections.value(&place, "enable_anonymous", false, parse_bool);
    let write = sections.value(&place, "anonymous_write", false, parse_bool);
    let is_set = sections.text(&place, "anonymous_home").is_some();
    let home = sections.optional(&place, "anonymous_home", parse_home);
    if !enabled {
        if is_set {
            sections.warn(&place, "anonymous_home", "has no effect without enable_anonymous = true");
        }
        return None;
    }
    if !is_set {
        let why = "missing, it must be set with enable_anonymous = true: the home of an account or a directory in it";
        sections.problem(&place, "anonymous_home", why);
    }
    for user in accounts.users.iter().filter(|user| is_guest_name(&user.name)) {
        let why = format!(
            "`{}` is a login of [{}], allowed is another name for it: guests use this one",
            user.name, user.mount
        );
        sections.problem(&place, "enable_anonymous", why);
    }
    let home = home?;
    let user = guest(sections, &place, accounts, runtime_dir, &home, write)?;
    Some(AnonymousConfig { home, write, user })
}

/// Whether guests log in with this name.
pub fn is_guest_name(name: &str) -> bool {
    GUEST_NAMES.iter().any(|guest| guest.eq_ignore_ascii_case(name))
}

fn guest(
    sections: &mut Sections<'_>,
    place: &Place<'_>,
    accounts: &mut Accounts,
    runtime_dir: &Path,
    home: &Path,
    write: bool,
) -> Option<UserConfig> {
    if !accounts.homes.iter().any(|account| home.starts_with(&account.path)) {
        let why = format!(
            "{} lies in no account, allowed is the home of an account or a directory in it",
            home.display()
        );
        sections.problem(place, "anonymous_home", why);
    }
    // An account with problems of its own is a home and no mount.
    let mount = accounts.mounts.iter_mut().find(|mount| home.starts_with(&mount.home))?;
    let widest = *mount.policies.first()?;
    let policy = PolicyConfig { authority: Authority { read: true, write }, ..widest };
    let may = widest.authority;
    if !may.read || (write && !may.write) {
        let key = if may.read { "anonymous_write" } else { "anonymous_home" };
        let why = format!(
            "guests would have authority {} on [{}], which has {may} itself, allowed is no more than that",
            policy.authority, mount.name
        );
        sections.problem(place, key, why);
        return None;
    }
    // Last: the first one is what stands on the home itself.
    if !mount.policies.contains(&policy) {
        mount.policies.push(policy);
    }
    let owner = accounts.users.iter().find(|user| user.mount == mount.name)?;
    Some(UserConfig {
        name: GUEST_NAMES[0].to_owned(),
        password: Secret::new(""),
        root: mount.root_of(&policy, runtime_dir),
        directory: home.strip_prefix(&mount.home).ok()?.to_owned(),
        policy,
        ..owner.clone()
    })
}
