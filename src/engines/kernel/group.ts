/**
 * Uprobes of one file that were registered together, with the same handlers and for the same processes: one program for the entry, one
 * for the return or one for both, and what attaches them.
 */
import { RefusedError } from '../../base/errors.js';
import type { Keeper } from '../../linux/keeper.js';
import { TALLY, tallyIndex } from '../../handler/bpf/code.js';
import type { Consumer, SiteFacts, Tally } from '../engine.js';
import type { KernelAggregates } from './aggregates.js';
import type { Attachment } from './attachment.js';
import { compile } from './compile.js';
import { EventLinks } from './event-links.js';
import { shiftOf } from './instructions.js';
import { means } from './machine.js';
import { MultiLinks } from './multi-links.js';
import { Programs } from './programs.js';

export interface Member {
  readonly site: SiteFacts;
  readonly consumer: Consumer;
}

export class Group {
  readonly #programs: Programs;
  /** By their numbers in the programs. */
  readonly #members: readonly Member[];
  readonly #left: Set<number>;
  readonly #pids: readonly number[];
  #attachment: Attachment | undefined;

  private constructor(members: readonly Member[], aggregates: KernelAggregates) {
    const { consumer, site } = members[0]!;
    this.#members = members;
    this.#left = new Set(members.keys());
    this.#pids = consumer.processes === 'all' ? [0] : (consumer.processes as readonly number[]);
    const compiled = compile(consumer.programs ?? {}, members.length, this.#pids);
    if (!Array.isArray(compiled)) throw new RefusedError(site.module.path, compiled);
    this.#programs = new Programs(compiled, aggregates, members.length > 1 && means() === 'multi');
    members.forEach((member, i) => (this.#programs.tally[i] = BigInt(member.consumer.id)));
  }

  /** Rejects when any of it cannot be armed, and then nothing of it is. */
  static async arm(members: readonly Member[], aggregates: KernelAggregates, keeper: Keeper): Promise<Group> {
    const group = new Group(members, aggregates);
    try {
      await aggregates.ready();
      await group.#attach(keeper);
    } catch (e) {
      group.#programs.close();
      throw e;
    }
    return group;
  }

  async #attach(keeper: Keeper): Promise<void> {
    const attached = {
      keeper,
      programs: this.#programs,
      module: this.#members[0]!.site.module,
      places: this.#members.map(({ site }, number) => ({
        offset: site.offset + shiftOf(site),
        cookie: BigInt(number) | (BigInt(shiftOf(site)) << 32n),
      })),
      pids: this.#pids,
    };
    this.#attachment = await (means() === 'perf' ? EventLinks : MultiLinks).make(attached);
  }

  get size(): number {
    return this.#left.size;
  }

  /** What a member has counted. */
  tally(number: number): Tally {
    const { tally: words, layout } = this.#programs;
    let [hits, missed, errors] = [0n, 0n, 0n];
    for (let copy = 0; copy < layout.copies; copy++) {
      const at = tallyIndex(layout, copy, number);
      hits += words[at + TALLY.hits]!;
      missed += words[at + TALLY.missed]!;
      errors += words[at + TALLY.errors]!;
    }
    return { hits, missed, errors };
  }

  /** Take members out. When none is left, all of it is closed. Their tallies are final. */
  async remove(numbers: readonly number[]): Promise<Tally[]> {
    for (const number of numbers) this.#left.delete(number);
    await this.#attachment?.remove(numbers, [...this.#left]);
    const tallies = numbers.map((n) => this.tally(n));
    if (this.#left.size === 0) this.#programs.close();
    return tallies;
  }

  /** Its links, to be closed by the caller. */
  takeLinks(): number[] {
    return this.#attachment?.take() ?? [];
  }

  /** When its links are closed. */
  free(): void {
    this.#programs.close();
  }
}
