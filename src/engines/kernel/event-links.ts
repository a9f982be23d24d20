/**
 * Links to perf events (Linux 5.15): one event and one link for each program and place, and each process. A link keeps its event.
 *
 * The kernel takes them out one after the other, tens of milliseconds each (kernel/trace/trace_event_perf.c, perf_uprobe_destroy: it waits
 * for grace periods under one mutex of the whole machine). So whoever leaves is switched off first, and what it has counted is final
 * long before its breakpoint is out.
 */
import { makeRefusal, RefusedError } from '../../base/errors.js';
import { closeLinks, EVENTS_AT_ONCE } from '../../linux/closer.js';
import { EVENT_LINK_CALL, prepareEventLink } from '../../linux/bpf.js';
import { closeFd, tooFewDescriptors } from '../../linux/fds.js';
import { NR } from '../../linux/numbers.js';
import { EVENT_CALL, prepareUprobeEvent } from '../../linux/perf-event.js';
import { attachError, pathOf, type Attached, type Attachment } from './attachment.js';
import { onlineCpu } from './machine.js';
import type { LoadedProgram } from './programs.js';

export class EventLinks implements Attachment {
  /** By the numbers of their places, each in the order in which they were made. */
  readonly #links = new Map<number, number[]>();

  private constructor(private readonly attached: Attached) {}

  /** Everywhere, or nowhere. */
  static async make(attached: Attached): Promise<EventLinks> {
    refuseTooMany(attached);
    const made = new EventLinks(attached);
    try {
      for (const program of attached.programs.loaded)
        for (const number of attached.places.keys()) await made.#linkOne(program, number);
    } catch (e) {
      await closeLinks(made.take(), EVENTS_AT_ONCE);
      throw e;
    }
    return made;
  }

  async #linkOne({ fd, attach, pid }: LoadedProgram, number: number): Promise<void> {
    const { module, places } = this.attached;
    const { offset, cookie } = places[number]!;
    const cpu = pid === 0 ? onlineCpu() : -1;
    const wanted = { path: pathOf(module), offset, isReturn: attach === 'return', pid, cpu };
    const event = await this.#call(NR.perfEventOpen, prepareUprobeEvent(wanted), EVENT_CALL, pid);
    const link = await this.#call(NR.bpf, prepareEventLink(fd, event, cookie), EVENT_LINK_CALL, pid).catch(
      async (e: unknown) => {
        await closeLinks([event], EVENTS_AT_ONCE);
        throw e;
      },
    );
    const links = this.#links.get(number);
    if (links === undefined) this.#links.set(number, [link]);
    else links.push(link);
    closeFd(event);
  }

  async #call(
    nr: number,
    { args, free }: { readonly args: readonly number[]; readonly free: () => void },
    name: string,
    pid: number,
  ): Promise<number> {
    try {
      const result = await this.attached.keeper.call(nr, ...args);
      if (result < 0) throw attachError(this.attached.module, 1, name, -result, pid);
      return result;
    } finally {
      free();
    }
  }

  /** The first that is closed has waited for programs that were running then. */
  async remove(numbers: readonly number[]): Promise<void> {
    this.#switchOff(numbers);
    await closeLinks(this.#taken(numbers), EVENTS_AT_ONCE);
  }

  #switchOff(numbers: Iterable<number>): void {
    for (const number of numbers) this.attached.programs.switchOff(number);
  }

  #taken(numbers: Iterable<number>): number[] {
    return [...numbers].flatMap((number) => {
      const links = this.#links.get(number) ?? [];
      this.#links.delete(number);
      return links;
    });
  }

  take(): number[] {
    const numbers = [...this.#links.keys()];
    this.#switchOff(numbers);
    return this.#taken(numbers);
  }
}

function refuseTooMany({ programs, places, module }: Attached): void {
  const wanted = programs.loaded.length * places.length;
  const few = tooFewDescriptors(wanted);
  if (few === undefined) return;
  throw new RefusedError(
    module.path,
    makeRefusal(
      'too-many-places',
      `this kernel wants a descriptor for each place, handler and process: ${wanted} of them, and this process may have ${few.limit} open (${few.open} are)`,
      () => `Probe fewer places, or raise the limit before: ulimit -n ${few.enough}`,
    ),
  );
}
