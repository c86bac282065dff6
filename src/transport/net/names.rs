//! Resolves the name of a host, and detects when its addresses change.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Resolver;
use crate::sync::Mutex;

/// How often a name is resolved again while connections to it work.
const RECHECK: Duration = Duration::from_secs(30);

/// The addresses of one host, resolved for every dial, and regularly while connections are open, because an open connection does
/// not notice that its name has changed.
#[derive(Clone)]
pub(crate) struct Names(Arc<Inner>);

struct Inner {
    /// `None` if the host is an address, or is resolved by the application's client.
    host: Option<String>,
    lookup: Resolver,
    known: Mutex<Known>,
    checking: AtomicBool,
    generation: AtomicU64,
    turn: AtomicUsize,
}

struct Known {
    addresses: BTreeSet<IpAddr>,
    checked: Instant,
    /// Addresses that no connection could be made to, or that did not respond, and until when they are dialled last.
    suspects: BTreeMap<IpAddr, Instant>,
}

impl Known {
    fn is_suspect(&self, address: IpAddr) -> bool {
        self.suspects.get(&address).is_some_and(|until| Instant::now() < *until)
    }
}

/// How long an address that failed is dialled last.
#[cfg(any(feature = "grpc", feature = "tls"))]
const SUSPICION: Duration = Duration::from_secs(30);

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Names").field(&self.0.host).finish()
    }
}

impl Names {
    /// The addresses of the URL's host.
    pub(crate) fn new(url: &url::Url, lookup: Option<Resolver>) -> Self {
        Self::of(url.domain().map(ToOwned::to_owned), lookup)
    }

    /// Resolves nothing, for a client with its own resolver.
    #[cfg(feature = "http")]
    pub(crate) fn unknown() -> Self {
        Self::of(None, None)
    }

    fn of(host: Option<String>, lookup: Option<Resolver>) -> Self {
        Self(Arc::new(Inner {
            host,
            lookup: lookup.unwrap_or_else(|| Arc::new(|host| Box::pin(system(host)))),
            known: Mutex::new(Known { addresses: BTreeSet::new(), checked: Instant::now(), suspects: BTreeMap::new() }),
            checking: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
        }))
    }

    /// A number that grows when the name has lost an address: connections with a smaller one are no longer used. Resolves the name
    /// again in the background when that is due. Must be called in a runtime.
    pub(crate) fn generation(&self) -> u64 {
        if self.0.host.is_some() {
            self.recheck();
        }
        self.0.generation.load(Ordering::Relaxed)
    }

    /// Retires all connections.
    pub(crate) fn next_generation(&self) {
        self.0.generation.fetch_add(1, Ordering::Relaxed);
    }

    fn recheck(&self) {
        let due = self.known().checked.elapsed() >= RECHECK;
        if due && !self.0.checking.swap(true, Ordering::Relaxed) {
            let names = self.clone();
            tokio::spawn(async move {
                // Allows the next check even if this task is dropped with its runtime.
                let _done = Checking(&names.0.checking);
                // A lookup that hangs must not block later ones.
                let checked = tokio::time::timeout(RECHECK, names.check()).await;
                if let Err(error) = checked.unwrap_or_else(|elapsed| Err(elapsed.into())) {
                    tracing::debug!(host = names.0.host, %error, "name not resolved again");
                }
                names.known().checked = Instant::now();
            });
        }
    }

    /// Resolves the name and starts a new generation if it has lost an address.
    async fn check(&self) -> io::Result<()> {
        let now: BTreeSet<_> = self.look_up().await?.into_iter().collect();
        let mut known = self.known();
        let has_lost = !known.addresses.is_subset(&now);
        known.addresses = now;
        drop(known);
        if has_lost {
            tracing::info!(host = self.0.host, "the name has lost an address; its connections are replaced");
            self.next_generation();
        }
        Ok(())
    }

