//! Threads that do not stop in time, and mappings that change, in a process that does as it is told.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::puppet::{ECHO, PROTECT, Puppet, UNPROTECT, VFORK, until, vfork_flags};
use crate::model::backing::Segment;
use crate::model::ids::{BLOCK_SIZE, Hva, Pid};
use crate::reclaim::backend::{Backend as _, Call, Effect, Failure};
use crate::reclaim::inject::held::{CALL_LIMIT, Held, Refusal};
use crate::reclaim::inject::maps::Maps;
use crate::reclaim::inject::pagemap::Pagemap;
use crate::reclaim::inject::{Inject, settle, unfinished};
use crate::reclaim::testing::{MIB, Ram, proc_dir, slot};

/// Of a wait for 60 s.
const SHORT: Duration = Duration::from_secs(5);

fn ram() -> Ram {
    let ram = Ram::anonymous_in_frames(4 * MIB);
    ram.fill();
    ram
}

fn segment(puppet: &Puppet, ram: &Ram) -> Segment {
    slot(puppet.pid(), 0, ram.address(), 4 * MIB).segments.remove(0)
}

/// The call that takes the second block of the segment.
fn second_block(inject: &mut Inject<'_>, segment: &Segment) -> Result<Effect, Failure> {
    let hva = Hva::new(segment.hva.get().next_multiple_of(BLOCK_SIZE));
    inject.reclaim(&Call { segment, base_gfn: segment.base_gfn, hva, file_offset: 0, bytes: MIB })
}

/// The puppet goes its own way, and nobody traces it.
fn expect_life(puppet: &mut Puppet) {
    puppet.send(ECHO);
    assert_eq!(puppet.says(), ECHO);
    puppet.await_state('S');
    let status = std::fs::read_to_string(format!("/proc/{}/status", puppet.pid())).unwrap();
    assert!(status.contains("TracerPid:\t0\n"), "{status}");
}

#[test]
fn a_thread_that_does_not_stop_is_let_go_of_when_it_does() {
    let Some(mut puppet) = Puppet::start("a_thread_that_does_not_stop_is_let_go_of_when_it_does", &ram())
    else {
        return;
    };
    puppet.send(VFORK);
    puppet.await_state('D');
    let proc_dir = proc_dir(puppet.pid());
    let maps = Maps::open(proc_dir.as_fd()).unwrap();
    let begin = Instant::now();
    let refused = Held::stop(proc_dir.as_fd(), puppet.pid(), puppet.pid(), &maps).unwrap_err();
    assert!(begin.elapsed() < SHORT, "a worker is not held up for long");
    assert!(matches!(&refused, Refusal::Thread(failure) if failure.errno == Errno::TIMEDOUT), "{refused:?}");
    assert!(settle() && unfinished::has(puppet.pid()), "it is remembered");
    assert_eq!(puppet.state(), 'D');
    assert_eq!(unfinished::calls_end(Duration::ZERO), Ok(()), "it is in no call of ours");

    puppet.send(ECHO);
    puppet.await_state('t');
    until(|| !settle(), || format!("{:?}", puppet.state()));
    assert_eq!(puppet.says(), VFORK);
    expect_life(&mut puppet);
}

