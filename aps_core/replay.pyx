"""Requests, a scheduler and its engines in virtual time: one loop without Python.

It decides nothing. At each instant it does what `aps.pump.Pump` does for a live backend: the news of each device whose
step ends, in their order, each followed by a batch for every device that is between steps; then the scheduler's own
event, and batches; then all that arrive at this instant are submitted, and batches again.
"""
from libc.stdint cimport INT64_MAX

import numpy as np

from aps_core.arguments cimport whole
from aps_core.batch_assembler cimport SWAP
from aps_core.clock cimport MAX_SECONDS, to_seconds_up
from aps_core.gpu cimport FINISHED, FIRST_STEP, FIRST_TOKEN, OVERRUN, Engine, Sequence, add
from aps_core.ledger cimport STILL_HERE
from aps_core.request_table cimport ROW_BITS, Request
from aps_core.stay_log cimport STAY_FINISHED, STAY_PREEMPTED
from aps_core.tenant_table cimport ALL, VACANT
from aps_core.types cimport NONE, RUNNING, int32_t, int64_t

cdef int64_t LAST_NS = 400_000_000_000_000_000    # MAX_SECONDS: what the scheduler's clock can hold
cdef int64_t MISSED_NS = 1_000_000        # when to ask again after a wake-up at which nothing could start
cdef int64_t ROW_MASK = ((<int64_t>1) << ROW_BITS) - 1

