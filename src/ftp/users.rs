//! Who may log in, and where home is.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
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
}

impl Users {
    pub(super) fn new(users: &[UserConfig], ground: Ground) -> Self {
        let by_name = users
            .iter()
            .map(|user| {
                let known = User {
                    name: user.name.clone(),
                    password: user.password.clone(),
                    home: Arc::new(Home::new(&user.root, &user.mount, ground)),
                    policy: user.policy,
                };
                (user.name.clone(), Arc::new(known))
            })
            .collect();
        Self { by_name, nobody: Secret::new(random_word()) }
    }

    /// The user, if the password is right. Takes as long for a name that is not there.
    pub(super) fn admit(&self, name: &str, password: &Secret) -> Option<Arc<User>> {
        let user = self.by_name.get(name);
        let right = user.map_or(&self.nobody, |user| &user.password);
        let same = is_same(right.reveal(), password.reveal());
        user.filter(|_| same).cloned()
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
