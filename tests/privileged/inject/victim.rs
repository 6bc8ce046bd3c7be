//! A process that stands in for a VMM: threads that wait in every way there is, and notice whatever happens to them.
//!
//! In: the kind, ticks on standard input, queued signals. Out: where its memory and its figures are, in one line; the
//! figures themselves are read from its memory. It never ends by itself.

use std::arch::x86_64::{
    __m256i, _mm256_add_epi64, _mm256_mul_epu32, _mm256_set1_epi64x, _mm256_storeu_si256, _mm256_xor_si256,
};
use std::io::Write as _;
use std::process::ExitCode;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

/// Bytes of each of its two regions, the first in pages of 4 KiB, the second in huge ones.
pub(super) const REGION: u64 = 16 << 20;
const BLOCK: usize = 2 << 20;

/// What its threads do; each has a place in [`Figures::rounds`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Ppoll,
    Futex,
    FutexTimed,
    Nanosleep,
    Epoll,
    Busy,
    Sigsuspend,
}

pub(super) const KINDS: [Kind; 8] = [
    Kind::Read,
    Kind::Ppoll,
    Kind::Futex,
    Kind::FutexTimed,
    Kind::Nanosleep,
    Kind::Epoll,
    Kind::Busy,
    Kind::Sigsuspend,
];

/// What it knows of itself.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Figures {
    /// Things that should not have happened; each is told on standard error.
    pub(super) errors: AtomicU64,
    /// Queued signals, in their order.
    pub(super) signals: AtomicU64,
    /// Times that each kind of thread has been round.
    pub(super) rounds: [AtomicU64; 8],
}

static FIGURES: Figures = Figures {
    errors: AtomicU64::new(0),
    signals: AtomicU64::new(0),
    rounds: [const { AtomicU64::new(0) }; 8],
};
static WORD: AtomicU32 = AtomicU32::new(0);
/// Its value when the newest wake was over.
static WOKEN: AtomicU32 = AtomicU32::new(0);
static EVENTS: [AtomicI32; 2] = [AtomicI32::new(-1), AtomicI32::new(-1)];

