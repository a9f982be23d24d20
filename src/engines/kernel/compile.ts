/** From the programs of a uprobe to code for the kernel, each compiled once. */
import type { Refusal } from '../../base/errors.js';
import { attachesFor, compileBpf } from '../../handler/bpf/compile.js';
import type { BpfCode, BpfRequest } from '../../handler/bpf/code.js';
import type { Programs as Handlers } from '../engine.js';
import { bpfTarget, means } from './machine.js';

export interface Compiled {
  readonly attach: BpfRequest['attach'];
  /** The process that it is for, or 0: all that it is attached to. */
  readonly pid: number;
  readonly code: BpfCode;
}

/**
 * In the order in which they are attached. A perf event knows its process by its memory, which children that have not yet called exec
 * share with it, and before Linux 6.13 has returns of all processes whose returns anybody watches at that place (kernel/events/uprobes.c,
 * handle_uretprobe_chain): there each process has programs of its own, which look. `pids`: the processes, 0 for all.
 */
export function compile(handlers: Handlers, uprobes: number, pids: readonly number[]): Compiled[] | Refusal {
  const both = { pre: handlers.pre, return: handlers.return };
  const compiled: Compiled[] = [];
  const onEvents = means() === 'perf';
  for (const attach of attachesFor(both, bpfTarget))
    for (const pid of onEvents ? pids : [0]) {
      const request = { ...both, attach, uprobes, switched: onEvents, pid: pid === 0 ? undefined : pid };
      const result = compileBpf(request, bpfTarget);
      if (!result.ok) return result.refusal;
      compiled.push({ attach, pid, code: result.code });
    }
  return compiled;
}

const NONE = {};
/** By the pre program and the return program. */
const known = new WeakMap<object, WeakMap<object, Refusal | false>>();

/** What the back end has against handlers. */
export function refuseHandlers(handlers: Handlers): Refusal | undefined {
  if (handlers.pre === undefined && handlers.return === undefined) return undefined;
  const first = handlers.pre ?? NONE;
  const second = handlers.return ?? NONE;
  let answers = known.get(first);
  if (answers === undefined) known.set(first, (answers = new WeakMap()));
  let answer = answers.get(second);
  if (answer === undefined) {
    const compiled = compile(handlers, 2, [0]);
    answers.set(second, (answer = Array.isArray(compiled) ? false : compiled));
  }
  return answer === false ? undefined : answer;
}
