/** What handlers cannot do that run after the fact, on samples. */
import { makeRefusal, type Refusal } from '../../base/errors.js';
import { allStatements } from '../../handler/bpf/facts.js';
import { REGISTERS, type Program } from '../../handler/ir.js';
import type { ProcessSet, Programs } from '../engine.js';
import { has, isSampled } from './sample-handlers.js';

/** A perf event of one process is one of its first thread; other threads would be missed (perf_event_open(2), pid > 0). */
export const refuseSampling = (processes: ProcessSet): Refusal | undefined =>
  processes === 'all' ? undefined : SINGLE_PROCESSES;

export function refuseSampledHandlers({ pre, return: atReturn }: Programs): Refusal | undefined {
  for (const program of [pre, atReturn]) {
    const refusal = program && refuseProgram(program);
    if (refusal !== undefined) return refusal;
  }
  return undefined;
}

function refuseProgram(program: Program): Refusal | undefined {
  if (has(program, (e) => e.op === 'read' || e.op === 'str' || e.op === 'buf')) return MEMORY;
  if (has(program, (e) => e.op === 'farg')) return FLOATS;
  const missing = REGISTERS.find((name) => !isSampled(name) && has(program, (e) => e.op === 'reg' && e.name === name)); // prettier-ignore
  if (missing !== undefined) return notSampled(missing);
  for (const statement of allStatements(program.body)) {
    if (statement.do === 'setRegister') return WRITES;
    if (statement.do === 'leave' && statement.verdict !== undefined) return verdict(statement.verdict);
  }
  return undefined;
}

const SINGLE_PROCESSES = makeRefusal(
  'samples-of-processes',
  'without BPF the kernel counts and samples in all processes, or in single threads, but not in processes that are named',
  (words) =>
    `Leave the processes out for all of them, and look at pid in the handler (as an expression: pid == 4711), or use ${words.engine('trap')}`,
);

const MEMORY = makeRefusal(
  'memory-in-samples',
  'the handler reads memory of the program, and without BPF the kernel records only registers and arguments at a hit: the handler runs later, when the memory has other things in it',
  (words) =>
    `Let it do with those (hit.arg(0), hit.regs, hit.returnValue), allow bpf(2) (uprobe doctor says what stands against it), or use ${words.engine('trap')}, with processes that are named`,
);

const FLOATS = makeRefusal(
  'floating-point',
  'samples of the kernel have no floating-point registers',
  (words) => `Leave them out, or use ${words.engine('trap')}`,
);

const notSampled = (name: string): Refusal =>
  makeRefusal(
    'register-not-saved',
    `the kernel's samples do not have ${name}`,
    (words) => `Leave it out, or use ${words.engine('trap')}`,
  );

const WRITES = makeRefusal(
  'register-write',
  'without BPF handlers run after the fact: there is no register to write',
  (words) => `Leave the registers as they are, or use ${words.engine('trap')}`,
);

const verdict = (what: string): Refusal =>
  makeRefusal(
    'verdict-in-kernel',
    `without BPF handlers run after the fact: none can say '${what}'`,
    (words) => `Return nothing, or use ${words.engine('trap')}`,
  );
