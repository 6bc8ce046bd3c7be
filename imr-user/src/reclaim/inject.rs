//! Backend for private anonymous memory: has a thread of the VMM give it back itself, by madvise(MADV_DONTNEED).
//!
//! Input: the VMM's /proc/PID and the segments of a batch. Output: memory that the VMM no longer has. The kernel lets no
//! other process do that, so one thread that is no vCPU is stopped by ptrace for the time of a batch. It must come to
//! no harm whatever becomes of us, SIGKILL at any instruction included: see [`held`].

mod frame;
mod gadgets;
mod held;
pub(super) mod maps;
mod pagemap;
mod ptrace;
mod seccomp;
#[cfg(test)]
mod tests;
mod threads;
mod unfinished;

use std::cell::RefCell;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::fs::readlinkat;
use rustix::io::Errno;

use self::held::{CALL_LIMIT, Held, Refusal};
use self::maps::{Maps, Vma};
use self::pagemap::Pagemap;
use super::backend::{Backend, Call, Effect, Failure, Obstacle};
use super::guards::Guard;
use crate::model::backing::{BackingKind, Segment};
use crate::model::ids::{BLOCK_SIZE, FRAME_SIZE, Hva, Pid};

/// Threads that are tried in vain before the batch is given up.
const MAX_TRIES: usize = 8;
/// VMMs whose last thread is remembered by an OS thread; a worker has one.
const MAX_KNOWN: usize = 16;
const MADVISE: &str = "madvise(MADV_DONTNEED) in the VMM";
const CHOOSE: &str = "choosing a thread to stop";
/// How often [`settle`] has to be called while it says so. A VMM's thread may stand still for as long.
pub const SETTLE: Duration = Duration::from_millis(10);

thread_local! {
    /// The thread that served last, by VMM: looking at one is cheaper than looking at all. A number that is used again
    /// does no harm, it is looked up in the VMM's directory.
    static LAST: RefCell<Vec<(Pid, u32)>> = const { RefCell::new(Vec::new()) };
}

/// Lets go of threads that would not stop when a batch of this OS thread was over. Whether some still do not: then it has
/// to be called again after [`SETTLE`].
#[must_use]
pub fn settle() -> bool {
    unfinished::settle()
}

/// The backend.
///
/// The thread is stopped at the first call of a batch and goes on at [`Backend::finish`]; while it stands, signals for it
/// wait, and it is passed over by job control stops, which end the batch. A VMM that stands still by SIGSTOP is not
/// touched. A process that stands still itself between two calls (SIGSTOP to us) keeps that thread standing.
///
/// All of it belongs to the OS thread that makes the first call: the kernel takes ptrace requests from that one only, so
/// the type is not `Send`.
///
/// Huge pages stay whole: a call whose first or last bytes lie inside one that reaches beyond the call is refused. QEMU
/// maps guest RAM at multiples of 2 MiB, so ranges of whole blocks have no such ends.
#[derive(Debug)]
pub struct Inject<'a> {
    proc_dir: BorrowedFd<'a>,
    pid: Pid,
    files: Option<(Maps, Pagemap)>,
    prepared: Vec<(Hva, Hva)>,
    prepared_bytes: u64,
    freed_bytes: u64,
    held: Option<Held>,
    /// Why no thread could be stopped; holds for the rest of the batch.
    refused: Option<Failure>,
    one_os_thread: PhantomData<*const ()>,
}

impl<'a> Inject<'a> {
    /// `proc_dir`: the directory /proc/PID of the VMM, opened when the VM was found. A pid that is used
    /// again is another directory, so it can never lead to another process.
    #[must_use]
    pub fn new(proc_dir: BorrowedFd<'a>, pid: Pid) -> Self {
        Self {
            proc_dir,
            pid,
            files: None,
            prepared: Vec::new(),
            prepared_bytes: 0,
            freed_bytes: 0,
            held: None,
            refused: None,
            one_os_thread: PhantomData,
        }
    }

    /// Why the VMM's files say nothing of a mapping.
    fn lost(&self) -> Guard {
        // As for a file: see `Punch::lost`.
        match readlinkat(self.proc_dir, c"exe", Vec::new()) {
            Ok(_) => Guard::StaleMapping,
            Err(_) => Guard::VmmGone,
        }
    }

