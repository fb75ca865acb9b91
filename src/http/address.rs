//! From which address a request comes, also behind proxies.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::{Extensions, HeaderMap};

use super::serve::Peer;
use crate::config::Network;

/// What the client of a request can speak from, see [`client`] and [`network_of`].
#[must_use]
pub fn network(extensions: &Extensions, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    // Without a connection, as in a test of the routes, everybody is the same client.
    let peer = extensions.get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0);
    network_of(client(peer, headers, trusted))
}

/// What one client can speak from: an IPv4 address, or the /64 that IPv6 gives to each.
#[must_use]
pub fn network_of(client: IpAddr) -> IpAddr {
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

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client() {
        let of = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
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
