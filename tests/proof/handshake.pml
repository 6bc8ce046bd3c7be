/*
 * The handshake between imr_guest.ko and imr, for SPIN: one VM, two blocks of its memory, one batch at a time of one
 * block. What must hold: the host takes no block that the guest owns, writes no control page that is not the running
 * module's, and closes every batch if a host lives.
 *
 * The names in brackets are those of the code that a step stands for. Bounds and mutants are macros, given by
 * spin.rs; docs/safety.md says what they mean. It must not know more than the two sides do: what only the checker
 * knows is marked "ghost".
 */

#ifndef OFFERS
#define OFFERS 2	/* batches that one load of the module opens, at most */
#endif
#ifndef LOADS
#define LOADS 1		/* loads of the module, all kernels together */
#endif
#ifndef CRASHES
#define CRASHES 0	/* times imr is killed */
#endif
#ifndef RESETS
#define RESETS 0	/* hard resets, and SREGS written for no reason */
#endif
#ifndef ROLLBACKS
#define ROLLBACKS 0	/* loadvm of the one snapshot */
#endif
#ifndef KEXECS
#define KEXECS 0	/* kexec, which raises no reset generation */
#endif
#define QUEUE 2		/* calls under way between the hypercall and the worker */

#ifdef M_NO_HOST_FENCE
#define HOST_FENCE true
#else
#define HOST_FENCE (h_buffer == 0)
#endif
#ifdef M_NO_GUEST_FENCE
#define GUEST_FENCE true
#else
#define GUEST_FENCE (g_buffer == 0)
#endif
#ifdef M_NO_GENERATION
#define SAME_BOOT(g) true
#else
#define SAME_BOOT(g) ((g) == generation)
#endif
#ifdef M_NO_LIFETIME
#define IN_TIME true
#else
#define IN_TIME (!h_expired)
#endif
/*
 * A look at the generation and what it allows: the VM does not get through a reset and on to using its memory in
 * between. M_NO_WINDOW shows what this assumption is worth.
 */
#ifdef M_NO_WINDOW
#define MACHINE_MAY true
#else
#define MACHINE_MAY (!h_window)
#endif
#ifdef ONLY_BLOCKS	/* for mutants: the loss that they are looked at for, not its consequences */
#define PAGE_IS_MINE true
#else
#define PAGE_IS_MINE (vm.page_live)
#endif

#define HELLO 1
#define DOORBELL 2
#define BYE 3

/* Where the guest is; the machine's reset and loadvm move it elsewhere. */
#define OFF 0		/* a kernel without the module: all of memory is its own */
#define START 1
#define IDLE 2
#define PUBLISH 3
#define RING 4
#define LOOK 5
#define REVOKE 6
#define CHECK 7
#define AGAIN 8
#define CLOSE 9
#define SAY_BYE 10
#define WAIT_BYE 11

/* The VM: everything a snapshot holds. */
typedef Vm {
	byte pc;
	byte block;		/* of the open batch */
	bit lost;		/* [imr_wait: lost] */
	bit answered;		/* [imr_host_may_write] when BYE was begun */
	byte isolated[2];	/* out of the allocator, for this offer; 0: the guest's own */
	bit page_live;		/* ghost: the frame of the control page is the running module's */
	/* the guest's half and the record */
	bit magic;
	byte cookie;
	byte offer;
	byte record;
	byte revoke;
	/* the host's half */
	byte attach;
	byte claim;
	byte done;
	byte abandon
};

Vm vm, saved;
bit have_saved;
byte generation, loads, crashes, resets, rollbacks, kexecs;
bit reset_told;			/* EVENT_RESET is on its way to the worker */

/* Store buffers (x86): of each side's stores, the one that its fence is for. 0: empty. */
byte g_buffer, h_buffer;

/* The calls under way; [0] is the oldest. */
typedef Call {
	byte op;
	byte seq;
	byte cookie;
	byte generation;
	bit late		/* rung after the worker set its overdue mark: rung_ns > seen_ns */
};
Call queue[QUEUE];
byte queued;

