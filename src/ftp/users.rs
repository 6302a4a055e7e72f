//! Who may log in, and where home is.
//!
//! A check of a password takes the same path whatever the answer is: one comparison with a plain password,
//! and, as soon as any user has a hash, one argon2 check of each cost that is in use (one, where all hashes
//! come from `cosgate passwd`). An unknown user's password meets a word that nobody knows and a hash that
//! no password has. So neither the reply nor the time tells who exists, or how a password is kept.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    path::PathBuf,
    sync::Arc,
    thread::available_parallelism,
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    home::{Ground, Home},
    rate::UserRates,
};
use crate::config::{HashScratch, PasswordHash, PolicyConfig, Secret, UserConfig, is_guest_name, is_same};

/// All users of the front.
#[derive(Debug)]
pub(super) struct Users {
    by_name: HashMap<String, Arc<User>>,
    /// Who gets in without a name of his own.
    guest: Option<Arc<User>>,
    /// What an unknown user's password is compared with.
    nobody: Secret,
    /// One hash, which no password has, of each cost that is in use.
    decoys: Vec<PasswordHash>,
}

/// One user.
#[derive(Debug)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) is_guest: bool,
    password: Password,
    pub(super) home: Arc<Home>,
    /// For what listings say of it (`perm`); the mount enforces it.
    pub(super) policy: PolicyConfig,
    /// 0 = any number.
    pub(super) sessions_max: usize,
    lasting: Arc<Lasting>,
}

/// What of a user outlives a reload that leaves him who he is. A session belongs to it.
#[derive(Debug)]
pub(super) struct Lasting {
    /// Who he is: limits and rates may change, but nothing of this.
    identity: Identity,
    rates: Arc<UserRates>,
}

/// Whoever changes in one of these is somebody else, and sessions of him end.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    password: Secret,
    mount: String,
    root: PathBuf,
    directory: PathBuf,
    policy: PolicyConfig,
    posix_metadata: bool,
}

#[derive(Debug)]
enum Password {
    Plain(Secret),
    Hashed(PasswordHash),
}

/// What a look at a name and a password has shown.
#[derive(Debug)]
pub(super) struct Checked {
    /// There is a user of that name.
    pub(super) exists: bool,
    /// The user, if the password is right.
    pub(super) user: Option<Arc<User>>,
}

/// Where hashes are computed: few at once, because each takes 19 MiB and a processor.
#[derive(Debug)]
pub(super) struct HashBench {
    places: Arc<Semaphore>,
    scratches: Mutex<Vec<HashScratch>>,
}

/// Checks at once: half of the processors, so that logins leave the others to transfers, and 38 MiB at most.
const CHECKS_MAX: usize = 2;

impl Identity {
    fn of(user: &UserConfig) -> Self {
        Self {
            password: user.password.clone(),
            mount: user.mount.clone(),
            root: user.root.clone(),
            directory: user.directory.clone(),
            policy: user.policy,
            posix_metadata: user.posix_metadata,
        }
    }
}

impl Users {
    pub(super) fn new(users: &[UserConfig], guest: Option<&UserConfig>, ground: Ground) -> Self {
        let nobody = Secret::new(random_word());
        let none = Self { by_name: HashMap::new(), guest: None, nobody, decoys: Vec::new() };
        none.renewed(users, guest, ground)
    }

    /// The users as they are to be from now on; what stays the same is shared with `self`.
    pub(super) fn renewed(&self, users: &[UserConfig], guest: Option<&UserConfig>, ground: Ground) -> Self {
        let renew = |user: &UserConfig, known: Option<&Arc<User>>| {
            let known = known.filter(|known| known.lasting.identity == Identity::of(user));
            User::new(user, known.map(Arc::as_ref), ground)
        };
        let by_name: HashMap<_, _> = users
            .iter()
            .map(|user| (user.name.clone(), Arc::new(renew(user, self.by_name.get(&user.name)))))
            .collect();
        let guest = guest.map(|guest| User { is_guest: true, ..renew(guest, self.guest.as_ref()) });
        let mut decoys: Vec<PasswordHash> = Vec::new();
        for user in by_name.values() {
            if let Password::Hashed(hash) = &user.password
                && !decoys.iter().any(|decoy| decoy.cost() == hash.cost())
            {
                decoys.push(hash.cost().decoy());
            }
        }
        Self { by_name, guest: guest.map(Arc::new), nobody: self.nobody.clone(), decoys }
    }

