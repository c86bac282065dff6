use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::UNIX_EPOCH;

use tokio::sync::Semaphore;

use super::*;
use crate::token::{Algorithm, Signer, Token};

/// Signs when it is let to, and fails when it should.
#[derive(Debug, Default)]
struct Kms {
    begun: AtomicUsize,
    fails: AtomicBool,
    waits: AtomicBool,
    go: Gate,
}

#[derive(Debug)]
struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

#[derive(Clone, Debug)]
struct Shared(Arc<Kms>);

impl Signer for Shared {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDsa
    }

    fn sign<'a>(&'a self, _: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, BoxError>> {
        Box::pin(async move {
            self.0.begun.fetch_add(1, Ordering::Relaxed);
            if self.0.waits.load(Ordering::Relaxed) {
                self.0.go.0.acquire().await?.forget();
            }
            if self.0.fails.load(Ordering::Relaxed) { Err("the KMS is away".into()) } else { Ok(vec![1; 64]) }
        })
    }
}

type Source = Arc<dyn Fn() -> BoxFuture<'static, Result<String, BoxError>> + Send + Sync>;

/// A source of tokens with 100 s each, its signer, and its clock.
fn source() -> (Source, Arc<Kms>, Arc<AtomicU64>) {
    let (kms, clock) = (Arc::new(Kms::default()), Arc::new(AtomicU64::new(1_700_000_000)));
    let now = Arc::clone(&clock);
    let clock_of_source: Clock = Box::new(move || UNIX_EPOCH + Duration::from_secs(now.load(Ordering::Relaxed)));
    let issuer = TokenIssuer::signer(Shared(Arc::clone(&kms)));
    let source = issuer.api_token().renewed_by(Duration::from_secs(100), clock_of_source);
    (Arc::new(source), kms, clock)
}

fn issued(token: &str) -> u64 {
    Token::decode_unverified(token).unwrap().claims()["iat"].as_u64().unwrap()
}

#[tokio::test]
async fn a_token_is_used_until_four_fifths_of_its_lifetime_have_passed() {
    let (source, kms, clock) = source();
    let first = source().await.unwrap();
    clock.fetch_add(79, Ordering::Relaxed);
    assert_eq!(source().await.unwrap(), first);
    clock.fetch_add(1, Ordering::Relaxed);
    let second = source().await.unwrap();
    assert_eq!((issued(&first), issued(&second)), (1_700_000_000, 1_700_000_080));
    assert_eq!(kms.begun.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn calls_wait_for_the_first_token_and_one_makes_it() {
    let (source, kms, _) = source();
    kms.waits.store(true, Ordering::Relaxed);
    let calls: Vec<_> = (0..20).map(|_| tokio::spawn(source())).collect();
    tokio::task::yield_now().await;
    kms.go.0.add_permits(20);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(kms.begun.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn while_one_call_makes_the_next_token_the_others_use_the_one_there_is() {
    let (source, kms, clock) = source();
    let first = source().await.unwrap();
    clock.fetch_add(90, Ordering::Relaxed);
    kms.waits.store(true, Ordering::Relaxed);
    let renewing = tokio::spawn(source());
    tokio::task::yield_now().await;
    assert_eq!(source().await.unwrap(), first);
    kms.go.0.add_permits(1);
    assert_eq!(issued(&renewing.await.unwrap().unwrap()), 1_700_000_090);
    assert_eq!(kms.begun.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_cancelled_renewal_is_left_to_the_next_call() {
    let (source, kms, _) = source();
    kms.waits.store(true, Ordering::Relaxed);
    let cancelled = tokio::spawn(source());
    tokio::task::yield_now().await;
    let waiting = tokio::spawn(source());
    tokio::task::yield_now().await;
    cancelled.abort();
    kms.go.0.add_permits(1);
    waiting.await.unwrap().unwrap();
    assert_eq!(kms.begun.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn while_the_signer_is_away_a_token_is_used_until_it_ends() {
    let (source, kms, clock) = source();
    let first = source().await.unwrap();
    kms.fails.store(true, Ordering::Relaxed);
    clock.fetch_add(80, Ordering::Relaxed);
    for _ in 0..10 {
        assert_eq!(source().await.unwrap(), first);
    }
    assert_eq!(kms.begun.load(Ordering::Relaxed), 2, "it is tried once in a second");
    clock.fetch_add(20, Ordering::Relaxed);
    let error = source().await.unwrap_err();
    assert_eq!(error.to_string(), "the signer signed no token");
    assert_eq!(error.source().unwrap().to_string(), "the KMS is away");
    kms.fails.store(false, Ordering::Relaxed);
    assert_eq!(issued(&source().await.unwrap()), 1_700_000_100);
}

#[tokio::test]
async fn a_clock_that_was_set_back_makes_a_new_token() {
    let (source, _, clock) = source();
    source().await.unwrap();
    clock.fetch_sub(3600, Ordering::Relaxed);
    assert_eq!(issued(&source().await.unwrap()), 1_700_000_000 - 3600);
}

#[tokio::test]
async fn a_lifetime_that_is_too_short_or_too_long_is_refused() {
    let issuer = TokenIssuer::hmac_sha256([b'x'; 32]).unwrap();
    for lifetime in [Duration::ZERO, Duration::from_secs(9), Duration::MAX] {
        let error = issuer.api_tokens(lifetime)().await.unwrap_err();
        assert!(error.downcast_ref::<Error>().unwrap().is_invalid(), "{error}");
    }
}
