/** What this kernel lets this user do, found by trying, once. */
import { readFileSync, statSync } from 'node:fs';
import { lazy } from '../../base/lazy.js';
import { makeRefusal, messageOf, UprobeError, type Refusal } from '../../base/errors.js';
import type { BpfTarget } from '../../handler/bpf/code.js';
import {
  createMap,
  EVENT_LINK_CALL,
  LINK_CALL,
  linkDirectly,
  loadProgram,
  prepareEventLink,
  prepareLink,
  type AttachKind,
} from '../../linux/bpf.js';
import { kernelFunctions } from '../../linux/btf.js';
import { onlineCpus } from '../../linux/cpus.js';
import { closeFd } from '../../linux/fds.js';
import { ERRNO } from '../../linux/numbers.js';
import { EVENT_CALL, openUprobeEvent } from '../../linux/perf-event.js';
import { check, errnoName, SyscallError } from '../../linux/syscall-error.js';

/** mov r0, 0; exit */
// prettier-ignore
const NOTHING = Uint8Array.of(0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0);

/** include/linux/proc_ns.h: PROC_PID_INIT_INO. */
const INITIAL_PID_NAMESPACE = 0xefff_fffcn;

/**
 * By what means hits get to programs, the best first: links to many places at once (Linux 6.6), links to perf events (5.15), or perf
 * events alone, which count and sample.
 */
export const MEANS = ['multi', 'perf', 'samples'] as const;
export type Means = (typeof MEANS)[number];

/** In the environment: limits what is tried to one of them. */
const VARIABLE = 'UPROBE_KERNEL';

/** What is tried, as that variable says it. */
export function meansToTry(name = process.env[VARIABLE] ?? ''): readonly Means[] {
  if (name === '') return MEANS;
  const one = MEANS.find((m) => m === name);
  if (one !== undefined) return [one];
  throw new UprobeError('no-such-means', `${VARIABLE}=${name} in the environment: it is ${MEANS.join(', ')}`);
}

const TRIES: Readonly<Record<Means, () => void>> = { multi: tryMulti, perf: tryPerf, samples: trySamples };

/** What there is against each that was tried, until one does it. */
export const tried = lazy((): ReadonlyMap<Means, Refusal | undefined> => {
  const found = new Map<Means, Refusal | undefined>();
  for (const one of meansToTry()) {
    const refusal = refusalBy(one);
    found.set(one, refusal);
    if (refusal === undefined) break;
  }
  return found;
});

/** What the kernel engine does its work with here, or why it can serve nobody. */
export function means(): Means | Refusal {
  const found = [...tried()];
  const [works] = found.find(([, refusal]) => refusal === undefined) ?? [];
  // Where it wants privilege that is the reason, whatever else there is not; else what an older kernel would do, too.
  const mayNot = found.find(([, refusal]) => refusal?.code === NEEDS_CAP_BPF);
  return works ?? (mayNot ?? found.at(-1))?.[1] ?? NO_MEANS;
}

const NEEDS_CAP_BPF = 'needs-cap-bpf';

const NO_MEANS = makeRefusal(
  'no-uprobe-multi',
  `the kernel engine cannot do with what ${VARIABLE} leaves it`,
  () => `Unset ${VARIABLE}`,
);

export function unavailable(): Refusal | undefined {
  const found = means();
  return typeof found === 'string' ? undefined : found;
}

function refusalBy(by: Means): Refusal | undefined {
  try {
    TRIES[by]();
    return undefined;
  } catch (e) {
    return by === 'samples' ? refusalOfSamples(e) : refusalOf(e, by);
  }
}

/** An event of a file that is not there: a kernel that has such events, and lets this user have them, looks for it. */
function trySamples(): void {
  closingAll((keep) => tryEvent(keep));
}

export function refusalOfSamples(e: unknown): Refusal {
  const code = e instanceof SyscallError ? errnoName(e.errno) : '';
  if (code === 'EPERM' || code === 'EACCES')
    return makeRefusal(
      'needs-cap-sys-admin',
      `the kernel engine counts and samples by perf events, and this user may not (${messageOf(e)})`,
      () =>
        `Run with sudo, or give Node the capability once: sudo setcap cap_sys_admin+ep ${process.execPath} (before Linux 6.16 cap_perfmon). ` +
        'In a container: --cap-add=SYS_ADMIN, with a seccomp profile that allows perf_event_open(2)',
    );
  return makeRefusal(
    'no-uprobe-events',
    `this kernel has no perf events of uprobes (${messageOf(e)})`,
    (words) => `Use Linux 4.17 or later with CONFIG_UPROBE_EVENTS, or ${words.engine('trap')}`,
  );
}

/** What is opened is closed again, the last first. */
function closingAll(body: (keep: (fd: number) => number) => void): void {
  const fds: number[] = [];
  try {
    body((fd) => {
      fds.push(fd);
      return fd;
    });
  } finally {
    for (const fd of fds.toReversed()) closeFd(fd);
  }
}