/* The host process. */
bit crash, h_window, h_holding, h_expired;
bit h_session;
byte h_id = 1, h_cookie, h_attach, h_claim, h_done, h_abandon, h_overdue;

#define OPEN (vm.isolated[0] != 0 || vm.isolated[1] != 0)

inline say(op_, seq_) {
	/* [imr_call: virt_mb, hypercall] */
	d_step {
		if
		:: queued < QUEUE ->
			queue[queued].op = op_;
			queue[queued].seq = seq_;
			queue[queued].cookie = vm.cookie;
			queue[queued].generation = generation;
			queue[queued].late = (h_session && h_overdue != 0 && h_overdue == seq_);
			queued++
		:: else	/* lost, and counted */
		fi
	}
}

inline drop() {
	/* Takes the oldest call away. */
	d_step {
		queue[0].op = queue[1].op; queue[0].seq = queue[1].seq; queue[0].cookie = queue[1].cookie;
		queue[0].generation = queue[1].generation; queue[0].late = queue[1].late;
		queue[1].op = 0; queue[1].seq = 0; queue[1].cookie = 0; queue[1].generation = 0; queue[1].late = 0;
		queued--
	}
}

inline copy_vm(to, from) {
	to.pc = from.pc; to.block = from.block; to.lost = from.lost; to.answered = from.answered;
	to.isolated[0] = from.isolated[0]; to.isolated[1] = from.isolated[1]; to.page_live = from.page_live;
	to.magic = from.magic; to.cookie = from.cookie; to.offer = from.offer; to.record = from.record;
	to.revoke = from.revoke; to.attach = from.attach; to.claim = from.claim; to.done = from.done;
	to.abandon = from.abandon
}

#ifdef LIVE
#define MAY_SAY (queued < QUEUE)
#else
#define MAY_SAY true
#endif

