//! Sleeping, on a node's drifting monotonic clock or in true time. A timer is registered once and cancelled on drop.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use orrery_core::runtime::{Elapsed, Mono};

use crate::events::{Event, EventKey};
use crate::state::{Core, State};
use crate::world::World;

const MILLI: u64 = 1_000_000;

#[derive(Clone, Copy)]
pub(crate) enum Deadline {
    True(u64),
    Node { node: usize, mono: Mono },
}

struct Timer {
    deadline: Deadline,
    waker: Waker,
    key: EventKey,
}

/// The sleepers of a world.
#[derive(Default)]
pub(crate) struct Timers {
    slots: Vec<Option<Timer>>,
    free: Vec<usize>,
}

impl Timers {
    fn add(&mut self, core: &mut Core, deadline: Deadline, waker: Waker) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let key = core.events.push(due(core, deadline), Event::Timer(slot));
        self.slots[slot] = Some(Timer { deadline, waker, key });
        slot
    }

    fn cancel(&mut self, core: &mut Core, slot: usize) {
        if let Some(timer) = self.slots[slot].take() {
            core.events.cancel(timer.key);
        }
        self.free.push(slot);
    }

    pub(crate) fn fire(&mut self, core: &mut Core, slot: usize) {
        if let Some(timer) = &self.slots[slot] {
            core.wakers.push(timer.waker.clone());
        }
    }

    /// The node's clock runs at another rate from now on: its timers are due at other true times.
    pub(crate) fn reschedule(&mut self, core: &mut Core, of_node: usize) {
        for (slot, timer) in self.slots.iter_mut().enumerate() {
            if let Some(timer) = timer
                && let Deadline::Node { node, .. } = timer.deadline
                && node == of_node
            {
                core.events.cancel(timer.key);
                timer.key = core.events.push(due(core, timer.deadline), Event::Timer(slot));
            }
        }
    }
}

fn due(core: &Core, deadline: Deadline) -> u64 {
    match deadline {
        Deadline::True(at) => at,
        Deadline::Node { node, mono } => core.hosts[node].clock.true_time_of(mono),
    }
}

fn has_passed(core: &Core, deadline: Deadline) -> bool {
    match deadline {
        Deadline::True(at) => core.now >= at,
        Deadline::Node { node, mono } => core.hosts[node].clock.mono(core.local_now(node)) >= mono,
    }
}

/// Completes at a deadline.
pub(crate) struct Sleep {
    world: World,
    deadline: Deadline,
    slot: Option<(usize, Waker)>,
}

impl Sleep {
    pub(crate) fn until(world: World, deadline: Deadline) -> Sleep {
        Sleep {
            world,
            deadline,
            slot: None,
        }
    }

    /// On the node's clock: at least 1 ms, rounded up to its millisecond grid, as tokio's timer.
    pub(crate) fn on_node(world: World, node: usize, duration: Duration) -> Sleep {
        let deadline = world.with(|state: &mut State| {
            let now = state.core.hosts[node].clock.mono(state.core.local_now(node));
            let target = now + duration.max(Duration::from_nanos(1));
            Deadline::Node {
                node,
                mono: Mono(target.0.div_ceil(MILLI).saturating_mul(MILLI)),
            }
        });
        Sleep::until(world, deadline)
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let deadline = this.deadline;
        let slot = &mut this.slot;
        this.world.with(|state| {
            if has_passed(&state.core, deadline) {
                return Poll::Ready(());
            }
            match slot {
                Some((_, waker)) if waker.will_wake(cx.waker()) => {}
                Some((index, waker)) => {
                    waker.clone_from(cx.waker());
                    if let Some(timer) = &mut state.timers.slots[*index] {
                        timer.waker.clone_from(cx.waker());
                    }
                }
                None => {
                    let index = state.timers.add(&mut state.core, deadline, cx.waker().clone());
                    *slot = Some((index, cx.waker().clone()));
                }
            }
            Poll::Pending
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((slot, _)) = self.slot.take() {
            self.world.with(|state| state.timers.cancel(&mut state.core, slot));
        }
    }
}

/// Polls `future` before `sleep`; drops both when either is done.
pub(crate) async fn timeout<F: Future>(sleep: Sleep, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = pin!(sleep);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Ok(value)),
        Poll::Pending => sleep.as_mut().poll(cx).map(|()| Err(Elapsed)),
    })
    .await
}
