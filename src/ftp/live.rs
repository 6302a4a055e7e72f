//! What all sessions share, and what of it a reload replaces.
//!
//! ```text
//! reload ── FtpConfig ──> Live, a new one ──> every session hears of it between two commands:
//!                                              its user is the same     it goes on, by the values of now
//!                                              gone, or another one     421, once its transfer is over
//! ```
//!
//! A session reads the values it needs at the moment it needs them ([`Front::now`]) and keeps none. What must
//! outlive a reload (buffers, places, rates, counters) lies in [`Means`] and in [`super::users::Lasting`].

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    home::{Ground, blocking},
    login::Gate,
    passive::{PassiveDoors, SharedDoors},
    records::Records,
    tls::{Tls, until_next_look},
    transfer::Means,
    users::{User, Users},
};
use crate::config::{CertificateError, FtpConfig, TlsRequired, UserConfig};

/// What all sessions share.
#[derive(Debug)]
pub(super) struct Front {
    live: watch::Sender<Arc<Live>>,
    ground: Ground,
    pub(super) means: Arc<Means>,
    pub(super) records: Records,
    pub(super) gate: Gate,
}

/// What a reload replaces, all at once.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) config: FtpConfig,
    pub(super) users: Arc<Users>,
    pub(super) doors: SharedDoors,
    /// `None`: no TLS at all.
    pub(super) tls: Option<Arc<Tls>>,
}

impl Front {
    /// # Errors
    /// Where there is to be TLS, and its certificate cannot be read.
    pub(super) fn new(
        config: &FtpConfig,
        ground: Ground,
        records: Records,
    ) -> Result<Self, CertificateError> {
        let tls = config.tls.as_ref().map(Tls::new).transpose()?;
        let live = Live {
            tls: tls.map(Arc::new),
            users: Arc::new(Users::new(&config.users, guest_of(config), ground)),
            doors: Arc::new(PassiveDoors::new(config.passive_ports, config.passive_host.clone())),
            config: config.clone(),
        };
        let means = Arc::new(Means::new(config.stall_timeout));
        records.set_xferlog(config.xferlog.as_ref());
        let live = watch::Sender::new(Arc::new(live));
        Ok(Self { live, ground, means, records, gate: Gate::default() })
    }

    /// The values of now: to be used and dropped, not to be kept.
    pub(super) fn now(&self) -> Arc<Live> {
        self.live.borrow().clone()
    }

    /// Hears of each reload from now on.
    pub(super) fn reloads(&self) -> watch::Receiver<Arc<Live>> {
        self.live.subscribe()
    }

    /// Applies a new configuration. Returns the keys whose change needs a restart, which keep their old values.
    pub(super) fn apply(&self, config: &FtpConfig) -> Vec<&'static str> {
        let old = self.now();
        let is_same_door = old.config.passive_ports == config.passive_ports
            && old.config.passive_host == config.passive_host;
        let doors = match is_same_door {
            true => old.doors.clone(),
            false => Arc::new(PassiveDoors::new(config.passive_ports, config.passive_host.clone())),
        };
        self.means.set_stall(config.stall_timeout);
        self.records.set_xferlog(config.xferlog.as_ref());
        let users = Arc::new(old.users.renewed(&config.users, guest_of(config), self.ground));
        let needs_restart = needs_restart(&old.config, config);
        let tls = Tls::renewed(old.tls.as_ref(), config.tls.as_ref());
        self.live.send_replace(Arc::new(Live { config: config.clone(), users, doors, tls }));
        needs_restart
    }

    /// Reads the certificate again whenever its files have changed; never ends.
    pub(super) async fn keep_certificate(&self) {
        loop {
            until_next_look().await;
            let Some(tls) = self.now().tls.clone() else { continue };
            let looked = blocking(move || {
                tls.look();
                Ok(())
            });
            // A look that panicked has been told by the panic.
            looked.await.ok();
        }
    }

    /// Looks up what `masquerade_address` names, whichever it is at the time; never ends.
    pub(super) async fn keep_looking_up(&self) {
        let mut reloads = self.reloads();
        loop {
            let doors = reloads.borrow_and_update().doors.clone();
            tokio::select! {
                () = doors.keep_looking_up() => {
                    // Nothing is to be looked up until a reload says otherwise.
                    if reloads.changed().await.is_err() { return }
                }
                changed = reloads.changed() => if changed.is_err() { return },
            }
        }
    }
}

