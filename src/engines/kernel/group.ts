/**
 * Uprobes of one file that were registered together, with the same handlers and for the same processes: one program for the entry, one
 * for the return or one for both, and one link for each of them and each process.
 */
import { ProcessError, RefusedError, type UprobeError } from '../../base/errors.js';
import { closeLinks } from '../../linux/closer.js';
import { LINK_CALL, linkHint, prepareLink, type LinkRequest } from '../../linux/bpf.js';
import type { Keeper } from '../../linux/keeper.js';
import { ERRNO, NR } from '../../linux/numbers.js';
import { SyscallError } from '../../linux/syscall-error.js';
import { TALLY, tallyIndex, type TallyLayout } from '../../handler/bpf/code.js';
import type { Consumer, ModuleFacts, SiteFacts, Tally } from '../engine.js';
import type { KernelAggregates } from './aggregates.js';
import { compile } from './compile.js';
import { shiftOf } from './instructions.js';
import { Programs, type LoadedProgram } from './programs.js';

export interface Member {
  readonly site: SiteFacts;
  readonly consumer: Consumer;
}

/** An operation that the kernel does not know (include/linux/errno.h): an instruction that it will not step over. */
const ENOTSUPP = 524;

export class Group {
  readonly #programs: Programs;
  readonly #module: ModuleFacts;
  /** By their numbers in the programs. */
  readonly #members: readonly Member[];
  readonly #left: Set<number>;
  readonly #pids: readonly number[];
  readonly #layout: TallyLayout;
  /** In the order in which they were made. */
  #links: number[] = [];

  private constructor(members: readonly Member[], aggregates: KernelAggregates) {
    const { consumer, site } = members[0]!;
    this.#members = members;
    this.#left = new Set(members.keys());
    this.#module = site.module;
    this.#pids = consumer.processes === 'all' ? [0] : (consumer.processes as readonly number[]);
    const compiled = compile(consumer.programs ?? {}, members.length);
    if (!Array.isArray(compiled)) throw new RefusedError(site.module.path, compiled);
    this.#layout = compiled[0]!.code.tally;
    this.#programs = new Programs(compiled, aggregates, members.length > 1);
    members.forEach((member, i) => (this.#programs.tally[i] = BigInt(member.consumer.id)));
  }

  /** Rejects when any of it cannot be armed, and then nothing of it is. */
  static async arm(members: readonly Member[], aggregates: KernelAggregates, keeper: Keeper): Promise<Group> {
    const group = new Group(members, aggregates);
    try {
      await aggregates.ready();
      group.#links = await group.#link(keeper, group.#programs.loaded);
    } catch (e) {
      group.#programs.close();
      throw e;
    }
    return group;
  }

  /** Attach the members that are left everywhere, or nowhere. */
  async #link(keeper: Keeper, programs: readonly LoadedProgram[]): Promise<number[]> {
    const links: number[] = [];
    const numbers = [...this.#left];
    try {
      for (const program of programs)
        for (const pid of this.#pids) links.push(await this.#linkOne(keeper, program, pid, numbers));
    } catch (e) {
      await closeLinks(links);
      throw e;
    }
    return links;
  }

  async #linkOne(
    keeper: Keeper,
    { fd, attach }: LoadedProgram,
    pid: number,
    numbers: readonly number[],
  ): Promise<number> {
    const request: LinkRequest = {
      program: fd,
      kind: attach,
      path: `/proc/self/fd/${this.#module.fd}`,
      offsets: numbers.map((n) => this.#members[n]!.site.offset + shiftOf(this.#members[n]!.site)),
      cookies: numbers.map((n) => BigInt(n) | (BigInt(shiftOf(this.#members[n]!.site)) << 32n)),
      pid,
    };
    const { args, free } = prepareLink(request);
    try {
      const link = await keeper.call(NR.bpf, ...args);
      if (link < 0) throw this.#linkError(-link, pid);
      return link;
    } finally {
      free();
    }
  }

  #linkError(errno: number, pid: number): UprobeError {
    const { path } = this.#module;
    if (errno === ERRNO.ESRCH && pid !== 0)
      return new ProcessError('no-such-process', pid, `there is no process ${pid}`);
    if (errno === ENOTSUPP || errno === ERRNO.ENOEXEC)
      return new RefusedError(path, {
        code: 'kernel-refuses-instruction',
        reason: `the kernel does not take a uprobe on ${this.#members.length === 1 ? 'this instruction' : 'one of these instructions'}`,
        remedy: 'Probe the instruction before or behind it',
      });
    return new SyscallError(LINK_CALL, errno, linkHint(errno, path));
  }

  get size(): number {
    return this.#left.size;
  }

  /** What a member has counted. */
  tally(number: number): Tally {
    const words = this.#programs.tally;
    let [hits, missed, errors] = [0n, 0n, 0n];
    for (let copy = 0; copy < this.#layout.copies; copy++) {
      const at = tallyIndex(this.#layout, copy, number);
      hits += words[at + TALLY.hits]!;
      missed += words[at + TALLY.missed]!;
      errors += words[at + TALLY.errors]!;
    }
    return { hits, missed, errors };
  }

  /** Take members out. When none is left, all of it is closed. Their tallies are final. */
  async remove(keeper: Keeper, numbers: readonly number[]): Promise<Tally[]> {
    for (const number of numbers) this.#left.delete(number);
    if (this.#left.size > 0) await this.#replaceLinks(keeper);
    else await closeLinks(this.#links.splice(0));
    const tallies = numbers.map((n) => this.tally(n));
    if (this.#left.size === 0) this.#programs.close();
    return tallies;
  }

  #replaceLinks(keeper: Keeper): Promise<void> {
    return this.#programs.replace(async (newer) => {
      const older = this.#links;
      this.#links = await this.#link(keeper, newer);
      await closeLinks(older);
    });
  }

  /** Its links, to be closed by the caller. */
  takeLinks(): number[] {
    return this.#links.splice(0);
  }

  /** When its links are closed. */
  free(): void {
    this.#programs.close();
  }
}
