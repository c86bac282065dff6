//! Random steps on a gate, compared with a model.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use proptest::prelude::*;
use tokio::task::JoinHandle;

use super::*;

const OUTCOMES: [Outcome; 4] = [Outcome::NotSent, Outcome::Refused, Outcome::Unknown, Outcome::Done];

#[derive(Clone, Copy, Debug)]
enum Step {
    Enter,
    /// The running call with this index ends, with an outcome or dropped without one.
    End(usize, Option<Outcome>),
    Wait(Duration),
    Close(Duration),
    /// The `close` with this index is dropped.
    DropClose(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let times = || prop_oneof![1 => Just(0), 4 => 0..100_u64].prop_map(Duration::from_millis);
    let step = prop_oneof![
        6 => Just(Step::Enter),
        6 => (any::<usize>(), prop::option::of(prop::sample::select(&OUTCOMES[..])))
            .prop_map(|(index, outcome)| Step::End(index, outcome)),
        3 => times().prop_map(Step::Wait),
        1 => times().prop_map(Step::Close),
        1 => any::<usize>().prop_map(Step::DropClose),
    ];
    prop::collection::vec(step, 1..60)
}

/// A `close` in progress: its start, its timeout, and its result with the time it took.
struct Closing {
    begun: Instant,
    timeout: Duration,
    found: JoinHandle<(CloseSummary, Duration)>,
}

#[derive(Default)]
struct Model {
    closed: bool,
    /// The ended calls by outcome.
    ended: CloseSummary,
    cancelled: bool,
}

impl Model {
    fn end(&mut self, outcome: Option<Outcome>) {
        match outcome {
            Some(Outcome::Done) => self.ended.done += 1,
            Some(Outcome::Refused) => self.ended.refused += 1,
            Some(Outcome::NotSent) => self.ended.not_sent += 1,
            Some(Outcome::Unknown) | None => self.ended.unknown += 1,
        }
    }

    /// Compares each `close` that has returned with the model.
    async fn check(&mut self, closing: &mut Vec<Closing>, running: u64) {
        // Lets every ready task run.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        let mut index = 0;
        while index < closing.len() {
            let Closing { begun, timeout, found } = &mut closing[index];
            // After its timeout, `close` cancels running calls and waits up to `GRACE` for them.
            self.cancelled |= running > 0 && begun.elapsed() >= *timeout;
            if found.is_finished() {
                let (found, after) = found.await.unwrap();
                let expected = CloseSummary { unknown: self.ended.unknown + running, ..self.ended };
                assert_eq!(found, expected);
                assert!(after <= *timeout + Duration::from_millis(22), "{after:?} instead of {timeout:?}");
                if running > 0 {
                    assert!(after >= *timeout, "{after:?} instead of {timeout:?}");
                }
                closing.swap_remove(index);
            } else {
                assert!(running > 0, "`close` waits although no call runs");
                index += 1;
            }
        }
    }
}

async fn run(steps: Vec<Step>) {
    let gate: &'static Gate = Box::leak(Box::default());
    let mut model = Model::default();
    let mut running = Vec::new();
    let mut closing: Vec<Closing> = Vec::new();
    let cancelled = Arc::new(AtomicU32::new(0));
    for waiting in 0..3 {
        let cancelled = Arc::clone(&cancelled);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(waiting * 40)).await;
            gate.cancel().wait().await;
            cancelled.fetch_add(1, Ordering::SeqCst);
        });
    }
    let close = |timeout| {
        tokio::spawn(async move {
            let begun = Instant::now();
            (gate.close(timeout).await, begun.elapsed())
        })
    };
    for step in steps {
        match step {
            Step::Enter => {
                let entered = gate.enter();
                assert_eq!(entered.is_ok(), !model.closed, "no call begins after the close");
                match entered {
                    Ok(call) => running.push(call),
                    Err(error) => assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, Outcome::NotSent)),
                }
            }
            Step::End(..) if running.is_empty() => {}
            Step::End(index, outcome) => {
                let mut call: Running<'_> = running.swap_remove(index % running.len());
                if let Some(outcome) = outcome {
                    call.end(outcome);
                }
                drop(call);
                model.end(outcome);
            }
            Step::Wait(wait) => {
                // In steps of the timer's resolution, to see each `close` when it returns.
                for _ in 0..wait.as_millis() {
                    tokio::time::advance(Duration::from_millis(1)).await;
                    model.check(&mut closing, running.len() as u64).await;
                }
            }
            Step::Close(timeout) => {
                closing.push(Closing { begun: Instant::now(), timeout, found: close(timeout) });
                model.closed = true;
            }
            Step::DropClose(_) if closing.is_empty() => {}
            Step::DropClose(index) => {
                closing.swap_remove(index % closing.len()).found.abort();
            }
        }
        model.check(&mut closing, running.len() as u64).await;
    }
    // Every `close` returns in time, and so does another one.
    for _ in 0..130 {
        tokio::time::advance(Duration::from_millis(1)).await;
        model.check(&mut closing, running.len() as u64).await;
    }
    assert!(closing.is_empty());
    assert_eq!(
        cancelled.load(Ordering::SeqCst),
        if model.cancelled { 3 } else { 0 },
        "calls are cancelled exactly when a timeout has passed"
    );
    closing.push(Closing { begun: Instant::now(), timeout: Duration::ZERO, found: close(Duration::ZERO) });
    model.check(&mut closing, running.len() as u64).await;
    model.closed = true;
    let before = gate.enter().is_ok();
    assert!(!before);
    for mut call in running {
        call.end(Outcome::Done);
        drop(call);
        model.end(Some(Outcome::Done));
    }
    model.check(&mut closing, 0).await;
    for _ in 0..2 {
        assert_eq!(gate.close(Duration::MAX).await, model.ended, "a second close returns the same");
    }
}

