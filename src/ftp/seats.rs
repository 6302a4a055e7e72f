//! How many sessions there are: in all, of an address, of a user.
//!
//! Each count is held by a guard and given back when that is dropped, however the session ends. An IPv6
//! client counts by its /64, the least that a network hands out to one customer (RFC 6177): any machine may
//! take as many addresses of its own as it likes.

use std::{collections::HashMap, hash::Hash, net::IpAddr, sync::Arc};

use parking_lot::Mutex;

/// Whoever counts as one client: an IPv4 address, or the /64 of an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Network(IpAddr);

/// What is taken.
#[derive(Debug, Default)]
pub(super) struct Seats(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    networks: HashMap<Network, usize>,
    users: HashMap<String, usize>,
}

/// A session's place among all, and among those of its network once that is known.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    network: Option<Network>,
}

/// A session's place among those of its user.
#[derive(Debug)]
pub(super) struct UserSeat {
    seats: Arc<Seats>,
    user: String,
}

/// Prefix of an IPv6 address that makes a network.
const NETWORK_BITS: u32 = 64;

impl Network {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let bits = address.to_bits() >> NETWORK_BITS << NETWORK_BITS;
                Self(IpAddr::V6(bits.into()))
            }
            address @ IpAddr::V4(_) => Self(address),
        }
    }
}

impl Seats {
    /// One of `most`.
    pub(super) fn take(self: &Arc<Self>, most: usize) -> Option<Seat> {
        let mut taken = self.0.lock();
        if taken.all >= most {
            return None;
        }
        taken.all += 1;
        Some(Seat { seats: self.clone(), network: None })
    }

    /// One of the `most` of this user; 0 = any number.
    pub(super) fn take_of_user(self: &Arc<Self>, user: &str, most: usize) -> Option<UserSeat> {
        let mut taken = self.0.lock();
        count_up(&mut taken.users, user.to_owned(), most)
            .then(|| UserSeat { seats: self.clone(), user: user.to_owned() })
    }
}

impl Seat {
    /// Counts it among the `most` of its network as well; 0 = any number.
    pub(super) fn place(&mut self, network: Network, most: usize) -> bool {
        debug_assert!(self.network.is_none(), "placed twice");
        let is_free = count_up(&mut self.seats.0.lock().networks, network, most);
        if is_free {
            self.network = Some(network);
        }
        is_free
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock();
        taken.all -= 1;
        if let Some(network) = &self.network {
            count_down(&mut taken.networks, network);
        }
    }
}

impl Drop for UserSeat {
    fn drop(&mut self) {
        count_down(&mut self.seats.0.lock().users, &self.user);
    }
}

fn count_up<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K, most: usize) -> bool {
    let count = counts.entry(key).or_default();
    // With most = 1 or more an entry that was made just now holds 0, and is counted.
    let is_free = most == 0 || *count < most;
    *count += usize::from(is_free);
    is_free
}

/// The last one takes the entry along, so the map holds no more than there are sessions.
fn count_down<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    let Some(count) = counts.get_mut(key) else { return };
    *count -= 1;
    if *count == 0 {
        counts.remove(key);
        // After a crowd the map would stay as large as it was.
        if counts.capacity() > 64 && counts.len() < counts.capacity() / 8 {
            counts.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str) -> Network {
        Network::of(address.parse().unwrap())
    }

    #[test]
    fn an_ipv6_client_is_its_64_bits_and_an_ipv4_client_its_address() {
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff::9"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
    }

    #[test]
    fn seats_are_counted_in_all_and_given_back() {
        let seats = Arc::new(Seats::default());
        let held = [seats.take(2), seats.take(2)];
        assert!(held.iter().all(Option::is_some) && seats.take(2).is_none());
        drop(held);
        assert!(seats.take(1).is_some());
    }

    #[test]
    fn seats_are_counted_by_network() {
        let seats = Arc::new(Seats::default());
        let (mut first, mut second, mut third) =
            (seats.take(9).unwrap(), seats.take(9).unwrap(), seats.take(9).unwrap());
        assert!(first.place(network("::1"), 1));
        assert!(!second.place(network("::2"), 1));
        assert!(third.place(network("192.0.2.1"), 1));
        drop((first, second));
        let mut again = seats.take(9).unwrap();
        assert!(again.place(network("::1"), 1));
        drop((again, third));
        assert!(seats.0.lock().networks.is_empty() && seats.0.lock().all == 0);
    }

    #[test]
    fn seats_are_counted_by_user_and_0_is_any_number() {
        let seats = Arc::new(Seats::default());
        let held = seats.take_of_user("a", 1);
        assert!(held.is_some() && seats.take_of_user("a", 1).is_none());
        assert!(seats.take_of_user("b", 1).is_some());
        assert!(seats.take_of_user("a", 0).is_some());
        drop(held);
        assert!(seats.take_of_user("a", 1).is_some());
        assert!(seats.0.lock().users.is_empty());
    }
}
