/**
 * Aggregates in maps of the kernel: one map for each object, as long as any program uses it. What was added there is the object's own
 * when the last program has gone.
 */
import { closeFd } from '../../linux/fds.js';
import { createMap, mapArray, readHash, deleteFromMap, unmap, updateMap } from '../../linux/bpf.js';
import type { Region } from '../../linux/memory.js';
import { mergeCell } from '../../handler/aggregates/parts.js';
import { cellStride, type MapKey, type MapSpec } from '../../handler/bpf/code.js';
import {
  ATTACH,
  DELIVER,
  cellWords,
  emptyCell,
  type Aggregate,
  type CellShape,
  type CellSource,
  type EventsAggregate,
  type EventsSource,
  type TableShape,
  type TableSource,
} from '../../handler/shapes.js';
import type { Drain, DrainedRing } from '../../events/drain.js';

/** A map, with its value where that is mapped into our memory. */
export class KernelMap {
  readonly fd: number;
  readonly value: Region | undefined;

  constructor(readonly spec: MapSpec) {
    this.fd = createMap(spec, NAMES[spec.key.of]);
    try {
      this.value = spec.mapped ? mapArray(this.fd, spec.valueBytes) : undefined;
      this.#begin();
    } catch (e) {
      this.close();
      throw e;
    }
  }

  #begin(): void {
    const { initial, valueBytes } = this.spec;
    if (initial === undefined) return;
    if (this.value !== undefined) return this.value.bytes.set(initial);
    const whole = new Uint8Array(valueBytes);
    whole.set(initial);
    updateMap(this.fd, new Uint8Array(4), whole);
  }

  get words(): BigInt64Array {
    return new BigInt64Array(this.value!.bytes.buffer, 0, this.spec.valueBytes / 8);
  }

  close(): void {
    if (this.value !== undefined) unmap(this.value.address, this.value.length);
    closeFd(this.fd);
  }
}

/** As `bpftool map` shows them. */
const NAMES: Readonly<Record<MapKey['of'], string>> = {
  tally: 'uprobe_tally',
  aggregate: 'uprobe_data',
  beside: 'uprobe_beside',
  calls: 'uprobe_calls',
  scratch: 'uprobe_scratch',
};

type Part = 'aggregate' | 'beside';

/** An aggregate's maps, and who uses them. */
interface Kept {
  readonly maps: Map<Part, KernelMap>;
  users: number;
  /** The end of its being a source; undefined: not yet one. */
  detach: (() => void) | undefined;
  ring: DrainedRing | undefined;
}

export class KernelAggregates {
  readonly #kept = new Map<Aggregate, Kept>();

  constructor(private readonly drain: Drain) {}

  /** Resolves when what is written can be read as fast as it comes. */
  ready(): Promise<void> {
    return this.drain.ready();
  }

  /** The map of a key, for one more user of the aggregate (`release` ends that). */
  map(aggregate: Aggregate, spec: MapSpec): KernelMap {
    let kept = this.#kept.get(aggregate);
    if (kept === undefined)
      this.#kept.set(aggregate, (kept = { maps: new Map(), users: 0, detach: undefined, ring: undefined }));
    const part = spec.key.of as Part;
    let map = kept.maps.get(part);
    if (map === undefined) kept.maps.set(part, (map = new KernelMap(spec)));
    kept.users++;
    return map;
  }

  /** All maps of a program are there: what it adds can be read from now on. */
  attach(aggregate: Aggregate): void {
    const kept = this.#kept.get(aggregate)!;
    if (kept.detach !== undefined) return;
    const data = kept.maps.get('aggregate');
    const beside = kept.maps.get('beside');
    if (data === undefined) return;
    const { shape } = aggregate;
    if (shape.kind === 'events') {
      const events = aggregate as EventsAggregate;
      kept.ring = this.drain.add(data.fd, data.spec.entries, (bytes) => events[DELIVER](bytes));
      kept.detach = events[ATTACH](eventsSource(beside));
    } else if (shape.kind === 'table') {
      kept.detach = (aggregate as Aggregate<TableShape>)[ATTACH](tableSource(shape, data, beside));
    } else {
      kept.detach = (aggregate as Aggregate<CellShape>)[ATTACH](cellSource(shape, data));
    }
  }

  /** As many times as `map` was called. No program that uses it runs any more. */
  release(aggregate: Aggregate, times: number): void {
    const kept = this.#kept.get(aggregate)!;
    kept.users -= times;
    if (kept.users > 0) return;
    this.#kept.delete(aggregate);
    kept.ring?.close();
    kept.detach?.();
    for (const map of kept.maps.values()) map.close();
  }
}

function cellSource(shape: CellShape, map: KernelMap): CellSource {
  const { words } = map;
  const length = cellWords(shape);
  const stride = cellStride(shape);
  const copies = Math.floor((words.length - length) / stride) + 1;
  const empty = emptyCell(shape);
  return {
    cell() {
      const sum = emptyCell(shape);
      for (let i = 0; i < copies; i++) mergeCell(shape, sum, words.subarray(i * stride, i * stride + length));
      return sum;
    },
    clear() {
      for (let i = 0; i < copies; i++)
        for (let word = 0; word < length; word++) Atomics.store(words, i * stride + word, empty[word]!);
    },
  };
}

function tableSource(shape: TableShape, map: KernelMap, beside: KernelMap | undefined): TableSource {
  const length = cellWords(shape.cell);
  const entries = (): { key: Uint8Array; cell: BigInt64Array }[] =>
    readHash(map.fd, map.spec).map(({ key, value }) => ({
      key,
      cell: new BigInt64Array(value.buffer, value.byteOffset, length),
    }));
  return {
    entries,
    overflow: () => BigInt.asUintN(64, beside?.words[0] ?? 0n),
    clear() {
      for (const { key } of entries()) deleteFromMap(map.fd, key);
      if (beside !== undefined) Atomics.store(beside.words, 0, 0n);
    },
  };
}

const eventsSource = (beside: KernelMap | undefined): EventsSource => ({
  lost: () => BigInt.asUintN(64, beside?.words[0] ?? 0n),
});
