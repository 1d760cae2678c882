//! Callers that ask too often.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::ConnectInfo,
    http::{HeaderMap, request::Parts},
};
use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use symbolon_domain::ids::ApiKeyId;

use crate::network::Network;

/// How often callers may ask, and whose word on their address is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitSettings {
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// Most requests of one API key in a second, to this process; `None` for any number.
    pub requests_per_second_per_key: Option<NonZeroU32>,
}

/// Failed authentications that an address may have at once, and then one each second.
const FAILURES: NonZeroU32 = NonZeroU32::new(10).unwrap();
const FAILURES_PER_SECOND: NonZeroU32 = NonZeroU32::MIN;

/// Most addresses that are told apart. When there are more, the new ones share one bucket.
const MOST_ADDRESSES: usize = 4096;

/// Counts requests. A clone counts on.
///
/// A good key is never refused for what others at its address do: many callers may come through
/// one address, and a neighbour who guesses must not lock them out.
#[derive(Clone)]
pub(crate) struct Limits(Arc<Inner>);

struct Inner {
    trusted_proxies: Vec<Network>,
    failures: DefaultKeyedRateLimiter<IpAddr>,
    keys: Option<DefaultKeyedRateLimiter<ApiKeyId>>,
    clock: DefaultClock,
}

impl Limits {
    pub(crate) fn new(settings: LimitSettings) -> Self {
        let per_second = settings.requests_per_second_per_key;
        Self(Arc::new(Inner {
            trusted_proxies: settings.trusted_proxies,
            failures: RateLimiter::keyed(
                Quota::per_second(FAILURES_PER_SECOND).allow_burst(FAILURES),
            ),
            keys: per_second.map(|it| RateLimiter::keyed(Quota::per_second(it))),
            clock: DefaultClock::default(),
        }))
    }

    /// Counts a failed authentication.
    ///
    /// # Errors
    ///
    /// How long to wait, when there were too many.
    pub(crate) fn failed(&self, parts: &Parts) -> Result<(), Duration> {
        // Without a connection, as in another program's tests, nobody is far away.
        let Some(ConnectInfo(peer)) = parts.extensions.get::<ConnectInfo<SocketAddr>>() else {
            return Ok(());
        };
        let Inner { trusted_proxies, failures, clock, .. } = &*self.0;
        let mut bucket = bucket(client(peer.ip(), &parts.headers, trusted_proxies));
        if failures.len() >= MOST_ADDRESSES {
            failures.retain_recent();
            if failures.len() >= MOST_ADDRESSES {
                bucket = Ipv6Addr::UNSPECIFIED.into();
            }
        }
        failures.check_key(&bucket).map_err(|it| it.wait_time_from(clock.now()))
    }

    /// Counts a request of a good key.
    ///
    /// # Errors
    ///
    /// How long to wait, when there were too many.
    pub(crate) fn admit(&self, key: ApiKeyId) -> Result<(), Duration> {
        let Some(keys) = &self.0.keys else { return Ok(()) };
        keys.check_key(&key).map_err(|it| it.wait_time_from(self.0.clock.now()))
    }
}

/// Who asks: the peer or, where that is a proxy that we believe, whom it says it asks for, and so
/// on. What stands before the first that we do not believe may be anybody's invention.
fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |it: IpAddr| trusted.iter().any(|network| network.contains(it));
    let mut address = peer;
    let values = headers.get_all("x-forwarded-for").iter().rev();
    let hops = values.filter_map(|it| it.to_str().ok()).flat_map(|it| it.rsplit(','));
    for hop in hops {
        if !is_trusted(address) {
            break;
        }
        let hop = hop.trim();
        let with_port = || hop.parse::<SocketAddr>().map(|it| it.ip());
        let Ok(before) = hop.parse().or_else(|_| with_port()) else { break };
        address = before;
    }
    address
}

/// What counts as one address: of IPv6 the network, as each customer has one of his own.
fn bucket(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(it) => it.into(),
        IpAddr::V6(it) => Ipv6Addr::from_bits(it.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_forwarded_address_is_believed_as_far_as_the_proxies_are() {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        for (peer, forwarded, expected) in [
            ("203.0.113.1", &["198.51.100.1"][..], "203.0.113.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["1.1.1.1", "198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            ("127.0.0.1", &["198.51.100.1:443"], "198.51.100.1"),
            ("127.0.0.1", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("127.0.0.1", &["1.1.1.1, unknown"], "127.0.0.1"),
        ] {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append("x-forwarded-for", HeaderValue::from_static(value));
            }
            let found = client(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(found, expected.parse::<IpAddr>().unwrap(), "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn many_addresses_take_no_more_than_so_much_memory() {
        let limits = Limits::new(LimitSettings::default());
        for number in 0..u32::try_from(MOST_ADDRESSES).unwrap() + 100 {
            let (mut parts, ()) = axum::http::Request::new(()).into_parts();
            let peer = SocketAddr::from((std::net::Ipv4Addr::from_bits(number), 1));
            parts.extensions.insert(ConnectInfo(peer));
            let _ = limits.failed(&parts);
        }
        assert!(limits.0.failures.len() <= MOST_ADDRESSES + 1);
    }
}
