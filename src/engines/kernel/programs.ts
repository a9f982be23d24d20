/** Programs in the kernel: code of the back end with its maps, loaded. */
import { closeFd } from '../../linux/fds.js';
import {
  createMap,
  deleteFromMap,
  loadProgram,
  mapArray,
  patched,
  readHash,
  unmap,
  VerifierError,
  type MapPatch,
} from '../../linux/bpf.js';
import type { Aggregate } from '../../handler/shapes.js';
import {
  TALLY_OFF,
  tallyIndex,
  type BpfCode,
  type BpfRequest,
  type TallyLayout,
} from '../../handler/bpf/code.js';
import { KernelMap, type KernelAggregates } from './aggregates.js';
import type { Compiled } from './compile.js';
import { means } from './machine.js';
import { MARKS, PROLOGUE_INSTRUCTIONS, prologuePatches, ROLE, ROLES, withPrologue } from './replaced.js';
import { refusedByVerifier } from './verifier.js';

export interface LoadedProgram {
  readonly fd: number;
  readonly attach: BpfRequest['attach'];
  /** As `Compiled` has it. */
  readonly pid: number;
}

/** The programs of a group of uprobes, with the maps that they have in common. */
export class Programs {
  #generation = 0;
  #loaded: LoadedProgram[] = [];
  /** By the numbers in the code. */
  readonly #maps: readonly KernelMap[][];
  readonly #own: KernelMap[] = [];
  readonly #aggregates = new Map<Aggregate, number>();
  readonly #marks: Marks | undefined;
  #tally: KernelMap | undefined;
  #calls: KernelMap | undefined;

  /** `replaceable`: there may be other generations. */
  constructor(
    private readonly compiled: readonly Compiled[],
    private readonly aggregates: KernelAggregates,
    replaceable: boolean,
  ) {
    try {
      this.#maps = compiled.map(({ code }) => code.maps.map((spec) => this.#map(spec)));
      this.#marks = replaceable ? new Marks() : undefined;
      this.#loaded = this.#load();
      for (const aggregate of this.#aggregates.keys()) this.aggregates.attach(aggregate);
    } catch (e) {
      this.close();
      throw e;
    }
  }

  /** In the order in which they are to be attached. */
  get loaded(): readonly LoadedProgram[] {
    return this.#loaded;
  }

  get layout(): TallyLayout {
    return this.compiled[0]!.code.tally;
  }

  get tally(): BigInt64Array {
    return this.#tally!.words;
  }

  /** Nothing more is done for a uprobe. */
  switchOff(number: number): void {
    const { layout } = this;
    Atomics.store(this.tally, tallyIndex(layout, 0, number) + TALLY_OFF, 1n);
  }

  /**
   * Another generation beside this one, for the time of `change`, which attaches the new programs and then detaches the old ones. When
   * it fails the old ones stay.
   */
  async replace(change: (newer: readonly LoadedProgram[]) => Promise<void>): Promise<void> {
    const older = this.#loaded;
    this.#generation ^= 1;
    let newer: LoadedProgram[] = [];
    try {
      newer = this.#load();
      this.#marks!.begin(this.#generation);
      await change(newer);
      this.#loaded = newer;
    } catch (e) {
      this.#generation ^= 1;
      throw e;
    } finally {
      this.#marks!.end();
      for (const { fd } of this.#loaded === newer ? older : newer) closeFd(fd);
    }
  }

  #load(): LoadedProgram[] {
    const loaded: LoadedProgram[] = [];
    try {
      this.compiled.forEach(({ code, attach, pid }, i) =>
        loaded.push({ fd: this.#loadOne(code, attach, this.#maps[i]!), attach, pid }),
      );
      return loaded;
    } catch (e) {
      for (const { fd } of loaded) closeFd(fd);
      throw e;
    }
  }

  #loadOne(code: BpfCode, attach: BpfRequest['attach'], maps: readonly KernelMap[]): number {
    const marks = this.#marks;
    const before = marks === undefined ? 0 : PROLOGUE_INSTRUCTIONS;
    const bytes = marks === undefined ? code.instructions : withPrologue(code.instructions);
    const patches: MapPatch[] = code.uses.map(({ at, map, offset }) => ({
      at: before + at,
      fd: maps[map]!.fd,
      offset,
    }));
    if (marks !== undefined) patches.push(...marks.patches(this.#generation));
    const instructions = patched(bytes, patches);
    try {
      return loadProgram(
        { instructions, kind: means() === 'perf' ? 'event' : attach, sleeps: code.sleeps },
        `uprobe_${attach}`,
      );
    } catch (e) {
      throw e instanceof VerifierError ? refusedByVerifier(e, code, before) : e;
    }
  }

  #map(spec: BpfCode['maps'][number]): KernelMap {
    const { key } = spec;
    switch (key.of) {
      case 'aggregate':
      case 'beside': {
        const map = this.aggregates.map(key.aggregate, spec);
        this.#aggregates.set(key.aggregate, (this.#aggregates.get(key.aggregate) ?? 0) + 1);
        return map;
      }
      case 'tally':
        return (this.#tally ??= this.#make(spec));
      case 'calls':
        return (this.#calls ??= this.#make(spec));
      case 'scratch':
        return this.#make(spec);
    }
  }

  #make(spec: BpfCode['maps'][number]): KernelMap {
    const map = new KernelMap(spec);
    this.#own.push(map);
    return map;
  }

  /** When nothing is attached any more: closing a link waits for programs that run (kernel/events/uprobes.c, uprobe_unregister_sync). */
  close(): void {
    for (const { fd } of this.#loaded.splice(0)) closeFd(fd);
    for (const [aggregate, times] of this.#aggregates) this.aggregates.release(aggregate, times);
    this.#aggregates.clear();
    for (const map of this.#own.splice(0)) map.close();
    this.#marks?.close();
  }
}

/** What two generations tell each other (replaced.ts). */
class Marks {
  readonly #roles = createMap(ROLES, 'uprobe_roles');
  readonly #marks = createMap(MARKS, 'uprobe_marks');
  readonly #words = mapArray(this.#roles, ROLES.valueBytes);

  patches(generation: number): readonly MapPatch[] {
    return prologuePatches(this.#roles, this.#marks, generation);
  }

  /** Before the new generation is attached. */
  begin(newer: number): void {
    this.#set(newer, ROLE.newer);
    this.#set(newer ^ 1, ROLE.older);
  }

  /** One generation is left. Marks that nobody has taken must not be found at the next change. */
  end(): void {
    this.#set(0, ROLE.none);
    this.#set(1, ROLE.none);
    for (const { key } of readHash(this.#marks, MARKS)) deleteFromMap(this.#marks, key);
  }

  #set(generation: number, role: number): void {
    Atomics.store(new BigInt64Array(this.#words.bytes.buffer), generation, BigInt(role));
  }

  close(): void {
    unmap(this.#words.address, this.#words.length);
    closeFd(this.#roles);
    closeFd(this.#marks);
  }
}
