//! A session: steps that the pure layers take one after the other, and what has to be true in between.
//!
//! In: JSON lines, each with a `step`. Out: the number of expectations that held, or the first that did not.
//!
//! Steps: `vm` (a VM is registered), `slots` (its layout), `event` (a raw ring-buffer event), `offer` and
//! `reclaimed` (a claimed offer and its outcome), `table` (what the shared table says), `baseline`, `faults`,
//! `expect` (a field of the picture has a value).

use imr_common::host_abi::Event;
use imr_user::correlate::{Correlator, Observation};
use imr_user::model::ids::{Gfn, Hva, Pid, VmId};
use imr_user::model::vm::{BlockReading, SlotDescription, VmModel};
use serde_json::{Value, json};

/// The layers and what they have said so far.
#[derive(Default)]
pub(crate) struct Session {
    correlator: Correlator,
    vms: Vec<VmModel>,
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
                let slots = list(step, "slots")?.iter().map(slot).collect::<Result<_, _>>()?;
                self.vm(step)?.set_slots(slots);
            }
            "event" => self.event(step)?,
            "offer" => {
                let (base, npages, now) = range(step)?;
                self.vm(step)?.offered(base, npages, now);
            }
            "reclaimed" => {
                let (base, npages, now) = range(step)?;
                self.vm(step)?.reclaimed(base, npages, now);
            }
            "table" => {
                let readings = list(step, "blocks")?.iter().map(reading).collect::<Result<Vec<_>, _>>()?;
                let nothing = BlockReading::default();
                self.vm(step)?.refresh(|slot, block| match slot {
                    0 => readings.get(block).copied().unwrap_or(nothing),
                    _ => nothing,
                });
            }
            "baseline" => {
                let frames = list(step, "frames")?
                    .iter()
                    .map(|value| value.as_u64().and_then(|frames| u16::try_from(frames).ok()))
                    .collect::<Option<Vec<u16>>>()
                    .ok_or("frames are numbers")?;
                let taken = number(step, "at_ns")?;
                self.vm(step)?.baseline(0, 0, &frames, taken);
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
        self.vms.push(VmModel::new(id, Pid::new(small(step, "pid")?), text(step, "name")?));
        Ok(())
    }

    fn vm(&mut self, step: &Value) -> Result<&mut VmModel, String> {
        let id = VmId::new(small(step, "id")?);
        self.vms.iter_mut().find(|vm| vm.id() == id).ok_or_else(|| format!("no VM {id}"))
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
            vm.forget_claims();
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

/// `[mapped frames, time of the newest mapping]`.
fn reading(value: &Value) -> Result<BlockReading, String> {
    let mapped = value[0].as_u64().and_then(|frames| u16::try_from(frames).ok());
    match (mapped, value[1].as_u64()) {
        (Some(mapped_frames), Some(last_map_ns)) => Ok(BlockReading { mapped_frames, last_map_ns }),
        _ => Err("a block is [frames, ns]".to_owned()),
    }
}

fn slot(value: &Value) -> Result<SlotDescription, String> {
    Ok(SlotDescription {
        id: i32::try_from(number(value, "id")?).map_err(|_| "id is too large")?,
        base_gfn: Gfn::new(number(value, "base_gfn")?),
        npages: number(value, "npages")?,
        userspace_addr: Hva::new(number(value, "hva")?),
        backing: "memfd".into(),
        readonly: false,
        followed: true,
    })
}