active proctype Guest() {
end:	do
	/* [imr_start] The page is zeroed and filled before anybody hears of it. */
	:: atomic { vm.pc == OFF && loads < LOADS && !vm.page_live ->
		d_step {
			loads++;
			vm.cookie = loads; vm.offer = 0; vm.record = 0; vm.revoke = 0;
			vm.attach = 0; vm.claim = 0; vm.done = 0; vm.abandon = 0;
			vm.magic = 1; vm.page_live = 1; vm.lost = 0; vm.answered = 0; vm.pc = START
		} }
	:: atomic { vm.pc == START && MAY_SAY -> say(HELLO, 0); vm.pc = IDLE }

	/* [imr_report, imr_batch_open, imr_record_write] */
	:: atomic { vm.pc == IDLE && vm.attach != 0 && vm.offer < OFFERS ->
		if
		:: vm.block = 0
		:: vm.block = 1
		fi;
		vm.isolated[vm.block] = vm.offer + 1; vm.record = vm.block; vm.lost = 0; vm.pc = PUBLISH }
	/* [imr_hello_work] */
	:: atomic { vm.pc == IDLE && MAY_SAY && vm.attach == 0 -> say(HELLO, 0) }
#ifndef LIVE
	:: atomic { vm.pc == IDLE -> say(HELLO, 0) }
#endif
#ifdef UNLOAD
	/* [imr_stop] */
	:: atomic { vm.pc == IDLE -> vm.pc = SAY_BYE }
#endif
	/* [imr_publish] */
	:: atomic { vm.pc == PUBLISH -> vm.offer++; vm.pc = RING }
	/* [imr_ring] */
	:: atomic { vm.pc == RING && MAY_SAY -> say(DOORBELL, vm.offer); vm.pc = LOOK }
	/* [imr_wait, imr_answer] */
	:: atomic { vm.pc == LOOK ->
		if
		:: vm.done == vm.offer || vm.abandon == vm.offer -> vm.pc = CLOSE
		:: else ->
			if
			:: !vm.lost -> vm.pc = REVOKE
			:: vm.pc = AGAIN
			fi
		fi }
	/* [imr_revoke] */
	:: atomic { vm.pc == REVOKE && g_buffer == 0 -> g_buffer = vm.offer; vm.pc = CHECK }
	:: atomic { vm.pc == CHECK && GUEST_FENCE ->
		if
		:: vm.claim != vm.offer -> vm.pc = CLOSE
		:: else -> vm.lost = 1; vm.pc = LOOK
		fi }
	/* [imr_ring: HELLO to a host that seems gone, then the doorbell] */
	:: atomic { vm.pc == AGAIN && MAY_SAY -> say(HELLO, 0); vm.pc = RING }
#ifndef LIVE
	:: atomic { vm.pc == AGAIN -> vm.pc = RING }
#endif
	/* [imr_batch_close] page reporting gives the block back: it may be in use from here on. */
	:: atomic { vm.pc == CLOSE -> vm.isolated[vm.block] = 0; vm.block = 0; vm.lost = 0; vm.pc = IDLE }

	/* [imr_bye] */
	:: atomic { vm.pc == SAY_BYE ->
		if
		:: vm.answered = (vm.attach != 0)
		:: vm.answered = 0	/* not lately */
		fi;
		vm.magic = 0; say(BYE, 0); vm.pc = WAIT_BYE }
	:: atomic { vm.pc == WAIT_BYE && vm.attach != 0 -> say(BYE, 0) }
	/* acknowledged: the page is freed */
	:: atomic { vm.pc == WAIT_BYE && vm.answered && vm.attach == 0 ->
		vm.answered = 0; vm.page_live = 0; vm.pc = OFF }
	/* not answered, and no call is young enough any more: the same */
	:: atomic { vm.pc == WAIT_BYE && !vm.answered && queued == 0 && !h_window ->
		if
		:: vm.attach == 0 -> vm.page_live = 0; vm.pc = OFF
		:: vm.attach != 0 -> vm.page_live = 0; vm.pc = OFF
		:: vm.attach != 0 -> vm.answered = 1
		fi }
	/* not acknowledged: the page is given up, still the host's to write */
	:: atomic { vm.pc == WAIT_BYE && vm.answered && vm.attach != 0 -> vm.answered = 0; vm.pc = OFF }

	/*
	 * [imr_stop(IMR_WHY_KEXEC)] The next kernel gets the memory, without a reset. It waits for a batch longer than
	 * the host acts upon a claim.
	 */
	:: atomic { (vm.pc == IDLE || (vm.lost && (vm.pc == LOOK || vm.pc == AGAIN || vm.pc == RING))) &&
		    kexecs < KEXECS && g_buffer == 0 && !h_window && queued == 0 && (!h_holding || h_expired) ->
		kexecs++;
		vm.magic = 0; vm.page_live = 0; vm.isolated[0] = 0; vm.isolated[1] = 0; vm.lost = 0; vm.block = 0;
		vm.pc = OFF }
	od
}

/* Drains the store buffers, some time. */
active proctype Processor() {
end:	do
	:: atomic { g_buffer != 0 -> vm.revoke = g_buffer; g_buffer = 0 }
	:: atomic { h_buffer != 0 -> vm.claim = h_buffer; h_buffer = 0 }
	od
}

/* What happens to the VM and to imr from outside. A VM that is stopped has drained its buffers. */
active proctype Machine() {
end:	do
	:: atomic { crashes < CRASHES && !crash && h_buffer == 0 -> crashes++; crash = 1 }
	:: atomic { resets < RESETS && MACHINE_MAY && g_buffer == 0 ->
		resets++; generation++; reset_told = 1;
		if
		/* The old kernel's page stays in memory as it is. */
		:: d_step { vm.pc = OFF; vm.page_live = 0; vm.isolated[0] = 0; vm.isolated[1] = 0; vm.lost = 0;
			vm.block = 0; vm.answered = 0 }
		/* A debugger wrote registers. */
		:: true
		fi }
	:: atomic { ROLLBACKS > 0 && !have_saved && g_buffer == 0 ->
		d_step { have_saved = 1; copy_vm(saved, vm) } }
	:: atomic { rollbacks < ROLLBACKS && have_saved && MACHINE_MAY && g_buffer == 0 ->
		d_step { rollbacks++; generation++; reset_told = 1; copy_vm(vm, saved) } }
	:: atomic { KEXECS > 0 && h_holding && !h_expired && !h_window -> h_expired = 1 }
#ifndef LIVE
	/* A call that is lost, or too old when its turn comes. */
	:: atomic { queued > 0 -> drop() }
	/* The event of a reset is lost. */
	:: atomic { reset_told -> reset_told = 0 }
#endif
	od
}