    /// Whether `user` is one of these, and still who he was.
    pub(super) fn is_current(&self, user: &User) -> bool {
        let now = if user.is_guest { self.guest.as_ref() } else { self.by_name.get(&user.name) };
        now.is_some_and(|now| Arc::ptr_eq(&now.lasting, &user.lasting))
    }

    /// Who gets in with this name and any password.
    pub(super) fn guest(&self, name: &str) -> Option<&Arc<User>> {
        self.guest.as_ref().filter(|_| is_guest_name(name))
    }

    /// The user, if the password is right.
    #[cfg(test)]
    pub(super) fn admit(&self, name: &str, told: &Secret) -> Option<Arc<User>> {
        self.check(name, told, &mut HashScratch::default()).user
    }

    /// Whether a check takes a hash to be computed.
    fn is_dear(&self) -> bool {
        !self.decoys.is_empty()
    }

    /// Looks at a password. Blocks for as long as the hashes take.
    fn check(&self, name: &str, told: &Secret, scratch: &mut HashScratch) -> Checked {
        let user = self.by_name.get(name);
        let (plain, hashed) = match user.map(|user| &user.password) {
            Some(Password::Plain(plain)) => (Some(plain), None),
            Some(Password::Hashed(hash)) => (None, Some(hash)),
            None => (None, None),
        };
        let compared = plain.unwrap_or(&self.nobody);
        let is_same = is_same(compared.reveal().as_bytes(), told.reveal().as_bytes());
        let mut is_right = is_same & plain.is_some();
        for decoy in &self.decoys {
            let hash = hashed.filter(|hash| hash.cost() == decoy.cost()).unwrap_or(decoy);
            is_right |= hash.matches(told.reveal(), scratch);
        }
        Checked { exists: user.is_some(), user: user.filter(|_| is_right).cloned() }
    }
}

impl User {
    /// Of all his sessions together.
    pub(super) fn rates(&self) -> &Arc<UserRates> {
        &self.lasting.rates
    }

    /// Whether its mount keeps times and modes that are set (`posix_metadata`).
    pub(super) fn keeps_metadata(&self) -> bool {
        self.lasting.identity.posix_metadata
    }

    /// `known`: the same user before a reload.
    fn new(user: &UserConfig, known: Option<&Self>, ground: Ground) -> Self {
        let (home, lasting) = match known {
            Some(known) => {
                known.lasting.rates.set(user.rates);
                (known.home.clone(), known.lasting.clone())
            }
            None => {
                let rates = Arc::new(UserRates::new(user.rates));
                (
                    Arc::new(Home::new(&user.root, &user.directory, &user.mount, ground)),
                    Arc::new(Lasting { identity: Identity::of(user), rates }),
                )
            }
        };
        let password = match PasswordHash::parse(user.password.reveal()) {
            Ok(None) => Password::Plain(user.password.clone()),
            Ok(Some(hash)) => Password::Hashed(hash),
            // Cannot come from a file; nobody shall log in by knowing the text.
            Err(_) => Password::Plain(Secret::new(random_word())),
        };
        Self {
            name: user.name.clone(),
            is_guest: false,
            password,
            home,
            policy: user.policy,
            sessions_max: user.sessions_max,
            lasting,
        }
    }
}

impl Default for HashBench {
    fn default() -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        let places = (processors / 2).clamp(1, CHECKS_MAX);
        Self { places: Arc::new(Semaphore::new(places)), scratches: Mutex::default() }
    }
}

