//! Loads the eBPF object and attaches what this kernel lets be attached.
//!
//! Input: the embedded object, the kernel's BTF. Output: [`Probes`]: tables, ring buffer, slot walk, and for every
//! hook whether it is attached and if not why. A hook that cannot be attached never stops the others.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use aya::maps::{HashMap, Map, MapData, RingBuf};
use aya::programs::{Iter, KProbe, Program, ProgramError, RawTracePoint};
use aya::{Btf, Ebpf, EbpfLoader};
use imr_common::host_abi::{BlockRecord, KernelLayout};

use super::IngestError;
use super::btf::KernelBtf;
use super::events::Events;
use super::layout::{self, Layout};
use super::privilege;
use super::probe_list::{Attach, FINGERPRINT_NEEDS, HOOKS, Hook, Role, WALK_NEEDS};
use super::registry::Registry;
use super::tables::{TableMaps, Tables, dirty_words};
use crate::model::ids::BLOCK_SIZE;
use crate::model::snapshot::{ProbeState, ProbeStatus};

/// The object that `build.rs` found; empty without one.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/imr-ebpf"));

/// Present when the kernel has kprobes for perf events (kernel/trace, CONFIG_KPROBE_EVENTS).
const KPROBE_PMU: &str = "/sys/bus/event_source/devices/kprobe/type";
/// Blocks that two slots share, one each, on top of what guest memory needs.
const SPARE_BLOCKS: u64 = 8192;
/// The largest table that is asked for: 25 TiB of guests, 1 GiB of records.
const MAX_BLOCKS: u64 = (1 << 30) / size_of::<BlockRecord>() as u64;

/// How to load.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Guest memory that the block table has room for, bytes; 40 bytes of host memory for each MiB.
    pub max_guest_bytes: u64,
    /// Let the eBPF programs log.
    pub debug_bpf: bool,
}

/// The loaded object.
pub struct Probes {
    ebpf: Ebpf,
    status: Vec<ProbeStatus>,
    debug_bpf: bool,
    blocks: u64,
    fingerprints: Result<(), String>,
}

/// Which of two ways is used.
#[derive(Clone)]
struct Choice {
    /// Why there are no kprobes at all, if so.
    no_kprobes: Option<String>,
    /// Why calls are not proven by return value; `None`: they are.
    no_return: Option<String>,
    /// Why the notifier is not asked; `None`: it is.
    no_notifier: Option<String>,
    /// Why the notifier is not asked whose idle pages are looked for; `None`: it is.
    no_age_notifier: Option<String>,
}

impl Probes {
    /// Loads and attaches.
    ///
    /// # Errors
    /// A prerequisite that is missing ([`IngestError::is_missing_prerequisite`]); maps or the slot walk that the
    /// kernel refuses.
    pub fn load(options: &LoadOptions) -> Result<Self, IngestError> {
        if OBJECT.is_empty() {
            return Err(IngestError::NoEbpfObject);
        }
        privilege::check()?;
        let btf = KernelBtf::of_running_kernel()?;
        for needed in ["kvm", "kvm_vcpu", "kvm_memslots"] {
            if !btf.has_struct(needed) {
                return Err(IngestError::NoKvm { why: format!("struct {needed} is not in BTF") });
            }
        }
        if HOOKS
            .iter()
            .all(|hook| hook.attach != Attach::RawTracepoint || btf.tracepoint(hook.target).is_err())
        {
            return Err(IngestError::NoKvm { why: "none of kvm's tracepoints is in BTF".into() });
        }
        let layout = Layout::read(&btf);
        layout.require(WALK_NEEDS).map_err(|why| IngestError::NoKvm { why })?;
        let aya_btf = Btf::from_sys_fs().map_err(|source| IngestError::AyaBtf { source })?;

        let no_kprobes = (!Path::new(KPROBE_PMU).exists())
            .then(|| "this kernel has no kprobes (CONFIG_KPROBES, CONFIG_KPROBE_EVENTS)".to_owned());
        let mut choice = Choice {
            no_return: no_kprobes.clone(),
            no_notifier: no_kprobes.clone(),
            no_age_notifier: no_kprobes.clone(),
            no_kprobes,
        };
        let blocks = (options.max_guest_bytes / BLOCK_SIZE + SPARE_BLOCKS).min(MAX_BLOCKS);
        // The choice is part of the programs' frozen globals: one that does not work out costs another load.
        loop {
            let mut ebpf = load_object(&aya_btf, &layout.kernel, &choice, blocks, options.debug_bpf)?;
            let states = attach_all(&mut ebpf, &btf, &layout, &choice);
            if let Some(better) = choice.revise(&states) {
                choice = better;
                continue;
            }
            let mut states = states;
            fail_without_stand_in(&mut states);
            let mut status: Vec<ProbeStatus> = HOOKS
                .iter()
                .zip(states)
                .map(|(hook, state)| ProbeStatus { hook: hook.name(), state })
                .collect();
            load_walk(&mut ebpf, &aya_btf)?;
            status.push(ProbeStatus { hook: "iter task_file".into(), state: ProbeState::Attached });
            let fingerprints = layout.require(FINGERPRINT_NEEDS);
            return Ok(Self { ebpf, status, debug_bpf: options.debug_bpf, blocks, fingerprints });
        }
    }