    /// Opened anew in every batch: an execve of the VMM gives it another address space.
    fn files(&mut self) -> Result<&(Maps, Pagemap), Obstacle> {
        if self.files.is_none() {
            self.calls_end().map_err(Obstacle::Failure)?;
            let open = Maps::open(self.proc_dir).map_err(|errno| ("maps", errno)).and_then(|maps| {
                Ok((maps, Pagemap::open(self.proc_dir).map_err(|errno| ("pagemap", errno))?))
            });
            match open {
                Ok(files) => self.files = Some(files),
                Err((_, Errno::NOENT | Errno::SRCH)) => return Err(Obstacle::Guard(self.lost())),
                Err((path, errno)) => {
                    return Err(Obstacle::Failure(Failure { operation: "open", path: path.into(), errno }));
                }
            }
        }
        self.files.as_ref().ok_or(Obstacle::Guard(Guard::StaleMapping))
    }

    /// An earlier batch's call that is still under way could take what is answered now. It is waited for, and where that
    /// takes too long, the claim is over and nothing is answered.
    fn calls_end(&mut self) -> Result<(), Failure> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        unfinished::calls_end(CALL_LIMIT).map_err(|errno| {
            let path = "the VMM, which has not come to its end since an earlier batch".into();
            self.refused.insert(Failure { operation: MADVISE, path, errno }).clone()
        })
    }

    /// The stopped thread; stops one at the first call.
    fn held(&mut self) -> Result<&mut Held, Failure> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        if self.held.is_none() {
            match self.stop_a_thread() {
                Ok(held) => self.held = Some(held),
                Err(failure) => {
                    self.refused = Some(failure.clone());
                    return Err(failure);
                }
            }
        }
        let none = || Failure { operation: CHOOSE, path: "task".into(), errno: Errno::SRCH };
        self.held.as_mut().ok_or_else(none)
    }

    fn stop_a_thread(&self) -> Result<Held, Failure> {
        let pid = self.pid.get();
        let none = |path: String, errno| Failure { operation: CHOOSE, path, errno };
        let (maps, _) = self.files.as_ref().ok_or_else(|| none("task".into(), Errno::BADF))?;
        let stop = |tid| Held::stop(self.proc_dir, pid, tid, maps);
        let last =
            LAST.with_borrow(|known| known.iter().find(|entry| entry.0 == self.pid).map(|entry| entry.1));
        if let Some(tid) = last
            && !unfinished::has(tid)
            && threads::look(self.proc_dir, pid, tid).is_ok_and(|rank| rank <= threads::GOOD)
            && let Ok(held) = stop(tid)
        {
            return Ok(held);
        }
        let survey = threads::survey(self.proc_dir, pid).map_err(|errno| none("task".into(), errno))?;
        let mut first = None;
        for tid in survey.fit.iter().filter(|tid| !unfinished::has(**tid)).take(MAX_TRIES) {
            match stop(*tid) {
                Ok(held) => {
                    self.remember(*tid);
                    return Ok(held);
                }
                Err(Refusal::Vmm(failure)) => return Err(failure),
                Err(Refusal::Thread(failure)) => {
                    first.get_or_insert(failure);
                }
            }
        }
        let errno = if survey.is_traced() { Errno::BUSY } else { Errno::AGAIN };
        Err(first.unwrap_or_else(|| none(format!("task: {survey}"), errno)))
    }

    fn remember(&self, tid: u32) {
        LAST.with_borrow_mut(|known| {
            known.retain(|entry| entry.0 != self.pid);
            if known.len() == MAX_KNOWN {
                known.remove(0);
            }
            known.push((self.pid, tid));
        });
    }

    /// Whether a huge page reaches over one of the ends of `start..end`.
    fn check_ends(&self, pagemap: &Pagemap, start: u64, end: u64) -> Result<(), Failure> {
        for cut in [start, end] {
            let block = cut / BLOCK_SIZE * BLOCK_SIZE;
            if cut == block {
                continue;
            }
            let failure = |errno, why: &str| Failure {
                operation: MADVISE,
                path: format!("{start:#x}..{end:#x}{why}"),
                errno,
            };
            match pagemap.has_huge_page(block, block + BLOCK_SIZE) {
                Ok(Some(false)) => {}
                Ok(Some(true)) => return Err(failure(Errno::BUSY, ", which would split a huge page")),
                Ok(None) => return Err(failure(Errno::OPNOTSUPP, ", which may split a huge page")),
                Err(errno) => return Err(failure(errno, "")),
            }
        }
        Ok(())
    }

    /// Whether the mapping is still the one that was prepared, by one ioctl right before a call. The kernel cannot be asked
    /// for one before Linux 6.11, and reading all takes longer than most calls: there, what [`Backend::prepare`] saw
    /// counts for the whole batch.
    fn check_mapping(&self, (start, end): (Hva, Hva)) -> Result<(), Failure> {
        let failure = |errno, why: &str| Failure {
            operation: MADVISE,
            path: format!("the mapping at {:#x}{why}", start.get()),
            errno,
        };
        let (maps, _) = self.files.as_ref().ok_or_else(|| failure(Errno::BADF, ""))?;
        match maps.query(start.get()) {
            Ok(Some(vma)) if is_private_memory(&vma, start, end) => Ok(()),
            Ok(_) => Err(failure(Errno::STALE, ", which the VMM has changed since the batch began")),
            Err(Errno::NOTTY | Errno::INVAL) => Ok(()),
            Err(errno) => Err(failure(errno, "")),
        }
    }

    fn take(&mut self, start: u64, end: u64) -> Result<(), Failure> {
        let at = |errno| Failure { operation: MADVISE, path: format!("{start:#x}..{end:#x}"), errno };
        // Neighbouring mappings are taken in one call, so it may end in another one than it begins in.
        let mut mappings = Vec::new();
        let mut reached = start;
        while reached < end {
            let of = |bounds: &&(Hva, Hva)| bounds.0.get() <= reached && reached < bounds.1.get();
            let bounds = *self.prepared.iter().find(of).ok_or_else(|| at(Errno::BADF))?;
            mappings.push(bounds);
            reached = bounds.1.get();
        }
        let (_, pagemap) = self.files.as_ref().ok_or_else(|| at(Errno::BADF))?;
        self.check_ends(pagemap, start, end)?;
        let before = pagemap.present_bytes(start, end).map_err(at)?;
        let advice = u64::from(libc::MADV_DONTNEED.cast_unsigned());
        self.held()?;
        for bounds in mappings {
            self.check_mapping(bounds)?;
        }
        self.held()?.call(libc::SYS_madvise, [start, end - start, advice])?;
        let (_, pagemap) = self.files.as_ref().ok_or_else(|| at(Errno::BADF))?;
        let after = pagemap.present_bytes(start, end).map_err(at)?;
        self.freed_bytes += before.saturating_sub(after);
        Ok(())
    }
}