impl HashBench {
    /// Looks at a password when its turn has come, first come, first served, and hands the answer to
    /// `judge` before the next one's turn: so guesses at the same time count one after the other.
    /// `is_vain` is asked right before: where it says yes, nothing is computed and `None` returned.
    pub(super) async fn check<T>(
        self: &Arc<Self>,
        users: &Arc<Users>,
        name: &str,
        told: &Secret,
        is_vain: impl FnOnce() -> bool,
        judge: impl FnOnce(Checked) -> T,
    ) -> Option<T> {
        let mut place = None;
        if users.is_dear() {
            place = self.places.clone().acquire_owned().await.ok();
        }
        if is_vain() {
            return None;
        }
        let Some(place) = place else {
            return Some(judge(users.check(name, told, &mut HashScratch::default())));
        };
        let (bench, users, name, told) = (self.clone(), users.clone(), name.to_owned(), told.clone());
        let computed = tokio::task::spawn_blocking(move || bench.compute(place, &users, &name, &told)).await;
        let (place, checked) = computed.ok()?;
        let judged = judge(checked);
        drop(place);
        Some(judged)
    }

    fn compute(
        &self,
        place: OwnedSemaphorePermit,
        users: &Users,
        name: &str,
        told: &Secret,
    ) -> (OwnedSemaphorePermit, Checked) {
        let mut scratch = self.scratches.lock().pop().unwrap_or_default();
        let checked = users.check(name, told, &mut scratch);
        self.scratches.lock().push(scratch);
        (place, checked)
    }
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
        let hash = PasswordHash::make("hashed").unwrap();
        let user = |name: &str, password: &str| UserConfig::of_test(name, password, Path::new("/nowhere"));
        Users::new(&[user("scanner", "right"), user("bank", &hash), user("erp", &hash)], None, Ground::Mount)
    }

    fn check(users: &Users, name: &str, password: &str) -> Option<String> {
        users.admit(name, &Secret::new(password)).map(|user| user.name.clone())
    }

    #[test]
    fn only_the_right_password_of_a_known_user_admits() {
        let users = users();
        assert_eq!(check(&users, "scanner", "right").as_deref(), Some("scanner"));
        assert_eq!(check(&users, "bank", "hashed").as_deref(), Some("bank"));
        for (name, password) in [
            ("scanner", "wrong"),
            ("scanner", ""),
            ("scanner", "right "),
            ("scanner", "hashed"),
            ("Scanner", "right"),
            ("bank", "right"),
            ("bank", ""),
            ("nobody", "hashed"),
        ] {
            assert_eq!(check(&users, name, password), None, "{name} {password}");
        }
        assert_eq!(check(&users, "nobody", users.nobody.reveal()), None);
        assert_eq!(check(&users, "bank", users.nobody.reveal()), None);
    }

    #[test]
    fn hashes_of_one_cost_take_one_check() {
        assert_eq!(users().decoys.len(), 1);
        let cheap = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let user = |name: &str, password: &str| UserConfig::of_test(name, password, Path::new("/nowhere"));
        let dear = PasswordHash::make("x").unwrap();
        let users = Users::new(&[user("a", cheap), user("b", &dear)], None, Ground::Mount);
        assert_eq!(users.decoys.len(), 2);
        assert_eq!(check(&users, "b", "x").as_deref(), Some("b"));
        let users = Users::new(&[user("a", "plain")], None, Ground::Mount);
        assert!(!users.is_dear());
    }

    #[tokio::test]
    async fn a_check_that_is_vain_when_its_turn_comes_is_not_made() {
        let (bench, users) = (Arc::new(HashBench::default()), Arc::new(users()));
        let told = Secret::new("hashed");
        assert!(bench.check(&users, "bank", &told, || true, |_| ()).await.is_none());
        assert!(bench.scratches.lock().is_empty(), "nothing was computed");
        let judged = bench.check(&users, "bank", &told, || false, |checked| checked.user.is_some()).await;
        assert_eq!(judged, Some(true));
        assert_eq!(bench.scratches.lock().len(), 1, "the memory is kept for the next check");
    }

    #[test]
    fn random_words_differ() {
        assert_ne!(random_word(), random_word());
    }
}