    /// Every hook and how it fares.
    #[must_use]
    pub fn status(&self) -> Vec<ProbeStatus> {
        self.status.clone()
    }

    /// Whether a call can be told to be the guest kernel's.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn can_prove_calls(&self) -> Result<(), String> {
        self.all_attached(Role::Calls)?;
        self.all_attached(Role::ProofByReturn)
            .or_else(|_| self.all_attached(Role::ProofByEntry))
            .map_err(|why| format!("a call cannot be told to be the guest kernel's: {why}"))
    }

    /// Whether each call tells that its VMM has locked, pinned, opened or closed something since the last.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn can_fingerprint(&self) -> Result<(), String> {
        self.fingerprints.clone()
    }

    /// Whether resets and restores of a VM are seen.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn can_see_resets(&self) -> Result<(), String> {
        self.all_attached(Role::Resets).map_err(|why| format!("resets of a VM cannot be seen: {why}"))
    }

    /// Whether each invalidation is seen, and of which VM it is.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn can_see_unmaps(&self) -> Result<(), String> {
        self.all_attached(Role::Notifier)
    }

    /// The ring buffer's reader; once.
    ///
    /// # Errors
    /// [`IngestError::WrongObject`] the second time or with a foreign object; what mapping it said.
    pub fn events(&mut self) -> Result<Events, IngestError> {
        let ring =
            RingBuf::try_from(self.take("EVENTS")?).map_err(|e| IngestError::map("EVENTS", "open", e))?;
        Ok(Events::new(ring, if self.debug_bpf { Some(&mut self.ebpf) } else { None }))
    }

    /// The shared tables; once.
    ///
    /// # Errors
    /// As [`Probes::events`].
    pub fn tables(&mut self) -> Result<Tables, IngestError> {
        let maps = TableMaps {
            blocks: self.take("BLOCKS")?,
            dirty: self.take("DIRTY")?,
            vms: self.take("VMS")?,
            cpus: self.take("CPUS")?,
        };
        Tables::open(maps, self.blocks)
    }

    /// Where VMs are registered; once.
    ///
    /// # Errors
    /// As [`Probes::events`].
    pub fn registry(&mut self) -> Result<Registry, IngestError> {
        Registry::open(
            self.take("KVMS")?,
            self.take("TGIDS")?,
            self.take("SLOTS")?,
            self.take("LIMIT")?,
            self.blocks,
        )
    }

    /// Runs the slot walk over the files `tgid << 32 | fd`; the bytes it wrote.
    pub(super) fn walk_slots(&mut self, keys: &[u64]) -> Result<Vec<u8>, IngestError> {
        let failed = |operation| move |source| IngestError::map("WALK", operation, source);
        let map = self.ebpf.map_mut("WALK").ok_or(IngestError::WrongObject { what: "map WALK" })?;
        let mut files: HashMap<&mut MapData, u64, u32> = HashMap::try_from(map).map_err(failed("open"))?;
        let stale: Vec<u64> = files.keys().collect::<Result<_, _>>().map_err(failed("list"))?;
        for key in stale {
            files.remove(&key).map_err(failed("remove"))?;
        }
        for key in keys {
            files.insert(key, 1, 0).map_err(failed("insert"))?;
        }
        let mut bytes = Vec::new();
        self.open_walk()?
            .read_to_end(&mut bytes)
            .map_err(|error| IngestError::io("read", "iter/task_file", error))?;
        Ok(bytes)
    }

    fn open_walk(&mut self) -> Result<File, IngestError> {
        let failed = |source: ProgramError| IngestError::Program { program: WALK, source: Box::new(source) };
        let program = walk_program(&mut self.ebpf)?;
        let id = program.attach().map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        link.into_file()
            .map_err(|error| IngestError::io("open", "iter/task_file", std::io::Error::other(error)))
    }

    fn take(&mut self, name: &'static str) -> Result<Map, IngestError> {
        self.ebpf.take_map(name).ok_or(IngestError::WrongObject { what: name })
    }

    fn all_attached(&self, role: Role) -> Result<(), String> {
        for (_, status) in HOOKS.iter().zip(&self.status).filter(|(hook, _)| hook.role == role) {
            if let ProbeState::Failed(why)
            | ProbeState::NotNeeded(why)
            | ProbeState::StoodIn { reason: why, .. } = &status.state
            {
                return Err(format!("{}: {why}", status.hook));
            }
        }
        Ok(())
    }
}

