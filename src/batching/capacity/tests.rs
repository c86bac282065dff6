use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

type Waits<'a> = std::pin::Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;

fn poll(waits: &mut Waits<'_>) -> Poll<Result<(), Error>> {
    waits.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn is_full(taken: &Result<(), Error>) -> bool {
    taken.as_ref().is_err_and(|error| error.kind() == ErrorKind::Full)
}

#[derive(Clone, Debug)]
enum Step {
    Take(usize),
    TryTake(usize),
    /// A holder releases its capacity.
    Release(Index),
    /// A waiting `take` is dropped.
    Cancel(Index),
}

proptest! {
    #![proptest_config(crate::property::config())]

    #[test]
    fn capacity_is_granted_in_fifo_order_and_never_exceeded(
        messages in 1..6_usize,
        bytes in 64..2000_usize,
        steps in prop::collection::vec(prop_oneof![
            4 => (0..1500_usize).prop_map(Step::Take),
            2 => (0..1500_usize).prop_map(Step::TryTake),
            4 => any::<Index>().prop_map(Step::Release),
            1 => any::<Index>().prop_map(Step::Cancel),
        ], 1..100),
    ) {
        let room = Capacity::new(messages, bytes);
        // The lengths that hold capacity, and the waiting ones in the order of their arrival.
        let (mut inside, mut outside): (Vec<usize>, Vec<(usize, Waits<'_>)>) = (Vec::new(), Vec::new());
        let used = |inside: &[usize]| inside.iter().map(|len| len + OVERHEAD).sum::<usize>();
        for step in steps {
            match step {
                Step::Take(len) | Step::TryTake(len) if len + OVERHEAD > bytes => {
                    prop_assert_eq!(room.try_take(len).unwrap_err().kind(), ErrorKind::TooLarge);
                }
                Step::Take(len) => outside.push((len, Box::pin(room.take(len, None)))),
                Step::TryTake(len) => {
                    let fits = inside.len() < messages && used(&inside) + len + OVERHEAD <= bytes;
                    let taken = room.try_take(len);
                    if outside.is_empty() {
                        prop_assert_eq!(taken.is_ok(), fits);
                    }
                    prop_assert!(is_full(&taken) || taken.is_ok() && fits);
                    if taken.is_ok() {
                        inside.push(len);
                    }
                }
                Step::Release(index) if !inside.is_empty() => {
                    room.release([inside.swap_remove(index.index(inside.len()))]);
                }
                Step::Cancel(index) if !outside.is_empty() => drop(outside.remove(index.index(outside.len()))),
                Step::Release(_) | Step::Cancel(_) => {}
            }
            // FIFO: nothing is granted past one that still waits.
            let mut waits = false;
            let mut still = Vec::new();
            for (len, mut taking) in outside {
                if poll(&mut taking).is_ready() {
                    prop_assert!(!waits, "granted out of order");
                    inside.push(len);
                } else {
                    waits = true;
                    still.push((len, taking));
                }
            }
            outside = still;
            prop_assert!(inside.len() <= messages && used(&inside) <= bytes);
            if let Some((len, _)) = outside.first() {
                prop_assert!(inside.len() == messages || used(&inside) + len + OVERHEAD > bytes, "the first one waits although there is capacity");
            }
        }
        room.close();
        for (_, mut taking) in outside {
            let Poll::Ready(Err(error)) = poll(&mut taking) else { panic!("it still waits after the close") };
            prop_assert_eq!(error.kind(), ErrorKind::Closed);
        }
        prop_assert_eq!(room.try_take(0).unwrap_err().kind(), ErrorKind::Closed);
        room.release(inside);
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_for_capacity_past_the_deadline_fails_as_full() {
    let room = Capacity::new(1, 1000);
    room.try_take(0).unwrap();
    let began = Instant::now();
    let deadline = Some(began + Duration::from_secs(3));
    let mut first = pin!(room.take(0, None));
    assert!(first.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(is_full(&room.take(900, deadline).await));
    assert_eq!(began.elapsed(), Duration::from_secs(3));
    // Bytes granted before the timeout are released.
    room.release([0]);
    first.await.unwrap();
    assert!(is_full(&room.try_take(0)));
    room.release([0]);
    room.try_take(1000 - OVERHEAD).unwrap();
}
