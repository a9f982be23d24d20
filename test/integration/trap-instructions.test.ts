import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { PlaceError, openModule, registerUprobes, spawnTarget, type UprobeSpec } from 'uprobe';
import { compileFixture, privateCopy } from '../helpers/compile.js';
import { stepCounts } from '../helpers/oracle.js';

type Handlers = 'none' | 'pre' | 'pre and post';

interface Case {
  readonly program: string;
  readonly args?: readonly string[];
  readonly handlers: Handlers;
  /** Compare every instruction's count with the single-stepped run: for programs with one thread and one process. */
  readonly oracle: boolean;
  /** Functions left alone. */
  readonly without?: readonly string[];
  readonly flags?: readonly string[];
  /** System calls that a signal breaks off have no post handlers: counted as missed. */
  readonly misses?: true;
  /** How many instructions at most have no after: those that fault, exec, or end the program (default 200). */
  readonly endless?: number;
  /** What of the output depends on time. */
  readonly vague?: RegExp;
}

/**
 * faults: its handler compares what it got for SIGTRAP with SIGTRAP blocked; a breakpoint hit with SIGTRAP blocked costs the
 * program its handler (docs/limits.md).
 */
const cases: readonly Case[] = [
  { program: 'calls', handlers: 'none', oracle: true },
  { program: 'calls', handlers: 'pre', oracle: true },
  { program: 'calls', handlers: 'pre and post', oracle: true },
  { program: 'calls', handlers: 'none', oracle: true, flags: ['-O0', '-no-pie'] },
  { program: 'calls', handlers: 'none', oracle: true, flags: ['-O2', '-static'] },
  { program: 'instructions', handlers: 'none', oracle: true },
  // `run` folds the results, which takes nine of ten instructions
  { program: 'instructions', args: ['1'], handlers: 'pre and post', oracle: true, without: ['run'] },
  { program: 'instructions', args: ['1'], handlers: 'none', oracle: true, flags: ['-no-pie'] },
  { program: 'crowd', args: ['3', '60'], handlers: 'none', oracle: true },
  { program: 'crowd', args: ['3', '60'], handlers: 'pre and post', oracle: true },
  { program: 'syscalls', handlers: 'none', oracle: false },
  { program: 'syscalls', args: ['2'], handlers: 'pre', oracle: false },
  { program: 'syscalls', args: ['2', 'exec'], handlers: 'pre and post', oracle: false, misses: true },
  {
    program: 'syscalls',
    args: ['1'],
    handlers: 'pre and post',
    oracle: false,
    flags: ['-static'],
    misses: true,
  },
  { program: 'selfstep', handlers: 'none', oracle: false },
  { program: 'selfstep', handlers: 'pre', oracle: false },
  // each round of a rep prefix traps, and begins anew; rt_sigreturn has no after
  { program: 'selfstep', handlers: 'pre and post', oracle: false, endless: 400 },
  { program: 'longjmp', handlers: 'pre and post', oracle: true },
  { program: 'faults', handlers: 'pre and post', oracle: true, without: ['on_fault', 'compare'] },
  { program: 'exceptions', handlers: 'pre and post', oracle: false },
  { program: 'exits', handlers: 'none', oracle: true },
  { program: 'threads', args: ['3', '100', '2'], handlers: 'pre and post', oracle: false },
  { program: 'forker', handlers: 'pre', oracle: false },
  { program: 'execer', handlers: 'none', oracle: false },
  { program: 'signals', args: ['50'], handlers: 'pre', oracle: false, vague: /in_handler=\d+/ },
];

/** Every instruction of the program's own functions that can be probed. */
function everyInstruction(program: string, pid: number, without: readonly string[]): UprobeSpec[] {
  const view = openModule(program);
  const specs = new Map<number, UprobeSpec>();
  for (const fn of view.functions()) {
    if (without.includes(fn.name)) continue;
    for (const { offset } of view.instructions(fn)) {
      if (specs.has(offset)) continue;
      try {
        if (view.plan({ offset }, { processes: pid }).chosen === undefined) continue;
        specs.set(offset, { pathname: program, offset, processes: pid });
      } catch (e) {
        // _init has no size: decoding on from it, over padding, loses step in the linkage table behind it
        assert.ok(e instanceof PlaceError && fn.name === '_init', String(e));
      }
    }
  }
  view.close();
  return [...specs.values()];
}

/** Functions of the program that its author wrote: a static program brings all of libc. */
const OWN_SITES = 5000;

for (const c of cases) {
  const {
    program: name,
    args = [],
    handlers,
    oracle,
    without = [],
    flags = [],
    vague,
    misses,
    endless = 200,
  } = c;
  const title =
    `${name} ${[...args, ...flags].join(' ')} with ${handlers} handlers at every instruction`.replace(
      / +/g,
      ' ',
    );
  test(`${title} runs as it does unprobed`, { timeout: 120_000 }, async () => {
    const program = privateCopy(compileFixture(name, { flags: [...flags] }));
    const plain = spawnSync(program, args, { encoding: 'utf8', timeout: 30_000 });
    const target = await spawnTarget(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let pre = 0;
    let post = 0;
    const specs = everyInstruction(program, target.pid, without)
      .slice(0, OWN_SITES)
      .map((spec): UprobeSpec => {
        if (handlers === 'none') return spec;
        const counted = { ...spec, preHandler: () => void pre++ };
        return handlers === 'pre' ? counted : { ...counted, postHandler: () => void post++ };
      });
    assert.ok(specs.length > 50, `${specs.length} places`);
    const group = await registerUprobes(specs);
    const output = Promise.all([text(target.stdout!), text(target.stderr!)]);
    await target.resume();
    const { code, signal } = await target.exited;
    const clear = (s: string): string => (vague === undefined ? s : s.replace(vague, ''));
    const [stdout, stderr] = await output;
    assert.deepEqual(
      { stdout: clear(stdout), stderr, code, signal },
      { stdout: clear(plain.stdout), stderr: plain.stderr, code: plain.status, signal: plain.signal },
    );
    const hits = [...group].reduce((sum, u) => sum + u.nhits, 0n);
    if (!misses) for (const uprobe of group) assert.equal(uprobe.nmissed, 0n);
    if (handlers !== 'none') assert.equal(BigInt(pre), hits);
    if (handlers === 'pre and post')
      assert.ok(post > 0 && post <= pre && post >= pre - endless, `${post} of ${pre}`);
    if (oracle) {
      const { counts } = await stepCounts(program, args, program, { fromEntry: true, timeout: 100_000 });
      const wrong = [...group]
        .map((u) => ({ place: u.toString(), hits: u.nhits, steps: BigInt(counts.get(u.offset) ?? 0) }))
        .filter(({ hits: h, steps }) => h !== steps);
      assert.deepEqual(wrong, []);
    }
    await group.unregister();
  });
}
