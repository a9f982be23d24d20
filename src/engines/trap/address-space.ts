/**
 * The memory of one traced program: which breakpoints are in its text, and the XOL slots where the displaced
 * instructions run. Threads and vfork children that share the memory share one of these.
 *
 * Every method that writes expects all threads of the address space to be stopped.
 */
import { SLOT_SIZE, type SlotTemplate } from '../../arch/arch.js';
import { bindSlot, inPlace } from '../../arch/slot.js';
import { asAddress } from '../../base/address.js';
import type { Refusal } from '../../base/errors.js';
import { ProcessMemory } from '../../linux/process-memory.js';
import { mappingsOf, readMaps, type Mapping } from '../../process/maps.js';
import { Calls } from './calls.js';
import type { CallStub } from './call-stub.js';
import type { Carried, Carrier } from './carrier.js';
import type { Process, Thread } from './thread.js';
import type { Want } from './wants.js';

export const BREAKPOINT = 0xcc;
const PAGE = 4096;
const MAX_ADDRESS = BigInt(Number.MAX_SAFE_INTEGER);
/** Reach of a 32-bit displacement, less room for the largest module's own operands. */
export const REACH = 0x7000_0000;

/** Calls that change mappings, watched in the dynamic linker; those that concern SIGTRAP, in the C library. */
export type WatchedCall = 'map' | 'unmap' | 'sigaction' | 'sigmask' | 'sigreturn';

/** One breakpoint in the text of this address space. */
export interface Arm {
  readonly address: number;
  /** The byte that the breakpoint replaced. */
  readonly original: number;
  readonly template: SlotTemplate;
  /** Address of its XOL slot; of the place itself, where the instruction is stepped in place. */
  readonly slot: number;
  /**
   * What it is for: a site that is wanted, or the linker's system call. Where processes share the memory, the want of any
   * of them: what a hit means is up to the process (`Process.wants`).
   */
  want: Want | undefined;
  readonly watch: WatchedCall | undefined;
  /** Functions (by their sites) whose calls return here. */
  returns: Set<number> | undefined;
}

/** Whether a breakpoint serves anything. */
export const isUsed = ({ want, watch, returns }: Arm, { watchesMasks }: AddressSpace): boolean =>
  want !== undefined ||
  returns !== undefined ||
  (watch !== undefined && (watchesMasks || (watch !== 'sigmask' && watch !== 'sigreturn')));

interface Area {
  readonly start: number;
  readonly size: number;
  used: number;
  readonly free: number[];
}

/** What an arming attempt needs: a place, its bytes and how it runs out of line. */
export interface ArmRequest {
  readonly address: number;
  readonly bytes: Uint8Array;
  readonly template: SlotTemplate;
  readonly want: Want | undefined;
  readonly watch: WatchedCall | undefined;
  readonly returns?: Set<number> | undefined;
}

/** Maps memory in the target: given by the tracer, which can make a thread of it do a system call. */
export type AllocateNear = (near: number, length: number) => number;

export class AddressSpace {
  readonly memory: ProcessMemory;
  /** Breakpoints by address: what a hit looks up. */
  readonly arms = new Map<number, Arm>();
  readonly #bySlot = new Map<number, Arm>();
  /** Taken out, but a thread that did not stop then may be in their slots. */
  readonly #retired = new Set<Arm>();
  /** Where breakpoints have been taken out. */
  readonly #disarmed = new Set<number>();
  readonly #areas: Area[] = [];
  /** Calls of probed functions that have not returned. */
  readonly calls = new Calls();
  /** Return addresses that can have no breakpoint, and why. */
  readonly unwatchable = new Map<number, string>();
  /** Every thread that runs in this memory, of whichever process. */
  readonly threads = new Set<Thread>();
  /** How many reasons there are to keep the threads from running. */
  frozen = 0;
  /** No watchable system call was found in the dynamic linker: every system call is looked at while something is pending. */
  traceSyscalls = false;
  /** The dynamic linker has been looked at. */
  watched = false;
  /** What is armed is not what is wanted: to be brought to it before a thread of it runs. */
  isBehind = false;
  /** A process has left it while it was frozen: whether anybody still wants it is to be asked when it thaws. */
  wasLeft = false;
  /** Calls that change signal masks are watched. */
  watchesMasks = false;
  /** For good: SIGTRAP is something to this program. Else until it has changed masks a few times without touching it. */
  masksMatter = false;
  maskCalls = 0;
  /** Where a thread can make a system call for us. */
  callStub: CallStub | undefined;
  /** What carries the threads over the breakpoints when we are gone. It is there before the first breakpoint. */
  carrier: Carrier | undefined;
  /** The process whose own action for SIGTRAP the carrier knows. */
  principal: Process | undefined;
  /** Its threads have shadow stacks, which only true calls write. */
  shadowStacks = false;