/* Every store of the host goes to a page that is the module's; stores stay in order behind a buffered one. */
#define STORE (h_buffer == 0)

inline store(field, value) {
	atomic { STORE -> assert(PAGE_IS_MINE); field = value }
}

/* [Session::answer] */
inline answer() {
	store(vm.attach, h_id);
	h_attach = h_id
}

inline end_session() {
	d_step {
		h_session = 0; h_overdue = 0; h_window = 0; h_holding = 0; h_expired = 0;
		h_cookie = 0; h_attach = 0; h_claim = 0; h_done = 0; h_abandon = 0
	}
}

/* What is not needed any more is zeroed: states that differ in it are one. */
inline end_call() {
	d_step {
		h_window = 0;
		b_magic = 0; b_cookie = 0; b_offer = 0; b_revoke = 0; redone = 0; guest_waits = 0;
		if
		:: o_seq == 0 -> c.op = 0; c.seq = 0; c.cookie = 0; c.generation = 0; c.late = 0
		:: else -> c.op = 0; c.cookie = 0; c.late = 0
		fi
	}
}

/* [HostFields::read(..) == self.written] */
#define SAME_HALF (h_attach == vm.attach && h_claim == vm.claim && h_done == vm.done && h_abandon == vm.abandon)

/* The two numbers of the copy are not of one instant. */
#ifdef M_REVOKE_EQUAL
#define REVOKED (b_revoke == c.seq)
#else
#define REVOKED (b_revoke >= c.seq)
#endif

/* [guest_waits_on] */
#ifdef M_NO_EXTRA_RING
#define WAITED_FOR true
#else
#define WAITED_FOR (h_overdue == c.seq && c.late)
#endif

/* [Session::hello] */
inline hello() {
	atomic {
		if
		:: !vm.magic || vm.cookie != c.cookie -> skip
		:: else ->
			if
			:: h_session && h_cookie == c.cookie && SAME_HALF -> skip
			:: else -> h_overdue = 0
			fi;
			h_session = 1; h_cookie = c.cookie; h_attach = vm.attach;
			h_claim = vm.claim; h_done = vm.done; h_abandon = vm.abandon;
			answer()
		fi
	}
}

/* [Session::claim] Leaves o_seq 0 unless the batch is the host's now. */
inline claim_offer() {
	o_seq = 0;
	/* The copy of the guest's half is made upwards: offer_seq, then revoke_seq. */
	atomic { b_magic = vm.magic; b_cookie = vm.cookie; b_offer = vm.offer };
	b_revoke = vm.revoke;
	if
	:: c.cookie != h_cookie || !b_magic || b_cookie != h_cookie -> end_session()
	:: else ->
		if
		:: !SAME_HALF ->
			/* [SessionEnd::RolledBack] */
			store(vm.abandon, c.seq); store(vm.attach, 0); end_session()
		:: else ->
			if
			:: b_offer != c.seq || h_done == c.seq || h_abandon == c.seq -> skip
			:: else ->
				d_step { redone = (h_claim == c.seq); if :: h_overdue != c.seq -> h_overdue = 0 :: else fi }
				if
#ifdef M_NO_REDO
				:: redone	/* somebody else's, it thinks */
				:: !redone && b_revoke == c.seq && !WAITED_FOR ->
#else
				:: redone && b_revoke == c.seq && !WAITED_FOR ->
#endif
					/* A predecessor claimed it, and the guest may have won: the next ring tells. */
					d_step {
						if
						:: h_overdue == 0 -> h_overdue = c.seq; queue[0].late = 0; queue[1].late = 0
						:: else
						fi
					};
					answer()
				:: else ->
					guest_waits = (redone && b_revoke == c.seq);
					answer();
					/* Whether it changes the page or not. */
					atomic { STORE -> assert(PAGE_IS_MINE);
						if
						:: vm.claim != c.seq -> h_buffer = c.seq
						:: else
						fi;
						h_claim = c.seq };
					HOST_FENCE;
					atomic { b_magic = vm.magic; b_cookie = vm.cookie; b_offer = vm.offer };
					b_revoke = vm.revoke;
					if
					:: (REVOKED && !guest_waits) || !b_magic || b_cookie != h_cookie || b_offer != c.seq ->
						store(vm.abandon, c.seq); h_abandon = c.seq
					:: else -> d_step { o_seq = c.seq; o_block = vm.record; h_holding = 1; h_expired = 0 }
					fi
				fi
			fi
		fi
	fi
}

