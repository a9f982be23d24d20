/** From the programs of a uprobe to code for the kernel, each compiled once. */
import type { Refusal } from '../../base/errors.js';
import { attachesFor, compileBpf } from '../../handler/bpf/compile.js';
import type { BpfCode, BpfRequest } from '../../handler/bpf/code.js';
import type { Programs as Handlers } from '../engine.js';
import { bpfTarget } from './machine.js';

export interface Compiled {
  readonly attach: BpfRequest['attach'];
  readonly code: BpfCode;
}

/** One for each link, in the order in which they are attached. */
export function compile(handlers: Handlers, uprobes: number): Compiled[] | Refusal {
  const both = { pre: handlers.pre, return: handlers.return };
  const compiled: Compiled[] = [];
  for (const attach of attachesFor(both, bpfTarget)) {
    const result = compileBpf({ ...both, attach, uprobes }, bpfTarget);
    if (!result.ok) return result.refusal;
    compiled.push({ attach, code: result.code });
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
    const compiled = compile(handlers, 2);
    answers.set(second, (answer = Array.isArray(compiled) ? false : compiled));
  }
  return answer === false ? undefined : answer;
}