impl Live {
    /// What has to be behind TLS. It holds without a certificate too: then nobody gets in.
    pub(super) fn tls_required(&self) -> TlsRequired {
        self.config.tls.as_ref().map_or(TlsRequired::None, |tls| tls.required)
    }

    /// Whether a session of `user` may go on: he is still who he was when he logged in.
    pub(super) fn still_admits(&self, user: &User) -> bool {
        self.users.is_current(user)
    }
}

fn guest_of(config: &FtpConfig) -> Option<&UserConfig> {
    config.anonymous.as_ref().map(|anonymous| &anonymous.user)
}

/// Sockets that are bound once.
fn needs_restart(old: &FtpConfig, new: &FtpConfig) -> Vec<&'static str> {
    let implicit_port = |config: &FtpConfig| config.tls.as_ref().and_then(|tls| tls.implicit_port);
    [
        (old.listen_addresses != new.listen_addresses, "listen_address"),
        (old.listen_port != new.listen_port, "listen_port"),
        (implicit_port(old) != implicit_port(new), "tls_implicit_port"),
    ]
    .into_iter()
    .filter_map(|(differs, key)| differs.then_some(key))
    .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{PassivePorts, Secret};

    fn config(users: &[(&str, &str)]) -> FtpConfig {
        let user =
            |(name, password): &(&str, &str)| UserConfig::of_test(name, password, Path::new("/nowhere"));
        FtpConfig { users: users.iter().map(user).collect(), ..FtpConfig::default() }
    }

    #[test]
    fn sessions_of_users_that_stay_as_they_are_go_on() {
        let front =
            Front::new(&config(&[("a", "1"), ("b", "1"), ("c", "1")]), Ground::Plain, Records::default())
                .unwrap();
        let sessions: Vec<_> =
            ["a", "b", "c"].map(|name| front.now().users.admit(name, &Secret::new("1")).unwrap()).into();
        let mut new = config(&[("a", "1"), ("b", "2"), ("d", "1")]);
        new.users[0].rates.upload = Some(1000);
        new.idle_timeout *= 2;
        assert_eq!(front.apply(&new), Vec::<&str>::new());
        let go_on: Vec<bool> = sessions.iter().map(|user| front.now().still_admits(user)).collect();
        assert_eq!(go_on, [true, false, false], "b has another password, c is gone");
        assert!(front.now().users.admit("b", &Secret::new("1")).is_none());
        let logged_in = ["b", "d"].map(|name| front.now().users.admit(name, &Secret::new("2")).is_some());
        assert_eq!(logged_in, [true, false]);
        assert_eq!(front.now().config.idle_timeout, new.idle_timeout);
    }

    #[test]
    fn a_user_who_comes_back_is_not_the_one_who_went() {
        let front = Front::new(&config(&[("a", "1")]), Ground::Plain, Records::default()).unwrap();
        let session = front.now().users.admit("a", &Secret::new("1")).unwrap();
        front.apply(&config(&[]));
        front.apply(&config(&[("a", "1")]));
        assert!(!front.now().still_admits(&session));
    }

    #[test]
    fn bound_sockets_need_a_restart_and_the_rest_is_applied() {
        let front = Front::new(&config(&[]), Ground::Plain, Records::default()).unwrap();
        let new = FtpConfig {
            listen_port: 21,
            passive_ports: PassivePorts { first: 50_000, last: 50_009 },
            ..config(&[])
        };
        assert_eq!(front.apply(&new), ["listen_port"]);
        assert_eq!(front.now().config.passive_ports, new.passive_ports);
    }
}