  /** `shownBy`: a thread that has not ended, where the first one has. */
  constructor(
    readonly pid: number,
    shownBy = pid,
  ) {
    this.memory = new ProcessMemory(shownBy);
  }

  /** The processes that share it. */
  processes(): Set<Process> {
    return new Set([...this.threads].map((t) => t.process));
  }

  /** Something is wanted of a process in it. */
  get isWanted(): boolean {
    for (const { process } of this.threads) if (process.wants.size > 0) return true;
    return false;
  }

  /** Whose /proc directory shows this memory: a thread that has not ended, for one that has shows none. */
  get shownBy(): number {
    for (const t of this.threads) if (!t.running) return t.tid;
    for (const t of this.threads) if (!t.isZombie) return t.tid;
    return this.pid;
  }

  maps(): Mapping[] {
    return readMaps(this.shownBy);
  }

  /** Which breakpoints the processes want, by address, with the mappings as they are now. */
  wanted(maps: readonly Mapping[]): Map<number, Want> {
    const result = new Map<number, Want>();
    const byModule = new Map<number, Want[]>();
    for (const want of this.#wants()) {
      const list = byModule.get(want.site.module.id);
      if (list) list.push(want);
      else byModule.set(want.site.module.id, [want]);
    }
    for (const wants of byModule.values()) {
      const mapped = mappingsOf(wants[0]!.site.module, maps, this.shownBy);
      for (const m of mapped.filter((one) => one.perms[2] === 'x' || this.#isArmedIn(one))) {
        for (const want of wants) {
          const { offset } = want.site;
          if (offset >= m.offset && offset < m.offset + (m.end - m.start))
            result.set(m.start + offset - m.offset, want);
        }
      }
    }
    return result;
  }

  /** Text that a program has made inexecutable for a while (mprotect(2)), to change it: what is armed there stays so. */
  #isArmedIn({ start, end }: Mapping): boolean {
    for (const address of this.arms.keys()) if (address >= start && address < end) return true;
    return false;
  }

