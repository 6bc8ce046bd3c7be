//! Idle blocks of guests without the module: whose turn it is, and what came of it. The turns run off the loop, one a VM,
//! so that a VM whose memory is slow to go out delays no other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::super::clock;
use super::super::pageout::{self, Order, Trouble, Turn};
use super::super::record::Happened;
use super::super::vms::FollowedVm;
use super::Engine;
use crate::ingest::host;
use crate::ingest::tables::Tables;
use crate::model::decision::DecisionKind;
use crate::model::ids::VmId;
use crate::model::pageout::{PageoutCounters, PageoutState};
use crate::model::snapshot::{HostSnapshot, PolicyName};
use crate::policy::idle::{self, Pause, Settings};
use crate::reclaim::pageout::{Hindrance, swap_room, vm_hindrance};

/// Time between two looks for VMs whose turn it is.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// What went out is told at most so often for each VM, ns.
const TOLD_NS: u64 = 10_000_000_000;

/// Turns under way.
pub(super) struct Pageouts {
    turns_in: UnboundedSender<Turn>,
    turns: UnboundedReceiver<Turn>,
    under_way: usize,
    stop: Arc<AtomicBool>,
}

impl Default for Pageouts {
    fn default() -> Self {
        let (turns_in, turns) = unbounded_channel();
        Self { turns_in, turns, under_way: 0, stop: Arc::default() }
    }
}

impl Pageouts {
    /// The next turn that has ended.
    pub(super) async fn next(&mut self) -> Option<Turn> {
        self.turns.recv().await
    }
}

impl Engine {
    /// Gives every VM whose turn it is one.
    pub(super) fn start_pageouts(&mut self) {
        match host::read() {
            // What is not read here is put in with the next picture.
            Ok(host) => self.host = HostSnapshot { pressure: self.host_watch.snapshot(), ..host },
            Err(error) => return self.tell(None, Happened::Problem { what: error.to_string() }),
        }
        self.judge_pageouts();
        if !self.config.answer {
            return;
        }
        let now_ns = clock::monotonic_ns();
        let (swap_room, pressed) = (self.swap_room(), self.host_watch.is_pressed());
        for vm in self.vms.values_mut() {
            // A VM that waits for scans has turns all the same: that is how it is seen that they have begun.
            let Ok(room) = barrier(vm, vm.model.policy, pressed, &swap_room) else { continue };
            let Some(order) = order(vm, &self.tables, room, now_ns, &self.pageouts.stop) else { continue };
            let results = self.pageouts.turns_in.clone();
            self.pageouts.under_way += 1;
            tokio::task::spawn_blocking(move || {
                let _ = results.send(pageout::turn(order));
            });
        }
    }

    /// Takes over what a turn has done.
    pub(super) fn take_turn(&mut self, turn: Turn) {
        self.pageouts.under_way -= 1;
        let Turn { vm: id, pager, counters, pause, trouble } = turn;
        let Some(vm) = self.vms.get_mut(&id) else { return };
        vm.paging.pager = Some(pager);
        vm.paging.pause = pause;
        add(&mut vm.model.pageout.counters, &counters);
        add(&mut vm.paging.untold, &counters);
        match trouble {
            // Its end is reported by the pidfd.
            None | Some(Trouble::Gone) => {}
            Some(Trouble::Stale) => {
                vm.mappings_changed = true;
                vm.dirty = true;
            }
            Some(Trouble::Other(what)) => self.tell(Some(id), Happened::Problem { what }),
        }
        self.tell_pageout(id, counters == PageoutCounters::default());
        self.judge_pageouts();
    }

    /// Says what became of idle blocks: every few seconds while there is something, and when it has ended.
    fn tell_pageout(&mut self, id: VmId, ended: bool) {
        let now_ns = clock::monotonic_ns();
        let Some(vm) = self.vms.get_mut(&id) else { return };
        let paging = &mut vm.paging;
        if paging.untold == PageoutCounters::default() {
            return;
        }
        let since_ns = *paging.untold_since_ns.get_or_insert(now_ns);
        if !ended && now_ns.saturating_sub(since_ns) < TOLD_NS {
            return;
        }
        paging.untold_since_ns = None;
        let told = std::mem::take(&mut paging.untold);
        if told.asked_bytes > 0 {
            let why = format!(
                "idle memory by pageout: of {} KiB {} KiB went out",
                told.asked_bytes >> 10,
                told.out_bytes >> 10
            );
            self.log.add(vm, DecisionKind::PagedOut, None, why, 0, told.out_bytes);
        }
        self.tell(Some(id), Happened::PagedOut(told));
    }

