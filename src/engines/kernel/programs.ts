/** Programs in the kernel: code of the back end with its maps, loaded. */
import { closeFd } from '../../linux/fds.js';
import { loadProgram, patched, VerifierError } from '../../linux/bpf.js';
import type { Aggregate } from '../../handler/shapes.js';
import type { BpfCode, BpfRequest } from '../../handler/bpf/code.js';
import { KernelMap, type KernelAggregates } from './aggregates.js';
import { refusedByVerifier } from './verifier.js';

export interface LoadedProgram {
  readonly fd: number;
  readonly attach: BpfRequest['attach'];
}

/** The programs of a group of uprobes, with the maps that they have in common. */
export class Programs {
  readonly loaded: LoadedProgram[] = [];
  readonly #own: KernelMap[] = [];
  readonly #aggregates = new Map<Aggregate, number>();
  #tally: KernelMap | undefined;
  #calls: KernelMap | undefined;

  constructor(private readonly aggregates: KernelAggregates) {}

  get tally(): BigInt64Array {
    return this.#tally!.words;
  }

  load(code: BpfCode, attach: BpfRequest['attach']): LoadedProgram {
    const maps = code.maps.map((spec) => this.#map(spec));
    const patches = code.uses.map(({ at, map, offset }) => ({ at, fd: maps[map]!.fd, offset }));
    const instructions = patched(code.instructions, patches);
    try {
      const fd = loadProgram({ instructions, kind: attach, sleeps: code.sleeps }, `uprobe_${attach}`);
      const program = { fd, attach };
      this.loaded.push(program);
      for (const aggregate of this.#aggregates.keys()) this.aggregates.attach(aggregate);
      return program;
    } catch (e) {
      throw e instanceof VerifierError ? refusedByVerifier(e, code) : e;
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
    for (const { fd } of this.loaded.splice(0)) closeFd(fd);
    for (const [aggregate, times] of this.#aggregates) this.aggregates.release(aggregate, times);
    this.#aggregates.clear();
    for (const map of this.#own.splice(0)) map.close();
  }
}