#define STILL_LIVE (SAME_BOOT(c.generation) && IN_TIME)

/* [Worker::take] */
inline take() {
	if
	:: atomic { STILL_LIVE -> h_window = 1 };
		/* The call that gives the block back. */
		atomic { assert(vm.isolated[o_block] != 0); h_window = 0 };
		if
		:: atomic { STILL_LIVE -> h_window = 1 };
			/* [Session::finish]; its fence is the buffer's emptiness. */
			store(vm.done, o_seq);
			d_step { h_done = o_seq; h_window = 0; h_holding = 0; h_expired = 0 }
		:: else -> end_session()
		fi
	:: else -> end_session()
	fi;
	d_step { o_seq = 0; o_block = 0; c.seq = 0; c.generation = 0 }
}

active proctype Host() {
	Call c;
	byte o_seq, o_block, b_cookie, b_offer, b_revoke;
	bit b_magic, redone, guest_waits;

life:	{
end:	do
	:: atomic { queued > 0 ->
		c.op = queue[0].op; c.seq = queue[0].seq; c.cookie = queue[0].cookie;
		c.generation = queue[0].generation; c.late = queue[0].late; drop();
		/* [Worker::obey] */
		if
		:: reset_told -> reset_told = 0; end_session()
		:: else
		fi;
		/* [Worker::is_live] */
		if
		:: SAME_BOOT(c.generation) -> h_window = 1
		:: else -> c.op = 0
		fi };
		if
		:: c.op == HELLO -> hello()
		:: c.op == DOORBELL && h_session -> claim_offer()
		:: c.op == BYE && h_session && h_cookie == c.cookie -> store(vm.attach, 0); end_session()
		:: else
		fi;
		end_call();
		if
		:: o_seq != 0 -> take()
		:: else
		fi
#ifdef M_NO_DOORBELL
	/* Acts on what a page says by itself. */
	:: atomic { h_session && vm.magic && vm.offer != 0 ->
		c.op = DOORBELL; c.seq = vm.offer; c.cookie = vm.cookie; c.generation = generation; c.late = 0;
		h_window = 1 };
		claim_offer();
		end_call();
		if
		:: o_seq != 0 -> take()
		:: else
		fi
#endif
	od
	} unless { atomic { crash ->
		/* Its memory is gone; the next one takes the lock. */
		crash = 0; h_window = 0; h_holding = 0; h_expired = 0; h_session = 0; h_overdue = 0;
		h_cookie = 0; h_attach = 0; h_claim = 0; h_done = 0; h_abandon = 0; h_id++;
		c.op = 0; c.seq = 0; c.cookie = 0; c.generation = 0; c.late = 0; o_seq = 0; o_block = 0;
		b_magic = 0; b_cookie = 0; b_offer = 0; b_revoke = 0; redone = 0; guest_waits = 0; reset_told = 0 } };
	goto life
}

#ifdef LIVE
ltl closed { [] (OPEN -> <> !OPEN) }
#endif