/// Name of the slot walk's program.
const WALK: &str = "walk_slots";

impl Choice {
    /// `None`: it worked. Otherwise what to try next.
    fn revise(&self, states: &[ProbeState]) -> Option<Self> {
        let failure = |role| {
            HOOKS.iter().zip(states).find_map(|(hook, state)| match state {
                ProbeState::Failed(why) if hook.role == role => Some(format!("{}: {why}", hook.name())),
                _ => None,
            })
        };
        let mut next = self.clone();
        if self.no_return.is_none() {
            next.no_return = failure(Role::ProofByReturn);
        }
        if self.no_notifier.is_none() {
            next.no_notifier = failure(Role::Notifier);
        }
        if self.no_age_notifier.is_none() {
            next.no_age_notifier = failure(Role::AgeNotifier);
        }
        let changed = next.no_return.is_some() != self.no_return.is_some()
            || next.no_notifier.is_some() != self.no_notifier.is_some()
            || next.no_age_notifier.is_some() != self.no_age_notifier.is_some();
        changed.then_some(next)
    }

    /// Why a hook is not even tried.
    fn decline(&self, hook: &Hook) -> Option<ProbeState> {
        let instead = match hook.role {
            Role::ProofByReturn => &self.no_return,
            Role::Notifier => &self.no_notifier,
            Role::AgeNotifier => &self.no_age_notifier,
            _ => &None,
        };
        if let (Some(why), Some(by)) = (instead, hook.role.stand_in()) {
            return Some(ProbeState::StoodIn { reason: why.clone(), by: by.into() });
        }
        let not_needed = |why: &str| Some(ProbeState::NotNeeded(why.into()));
        match hook.role {
            Role::ProofByEntry if self.no_return.is_none() => {
                not_needed("kretprobe kvm_emulate_hypercall proves calls")
            }
            Role::UnmapByAddress if self.no_notifier.is_none() => {
                not_needed("kprobe kvm_mmu_notifier_invalidate_range_end knows the VM")
            }
            Role::AgeByAddress if self.no_age_notifier.is_none() => {
                not_needed("kprobe kvm_mmu_notifier_clear_flush_young knows the VM")
            }
            _ if hook.attach == Attach::RawTracepoint => None,
            _ => self.no_kprobes.clone().map(ProbeState::Failed),
        }
    }
}

