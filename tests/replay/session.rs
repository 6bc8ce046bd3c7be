//! A session: steps that the pure layers take one after the other, and what has to be true in between.
//!
//! In: JSON lines, each with a `step`. Out: the number of expectations that held, or the first that did not.
//!
//! Steps: `vm` (a VM is registered), `slots` (its layout), `event` (a raw ring-buffer event), `offer` and
//! `reclaimed` (a claimed offer and its outcome), `table` (what the shared table says from now on), `baseline_begin`
//! and `baseline_end` (a reading of the VMM's page tables), `faults`, `expect` (a field of the picture has a value).

use std::collections::BTreeMap;

use imr_common::host_abi::Event;
use imr_user::correlate::{Correlator, Observation};
use imr_user::model::block::Residency;
use imr_user::model::ids::{Gfn, Hva, Pid, VmId};
use imr_user::model::snapshot::{PolicyName, ReclaimStatus};
use imr_user::model::vm::{BlockReading, SlotDescription, VmModel};
use serde_json::{Value, json};

/// Frames of a VM at most, 8 GiB of them: recordings are small, and a slip of the pen is not to take all memory.
const MOST_FRAMES: u64 = 8 << 18;
/// The frame after the last that a slot may have: guest-physical addresses have 52 bits.
const END_OF_MEMORY: u64 = 1 << 40;
/// Slots of a VM at most, as KVM's table of followed ones has it.
const MOST_SLOTS: usize = imr_common::host_abi::MAX_SLOTS;
/// Frames of a block.
const BLOCK_FRAMES: u16 = 512;

/// The layers and what they have said so far.
#[derive(Default)]
pub(crate) struct Session {
    correlator: Correlator,
    vms: Vec<VmModel>,
    tables: BTreeMap<VmId, Vec<BlockReading>>,
    observations: Vec<String>,
}

impl Session {
    /// Plays all steps; returns how many expectations held.
    pub(crate) fn play(&mut self, text: &str) -> Result<usize, String> {
        let mut expectations = 0;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let step = serde_json::from_str(line).map_err(|error| error.to_string());
            let played = step
                .and_then(|step| self.step(&step))
                .map_err(|error| format!("line {}: {error}: {line}", number + 1))?;
            expectations += usize::from(played);
        }
        Ok(expectations)
    }

    /// Everything that is known, as one JSON object.
    pub(crate) fn picture(&self) -> Value {
        let vms: Vec<Value> = self.vms.iter().map(picture_of).collect();
        let unmatched = self.correlator.unmatched();
        json!({
            "vms": vms,
            "observations": self.observations,
            "undecodable": unmatched.undecodable,
            "unattributed": unmatched.unattributed,
        })
    }

    /// Takes one step; true when it was an expectation.
    fn step(&mut self, step: &Value) -> Result<bool, String> {
        match text(step, "step")? {
            "vm" => self.add_vm(step)?,
            "slots" => {
                let slots = list(step, "slots")?.iter().map(slot).collect::<Result<Vec<_>, _>>()?;
                let frames: u64 = slots.iter().map(|slot| slot.npages).sum();
                if slots.len() > MOST_SLOTS || frames > MOST_FRAMES {
                    return Err(format!("{} slots with {frames} frames are too much", slots.len()));
                }
                self.vm(step)?.set_slots(slots);
            }
            "event" => self.event(step)?,
            "offer" => {
                let (base, npages, now) = range(step)?;
                let table = self.table(step)?;
                self.vm(step)?.offered(base, npages, now, |(_, block)| read(&table, block));
            }
            "reclaimed" => {
                let (base, npages, now) = range(step)?;
                self.vm(step)?.reclaimed(base, npages, now);
            }
            "table" => {
                let readings = list(step, "blocks")?.iter().map(reading).collect::<Result<Vec<_>, _>>()?;
                let now = step["at_ns"].as_u64().unwrap_or_default();
                let vm = self.vm(step)?;
                for (block, reading) in readings.iter().enumerate() {
                    vm.look((0, block), *reading, now);
                }
                self.tables.insert(VmId::new(small(step, "id")?), readings);
            }
            "baseline_begin" => {
                let blocks = number(step, "blocks")?;
                let vm = self.vm(step)?;
                let there = vm.block_counts().next().unwrap_or_default();
                let blocks = usize::try_from(blocks).ok().filter(|blocks| *blocks <= there);
                vm.begin_baseline(0, 0, blocks.ok_or_else(|| format!("the first slot has {there} blocks"))?);
            }
            "baseline_end" => {
                let truth = list(step, "blocks")?.iter().map(residency).collect::<Result<Vec<_>, _>>()?;
                let now = number(step, "at_ns")?;
                let table = self.table(step)?;
                self.vm(step)?.end_baseline(0, &truth, now, |block| read(&table, block), |_| ());
            }
            "faults" => {
                let (total, now) = (number(step, "total")?, number(step, "at_ns")?);
                self.vm(step)?.sample_faults(total, now);
            }
            "expect" => {
                self.expect(step)?;
                return Ok(true);
            }
            other => return Err(format!("no step {other:?}")),
        }
        Ok(false)
    }

    fn add_vm(&mut self, step: &Value) -> Result<(), String> {
        let id = VmId::new(small(step, "id")?);
        self.correlator.register(small(step, "index")?, number(step, "kvm")?, id);
        let pid = Pid::new(small(step, "pid")?);
        self.vms.push(VmModel::new(id, pid, text(step, "name")?, PolicyName::Immediate));
        Ok(())
    }

    fn vm(&mut self, step: &Value) -> Result<&mut VmModel, String> {
        let id = VmId::new(small(step, "id")?);
        self.vms.iter_mut().find(|vm| vm.id() == id).ok_or_else(|| format!("no VM {id}"))
    }

    fn table(&self, step: &Value) -> Result<Vec<BlockReading>, String> {
        Ok(self.tables.get(&VmId::new(small(step, "id")?)).cloned().unwrap_or_default())
    }

    fn event(&mut self, step: &Value) -> Result<(), String> {
        let mut args = [0; 5];
        for (to, from) in args.iter_mut().zip(list(step, "args")?) {
            *to = from.as_u64().ok_or("args are numbers")?;
        }
        let event = Event {
            kind: small(step, "kind")?,
            vm: small(step, "vm")?,
            time_ns: number(step, "time_ns")?,
            kvm: number(step, "kvm")?,
            tgid: small(step, "tgid")?,
            tid: small(step, "tid")?,
            args,
        };
        let Some(observation) = self.correlator.observe(&event) else { return Ok(()) };
        if let Observation::Reset(id, _) = observation
            && let Some(vm) = self.vms.iter_mut().find(|vm| vm.id() == id)
        {
            vm.forget_claims(event.time_ns);
        }
        self.observations.push(format!("{observation:?}"));
        Ok(())
    }

    fn expect(&self, step: &Value) -> Result<(), String> {
        let (path, expected) = (text(step, "path")?, &step["value"]);
        let picture = self.picture();
        let found = path.split('.').try_fold(&picture, |value, name| match value {
            Value::Array(items) => items.get(name.parse::<usize>().ok()?),
            other => other.get(name),
        });
        match found {
            Some(found) if found == expected => Ok(()),
            Some(found) => Err(format!("{path} is {found}, expected {expected}")),
            None => Err(format!("there is no {path}")),
        }
    }
}