/// The number at a place of a region that nothing has been taken from.
pub(super) fn pattern(address: u64) -> u64 {
    address.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// `all` runs a thread of each kind but the last, with the signals at the main thread; `A+B` the first kind in the main
/// thread, and a thread of each of the others.
pub(super) fn main(kind: &str) -> ExitCode {
    for event in &EVENTS {
        // SAFETY: no pointers.
        event.store(unsafe { libc::eventfd(0, libc::EFD_SEMAPHORE) }, SeqCst);
    }
    let regions = [region(Advice::LinuxNoHugepage), region(Advice::LinuxHugepage)];
    // Blocked everywhere; where a thread is to get them, it says so in its wait.
    handle_signals();
    let named = |name: &str| KINDS.into_iter().find(|kind| format!("{kind:?}") == name);
    let (own, others) = if kind == "all" {
        let all = KINDS.into_iter().filter(|kind| !matches!(kind, Kind::Ppoll | Kind::Sigsuspend));
        (Kind::Ppoll, all.collect::<Vec<_>>())
    } else {
        let mut kinds = kind.split('+').map(|name| named(name).unwrap());
        (kinds.next().unwrap(), kinds.collect())
    };
    for kind in others {
        thread::spawn(move || run(kind));
    }
    println!("{} {} {}", regions[0], regions[1], &raw const FIGURES as u64);
    std::io::stdout().flush().unwrap();
    run(own)
}

fn region(advice: Advice) -> u64 {
    let length = REGION as usize + 2 * BLOCK;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: no MAP_FIXED: the kernel picks addresses that nobody uses.
    let whole = unsafe { mmap_anonymous(ptr::null_mut(), length, access, MapFlags::PRIVATE) }.unwrap();
    // A block from the beginning, so that it does not merge with what is beside it.
    let start = (whole as usize + BLOCK).next_multiple_of(BLOCK);
    // SAFETY: a part of the mapping just made, to which there is no reference.
    unsafe { madvise(start as *mut _, REGION as usize, advice) }.unwrap();
    for at in (start..start + REGION as usize).step_by(8) {
        // SAFETY: inside the mapping, which stays.
        unsafe { (at as *mut u64).write_volatile(pattern(at as u64)) };
    }
    start as u64
}

fn wrong(what: &str) {
    eprintln!("victim {}: {what}", std::process::id());
    FIGURES.errors.fetch_add(1, SeqCst);
}

fn round(kind: Kind) {
    FIGURES.rounds[kind as usize].fetch_add(1, SeqCst);
}

/// Every value in its turn: none lost, none twice, and with what was sent along.
extern "C" fn on_signal(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes the siginfo of this signal.
    let info = unsafe { &*info };
    // SAFETY: it was queued, so it has a value.
    let value = unsafe { info.si_value() }.sival_ptr as u64;
    if info.si_code != libc::SI_QUEUE || FIGURES.signals.fetch_add(1, SeqCst) != value {
        FIGURES.errors.fetch_add(1, SeqCst);
    }
}

fn signal_set(with: bool) -> libc::sigset_t {
    // SAFETY: zeros are a valid set.
    let mut set = unsafe { std::mem::zeroed::<libc::sigset_t>() };
    if with {
        // SAFETY: `set` is a set of this function's own.
        unsafe { libc::sigaddset(&raw mut set, libc::SIGRTMIN()) };
    }
    set
}

fn handle_signals() {
    // SAFETY: zeros are a valid sigaction.
    let mut action = unsafe { std::mem::zeroed::<libc::sigaction>() };
    action.sa_sigaction = on_signal as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler touches atomics only.
    unsafe { libc::sigaction(libc::SIGRTMIN(), &raw const action, ptr::null_mut()) };
    let blocked = signal_set(true);
    // SAFETY: a set of this function's own.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, ptr::null_mut()) };
}

/// Whether the signals are blocked, as they are outside of the waits that let them in.
fn check_mask(kind: Kind) {
    let mut now = signal_set(false);
    // SAFETY: a set of this function's own, to be filled in.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &raw mut now) };
    // SAFETY: a set of this function's own.
    if unsafe { libc::sigismember(&raw const now, libc::SIGRTMIN()) } != 1 {
        wrong(&format!("{kind:?} has lost its signal mask"));
    }
}

fn run(kind: Kind) -> ExitCode {
    let mut expected = 0;
    let first = churn();
    loop {
        match kind {
            Kind::Read => expected = read(expected),
            Kind::Ppoll => ppoll(),
            Kind::Futex => futex(),
            Kind::FutexTimed => futex_timed(),
            Kind::Nanosleep => nanosleep(),
            Kind::Epoll => epoll(),
            Kind::Busy => {
                if churn() != first {
                    wrong("a vector register has changed");
                }
            }
            Kind::Sigsuspend => sigsuspend(),
        }
        check_mask(kind);
        round(kind);
    }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Numbers in their order from standard input.
fn read(expected: u64) -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: `bytes` has room for as many.
    let read = unsafe { libc::read(0, bytes.as_mut_ptr().cast(), bytes.len()) };
    if read != 8 || u64::from_le_bytes(bytes) != expected {
        wrong(&format!("read {read}, errno {}, {bytes:?} instead of {expected}", errno()));
    }
    expected + 1
}

/// Waits for ticks or signals without end; nothing else may wake it.
fn ppoll() {
    let before = FIGURES.signals.load(SeqCst);
    let mut poll = libc::pollfd { fd: EVENTS[0].load(SeqCst), events: libc::POLLIN, revents: 0 };
    let open = signal_set(false);
    // SAFETY: both structures outlive the call.
    match unsafe { libc::ppoll(&raw mut poll, 1, ptr::null(), &raw const open) } {
        1 => take(0),
        result => {
            let why = errno();
            if result != -1 || why != libc::EINTR || FIGURES.signals.load(SeqCst) == before {
                wrong(&format!("ppoll returned {result}, errno {why}, without a signal"));
            }
        }
    }
}

fn take(event: usize) {
    let mut count = 0_u64;
    // SAFETY: `count` has the eight bytes that an eventfd gives.
    let read = unsafe { libc::read(EVENTS[event].load(SeqCst), (&raw mut count).cast(), 8) };
    if read != 8 || count != 1 {
        wrong(&format!("read of an eventfd returned {read}, errno {}", errno()));
    }
}

fn sigsuspend() {
    let before = FIGURES.signals.load(SeqCst);
    let open = signal_set(false);
    // SAFETY: a set of this function's own.
    unsafe { libc::sigsuspend(&raw const open) };
    if errno() != libc::EINTR || FIGURES.signals.load(SeqCst) == before {
        wrong("sigsuspend returned without a signal");
    }
}

fn futex_call(operation: i32, value: u32, timeout: *const libc::timespec) -> i64 {
    let all = u32::MAX;
    // SAFETY: the word is static, and the time-out null or alive.
    unsafe { libc::syscall(libc::SYS_futex, WORD.as_ptr(), operation, value, timeout, 0_usize, all) }
}

fn futex() {
    let value = WORD.load(SeqCst);
    // The wake for this very value may still come, when the other thread was held up before it.
    let quiet = WOKEN.load(SeqCst) == value;
    let result = futex_call(libc::FUTEX_WAIT, value, ptr::null());
    let why = errno();
    if result != 0 && why != libc::EAGAIN {
        wrong(&format!("FUTEX_WAIT returned {result}, errno {why}"));
    }
    if quiet && WORD.load(SeqCst) == value {
        wrong("FUTEX_WAIT returned before it was woken");
    }
}

/// By duration and by point in time, on a word that nobody changes.
fn futex_timed() {
    static QUIET: AtomicU32 = AtomicU32::new(0);
    let start = Instant::now();
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 3_000_000 };
    let mut operation = libc::FUTEX_WAIT;
    if FIGURES.rounds[Kind::FutexTimed as usize].load(SeqCst).is_multiple_of(2) {
        operation = libc::FUTEX_WAIT_BITSET;
        // SAFETY: a structure to be filled in.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
        time.tv_nsec += 3_000_000;
        time.tv_sec += time.tv_nsec / 1_000_000_000;
        time.tv_nsec %= 1_000_000_000;
    }
    let (word, all) = (QUIET.as_ptr(), u32::MAX);
    // SAFETY: the word is static, and the time-out outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_futex, word, operation, 0, &raw const time, 0_usize, all) };
    let why = errno();
    if result != -1 || why != libc::ETIMEDOUT || start.elapsed() < Duration::from_millis(3) {
        wrong(&format!("a futex returned {result}, errno {why}, after {:?} of 3 ms", start.elapsed()));
    }
}