const tryMap = (): number =>
  createMap({ type: 'array', keyBytes: 4, valueBytes: 8, entries: 1, mapped: true }, 'uprobe_try');
const tryProgram = (kind: AttachKind, sleeps = false): number =>
  loadProgram({ instructions: NOTHING, kind, sleeps }, 'uprobe_try');

/** Whoever knows what is asked looks for this file. A uprobe that is made takes tens of milliseconds to close. */
const NOWHERE = '/proc/self/no-such-file';

/** An event of a file that is not there. */
function tryEvent(keep: (fd: number) => number): void {
  const opened = openUprobeEvent({ path: NOWHERE, offset: 0, isReturn: false, pid: 0, cpu: onlineCpu() });
  if (opened !== -ERRNO.ENOENT) keep(check(opened, EVENT_CALL));
}

/** The call is known, and fails for what it is given. */
function expectErrno(errno: number, call: () => void): void {
  try {
    call();
  } catch (e) {
    if (!(e instanceof SyscallError && e.errno === errno)) throw e;
  }
}

/** A map, a program, and a link. */
function tryMulti(): void {
  closingAll((keep) => {
    keep(tryMap());
    const program = keep(tryProgram('entry'));
    const link = { program, kind: 'entry', path: NOWHERE, offsets: [0], cookies: [0n], pid: 0 } as const;
    expectErrno(ERRNO.ENOENT, () => keep(linkDirectly(prepareLink(link), LINK_CALL)));
  });
}

/** The same, with an event. */
function tryPerf(): void {
  closingAll((keep) => {
    keep(tryMap());
    const program = keep(tryProgram('event'));
    tryEvent(keep);
    const noEvent = -1;
    expectErrno(ERRNO.EBADF, () =>
      keep(linkDirectly(prepareEventLink(program, noEvent, 0n), EVENT_LINK_CALL)),
    );
  });
}

export function refusalOf(e: unknown, by: keyof typeof REFUSALS = 'multi'): Refusal {
  const code = e instanceof SyscallError ? errnoName(e.errno) : '';
  if (code === 'EPERM' || code === 'EACCES')
    return makeRefusal(
      'needs-cap-bpf',
      `the kernel engine loads programs into the kernel, and this user may not (${messageOf(e)})`,
      () =>
        `Run with sudo, or give Node the capabilities once: sudo setcap cap_bpf,cap_perfmon+ep ${process.execPath}. ` +
        'In a container: --cap-add=BPF --cap-add=PERFMON, with a seccomp profile that allows bpf(2)',
    );
  return REFUSALS[by](messageOf(e));
}

const REFUSALS: Readonly<Record<Exclude<Means, 'samples'>, (why: string) => Refusal>> = {
  multi: (why) =>
    makeRefusal(
      'no-uprobe-multi',
      `this kernel has no uprobes for programs, at many places at once (${why})`,
      (words) =>
        `Use Linux 6.6 or later with CONFIG_BPF_SYSCALL and CONFIG_UPROBES, or ${words.engine('trap')}`,
    ),
  perf: (why) =>
    makeRefusal(
      'no-event-links',
      `this kernel has no uprobes for programs, neither at many places at once nor on perf events (${why})`,
      (words) =>
        `Use Linux 5.15 or later with CONFIG_BPF_SYSCALL, CONFIG_UPROBE_EVENTS and CONFIG_PERF_EVENTS, or ${words.engine('trap')}`,
    ),
};

/** Whether a program with sleeping helpers may be attached. */
const maySleep = lazy((): boolean => {
  try {
    closeFd(tryProgram(means() === 'perf' ? 'event' : 'entry', true));
    return true;
  } catch {
    return false;
  }
});

const sessionFunctions = lazy((): BpfTarget['session'] => {
  if (means() === 'perf') return undefined; // kernel/trace/bpf_trace.c: of uprobe_multi alone
  const ids = kernelFunctions(['bpf_session_cookie', 'bpf_session_is_return']);
  return ids && { cookie: ids[0]!, isReturn: ids[1]! };
});

const possibleCpus = lazy((): number => {
  const list = readFileSync('/sys/devices/system/cpu/possible', 'latin1');
  return Number(/(\d+)\s*$/.exec(list)?.[1] ?? 0) + 1;
});

/** Where events of all processes are opened. */
export const onlineCpu = lazy((): number => onlineCpus()[0]!);

const pidNamespace = lazy((): BpfTarget['pidNamespace'] => {
  const { dev, ino } = statSync('/proc/self/ns/pid', { bigint: true });
  return ino === INITIAL_PID_NAMESPACE ? undefined : { dev, ino };
});

/** For the back end. What takes a while to find out is looked at when it is asked for. */
export const bpfTarget: BpfTarget = {
  get cpus() {
    return possibleCpus();
  },
  get sleepable() {
    return maySleep();
  },
  get session() {
    return sessionFunctions();
  },
  get pidNamespace() {
    return pidNamespace();
  },
  ownPid: process.pid,
};