#[test]
fn a_call_that_does_not_end_is_ended_later_and_no_batch_goes_before() {
    let ram = ram();
    let test = "a_call_that_does_not_end_is_ended_later_and_no_batch_goes_before";
    let Some(mut puppet) = Puppet::start(test, &ram) else { return };
    let proc_dir = proc_dir(puppet.pid());
    let maps = Maps::open(proc_dir.as_fd()).unwrap();
    puppet.await_state('S');
    let mut held = Held::stop(proc_dir.as_fd(), puppet.pid(), puppet.pid(), &maps).unwrap();
    // As madvise does that waits for a lock.
    let failure = held.call(libc::SYS_clone, [vfork_flags(), 0, 0]).unwrap_err();
    assert_eq!(failure.errno, Errno::TIMEDOUT);
    assert_eq!(held.call(libc::SYS_getppid, [0; 3]).unwrap_err().errno, Errno::SRCH);
    let begin = Instant::now();
    drop(held);
    assert!(begin.elapsed() < SHORT, "a worker is not held up for long");
    assert!(settle() && unfinished::has(puppet.pid()));
    assert_eq!(puppet.state(), 'D');

    let segment = segment(&puppet, &ram);
    let mut inject = Inject::new(proc_dir.as_fd(), Pid::new(puppet.pid()));
    let begin = Instant::now();
    let refused = format!("{:?}", inject.prepare(&segment).unwrap_err());
    assert!(refused.contains("earlier batch"), "{refused}");
    assert!(begin.elapsed() >= CALL_LIMIT, "longer than a claim holds, where this is no test");
    let again = Instant::now();
    assert!(inject.prepare(&segment).is_err() && again.elapsed() < CALL_LIMIT, "once a batch");
    inject.finish();

    // The child reads it and ends, with that the call.
    puppet.send(ECHO);
    puppet.await_state('t');
    assert_eq!(inject.prepare(&segment), Ok(()), "it is settled first");
    assert!(!settle());
    expect_life(&mut puppet);
    assert_eq!(second_block(&mut inject, &segment).unwrap(), Effect::Taken);
    inject.finish();
    expect_life(&mut puppet);
}

#[test]
fn a_call_that_has_not_begun_is_not_made_any_more() {
    let ram = ram();
    let test = "a_call_that_has_not_begun_is_not_made_any_more";
    let Some(mut puppet) = Puppet::start(test, &ram) else { return };
    let proc_dir = proc_dir(puppet.pid());
    let maps = Maps::open(proc_dir.as_fd()).unwrap();
    puppet.await_state('S');
    let mut held = Held::stop(proc_dir.as_fd(), puppet.pid(), puppet.pid(), &maps).unwrap();
    let segment = segment(&puppet, &ram);
    let advice = u64::from(libc::MADV_DONTNEED.cast_unsigned());
    held.begin(libc::SYS_madvise, [segment.hva.get(), 4 * MIB, advice]).unwrap();
    drop(held);
    until(|| !settle(), || format!("{:?}", puppet.state()));
    expect_life(&mut puppet);
    let pagemap = Pagemap::open(proc_dir.as_fd()).unwrap();
    let start = segment.hva.get();
    assert_eq!(pagemap.present_bytes(start, start + 4 * MIB), Ok(4 * MIB));
}

#[test]
fn a_mapping_that_changes_in_a_batch_is_left_alone() {
    let ram = ram();
    let test = "a_mapping_that_changes_in_a_batch_is_left_alone";
    let Some(mut puppet) = Puppet::start(test, &ram) else { return };
    let proc_dir = proc_dir(puppet.pid());
    if Maps::open(proc_dir.as_fd()).unwrap().query(ram.address()) == Err(Errno::NOTTY) {
        println!("SKIPPED {test}: this kernel cannot be asked for one mapping (before Linux 6.11)");
        return;
    }
    let segment = segment(&puppet, &ram);
    let mut inject = Inject::new(proc_dir.as_fd(), Pid::new(puppet.pid()));
    let pagemap = Pagemap::open(proc_dir.as_fd()).unwrap();
    let present = || pagemap.present_bytes(ram.address(), ram.address() + 4 * MIB).unwrap();
    inject.prepare(&segment).unwrap();
    puppet.send(PROTECT);
    assert_eq!(puppet.says(), PROTECT);
    let failure = second_block(&mut inject, &segment).unwrap_err();
    assert_eq!(failure.errno, Errno::STALE, "{failure}");
    assert_eq!(present(), 4 * MIB);
    inject.finish();
    expect_life(&mut puppet);

    puppet.send(UNPROTECT);
    assert_eq!(puppet.says(), UNPROTECT);
    inject.prepare(&segment).unwrap();
    assert_eq!(second_block(&mut inject, &segment).unwrap(), Effect::Taken);
    assert_eq!(present(), 3 * MIB);
    inject.finish();
    expect_life(&mut puppet);
}