/// Ticks for the others.
fn nanosleep() {
    let start = Instant::now();
    let time = libc::timespec { tv_sec: 0, tv_nsec: 2_000_000 };
    // SAFETY: the structure outlives the call.
    let result = unsafe { libc::nanosleep(&raw const time, ptr::null_mut()) };
    if result != 0 || start.elapsed() < Duration::from_millis(2) {
        wrong(&format!("nanosleep returned {result}, errno {}, after {:?}", errno(), start.elapsed()));
    }
    let value = WORD.fetch_add(1, SeqCst).wrapping_add(1);
    futex_call(libc::FUTEX_WAKE, i32::MAX as u32, ptr::null());
    WOKEN.store(value, SeqCst);
    for event in &EVENTS {
        let one = 1_u64;
        // SAFETY: the eight bytes that an eventfd takes.
        unsafe { libc::write(event.load(SeqCst), (&raw const one).cast(), 8) };
    }
}

fn epoll() {
    static EPOLL: AtomicI32 = AtomicI32::new(-1);
    if EPOLL.load(SeqCst) < 0 {
        // SAFETY: no pointers.
        EPOLL.store(unsafe { libc::epoll_create1(0) }, SeqCst);
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        // SAFETY: the structure outlives the call.
        unsafe {
            libc::epoll_ctl(EPOLL.load(SeqCst), libc::EPOLL_CTL_ADD, EVENTS[1].load(SeqCst), &raw mut event)
        };
    }
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: room for one event.
    let result = unsafe { libc::epoll_wait(EPOLL.load(SeqCst), &raw mut event, 1, -1) };
    if result == 1 {
        take(1);
    } else {
        wrong(&format!("epoll_wait returned {result}, errno {}", errno()));
    }
}

/// Keeps all vector registers busy for a while; always the same number.
fn churn() -> [u64; 4] {
    if !is_x86_feature_detected!("avx2") {
        return [0; 4];
    }
    // SAFETY: the processor has AVX2, as was just seen.
    unsafe { churn_avx2() }
}

#[target_feature(enable = "avx2")]
fn churn_avx2() -> [u64; 4] {
    let mut lanes: [__m256i; 12] = std::array::from_fn(|lane| _mm256_set1_epi64x(lane as i64 + 3));
    let factor = _mm256_set1_epi64x(0x9e37_79b9);
    for step in 0..20_000 {
        let added = _mm256_set1_epi64x(step);
        for lane in &mut lanes {
            *lane = _mm256_add_epi64(_mm256_mul_epu32(*lane, factor), added);
        }
    }
    let all = lanes.into_iter().fold(factor, |all, lane| _mm256_xor_si256(all, lane));
    let mut words = [0; 4];
    // SAFETY: `words` has the 32 bytes; the instruction needs no alignment.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), all) };
    words
}
