//! How often strangers may ask: token buckets per client and for all of them together.
//!
//! The buckets are in memory and belong to one node: with several nodes each lets as much through. That
//! keeps a flood away from the database, which is what they are for; nothing about money rests on them.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
};

use axum::http::HeaderMap;

use crate::{config::Network, domain::time::Timestamp};

/// The size of a bucket, and how fast it fills again.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Requests that may come at once.
    pub burst: u32,
    /// Seconds until one more may.
    pub refill_s: u32,
}

/// A bucket as the instant at which it is full again: a request moves that by one refill, and is refused
/// where it would be further away than an empty bucket is.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    full_at_us: i64,
}

impl Rate {
    fn refill_us(self) -> i64 {
        i64::from(self.refill_s) * 1_000_000
    }

    /// The bucket after a request at `now`, or the seconds until one would be let through.
    fn take(self, bucket: Bucket, now: Timestamp) -> Result<Bucket, u32> {
        let now = now.as_micros();
        let room = self.refill_us() * i64::from(self.burst);
        // A clock that was set back must not keep anybody out for longer than an empty bucket does.
        let full_at_us =
            bucket.full_at_us.clamp(now, now.saturating_add(room)).saturating_add(self.refill_us());
        let wait_us = full_at_us - now.saturating_add(room);
        if wait_us <= 0 {
            return Ok(Bucket { full_at_us });
        }
        // Rounded up: who comes back after that is let through.
        let seconds = wait_us.saturating_add(999_999) / 1_000_000;
        Err(u32::try_from(seconds).unwrap_or(u32::MAX))
    }
}

/// Buckets of clients are dropped once they are full again; looked at when there are this many.
const SWEEP_AT: usize = 1_024;

/// Who may ask how often.
#[derive(Debug)]
pub struct Throttle {
    each: Rate,
    all: Rate,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    all: Bucket,
    by_client: HashMap<IpAddr, Bucket>,
}

impl Throttle {
    /// At most `each` per client and `all` together.
    #[must_use]
    pub fn new(each: Rate, all: Rate) -> Self {
        Self { each, all, buckets: Mutex::default() }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// The seconds after which the next one is let through. A refused request counts for nobody.
    pub fn take(&self, client: IpAddr, now: Timestamp) -> Result<(), u32> {
        let client = network_of(client);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        // A client gets a bucket only when its request is let through, so there are never more of them
        // than the bucket of all has let through in the time in which one fills.
        let all = self.all.take(buckets.all, now)?;
        let own = self.each.take(buckets.by_client.get(&client).copied().unwrap_or_default(), now)?;
        if buckets.by_client.len() >= SWEEP_AT {
            buckets.by_client.retain(|_, bucket| bucket.full_at_us > now.as_micros());
        }
        buckets.all = all;
        buckets.by_client.insert(client, own);
        Ok(())
    }
}

/// What one client can speak from: an IPv4 address, or the /64 that IPv6 gives to each.
fn network_of(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
}

/// Who asks: the peer, or the last address in `X-Forwarded-For` that no trusted proxy has. What stands
/// before that address was written by somebody nobody trusts.
#[must_use]
pub fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer;
    let lines: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().filter_map(|line| line.to_str().ok()).collect();
    for text in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        if !is_trusted(client) {
            break;
        }
        let Ok(address) = text.trim().parse::<IpAddr>() else { break };
        client = address.to_canonical();
    }
    client
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_750_000_000);
    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn throttle(all: u32) -> Throttle {
        Throttle::new(Rate { burst: 3, refill_s: 60 }, Rate { burst: all, refill_s: 1 })
    }

    #[test]
    fn a_burst_is_let_through_and_then_one_per_refill() {
        let throttle = throttle(100);
        for _ in 0..3 {
            assert_eq!(throttle.take(ONE, NOW), Ok(()));
        }
        assert_eq!(throttle.take(ONE, NOW), Err(60));
        assert_eq!(throttle.take(ONE, NOW.plus_secs(59)), Err(1));
        assert_eq!(throttle.take(ONE, NOW.plus_secs(60)), Ok(()));
        assert_eq!(throttle.take(ONE, NOW.plus_secs(60)), Err(60), "a refusal has cost nothing");
        let rested = NOW.plus_secs(1_000);
        let let_through = (0..10).filter(|_| throttle.take(ONE, rested).is_ok()).count();
        assert_eq!(let_through, 3, "a bucket never holds more than its burst");
    }

    #[test]
    fn all_together_are_limited_and_no_bucket_is_kept_for_the_refused() {
        let throttle = throttle(5);
        let clients = (0..100_u32).map(|n| IpAddr::from((0x0a00_0000 | n).to_be_bytes()));
        assert_eq!(clients.filter(|client| throttle.take(*client, NOW).is_ok()).count(), 5);
        assert_eq!(throttle.buckets.lock().unwrap().by_client.len(), 5);
        assert_eq!(throttle.take(ONE, NOW), Err(1));
        assert_eq!(throttle.take(ONE, NOW.plus_secs(1)), Ok(()));
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_nobody_out_for_longer() {
        let throttle = throttle(100);
        for _ in 0..3 {
            throttle.take(ONE, NOW).unwrap();
        }
        assert_eq!(throttle.take(ONE, NOW.plus_secs(-86_400)), Err(60));
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_a_bucket() {
        let throttle = throttle(100);
        for last in 1..=3 {
            throttle.take(format!("2001:db8::{last}").parse().unwrap(), NOW).unwrap();
        }
        assert_eq!(throttle.take("2001:db8::ffff".parse().unwrap(), NOW), Err(60));
        assert_eq!(throttle.take("2001:db8:0:1::1".parse().unwrap(), NOW), Ok(()));
    }

    #[test]
    fn a_forwarded_address_is_believed_of_trusted_proxies_only() {
        let trusted = [Network::parse("10.0.0.0/8").unwrap(), Network::parse("2001:db8::1").unwrap()];
        let of = |peer: &str, lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", HeaderValue::from_static(line));
            }
            client(peer.parse().unwrap(), &headers, &trusted).to_string()
        };
        for (peer, lines, expected) in [
            ("192.0.2.9", &["203.0.113.5"][..], "192.0.2.9"),
            ("10.1.1.1", &["203.0.113.5"], "203.0.113.5"),
            ("10.1.1.1", &["198.51.100.1, 203.0.113.5"], "203.0.113.5"),
            ("10.1.1.1", &["198.51.100.1", "203.0.113.5, 10.2.2.2"], "203.0.113.5"),
            ("2001:db8::1", &["::ffff:203.0.113.5"], "203.0.113.5"),
            ("10.1.1.1", &["10.3.3.3"], "10.3.3.3"),
            ("10.1.1.1", &["unknown"], "10.1.1.1"),
            ("10.1.1.1", &[], "10.1.1.1"),
        ] {
            assert_eq!(of(peer, lines), expected, "{peer} {lines:?}");
        }
    }
}