proptest! {
    #![proptest_config(crate::property::config())]

    #[test]
    fn a_gate_counts_its_calls(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(steps));
    }
}

#[test]
fn counts_add_up_with_calls_from_several_threads() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for _ in 0..50 {
        let [begun, short, refused] = [0; 3].map(AtomicU64::new);
        let gate = Gate::default();
        let closed = std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    // This call begins before the close and ends after it.
                    let mut kept = gate.enter().unwrap();
                    begun.fetch_add(1, Ordering::SeqCst);
                    while let Ok(_short) = gate.enter() {
                        short.fetch_add(1, Ordering::SeqCst);
                    }
                    kept.end(Outcome::Done);
                    drop(kept);
                    // Refused calls are not counted.
                    for _ in 0..1_000 {
                        refused.fetch_add(u64::from(gate.enter().is_err()), Ordering::SeqCst);
                    }
                });
            }
            while begun.load(Ordering::SeqCst) < 3 {
                std::thread::yield_now();
            }
            runtime.block_on(gate.close(Duration::from_secs(10)))
        });
        assert_eq!((closed.done, closed.refused, closed.not_sent), (3, 0, 0));
        // The short calls are dropped without an outcome.
        assert_eq!(closed.unknown, short.load(Ordering::SeqCst));
        assert_eq!(refused.load(Ordering::SeqCst), 3_000);
        let again = runtime.block_on(gate.close(Duration::ZERO));
        assert_eq!(again, closed, "no call is left");
    }
}

#[test]
fn calls_that_are_refused_are_not_counted() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (gate, stop) = (Gate::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        runtime.block_on(gate.close(Duration::ZERO));
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                assert!(gate.enter().is_err());
            }
        });
        let closed: Vec<_> = (0..2_000).map(|_| runtime.block_on(gate.close(Duration::ZERO))).collect();
        stop.store(true, Ordering::SeqCst);
        assert!(closed.iter().all(|closed| *closed == CloseSummary::default()), "no call began");
    });
}

#[tokio::test(start_paused = true)]
async fn cancel_wakes_earlier_and_later_waiters() {
    let gate = Gate::default();
    let _call = gate.enter().unwrap();
    let mut early = pin!(gate.cancel().wait());
    assert!(polled(early.as_mut()).await.is_pending());
    let closed = gate.close(Duration::from_millis(1)).await;
    assert_eq!(closed, CloseSummary { unknown: 1, ..CloseSummary::default() });
    early.await;
    gate.cancel().wait().await;
}

/// Polls the future once.
async fn polled<F: Future>(mut future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx))).await
}