/// A VM's snapshot, with its blocks in words: claim/fact/frames.
fn picture_of(vm: &VmModel) -> Value {
    let snapshot = vm.snapshot();
    let blocks: Vec<String> = snapshot
        .slots
        .iter()
        .flat_map(|slot| slot.blocks.iter())
        .map(|block| format!("{:?}/{:?}/{}", block.claim, block.fact, block.resident_frames))
        .collect();
    let mut picture = serde_json::to_value(&snapshot).expect("a snapshot is JSON");
    picture["blocks"] = json!(blocks);
    picture
}

fn number(step: &Value, name: &str) -> Result<u64, String> {
    step[name].as_u64().ok_or_else(|| format!("{name} is not a number"))
}

fn small(step: &Value, name: &str) -> Result<u32, String> {
    u32::try_from(number(step, name)?).map_err(|_| format!("{name} is too large"))
}

fn text<'a>(step: &'a Value, name: &str) -> Result<&'a str, String> {
    step[name].as_str().ok_or_else(|| format!("{name} is not a text"))
}

fn list<'a>(step: &'a Value, name: &str) -> Result<&'a Vec<Value>, String> {
    step[name].as_array().ok_or_else(|| format!("{name} is not a list"))
}

fn range(step: &Value) -> Result<(Gfn, u64, u64), String> {
    Ok((Gfn::new(number(step, "base_gfn")?), number(step, "npages")?, number(step, "at_ns")?))
}

fn read(table: &[BlockReading], block: usize) -> BlockReading {
    table.get(block).copied().unwrap_or_default()
}

/// `[frames with memory, in swap, merged, mapped by a huge page]`; the last may be left out.
fn residency(value: &Value) -> Result<Residency, String> {
    let frames = |at: usize| value[at].as_u64().and_then(|frames| u16::try_from(frames).ok());
    match (frames(0), frames(1), frames(2)) {
        (Some(resident), Some(swapped), Some(merged)) => {
            let huge = value[3].as_bool().unwrap_or_default();
            Ok(Residency { resident, swapped, merged, huge })
        }
        _ => Err("a block is [resident, swapped, merged, huge]".to_owned()),
    }
}

/// `[mapped frames, time of the newest mapping, time of the newest idleness scan, large]`; the last two may be left
/// out.
fn reading(value: &Value) -> Result<BlockReading, String> {
    let mapped = value[0].as_u64().and_then(|frames| u16::try_from(frames).ok());
    let mapped = mapped.filter(|frames| *frames <= BLOCK_FRAMES);
    match (mapped, value[1].as_u64()) {
        (Some(mapped_frames), Some(last_map_ns)) => {
            let last_age_ns = value[2].as_u64().unwrap_or_default();
            let large = value[3].as_bool().unwrap_or_default();
            Ok(BlockReading { mapped_frames, large, last_map_ns, last_age_ns, ..BlockReading::default() })
        }
        _ => Err("a block is [frames, ns]".to_owned()),
    }
}

fn slot(value: &Value) -> Result<SlotDescription, String> {
    let (base, npages) = (number(value, "base_gfn")?, number(value, "npages")?);
    let in_memory = base.checked_add(npages).is_some_and(|end| end <= END_OF_MEMORY);
    if !(1..=MOST_FRAMES).contains(&npages) || !in_memory {
        return Err(format!("no slot has {npages} frames from {base} on"));
    }
    Ok(SlotDescription {
        id: i32::try_from(number(value, "id")?).map_err(|_| "id is too large")?,
        base_gfn: Gfn::new(base),
        npages,
        userspace_addr: Hva::new(number(value, "hva")?),
        backing: "memfd".into(),
        readonly: false,
        followed: true,
        reclaim: ReclaimStatus::Ready { backend: "punch".into() },
    })
}
