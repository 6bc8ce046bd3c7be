//! Idle blocks of guests without the module: whose turn it is, and what came of it. The turns run off the loop, one a VM,
//! so that a VM whose memory is slow to go out delays no other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::super::Config;
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
    shares: Shares,
    stop: Arc<AtomicBool>,
}

/// What of the swap each turn under way may use, bytes. How much of that is used already nobody knows, so all of it counts
/// until the turn has ended.
#[derive(Debug, Default)]
struct Shares(BTreeMap<VmId, u64>);

impl Shares {
    /// The part of `room`, as it is now, that a new turn of this VM may use: at most `most`, and nothing that another may.
    fn give(&mut self, vm: VmId, room: u64, most: u64) -> u64 {
        let promised = self.0.values().fold(0, |sum: u64, share| sum.saturating_add(*share));
        let share = room.saturating_sub(promised).min(most);
        self.0.insert(vm, share);
        share
    }

    /// The VM's turn has ended.
    fn end(&mut self, vm: VmId) {
        self.0.remove(&vm);
    }

    /// Whether no turn is under way.
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for Pageouts {
    fn default() -> Self {
        let (turns_in, turns) = unbounded_channel();
        Self { turns_in, turns, shares: Shares::default(), stop: Arc::default() }
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
        if !moves(&self.config) {
            return;
        }
        let now_ns = clock::monotonic_ns();
        let (swap_room, pressed) = (self.swap_room(), self.host_watch.is_pressed());
        for vm in self.vms.values_mut() {
            // A VM that waits for scans has turns all the same: that is how it is seen that they have begun.
            let Ok(room) = barrier(vm, vm.model.policy, pressed, &swap_room) else { continue };
            let Pageouts { turns_in, shares, stop, .. } = &mut self.pageouts;
            let share = |id, most| shares.give(id, room, most);
            let Some(order) = order(vm, &self.tables, share, now_ns, stop) else { continue };
            let results = turns_in.clone();
            tokio::task::spawn_blocking(move || {
                let _ = results.send(pageout::turn(order));
            });
        }
    }

    /// Takes over what a turn has done.
    pub(super) fn take_turn(&mut self, turn: Turn) {
        let Turn { vm: id, pager, counters, pause, trouble } = turn;
        self.pageouts.shares.end(id);
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
            let (policy, pause) = judged(&self.config, vm.model.policy, vm.paging.pause);
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
        while !self.pageouts.shares.is_empty()
            && let Some(turn) = self.pageouts.next().await
        {
            self.take_turn(turn);
        }
        let ids: Vec<VmId> = self.vms.keys().copied().collect();
        ids.into_iter().for_each(|id| self.tell_pageout(id, true));
    }
}

/// Whether anything may go out at all: not where somebody only looks, nor in a dry run.
fn moves(config: &Config) -> bool {
    config.answer && !config.allowed.dry_run
}

/// What a VM with this policy, and this pause in its turns, is judged by. Who only looks wants to know what would be.
fn judged(config: &Config, policy: PolicyName, pause: Option<Pause>) -> (PolicyName, Option<Pause>) {
    match (config.answer, config.allowed.dry_run) {
        (true, false) => (policy, pause),
        (true, true) => (policy, Some(Pause::DryRun)),
        (false, dry_run) => (PolicyName::Immediate, dry_run.then_some(Pause::DryRun)),
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

/// The VM's next turn, unless one is under way or it is too early. `share` says how much it may use of the swap.
fn order(
    vm: &mut FollowedVm,
    tables: &Tables,
    share: impl FnOnce(VmId, u64) -> u64,
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
        swap_room: share(vm.model.id(), pager.most()),
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reclaim::choose::Allowed;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_dry_run_judges_and_moves_nothing() {
        for (answer, dry_run) in [(true, false), (true, true), (false, false), (false, true)] {
            let allowed = Allowed { dry_run, ..Allowed::default() };
            let config = Config { answer, allowed, pageout: true, ..Config::default() };
            assert_eq!(moves(&config), answer && !dry_run);
            let (policy, pause) = judged(&config, PolicyName::Pressure, Some(Pause::NoScan));
            assert_eq!(policy, if answer { PolicyName::Pressure } else { PolicyName::Immediate });
            let expected = match (dry_run, answer) {
                (true, _) => Some(Pause::DryRun),
                (false, true) => Some(Pause::NoScan),
                (false, false) => None,
            };
            assert_eq!(pause, expected);
        }
    }

    #[test]
    fn turns_of_a_round_share_the_room() {
        let mut shares = Shares::default();
        let mut give = |vm, room| shares.give(VmId::new(vm), room * MIB, 64 * MIB) / MIB;
        assert_eq!([give(1, 150), give(2, 150), give(3, 150), give(4, 150)], [64, 64, 22, 0]);
        shares.end(VmId::new(2));
        assert_eq!(shares.give(VmId::new(5), 100 * MIB, 64 * MIB), 14 * MIB, "the others are still at it");
        (1..=5).for_each(|vm| shares.end(VmId::new(vm)));
        assert!(shares.is_empty());
    }

    proptest! {
        /// However long turns take and whatever they use of their share, and however many VMs there are.
        #[test]
        fn the_reserve_stays_free(
            total_mib in 100..4000_u64,
            rounds in proptest::collection::vec(proptest::collection::vec((0..6_u32, 0..80_u64, any::<bool>()), 0..8), 1..40),
        ) {
            let settings = Settings::default();
            let total = total_mib * MIB;
            let mut free = total;
            let mut shares = Shares::default();
            let mut under_way: BTreeMap<VmId, u64> = BTreeMap::new();
            for steps in rounds {
                let room = swap_room(total, free, &settings).unwrap_or(0);
                for vm in (0..6).map(VmId::new) {
                    under_way.entry(vm).or_insert_with(|| shares.give(vm, room, settings.rate));
                }
                for (vm, used_mib, ends) in steps {
                    let Some(left) = under_way.get_mut(&VmId::new(vm)) else { continue };
                    let used = (used_mib * MIB).min(*left);
                    *left -= used;
                    free -= used;
                    if ends {
                        under_way.remove(&VmId::new(vm));
                        shares.end(VmId::new(vm));
                    }
                }
                prop_assert!(free >= total / 100 * settings.swap_reserve, "{free} of {total}");
            }
        }
    }
}
