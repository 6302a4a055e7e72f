//! Who may log in, and where home is.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    path::PathBuf,
    sync::Arc,
};

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use super::home::{Ground, Home};
use crate::config::{PolicyConfig, Secret, UserConfig};

/// All users of the front.
#[derive(Debug)]
pub(super) struct Users {
    by_name: HashMap<String, Arc<User>>,
    /// What an unknown user's password is compared with.
    nobody: Secret,
}

/// One user.
#[derive(Debug)]
pub(super) struct User {
    pub(super) name: String,
    password: Secret,
    pub(super) home: Arc<Home>,
    /// For what listings say of it (`perm`); the mount enforces it.
    pub(super) policy: PolicyConfig,
    lasting: Arc<Lasting>,
}

/// What of a user outlives a reload that leaves him who he is. A session belongs to it.
#[derive(Debug)]
pub(super) struct Lasting {
    /// Who he is: limits and rates may change, but nothing of this.
    identity: Identity,
}

/// Whoever changes in one of these is somebody else, and sessions of him end.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    password: Secret,
    mount: String,
    root: PathBuf,
    policy: PolicyConfig,
    posix_metadata: bool,
}

impl Identity {
    fn of(user: &UserConfig) -> Self {
        Self {
            password: user.password.clone(),
            mount: user.mount.clone(),
            root: user.root.clone(),
            policy: user.policy,
            posix_metadata: user.posix_metadata,
        }
    }
}

impl Users {
    pub(super) fn new(users: &[UserConfig], ground: Ground) -> Self {
        let nobody = Secret::new(random_word());
        Self { by_name: HashMap::new(), nobody }.renewed(users, ground)
    }

    /// The users as they are to be from now on; what stays the same is shared with `self`.
    pub(super) fn renewed(&self, users: &[UserConfig], ground: Ground) -> Self {
        let renewed = users.iter().map(|user| {
            let known = self.by_name.get(&user.name);
            let known = known.filter(|known| known.lasting.identity == Identity::of(user));
            (user.name.clone(), Arc::new(User::new(user, known.map(Arc::as_ref), ground)))
        });
        Self { by_name: renewed.collect(), nobody: self.nobody.clone() }
    }

    /// Whether `user` is one of these, and still who he was.
    pub(super) fn is_current(&self, user: &User) -> bool {
        let now = self.by_name.get(&user.name);
        now.is_some_and(|now| Arc::ptr_eq(&now.lasting, &user.lasting))
    }

    /// The user, if the password is right. Takes as long for a name that is not there.
    pub(super) fn admit(&self, name: &str, password: &Secret) -> Option<Arc<User>> {
        let user = self.by_name.get(name);
        let right = user.map_or(&self.nobody, |user| &user.password);
        let same = is_same(right.reveal(), password.reveal());
        user.filter(|_| same).cloned()
    }
}

impl User {
    /// `known`: the same user before a reload.
    fn new(user: &UserConfig, known: Option<&Self>, ground: Ground) -> Self {
        let (home, lasting) = match known {
            Some(known) => (known.home.clone(), known.lasting.clone()),
            None => (
                Arc::new(Home::new(&user.root, &user.mount, ground)),
                Arc::new(Lasting { identity: Identity::of(user) }),
            ),
        };
        Self { name: user.name.clone(), password: user.password.clone(), home, policy: user.policy, lasting }
    }
}

/// Compares digests under a key that nobody knows, so that the time it takes tells nothing of either.
fn is_same(right: &str, told: &str) -> bool {
    let key = random_word();
    let digest = |text: &str| {
        let mut mac = Hmac::<Sha1>::new_from_slice(key.as_bytes()).expect("a key may have any length");
        mac.update(text.as_bytes());
        mac
    };
    digest(told).verify_slice(&digest(right).finalize().into_bytes()).is_ok()
}

/// 128 bits that cannot be guessed: the keys of a `RandomState` come from the system's generator.
pub(super) fn random_word() -> String {
    let half = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", half(), half())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn users() -> Users {
        let user = UserConfig::of_test("scanner", "right", Path::new("/nowhere"));
        Users::new(&[user], Ground::Mount)
    }

    #[test]
    fn only_the_right_password_of_a_known_user_admits() {
        let users = users();
        assert_eq!(users.admit("scanner", &Secret::new("right")).unwrap().name, "scanner");
        for (name, password) in
            [("scanner", "wrong"), ("scanner", ""), ("scanner", "right "), ("Scanner", "right")]
        {
            assert!(users.admit(name, &Secret::new(password)).is_none(), "{name} {password}");
        }
        assert!(users.admit("nobody", &users.nobody.clone()).is_none());
    }

    #[test]
    fn random_words_differ() {
        assert_ne!(random_word(), random_word());
    }
}