    /// Says of each VM whether its idle blocks may go out; a change is a decision.
    pub(super) fn judge_pageouts(&mut self) {
        if !self.config.pageout {
            return;
        }
        let (swap_room, pressed) = (self.swap_room(), self.host_watch.is_pressed());
        let mut changes = Vec::new();
        for (id, vm) in &mut self.vms {
            // Who only looks wants to know what would be.
            let (policy, pause) = match self.config.answer {
                true => (vm.model.policy, vm.paging.pause),
                false => (PolicyName::Immediate, None),
            };
            let state = match (barrier(vm, policy, pressed, &swap_room), pause) {
                (Err(barrier), _) => barrier,
                (Ok(_), Some(pause)) => waiting(pause),
                (Ok(_), None) => PageoutState::Ready,
            };
            if vm.model.pageout.state == state {
                continue;
            }
            if let PageoutState::Waiting { reason: guard, why } | PageoutState::Forbidden { guard, why } =
                &state
            {
                let why = format!("idle memory stays: {why}");
                self.log.add(vm, DecisionKind::Kept, Some(guard.clone()), why, 0, 0);
            }
            vm.model.pageout.state = state.clone();
            changes.push((*id, state));
        }
        for (id, state) in changes {
            self.tell(Some(id), Happened::Pageout { state });
        }
    }

    /// Bytes that may go into swap.
    fn swap_room(&self) -> Result<u64, Hindrance> {
        let total = self.host.swap_total;
        swap_room(total, total.saturating_sub(self.host.swap_used), &Settings::default())
    }

    /// Waits for the turns that are under way; they end after the call that they are in.
    pub(super) async fn end_pageouts(&mut self) {
        self.pageouts.stop.store(true, Ordering::Relaxed);
        while self.pageouts.under_way > 0
            && let Some(turn) = self.pageouts.next().await
        {
            self.take_turn(turn);
        }
        let ids: Vec<VmId> = self.vms.keys().copied().collect();
        ids.into_iter().for_each(|id| self.tell_pageout(id, true));
    }
}

/// What keeps all idle blocks of a VM in memory under this policy.
fn barrier(
    vm: &FollowedVm,
    policy: PolicyName,
    pressed: bool,
    swap_room: &Result<u64, Hindrance>,
) -> Result<u64, PageoutState> {
    let room = vm_hindrance(&vm.facts).and(swap_room.clone());
    let room = room.map_err(|hindrance| PageoutState::Forbidden {
        guard: hindrance.name().into(),
        why: hindrance.to_string(),
    })?;
    idle::may_go_out(policy, pressed, &vm.model.guest).map_err(waiting)?;
    vm.young_since.map(|_| room).ok_or_else(|| waiting(Pause::NoAccessBits))
}

fn waiting(pause: Pause) -> PageoutState {
    PageoutState::Waiting { reason: pause.name().into(), why: pause.to_string() }
}

/// The VM's next turn, unless one is under way or it is too early.
fn order(
    vm: &mut FollowedVm,
    tables: &Tables,
    swap_room: u64,
    now_ns: u64,
    stop: &Arc<AtomicBool>,
) -> Option<Order> {
    let young_since = vm.young_since?;
    let pager = vm.paging.pager.take_if(|pager| pager.is_due(now_ns))?;
    let blocks = vm.model.block_maps();
    let slots = vm.facts.slots.iter().zip(blocks).enumerate();
    let slots =
        slots.map(|(at, (facts, blocks))| (facts.clone(), blocks, vm.registration.block_base(at))).collect();
    Some(Order {
        vm: vm.model.id(),
        layout: vm.model.layout(),
        vmm: Arc::clone(&vm.vmm),
        slots,
        tables: tables.clone(),
        young_since,
        swap_room,
        pager,
        stop: Arc::clone(stop),
    })
}

fn add(sum: &mut PageoutCounters, more: &PageoutCounters) {
    let PageoutCounters { cold_bytes, asked_bytes, out_bytes, back_bytes, mismatches, skipped_bytes, rests } =
        more;
    sum.cold_bytes += cold_bytes;
    sum.asked_bytes += asked_bytes;
    sum.out_bytes += out_bytes;
    sum.back_bytes += back_bytes;
    sum.mismatches += mismatches;
    sum.skipped_bytes += skipped_bytes;
    sum.rests += rests;
}