  /** One for each site that any of the processes wants. */
  #wants(): Iterable<Want> {
    const [only, ...others] = this.processes();
    if (others.length === 0) return only?.wants.values() ?? [];
    return new Map([only!, ...others].flatMap((p) => [...p.wants])).values();
  }

  /** Put breakpoints in. What cannot be is in the result, with its reason. */
  arm(requests: readonly ArmRequest[], allocate: AllocateNear): Map<number, Refusal> {
    const refusals = new Map<number, Refusal>();
    const sorted = requests.toSorted((a, b) => a.address - b.address);
    const fine = this.#verify(sorted, refusals);
    const ready: Arm[] = [];
    for (const request of fine) {
      if (this.#runsInPlace(request.template)) {
        if (this.carrier === undefined) this.#freeSlot(this.#takeSlot(request.address, 1, allocate));
        ready.push(armInPlace(request));
        continue;
      }
      const slot = this.#takeSlot(request.address, fine.length, allocate);
      const code =
        slot === undefined
          ? undefined
          : bindSlot(request.template, asAddress(request.address), asAddress(slot));
      if (slot === undefined || code === undefined) {
        refusals.set(request.address, NO_SLOT);
        continue;
      }
      const { address, template, want, watch, returns } = request;
      ready.push({ address, original: request.bytes[0]!, template, slot, want, watch, returns });
      this.#slotWrites.push({ at: slot, bytes: code });
    }
    this.#flushSlots();
    if (!this.#carry(ready, allocate)) {
      for (const a of ready) {
        refusals.set(a.address, NO_SLOT);
        this.#freeSlot(a.slot);
      }
      return refusals;
    }
    this.#writeTexts(ready.map((a) => ({ address: a.address, byte: BREAKPOINT })));
    for (const a of ready) {
      this.arms.set(a.address, a);
      if (!a.template.inPlace) this.#bySlot.set(a.slot, a);
    }
    return refusals;
  }

  /** The word at an address; undefined where it cannot be read, or is no address. */
  word(at: number): number | undefined {
    const bytes = this.memory.read(at, 8);
    if (bytes === undefined) return undefined;
    const word = new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true);
    return word <= MAX_ADDRESS ? Number(word) : undefined;
  }

  /** The program's own bytes, without our breakpoints in them. */
  originalText(address: number, length: number): Uint8Array | undefined {
    const bytes = this.memory.read(address, length);
    for (let i = 0; bytes !== undefined && i < length; i++)
      if (bytes[i] === BREAKPOINT) bytes[i] = this.arms.get(address + i)?.original ?? BREAKPOINT;
    return bytes;
  }

  /** Breakpoints that somebody else has left here, to be taken out. */
  adopt(left: Iterable<Carried>): void {
    for (const arm of left)
      this.arms.set(arm.address, {
        ...arm,
        template: UNKNOWN,
        want: undefined,
        watch: undefined,
        returns: undefined,
      });
  }

  /** A breakpoint is known to the carrier before it is there, and as long as it is. */
  #carry(coming: readonly Arm[], allocate?: AllocateNear): boolean {
    const { carrier, memory } = this;
    if (carrier === undefined) return coming.length === 0;
    if (coming.length > 0 && carrier.add(memory, coming)) return true;
    const map = (bytes: number): number | undefined => {
      const start = allocate?.(carrier.base, bytes) ?? -1;
      return start < 0 ? undefined : start;
    };
    return carrier.setTable(memory, [...this.arms.values(), ...coming], map);
  }

  #runsInPlace(template: SlotTemplate): boolean {
    return template.inPlace === true || (template.calls === true && this.shadowStacks);
  }

  /**
   * Take breakpoints out: the original byte comes back wherever ours still stands. Their slots are free when every thread
   * has been seen outside of them: one that did not stop (the parent of a vfork) may come out of a system call there.
   */
  disarm(arms: readonly Arm[]): void {
    this.restoreIn(this.memory, arms);
    for (const a of arms) {
      this.arms.delete(a.address);
      this.#disarmed.add(a.address);
      if (!a.template.inPlace) this.#retired.add(a);
    }
    this.#carry([]);
    if (this.inUse) return;
    for (const a of this.#retired) {
      this.#bySlot.delete(a.slot);
      this.#freeSlot(a.slot);
    }
    this.#retired.clear();
  }

  /** A breakpoint of ours was at this address once. */
  wasArmed(address: number): boolean {
    return this.#disarmed.has(address);
  }

  /** Taken out, with slots that are not free yet. */
  get retired(): ReadonlySet<Arm> {
    return this.#retired;
  }

  /** Some thread runs, or sleeps where it cannot be stopped: our memory must stay. */
  get inUse(): boolean {
    for (const thread of this.threads) if (thread.running) return true;
    return false;
  }

  /** The text at one place as it was, and the breakpoint back: for the one thread that does not stand still. */
  lift(arm: Arm): void {
    if (this.arms.get(arm.address) === arm) this.memory.write(arm.address, Uint8Array.of(arm.original));
  }
  lower(arm: Arm): void {
    if (this.arms.get(arm.address) === arm) this.memory.write(arm.address, Uint8Array.of(BREAKPOINT));
  }

  /** The original bytes, in a copy of this memory that fork made. */
  restoreIn(memory: ProcessMemory, arms: Iterable<Arm>): void {
    const texts = [...arms]
      .map((a) => ({ address: a.address, byte: a.original }))
      .toSorted((a, b) => a.address - b.address);
    this.#writeTexts(texts, memory, BREAKPOINT);
  }

  /** The arm in whose XOL slot an address lies, and how far into it. */
  inSlot(address: number): { readonly arm: Arm; readonly at: number } | undefined {
    const area = this.#areaOf(address);
    if (area === undefined) return undefined;
    const at = (address - area.start) % SLOT_SIZE;
    const arm = this.#bySlot.get(address - at);
    return arm === undefined ? undefined : { arm, at };
  }

  /**
   * The address space of a child that fork just made of this one, which has not run yet: its text as it was, and our
   * areas known, so that they can be unmapped.
   */
  copyFor(pid: number): AddressSpace {
    const copy = new AddressSpace(pid);
    copy.restoreIn(copy.memory, this.arms.values());
    copy.#areas.push(...this.#areas);
    for (const [slot, arm] of this.#bySlot) copy.#bySlot.set(slot, arm);
    copy.callStub = this.callStub;
    copy.carrier = this.carrier;
    return copy;
  }

  /** This is such a child's when it is probed itself: armed as its parent's memory is, from which it was copied. */
  inherit(parent: AddressSpace, maker: number, child: Process): void {
    const { wants } = child;
    this.isBehind = parent.isBehind;
    for (const original of parent.arms.values()) {
      const want = original.want && wants.get(original.want.site.id);
      const returns = original.returns && new Set(original.returns);
      const arm = { ...original, want, returns };
      this.arms.set(arm.address, arm);
      if (!arm.template.inPlace) this.#bySlot.set(arm.slot, arm);
      if (!isUsed(arm, parent)) this.isBehind = true;
    }
    for (const arm of parent.#retired) {
      this.#retired.add(arm);
      this.#bySlot.set(arm.slot, arm);
    }
    parent.calls.copyInto(this.calls, maker, child);
    for (const area of parent.#areas) this.#areas.push({ ...area, free: [...area.free] });
    this.callStub = parent.callStub;
    this.carrier = parent.carrier?.copy();
    this.principal = child;
    this.watchesMasks = parent.watchesMasks;
    this.masksMatter = parent.masksMatter;
    this.maskCalls = parent.maskCalls;
    this.watched = parent.watched;
    this.traceSyscalls = parent.traceSyscalls;
  }

  get areas(): readonly { readonly start: number; readonly size: number }[] {
    return this.#areas;
  }

  /** Whether anything of ours is mapped. */
  get isOccupied(): boolean {
    return this.carrier !== undefined || this.#areas.length > 0;
  }

  /** All of it has been unmapped. */
  forgetAreas(): void {
    this.carrier = undefined;
    this.#areas.length = 0;
    this.#bySlot.clear();
    this.#retired.clear();
  }

  close(): void {
    this.memory.close();
  }

  #areaOf(address: number): Area | undefined {
    return this.#areas.find((a) => address >= a.start && address < a.start + a.size);
  }

  /** Only places whose bytes in memory are the file's go on. */
  #verify(sorted: readonly ArmRequest[], refusals: Map<number, Refusal>): ArmRequest[] {
    const fine: ArmRequest[] = [];
    for (const run of runs(sorted)) {
      const start = run[0]!.address;
      const text = this.memory.read(start, run.at(-1)!.address - start + run.at(-1)!.bytes.length);
      for (const request of run) {
        const { bytes, address } = request;
        const now =
          text?.subarray(address - start, address - start + bytes.length) ??
          this.memory.read(address, bytes.length);
        if (now !== undefined && sameInstruction(now, bytes, (i) => this.arms.get(address + i)?.original))
          fine.push(request);
        else refusals.set(address, now === undefined ? NOT_READABLE : textPatched(now[0] === BREAKPOINT));
      }
    }
    return fine;
  }

  readonly #slotWrites: { readonly at: number; readonly bytes: Uint8Array }[] = [];

  /** Slots side by side are written at once. */
  #flushSlots(): void {
    const writes = this.#slotWrites.splice(0).toSorted((a, b) => a.at - b.at);
    for (let i = 0; i < writes.length;) {
      let n = i + 1;
      while (n < writes.length && writes[n]!.at === writes[n - 1]!.at + SLOT_SIZE) n++;
      const image = new Uint8Array((n - i) * SLOT_SIZE).fill(BREAKPOINT);
      for (let j = i; j < n; j++) image.set(writes[j]!.bytes, (j - i) * SLOT_SIZE);
      this.memory.write(writes[i]!.at, image);
      i = n;
    }
  }

  /** Change single bytes of text, page by page. With `only`, just where that byte stands now. */
  #writeTexts(
    texts: readonly { readonly address: number; readonly byte: number }[],
    memory = this.memory,
    only?: number,
  ): void {
    for (const run of runs(texts)) {
      const start = run[0]!.address;
      const span = memory.read(start, run.at(-1)!.address - start + 1);
      if (span === undefined) {
        for (const t of run) if (run.length > 1) this.#writeTexts([t], memory, only);
        continue;
      }
      for (const t of run)
        if (only === undefined || span[t.address - start] === only) span[t.address - start] = t.byte;
      memory.write(start, span);
    }
  }

  #freeSlot(slot: number | undefined): void {
    if (slot !== undefined) this.#areaOf(slot)?.free.push(slot);
  }

  #takeSlot(near: number, coming: number, allocate: AllocateNear): number | undefined {
    for (const area of this.#areas) {
      if (Math.abs(area.start - near) > REACH) continue;
      const free = area.free.pop();
      if (free !== undefined) return free;
      if (area.used + SLOT_SIZE > area.size) continue;
      area.used += SLOT_SIZE;
      return area.start + area.used - SLOT_SIZE;
    }
    const size = Math.max(16, Math.ceil((coming * SLOT_SIZE) / PAGE)) * PAGE;
    const start = allocate(near, size);
    if (start < 0) return undefined;
    this.#areas.push({ start, size, used: SLOT_SIZE, free: [] });
    return start;
  }
}