    async fn look_up(&self) -> io::Result<Vec<IpAddr>> {
        let Some(host) = &self.0.host else { return Ok(Vec::new()) };
        let addresses = (self.0.lookup)(host.clone()).await?;
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(addresses)
    }

    /// The addresses for a dial, rotated at each call to spread connections over them.
    ///
    /// A missing address does not start a new generation here: with a resolver that returns a few addresses at a time, each dial
    /// would retire the connections before it.
    pub(crate) async fn resolve(&self) -> io::Result<Vec<IpAddr>> {
        let mut addresses = self.look_up().await?;
        if addresses.is_empty() {
            return Ok(addresses);
        }
        self.known().addresses.extend(&addresses);
        // The address family that the system prefers stays first.
        let first = addresses[0].is_ipv4();
        addresses.sort_by_key(|address| address.is_ipv4() != first);
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let preferred = addresses.iter().filter(|address| address.is_ipv4() == first).count();
        let (preferred, others) = addresses.split_at_mut(preferred);
        for family in [preferred, others].into_iter().filter(|family| !family.is_empty()) {
            family.rotate_left(turn % family.len());
        }
        let known = self.known();
        addresses.sort_by_key(|address| known.is_suspect(*address));
        drop(known);
        Ok(addresses)
    }

    /// Dials this address after the others for a time.
    #[cfg(any(feature = "grpc", feature = "tls"))]
    pub(crate) fn suspect(&self, address: IpAddr) {
        if self.0.host.is_some() {
            let mut known = self.known();
            known.suspects.retain(|_, until| Instant::now() < *until);
            known.suspects.insert(address, Instant::now() + SUSPICION);
        }
    }

    /// A connection to this address was made.
    #[cfg(any(feature = "grpc", feature = "tls"))]
    pub(crate) fn trust(&self, address: IpAddr) {
        self.known().suspects.remove(&address);
    }

    /// Whether an address is known that has not failed.
    #[cfg(feature = "grpc")]
    pub(crate) fn has_unsuspected(&self) -> bool {
        let known = self.known();
        known.addresses.iter().any(|address| !known.is_suspect(*address))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.known.lock()
    }
}

struct Checking<'a>(&'a AtomicBool);

impl Drop for Checking<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

async fn system(host: String) -> io::Result<Vec<IpAddr>> {
    Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
}

/// For reqwest, which sets the port.
#[cfg(feature = "http")]
impl reqwest::dns::Resolve for Names {
    fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let names = self.clone();
        Box::pin(async move {
            let addresses = names.resolve().await?.into_iter().map(|ip| std::net::SocketAddr::new(ip, 0));
            Ok(Box::new(addresses.collect::<Vec<_>>().into_iter()) as reqwest::dns::Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lookup_with_one_address_at_a_time_retires_no_connection() {
        let turn = Arc::new(AtomicUsize::new(0));
        let lookup: Resolver = Arc::new(move |_| {
            let last = u8::try_from(turn.fetch_add(1, Ordering::Relaxed) % 8).unwrap();
            Box::pin(std::future::ready(Ok(vec![IpAddr::from([127, 0, 0, last])])))
        });
        let names = Names::of(Some("centrifugo.test".into()), Some(lookup));
        for _ in 0..20 {
            assert_eq!(names.resolve().await.unwrap().len(), 1);
            assert_eq!(names.generation(), 0);
        }
        tokio::time::advance(RECHECK).await;
        assert_eq!(names.generation(), 0);
        tokio::task::yield_now().await;
        assert_eq!(names.generation(), 1, "it is resolved again after 30 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_that_hangs_does_not_block_later_ones() {
        let lookups = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&lookups);
        let lookup: Resolver = Arc::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::pending())
        });
        let names = Names::of(Some("centrifugo.test".into()), Some(lookup));
        for _ in 0..3 {
            tokio::time::sleep(2 * RECHECK).await;
            names.generation();
        }
        tokio::task::yield_now().await;
        assert_eq!(lookups.load(Ordering::Relaxed), 3);
    }
}
