/** Links that have many places each (uprobe_multi, Linux 6.6): one for each program and process. */
import { closeLinks } from '../../linux/closer.js';
import { LINK_CALL, prepareLink } from '../../linux/bpf.js';
import { NR } from '../../linux/numbers.js';
import { attachError, pathOf, type Attached, type Attachment } from './attachment.js';
import type { LoadedProgram } from './programs.js';

export class MultiLinks implements Attachment {
  /** In the order in which they were made. */
  #links: number[] = [];

  private constructor(private readonly attached: Attached) {}

  static async make(attached: Attached): Promise<MultiLinks> {
    const made = new MultiLinks(attached);
    made.#links = await made.#link(attached.programs.loaded, [...attached.places.keys()]);
    return made;
  }

  /** Everywhere, or nowhere. */
  async #link(programs: readonly LoadedProgram[], numbers: readonly number[]): Promise<number[]> {
    const links: number[] = [];
    try {
      for (const program of programs)
        for (const pid of this.attached.pids) links.push(await this.#linkOne(program, pid, numbers));
    } catch (e) {
      await closeLinks(links);
      throw e;
    }
    return links;
  }

  async #linkOne({ fd, attach }: LoadedProgram, pid: number, numbers: readonly number[]): Promise<number> {
    const { keeper, module, places } = this.attached;
    const { args, free } = prepareLink({
      program: fd,
      kind: attach,
      path: pathOf(module),
      offsets: numbers.map((n) => places[n]!.offset),
      cookies: numbers.map((n) => places[n]!.cookie),
      pid,
    });
    try {
      const link = await keeper.call(NR.bpf, ...args);
      if (link < 0) throw attachError(this.attached.module, places.length, LINK_CALL, -link, pid);
      return link;
    } finally {
      free();
    }
  }

  /** A link cannot be changed: another one takes its place (replaced.ts). */
  async remove(_numbers: readonly number[], left: readonly number[]): Promise<void> {
    if (left.length === 0) return closeLinks(this.take());
    await this.attached.programs.replace(async (newer) => {
      const older = this.#links;
      this.#links = await this.#link(newer, left);
      await closeLinks(older);
    });
  }

  take(): number[] {
    return this.#links.splice(0);
  }
}