/** Of a breakpoint that somebody else has left: nothing is known of its slot. */
const UNKNOWN: SlotTemplate = {
  length: 1,
  code: new Uint8Array(0),
  rel32: [],
  abs64: [],
  stops: [],
  pushesFlags: false,
};

const armInPlace = ({ address, bytes, template, want, watch, returns }: ArmRequest): Arm => ({
  address,
  original: bytes[0]!,
  template: template.inPlace ? template : inPlace(template.length),
  slot: address,
  want,
  watch,
  returns,
});

const NO_SLOT: Refusal = {
  code: 'no-slot-in-reach',
  reason: 'no executable memory could be had in the process within 2 GiB of the place',
  remedy: 'A seccomp filter or a memory limit of the process may forbid it',
};
const NOT_READABLE: Refusal = {
  code: 'text-not-readable',
  reason: 'the text of the process cannot be read at this place',
};
const textPatched = (breakpoint: boolean): Refusal => ({
  code: 'text-already-patched',
  reason: breakpoint
    ? 'another tool has a breakpoint at this place in the process'
    : 'the text of the process differs from the file at this place (another tool, or the program itself, changed it)',
  remedy: 'End the other tool first',
});

function sameInstruction(
  now: Uint8Array,
  file: Uint8Array,
  originalAt: (i: number) => number | undefined,
): boolean {
  return file.every((byte, i) => now[i] === byte || (now[i] === BREAKPOINT && originalAt(i) === byte));
}

/** Groups of neighbours (within a page of each other), so that one read and one write serve many. Sorted input. */
function* runs<T extends { readonly address: number }>(sorted: readonly T[]): Generator<T[]> {
  let run: T[] = [];
  for (const item of sorted) {
    const last = run.at(-1);
    if (last !== undefined && Math.floor(item.address / PAGE) !== Math.floor(last.address / PAGE)) {
      yield run;
      run = [];
    }
    run.push(item);
  }
  if (run.length > 0) yield run;
}