/// Whether it is this mapping, and of the only kind that is taken.
fn is_private_memory(vma: &Vma, start: Hva, end: Hva) -> bool {
    (vma.start, vma.end) == (start.get(), end.get()) && vma.writable && !vma.shared && vma.inode == 0
}

impl Backend for Inject<'_> {
    fn name(&self) -> &'static str {
        "inject"
    }

    fn prepare(&mut self, segment: &Segment) -> Result<(), Obstacle> {
        if segment.kind != BackingKind::Anonymous || segment.shared || segment.page_size != FRAME_SIZE {
            return Err(Obstacle::Guard(Guard::StaleMapping));
        }
        let (maps, _) = self.files()?;
        let found = match maps.find(segment.vma_start.get()) {
            Ok(found) => found,
            Err(Errno::SRCH) => return Err(Obstacle::Guard(self.lost())),
            Err(errno) => {
                return Err(Obstacle::Failure(Failure { operation: "lookup", path: "maps".into(), errno }));
            }
        };
        if !found.is_some_and(|vma| is_private_memory(&vma, segment.vma_start, segment.vma_end)) {
            return Err(Obstacle::Guard(self.lost()));
        }
        let bounds = (segment.vma_start, segment.vma_end);
        if !self.prepared.contains(&bounds) {
            self.prepared.push(bounds);
            self.prepared_bytes += segment.vma_end.get() - segment.vma_start.get();
        }
        Ok(())
    }

    /// The size of the mappings less what came back: an upper bound that falls by exactly what the page tables show.
    /// RssAnon would count what the guest takes meanwhile, and is only approximate since Linux 6.2.
    fn held_bytes(&self) -> Result<u64, Failure> {
        Ok(self.prepared_bytes - self.freed_bytes.min(self.prepared_bytes))
    }

    fn reclaim(&mut self, call: &Call<'_>) -> Result<Effect, Failure> {
        let start = call.hva.get();
        let end = start.checked_add(call.bytes).ok_or_else(|| Failure {
            operation: MADVISE,
            path: format!("{start:#x}+{:#x}", call.bytes),
            errno: Errno::INVAL,
        })?;
        self.take(start, end)?;
        Ok(Effect::Taken)
    }

    fn finish(&mut self) {
        if let Some(mut held) = self.held.take() {
            held.release();
        }
        self.refused = None;
        self.files = None;
        self.prepared.clear();
        (self.prepared_bytes, self.freed_bytes) = (0, 0);
    }
}