fn load_object(
    btf: &Btf,
    kernel: &KernelLayout,
    choice: &Choice,
    blocks: u64,
    debug_bpf: bool,
) -> Result<Ebpf, IngestError> {
    let kernel = KernelLayout {
        proof_by_return: u32::from(choice.no_return.is_none()),
        notifier_kprobe: u32::from(choice.no_notifier.is_none()),
        ..*kernel
    };
    let words = layout::words(&kernel);
    let log_level = if debug_bpf { aya_log::Level::Trace as u8 } else { 0 };
    EbpfLoader::new()
        .btf(Some(btf))
        .override_global("KERNEL", &words, true)
        .override_global(aya_log::LEVEL, &log_level, false)
        .map_max_entries("BLOCKS", u32::try_from(blocks).unwrap_or(u32::MAX))
        .map_max_entries("DIRTY", u32::try_from(dirty_words(blocks)).unwrap_or(u32::MAX))
        .load(OBJECT)
        .map_err(|source| IngestError::Load { source: Box::new(source) })
}

/// Nothing stands in for a hook where that could not be attached either.
fn fail_without_stand_in(states: &mut [ProbeState]) {
    let attached: Vec<String> = HOOKS
        .iter()
        .zip(&*states)
        .filter(|(_, state)| **state == ProbeState::Attached)
        .map(|(hook, _)| hook.name())
        .collect();
    for state in states {
        if let ProbeState::StoodIn { reason, by } = state
            && !attached.contains(by)
        {
            *state = ProbeState::Failed(format!("{reason}; nor could {by} be attached"));
        }
    }
}

fn attach_all(ebpf: &mut Ebpf, btf: &KernelBtf, layout: &Layout, choice: &Choice) -> Vec<ProbeState> {
    let attach = |hook: &Hook| {
        if let Some(state) = choice.decline(hook) {
            return state;
        }
        match hook.check(btf, layout).and_then(|()| attach(ebpf, hook)) {
            Ok(()) => ProbeState::Attached,
            Err(why) => ProbeState::Failed(why),
        }
    };
    HOOKS.iter().map(attach).collect()
}

fn attach(ebpf: &mut Ebpf, hook: &Hook) -> Result<(), String> {
    let program =
        ebpf.program_mut(hook.program).ok_or_else(|| format!("no program {} in the object", hook.program))?;
    let attached = match program {
        Program::RawTracePoint(program) => attach_raw_tracepoint(program, hook.target),
        Program::KProbe(program) => attach_kprobe(program, hook.target),
        _ => return Err(format!("program {} is of another kind", hook.program)),
    };
    attached.map_err(|error| one_line(&error))
}

fn attach_raw_tracepoint(program: &mut RawTracePoint, target: &str) -> Result<(), ProgramError> {
    program.load()?;
    program.attach(target).map(drop)
}

fn attach_kprobe(program: &mut KProbe, target: &str) -> Result<(), ProgramError> {
    program.load()?;
    program.attach(target, 0).map(drop)
}

fn load_walk(ebpf: &mut Ebpf, btf: &Btf) -> Result<(), IngestError> {
    walk_program(ebpf)?
        .load("task_file", btf)
        .map_err(|source| IngestError::Program { program: WALK, source: Box::new(source) })
}

fn walk_program(ebpf: &mut Ebpf) -> Result<&mut Iter, IngestError> {
    match ebpf.program_mut(WALK) {
        Some(Program::Iter(program)) => Ok(program),
        _ => Err(IngestError::WrongObject { what: "program walk_slots" }),
    }
}

/// The error and what caused it, in one line; aya's own message often leaves the errno to its source, and holds the
/// whole log of the verifier.
fn one_line(error: &ProgramError) -> String {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        let log = verifier_log.to_string();
        let reason =
            log.lines().rev().find(|line| !line.is_empty() && !is_statistics(line)).unwrap_or("no log");
        return format!("the verifier refused it: {io_error}: {}", reason.trim());
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.replace('\n', " ")
}

/// What the verifier says last of every program.
fn is_statistics(line: &str) -> bool {
    ["processed ", "verification time ", "stack depth "].iter().any(|start| line.starts_with(start))
}

#[cfg(test)]
mod tests;
