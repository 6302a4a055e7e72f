//! Passwords that are kept as argon2id hashes (RFC 9106), in the PHC string format.
//!
//! Such a password may stand wherever a plain one may. It is told by its beginning, so a plain password
//! cannot begin with `$argon2`. What a hash costs is bounded when the file is read: each login pays it.

use std::fmt;

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::{
        PasswordHasher as _,
        phc::{Output, PasswordHash as Phc, Salt},
    },
};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

/// How every argon2 hash begins, of whatever kind.
const MARK: &str = "$argon2";
/// Most memory of one check, in KiB. RFC 9106 recommends 64 MiB where 2 GiB are too much.
const MEMORY_KIB_MAX: u32 = 64 * 1024;
/// Most passes over that memory.
const PASSES_MAX: u32 = 16;
/// Most lanes.
const LANES_MAX: u32 = 16;

/// A hash that a password can be compared with.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    cost: HashCost,
    salt: Salt,
    output: Output,
}

/// What a check costs.
#[derive(Clone, PartialEq, Eq)]
pub struct HashCost {
    version: Version,
    params: Params,
}

/// The memory of one check, kept for the next one: given back, it would stay with the allocator anyway, once
/// per thread.
#[derive(Default)]
pub struct HashScratch(Vec<Block>);

impl PasswordHash {
    /// `None` where `text` is a plain password.
    ///
    /// # Errors
    /// Where it begins as a hash and is none that can be used. Nothing of the text is repeated.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        if !text.starts_with(MARK) {
            return Ok(None);
        }
        let why = |why: &str| {
            format!(
                "begins with {MARK} {why}, allowed is a line that `cosgate passwd` prints, or a plain password that begins otherwise"
            )
        };
        let phc = Phc::new(text).map_err(|_| why("and is no hash in PHC form"))?;
        if phc.algorithm.as_str() != Algorithm::Argon2id.as_str() {
            return Err(why("and is not argon2id"));
        }
        let version = match phc.version {
            // Without one the first version is meant.
            None => Version::V0x10,
            Some(number) => Version::try_from(number).map_err(|_| why("with an unknown version"))?,
        };
        let params = Params::try_from(&phc).map_err(|_| why("with parameters that argon2 has not"))?;
        let (Some(salt), Some(output)) = (phc.salt, phc.hash) else {
            return Err(why("and holds no salt or no hash"));
        };
        if params.m_cost() > MEMORY_KIB_MAX || params.t_cost() > PASSES_MAX || params.p_cost() > LANES_MAX {
            return Err(why("and costs more than m=65536,t=16,p=16 at each login"));
        }
        Ok(Some(Self { cost: HashCost { version, params }, salt, output }))
    }

    /// The hash of a password, as it stands in a file: argon2id, 19 MiB, two passes, a random salt.
    ///
    /// # Errors
    /// Where the system has no randomness, or no memory.
    pub fn make(password: &str) -> Result<String, String> {
        match Argon2::default().hash_password(password.as_bytes()) {
            Ok(hash) => Ok(hash.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    pub fn cost(&self) -> &HashCost {
        &self.cost
    }

    /// Whether this is the password, in the same time for every one. Blocks for some 20 ms.
    pub fn matches(&self, password: &str, scratch: &mut HashScratch) -> bool {
        let mut output = [0; Output::MAX_LENGTH];
        let output = &mut output[..self.output.len()];
        let blocks = self.cost.params.block_count();
        if scratch.0.len() < blocks {
            scratch.0 = vec![Block::default(); blocks];
        }
        let argon = Argon2::new(Algorithm::Argon2id, self.cost.version, self.cost.params.clone());
        let made = argon.hash_password_into_with_memory(
            password.as_bytes(),
            &self.salt,
            output,
            &mut scratch.0[..blocks],
        );
        made.is_ok() && is_same(output, self.output.as_bytes())
    }
}

impl HashCost {
    /// A hash of this cost that no password has.
    pub fn decoy(&self) -> PasswordHash {
        let length = self.params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN);
        PasswordHash {
            cost: self.clone(),
            salt: Salt::generate(),
            output: Output::new(&vec![0; length]).expect("as long as one that was read"),
        }
    }
}

/// Compares digests under a key that nobody knows, so that the time it takes tells nothing of either.
pub fn is_same(right: &[u8], told: &[u8]) -> bool {
    let key = Salt::generate();
    let digest = |bytes: &[u8]| {
        let mut mac = Hmac::<Sha1>::new_from_slice(&key).expect("a key may have any length");
        mac.update(bytes);
        mac
    };
    digest(told).verify_slice(&digest(right).finalize().into_bytes()).is_ok()
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for HashCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m={},t={},p={}", self.params.m_cost(), self.params.t_cost(), self.params.p_cost())
    }
}

impl fmt::Debug for HashScratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with the reference implementation: `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1`, of
    /// the test vectors that come with it.
    const REFERENCE: &str =
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

    fn parsed(text: &str) -> PasswordHash {
        PasswordHash::parse(text).unwrap().unwrap()
    }

    #[test]
    fn the_reference_implementation_agrees() {
        let mut scratch = HashScratch::default();
        assert!(parsed(REFERENCE).matches("password", &mut scratch));
        assert!(!parsed(REFERENCE).matches("Password", &mut scratch));
    }

    #[test]
    fn what_is_made_is_read_back_and_matches_its_password_alone() {
        let text = PasswordHash::make("päss word").unwrap();
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        assert!(!text.contains([':', ';', ' ', '#']), "it must fit into login_users");
        assert_ne!(text, PasswordHash::make("päss word").unwrap(), "the salt is random");
        let mut scratch = HashScratch::default();
        let hash = parsed(&text);
        assert!(hash.matches("päss word", &mut scratch));
        assert!(!hash.matches("", &mut scratch));
        assert!(!hash.matches(&text, &mut scratch), "the hash itself opens nothing");
        assert!(!hash.cost().decoy().matches("päss word", &mut scratch));
        assert_eq!(hash.cost().decoy().cost(), hash.cost());
    }

    #[test]
    fn a_hash_that_cannot_be_used_is_a_problem_that_does_not_repeat_it() {
        assert_eq!(PasswordHash::parse("plain"), Ok(None));
        assert_eq!(PasswordHash::parse("$2y$10$abc"), Ok(None));
        for text in [
            "$argon2",
            "$argon2id",
            "$argon2id$v=19$m=65536,t=2,p=1",
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ",
            "$argon2id$v=20$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=65537,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=1,t=0,p=0$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2d$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        ] {
            let why = PasswordHash::parse(text).unwrap_err();
            assert!(!why.contains("m=65537") && !why.contains("c29t"), "{text}: {why}");
        }
        assert_eq!(format!("{:?}", parsed(REFERENCE)), "***");
    }
}
