//! What a thread's seccomp filters say to a system call that it has not made yet.
//!
//! Input: classic BPF programs, as PTRACE_SECCOMP_GET_FILTER gives them. Output: yes or no. Pure. A tracer can suspend
//! the filters, but not beyond its own death: so the call must be one that they allow.

use libc::sock_filter;

/// include/uapi/linux/audit.h, AUDIT_ARCH_X86_64.
const ARCH: u32 = 0xc000_003e;
/// include/uapi/linux/seccomp.h: the actions that let a call through.
const ACTION: u32 = 0xffff_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
/// Bytes of struct seccomp_data.
const DATA_SIZE: usize = 64;
/// BPF_MEMWORDS.
const SCRATCH: usize = 16;

/// A system call as a filter sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) number: u32,
    /// The address after its instruction.
    pub(super) ip: u64,
    pub(super) arguments: [u64; 6],
}

/// Whether every one of `filters` lets the call through. What cannot be followed counts as no.
pub(super) fn allow(filters: &[Vec<sock_filter>], call: &Call) -> bool {
    let mut data = [0; DATA_SIZE];
    data[..4].copy_from_slice(&call.number.to_le_bytes());
    data[4..8].copy_from_slice(&ARCH.to_le_bytes());
    data[8..16].copy_from_slice(&call.ip.to_le_bytes());
    for (place, argument) in data[16..].chunks_exact_mut(8).zip(call.arguments) {
        place.copy_from_slice(&argument.to_le_bytes());
    }
    filters
        .iter()
        .all(|filter| run(filter, &data).is_some_and(|result| matches!(result & ACTION, ALLOW | LOG)))
}

/// What a filter returns. `None` where it is not one that the kernel would have taken (kernel/seccomp.c,
/// seccomp_check_filter, 6.12). It ends: jumps go forward only.
fn run(filter: &[sock_filter], data: &[u8; DATA_SIZE]) -> Option<u32> {
    let (mut a, mut x, mut scratch) = (0_u32, 0_u32, [0_u32; SCRATCH]);
    let mut at = 0;
    loop {
        let instruction = filter.get(at)?;
        let k = instruction.k;
        let place = || usize::try_from(k).ok().filter(|place| *place < SCRATCH);
        at += 1;
        match instruction.code {
            // LD: word of the data, length, constant, scratch.
            0x20 => {
                let from = usize::try_from(k).ok()?;
                a = u32::from_le_bytes(data.get(from..from.checked_add(4)?)?.try_into().ok()?);
            }
            0x80 => a = DATA_SIZE as u32,
            0x00 => a = k,
            0x60 => a = scratch[place()?],
            // LDX: the same.
            0x81 => x = DATA_SIZE as u32,
            0x01 => x = k,
            0x61 => x = scratch[place()?],
            0x02 => scratch[place()?] = a,
            0x03 => scratch[place()?] = x,
            0x07 => x = a,
            0x87 => a = x,
            0x06 => return Some(k),
            0x16 => return Some(a),
            code if code & 7 == 4 => a = alu(code, a, if code & 8 == 0 { k } else { x })?,
            0x05 => at = at.checked_add(usize::try_from(k).ok()?)?,
            code if code & 7 == 5 => {
                let jump = compare(code, a, if code & 8 == 0 { k } else { x })?;
                at += usize::from(if jump { instruction.jt } else { instruction.jf });
            }
            _ => return None,
        }
    }
}

fn alu(code: u16, a: u32, operand: u32) -> Option<u32> {
    Some(match code & 0xf0 {
        0x00 => a.wrapping_add(operand),
        0x10 => a.wrapping_sub(operand),
        0x20 => a.wrapping_mul(operand),
        0x30 => a.checked_div(operand)?,
        0x40 => a | operand,
        0x50 => a & operand,
        0x60 => a.checked_shl(operand)?,
        0x70 => a.checked_shr(operand)?,
        0x80 => a.wrapping_neg(),
        0xa0 => a ^ operand,
        _ => return None,
    })
}

fn compare(code: u16, a: u32, operand: u32) -> Option<bool> {
    Some(match code & 0xf0 {
        0x10 => a == operand,
        0x20 => a > operand,
        0x30 => a >= operand,
        0x40 => a & operand != 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILL: u32 = 0x8000_0000;
    const MADVISE: Call = Call { number: 28, ip: 0x7000, arguments: [0x1000, 0x2000, 4, 0, 0, 0] };

    fn op(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
        sock_filter { code, jt, jf, k }
    }

    /// Kills `number`, allows the rest.
    fn but(number: u32) -> Vec<sock_filter> {
        vec![op(0x20, 0, 0, 0), op(0x15, 0, 1, number), op(0x06, 0, 0, KILL), op(0x06, 0, 0, ALLOW)]
    }

    #[test]
    fn every_filter_has_to_allow() {
        assert!(allow(&[], &MADVISE));
        assert!(allow(&[but(59), but(57)], &MADVISE));
        assert!(!allow(&[but(59), but(28)], &MADVISE));
        assert!(!allow(&[vec![op(0x06, 0, 0, 0x0005_0001)]], &MADVISE), "ERRNO");
        assert!(allow(&[vec![op(0x06, 0, 0, LOG)]], &MADVISE));
    }

    #[test]
    fn arguments_and_architecture_are_seen() {
        // Only advice 4, only x86-64: 16 + 2 * 8 is the third argument.
        let filter = |advice| {
            vec![
                op(0x20, 0, 0, 4),
                op(0x15, 0, 3, ARCH),
                op(0x20, 0, 0, 32),
                op(0x54, 0, 0, 0xff),
                op(0x15, 1, 0, advice),
                op(0x06, 0, 0, KILL),
                op(0x06, 0, 0, ALLOW),
            ]
        };
        assert!(allow(&[filter(4)], &MADVISE));
        assert!(!allow(&[filter(9)], &MADVISE));
    }

    #[test]
    fn what_is_no_filter_allows_nothing() {
        assert!(!allow(&[vec![]], &MADVISE), "runs off its end");
        assert!(!allow(&[vec![op(0x20, 0, 0, 62), op(0x06, 0, 0, ALLOW)]], &MADVISE), "reads past the data");
        assert!(!allow(&[vec![op(0x34, 0, 0, 0), op(0x06, 0, 0, ALLOW)]], &MADVISE), "divides by zero");
        assert!(!allow(&[vec![op(0x60, 0, 0, 16), op(0x06, 0, 0, ALLOW)]], &MADVISE));
        assert!(!allow(&[vec![op(0xff, 0, 0, 0)]], &MADVISE));
        assert!(!allow(&[vec![op(0x05, 0, 0, u32::MAX)]], &MADVISE));
    }

    #[test]
    fn scratch_and_arithmetic() {
        let filter = vec![
            op(0x00, 0, 0, ALLOW >> 1),
            op(0x02, 0, 0, 3),
            op(0x61, 0, 0, 3),
            op(0x0c, 0, 0, 0),
            op(0x16, 0, 0, 0),
        ];
        assert!(allow(&[filter], &MADVISE), "twice the half");
    }
}