cdef class Replay:
    """See the stub."""

    def __cinit__(
        self, Scheduler scheduler not None, engines, *, tenants, prompt_tokens, output_tokens, max_tokens, bids, at_ns,
        after=None, deadline_ns=None, points=1024, stays=0,
    ):
        cdef int32_t device
        cdef long long[::1] sizes, releases
        self.scheduler = scheduler
        self.admission = scheduler.admission
        self.assembler = scheduler.assembler
        self.contention = scheduler.contention
        self.kv = scheduler.kv
        self.table = scheduler.table
        self.settlement = scheduler.settlement
        self.timeline = scheduler.timeline
        self.epoch = scheduler.timeline.epoch
        self.now_ns = scheduler.timeline.now_ns
        self.swaps = scheduler.assembler.rules.preemption == SWAP
        self.wake_ns = INT64_MAX
        self.memory = []
        self.ledger = Ledger(tenants, prompt_tokens, output_tokens, max_tokens, bids, deadline_ns)
        self.asked = self.ledger.asked
        self.told = self.ledger.told
        self.n = self.ledger.n
        for slot in self.ledger.slots():
            scheduler.must_be_active(scheduler.slot_of(slot, self.now_ns))
        self.arrivals = Arrivals(self.ledger.column(at_ns, "at_ns", 0), self.ledger.column(after, "after", NONE))
        self.take_engines(tuple(engines))
        accounts = self.open_accounts()
        self.trends = TimeSeries(whole(points, "points", 1, 1 << 20), accounts, self.devices)
        self.all_wait = AllWait(accounts)
        self.log = StayLog(whole(stays, "stays", 0, 1 << 40))
        for device in range(self.devices):
            self.watch(device, accounts)
        sizes = np.zeros(most_slots(scheduler.kv) + 1, np.int64)
        releases = np.zeros(4, np.int64)
        self.batches = (sizes, releases)
        self.sizes = <int64_t*>&sizes[0]
        self.releases = <int64_t*>&releases[0]
        self.grow()

    # Setting up

    cdef object take_engines(self, tuple engines):
        cdef Engine engine
        cdef int32_t device
        cdef long long[::1] units
        if len(engines) != self.kv.devices:
            raise ValueError(f"engines must be one for each of the {self.kv.devices} devices, got {len(engines)}")
        if self.table.count:
            raise ValueError(f"scheduler must have no requests, it has {self.table.count}")
        self.engines = engines
        self.devices = <int32_t>len(engines)
        units = np.zeros(self.devices * sizeof(Unit) // sizeof(int64_t), np.int64)
        self.units = <Unit*>&units[0]
        self.memory.append(units)
        for device in range(self.devices):
            if not isinstance(engines[device], Engine):
                raise TypeError(f"engines[{device}] must be an aps_core.gpu.Engine, got {engines[device]!r}")
            engine = engines[device]
            if engine.running or engine.stepping or engine.steps or engine in engines[:device]:
                raise ValueError(f"engines[{device}] must be new, and given once")
            if engine.slots != self.kv.slots(device) or engine.block_tokens != self.kv.block_tokens \
                    or engine.kv_blocks < self.kv.limit(device):
                raise ValueError(
                    f"engines[{device}] must have the {self.kv.slots(device)} slots, the {self.kv.limit(device)} or "
                    f"more KV blocks and the {self.kv.block_tokens} tokens a block of the scheduler's device, it has "
                    f"{engine.slots}, {engine.kv_blocks} and {engine.block_tokens}")
            self.units[device].engine = <void*>engine
            self.units[device].end_ns = INT64_MAX

    cdef int32_t open_accounts(self) except -1:
        """One for each of the scheduler's tenants, in the order of their slots; how many."""
        cdef int32_t slot, accounts = 0
        cdef int32_t[::1] account = np.full(self.scheduler.tenants.capacity, NONE, np.int32)
        for slot in range(1, self.scheduler.tenants.capacity):
            if self.scheduler.tenants.rows[slot].state != VACANT:
                account[slot] = accounts
                accounts += 1
        if accounts == 0:
            raise ValueError("scheduler must have at least one tenant")
        self.account = &account[0]
        self.memory.append(account)
        return accounts

    cdef object watch(self, int32_t device, int32_t accounts):
        cdef Engine engine = self.engines[device]
        engine.reserve_accounts(accounts)
        self.trends.watch(device, engine.served_prefill, engine.served_output)

    cdef void grow(self) except *:
        """The request table, and with it what its rows stand for."""
        cdef long long[::1] places
        self.table.room(1)
        places = np.zeros(self.table.capacity * sizeof(Place) // sizeof(int64_t), np.int64)
        if self.places_memory is not None:
            old = np.asarray(self.places_memory)
            np.asarray(places)[:len(old)] = old
        self.rows = self.table.capacity
        self.places = <Place*>&places[0]
        self.places_memory = places

    # The loop

    def run(self, until_ns=1 << 62, events=1 << 62):
        """See the stub."""
        cdef int64_t until = whole(until_ns, "until_ns", 0, <int64_t>1 << 62)
        cdef int64_t most = whole(events, "events", 1, <int64_t>1 << 62)
        cdef Outcome outcome
        if self.closed:
            raise ValueError("run must not be called after finish")
        self.must_be_alone()
        if self.rows < self.table.capacity:       # it was interrupted while they grew
            self.grow()
        while True:
            if self.outcome > NO_ROWS:
                self.fail()
            with nogil:
                outcome = self.play(min(until, LAST_NS), most)
            self.outcome = outcome
            if outcome == REACHED:
                if until <= LAST_NS:
                    self.advance(max(until, self.now_ns))
                self.timeline.now = to_seconds_up(self.timeline.now_ns, self.epoch)
                return True
            if outcome == PAUSED:
                self.timeline.now = to_seconds_up(self.timeline.now_ns, self.epoch)
                return False
            if outcome == NO_ROWS:
                self.grow()

    cdef object must_be_alone(self):
        """Rows and sequences that it knows nothing of would be looked up as if it did."""
        cdef int32_t device
        cdef bint alone = self.table.count == self.live
        for device in range(self.devices):
            alone &= (<Engine>self.units[device].engine).running == self.kv.running(device)
        if not alone:
            raise ValueError("scheduler and engines must be left to the replay, somebody else has used them")

    cdef object fail(self):
        if self.outcome == NO_BLOCKS:
            raise RuntimeError("a step needs more than the KV blocks of its device")
        if self.outcome == NO_TIME:
            models = {repr(engine.model) for engine in self.engines}
            raise RuntimeError(f"a step must take 0 to {MAX_SECONDS:g} s, one of {', '.join(sorted(models))} gives "
                               "another time")
        raise RuntimeError("an engine has no room for what the scheduler starts")

    cdef Outcome play(self, int64_t until_ns, int64_t events) noexcept nogil:
        """All events up to an instant, or so many of them at least."""
        cdef int64_t step_ns, arrival_ns, at_ns
        cdef int32_t i, device
        cdef Outcome outcome
        while True:
            device = 0
            for i in range(1, self.devices):
                if self.units[i].end_ns < self.units[device].end_ns:
                    device = i
            step_ns = self.units[device].end_ns
            arrival_ns = self.arrivals.next_ns()
            at_ns = min(step_ns, min(self.wake_ns, arrival_ns))
            if at_ns > until_ns:
                return REACHED
            if events <= 0:
                return PAUSED
            events -= 1
            self.advance(at_ns)
            self.timeline.play(self.epoch + <double>at_ns * 1e-9, at_ns)
            if step_ns == at_ns:
                self.take(device)
            elif arrival_ns == at_ns and self.wake_ns > at_ns:
                if not self.arrive():
                    return NO_ROWS
            outcome = self.fill()
            if outcome != REACHED:
                return outcome

    cdef void advance(self, int64_t now_ns) noexcept nogil:
        cdef int64_t running = 0, held = 0
        cdef int32_t i
        if now_ns == self.now_ns:
            return
        for i in range(self.devices):
            running += (<Engine>self.units[i].engine).running
            held += (<Engine>self.units[i].engine).held_blocks
        self.trends.advance(now_ns, self.scheduler.tenants.rows[ALL].waiting, running, held)
        self.now_ns = now_ns

    # Requests come and go

    cdef bint arrive(self) noexcept nogil:
        while self.arrivals.next_ns() == self.now_ns:
            if <int64_t>self.table.count + self.table.retired >= self.table.capacity:
                return False
            self.submit(self.arrivals.take(), self.timeline.now)
        return True

    cdef void submit(self, int64_t request, double now) noexcept nogil:
        cdef int64_t deadline_ns = INT64_MAX, handle
        cdef int32_t slot = self.asked.slots[request], tenant = self.account[slot]
        cdef Place* place
        if self.asked.deadline_ns != NULL and self.asked.deadline_ns[request] <= LAST_NS - self.now_ns:
            deadline_ns = self.now_ns + self.asked.deadline_ns[request]
        self.told.submitted_ns[request] = self.now_ns
        self.told.reason[request] = STILL_HERE
        self.submitted += 1
        handle = self.admission.offer(
            slot, self.asked.prompt_tokens[request], self.asked.max_tokens[request], self.asked.bids[request],
            deadline_ns, NONE, self.now_ns, now,
        )
        if handle < 0:
            self.end(request, <int32_t>-handle)
            return
        self.live += 1
        place = &self.places[handle & ROW_MASK]
        place.request = request
        place.stay = NONE
        place.lost = 0
        self.trends.wait(tenant)
        self.all_wait.arrived(tenant, self.now_ns)

    cdef void end(self, int64_t request, int32_t reason) noexcept nogil:
        """However it ended, its followers come."""
        self.told.finished_ns[request] = self.now_ns
        self.told.reason[request] = reason
        self.ended += 1
        self.arrivals.release(request, self.now_ns)

    cdef void collect(self) noexcept nogil:
        """Those that have ended on their own, waiting."""
        cdef int32_t row, tenant
        while self.settlement.ended_head != NONE:
            row = self.settlement.ended_head
            tenant = self.account[self.table.rows[row].tenant]
            self.trends.go(tenant)
            self.all_wait.ended(tenant, True, self.now_ns)
            self.end(self.places[row].request, self.table.rows[row].charge_bid)
            self.settlement.forget_first()
            self.live -= 1

    # Devices

    cdef void take(self, int32_t device) noexcept nogil:
        """A step has ended."""
        cdef Unit* unit = &self.units[device]
        cdef int32_t i, row, tenant, n = (<Engine>unit.engine).finish()
        cdef int64_t began_ns = (<Engine>unit.engine).began_ns, request, computed, generated, flags
        cdef bint shared = self.all_wait.holds, logging = self.log.capacity > 0
        cdef Place* place
        cdef Request* record
        self.steps += 1
        unit.end_ns = INT64_MAX
        add(&unit.idle, self.now_ns - began_ns, unit.idle_slots)
        for i in range(n):
            row = <int32_t>(<Engine>unit.engine).event_ids[i]
            computed = (<Engine>unit.engine).event_computed[i]
            generated = (<Engine>unit.engine).event_generated[i]
            flags = (<Engine>unit.engine).event_flags[i]
            place = &self.places[row]
            record = &self.table.rows[row]
            if shared:
                self.all_wait.add(
                    self.account[record.tenant],
                    computed - self.kv.computed(device, record.row), generated - record.generated,
                )
            if logging and computed == self.kv.prefill_target(device, record.row):
                self.log.prefilled(place.stay, self.now_ns)
            if not flags:
                self.settlement.report(row, computed, generated, self.now_ns)
                continue
            request = place.request
            if flags & FIRST_STEP and self.told.started_ns[request] == NONE:
                self.told.started_ns[request] = began_ns
            if flags & FIRST_TOKEN:
                self.told.first_token_ns[request] = self.now_ns
            if not flags & FINISHED:
                self.settlement.report(row, computed, generated, self.now_ns)
                continue
            tenant = self.account[record.tenant]
            self.told.generated[request] = <int32_t>generated
            self.told.recomputed_tokens[request] += <int32_t>min(computed, place.lost)
            self.log.leave(place.stay, STAY_FINISHED, self.now_ns)
            self.settlement.finish(row, generated, self.now_ns)
            self.live -= 1
            self.all_wait.ended(tenant, False, self.now_ns)
            self.end(request, 0)

    cdef Outcome fill(self) noexcept nogil:
        """Every device that is between steps gets what may start now, and goes on."""
        cdef int32_t device
        cdef Outcome outcome
        for device in range(self.devices):
            if self.units[device].end_ns != INT64_MAX:
                continue
            self.assembler.next_batch(device, self.now_ns)
            if self.assembler.started_count:
                outcome = self.start(device)
                if outcome != REACHED:
                    return outcome
            outcome = self.begin(device)
            if outcome != REACHED:
                return outcome
        self.wake_ns = self.timeline.wake_ns()
        if self.wake_ns <= self.now_ns:       # due although nothing could start (a batch that fits no idle device)
            self.wake_ns = self.now_ns + MISSED_NS
        self.collect()
        return REACHED

    cdef void displace(self, int32_t device, int32_t row) noexcept nogil:
        """A request that ran has been preempted."""
        cdef Unit* unit = &self.units[device]
        cdef Place* place = &self.places[row]
        cdef Sequence* sequence
        cdef int32_t i
        for i in range((<Engine>unit.engine).running):
            sequence = &(<Engine>unit.engine).sequences[i]
            if sequence.request_id == row and not self.swaps:
                self.told.recomputed_tokens[place.request] += <int32_t>min(sequence.computed, place.lost)
                place.lost = max(
                    place.lost,
                    sequence.prompt_tokens + sequence.generated - (sequence.prefill - sequence.computed),
                )
        (<Engine>unit.engine).drop(row, self.swaps)
        self.told.preemptions[place.request] += 1
        self.log.leave(place.stay, STAY_PREEMPTED, self.now_ns)

    cdef Outcome start(self, int32_t device) noexcept nogil:
        """The batch that has just been assembled."""
        cdef Unit* unit = &self.units[device]
        cdef int32_t i, row, size, tenant
        cdef int64_t request, prompt, prefill, output
        cdef Request* record
        cdef Place* place
        for i in range(self.assembler.preempted_count):
            self.displace(device, <int32_t>(self.assembler.preempted[i] & ROW_MASK))
        size = (<Engine>unit.engine).running + self.assembler.started_count
        self.sizes[size] += 1
        self.releases[<int32_t>self.assembler.release_reason] += 1
        for i in range(self.assembler.started_count):
            row = <int32_t>(self.assembler.started[i] & ROW_MASK)
            record = &self.table.rows[row]
            place = &self.places[row]
            request = place.request
            tenant = self.account[record.tenant]
            if self.told.order[request] == NONE:
                self.told.order[request] = self.dispatched
                self.told.batch_size[request] = size
                self.dispatched += 1
                self.trends.go(tenant)
                self.all_wait.started(tenant, self.now_ns)
            self.told.device[request] = device
            prompt = record.prompt_tokens
            prefill = self.kv.prefill_target(device, record.row)
            output = min(self.asked.output_tokens[request], record.max_tokens)
            if not (<Engine>unit.engine).has_room(prompt, record.generated):
                return NO_ROOM
            (<Engine>unit.engine).admit(row, prompt, output, record.bid, record.generated, prefill, tenant)
            place.stay = self.log.enter(device, record.row, request, self.now_ns)
            if prefill == 0:
                self.log.prefilled(place.stay, self.now_ns)
        return REACHED

    cdef Outcome begin(self, int32_t device) noexcept nogil:
        cdef Unit* unit = &self.units[device]
        cdef int64_t end_ns
        if (<Engine>unit.engine).running == 0:
            return REACHED
        end_ns = (<Engine>unit.engine).begin(self.now_ns)
        if end_ns < 0:
            return NO_BLOCKS if end_ns == OVERRUN else NO_TIME
        unit.end_ns = end_ns
        unit.idle_slots = 0
        if self.contention.ready:
            unit.idle_slots = (<Engine>unit.engine).slots - (<Engine>unit.engine).running
        return REACHED

    # Results

    def finish(self):
        """See the stub."""
        cdef Request* record
        cdef Place* place
        cdef Unit* unit
        cdef int32_t row, device
        if self.closed:
            return
        self.closed = True
        for row in range(self.table.fresh):
            record = &self.table.rows[row]
            if not record.in_use:
                continue
            place = &self.places[row]
            self.told.generated[place.request] = record.generated
            if record.state == RUNNING:
                self.told.recomputed_tokens[place.request] += <int32_t>min(
                    self.kv.computed(record.device, record.row), place.lost
                )
        for device in range(self.devices):
            unit = &self.units[device]
            if unit.end_ns != INT64_MAX:
                add(&unit.idle, self.now_ns - (<Engine>unit.engine).began_ns, unit.idle_slots)

    def read(self):
        """See the stub."""
        cdef int32_t device
        if not self.closed:
            raise ValueError("read must be called after finish")
        total_ns, served = self.all_wait.read(self.now_ns)
        idle = [
            <object>self.units[device].idle.seconds * 1_000_000_000 + self.units[device].idle.rest_ns
            for device in range(self.devices)
        ]
        return self.ledger.results | {
            "batch_sizes": np.array(self.batches[0]), "released": np.array(self.batches[1]),
            "all_wait_ns": total_ns, "all_wait_tokens": served, "idle_slot_ns": idle,
            "widest_gap": self.contention.fair.widest_gap,
        }

    def series(self):
        """See the stub."""
        return self.trends.read()

    def stays(self):
        """See the stub."""
        return self.log.read()


cdef int32_t most_slots(KVCache kv) noexcept:
    cdef int32_t device, most = 0
    for device in range(kv.devices):
        most = max(most, kv.slots(device))
    return most
