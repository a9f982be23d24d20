/** Probes at instructions of every kind that come and go, and in the C library itself. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { dirname } from 'node:path';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import {
  openModule,
  registerUprobes,
  spawnTarget,
  type EngineName,
  type Target,
  type UprobeSpec,
} from 'uprobe';
import { compileFixture, linkedPair, privateCopies, privateCopy } from '../helpers/compile.js';

/** Every instruction of a program's functions but those `without`. */
function placesIn(path: string, processes: number, without: readonly string[]): UprobeSpec[] {
  const view = openModule(path);
  const offsets = new Set<number>();
  for (const fn of view.functions()) {
    if (fn.size === 0 || without.includes(fn.name)) continue;
    for (const { offset } of view.instructions(fn)) offsets.add(offset);
  }
  view.close();
  return [...offsets].map((offset) => ({ pathname: path, offset, processes }));
}

/** What the libraries of the system, which have few symbols, do that could not be moved as it is, as objdump sees it. */
function specialPlaces(path: string, processes: number): UprobeSpec[] {
  const { stdout } = spawnSync('objdump', ['-d', '--no-show-raw-insn', path], {
    encoding: 'utf8',
    maxBuffer: 1 << 30,
  });
  const lines = stdout.matchAll(/^ *([0-9a-f]+):\s+(?:syscall|int +\$|pushf|popf|call +\*.*\(%rsp)/gm);
  return [...lines].map(([, address]) => ({
    pathname: path,
    addr: BigInt(`0x${address}`),
    trustPlace: true,
    processes,
  }));
}

interface Ended {
  readonly stdout: string;
  readonly stderr: string;
  readonly code: number | null;
  readonly signal: string | null;
}

async function ending(target: Target): Promise<Ended> {
  const [stdout, stderr, { code, signal }] = await Promise.all([
    text(target.stdout!),
    text(target.stderr!),
    target.exited,
  ]);
  return { stdout, stderr, code, signal };
}

function alone(command: string, args: readonly string[]): Ended {
  const { stdout, stderr, status, signal } = spawnSync(command, args, { encoding: 'utf8', timeout: 60_000 });
  return { stdout, stderr, code: status, signal };
}

const start = (command: string, args: readonly string[]): Promise<Target> =>
  spawnTarget(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** In the handler of faults.c SIGTRAP is blocked: a breakpoint there costs the program its handler (docs/limits.md). */
const inHandler = ['on_fault', 'compare'];

for (const [fixture, rounds, without] of [
  ['syscalls', '4', []],
  ['selfstep', '30', []],
  ['faults', '600', inHandler],
  ['instructions', '3', []],
] as const) {
  const args = [rounds];
  test(`${fixture} runs as ever while its probes come and go`, { timeout: 120_000 }, async () => {
    const program = privateCopy(compileFixture(fixture));
    const expected = alone(program, args);
    const target = await start(program, args);
    const specs = placesIn(program, target.pid, without);
    const keeper = await registerUprobes(specs.slice(0, 1));
    const ended = ending(target);
    let over = false;
    void ended.then(() => (over = true));
    await target.resume();
    let times = 0;
    for (; !over && times < 400; times++) {
      const withPost = times % 2 === 0;
      try {
        const group = await registerUprobes(
          specs.map((spec) => (withPost ? { ...spec, postHandler: () => undefined } : spec)),
        );
        await pause(times % 7);
        await group.unregister();
      } catch (e) {
        assert.match(
          String(e),
          /has ended|no-such-process|no process/,
          'only the end of the program ends it',
        );
      }
    }
    assert.deepEqual(await ended, expected);
    assert.ok(times > 2, `${times} times`);
    await keeper.unregister();
  });
}

/** The dynamic linker and the C library that a program of the system uses, copied. */
function privateSystem(program: string): { linker: string; libc: string; copy: string } {
  const listed = spawnSync('ldd', [program], { encoding: 'utf8' }).stdout;
  const libc = /libc\.so\.6 => (\S+)/.exec(listed)?.[1];
  const linker = /^\s*(\/\S+ld-linux\S+)/m.exec(listed)?.[1];
  assert.ok(libc !== undefined && linker !== undefined, listed);
  const [copy = '', libcCopy = '', linkerCopy = ''] = privateCopies(program, libc, linker);
  return { linker: linkerCopy, libc: libcCopy, copy };
}

for (const handlers of ['no', 'pre and post'] as const) {
  test(
    `every system call of the C library and the linker is probed with ${handlers} handlers`,
    { timeout: 120_000 },
    async () => {
      for (const [fixture, ...args] of [
        ['syscalls', '2'],
        ['threads', '3', '100', '2'],
        ['forker', '3'],
        ['execer', 'thread', '1'],
      ] as const) {
        const { linker, libc, copy } = privateSystem(compileFixture(fixture));
        const command = ['--library-path', dirname(libc), copy, ...args];
        const expected = alone(linker, command);
        const target = await start(linker, command);
        const places = [libc, linker].flatMap((path) => specialPlaces(path, target.pid));
        assert.ok(places.length > 300, `${places.length} places`);
        let hits = 0;
        const group = await registerUprobes(
          places.map((spec) =>
            handlers === 'no'
              ? spec
              : { ...spec, preHandler: () => void hits++, postHandler: () => undefined },
          ),
        );
        const ended = ending(target);
        await target.resume();
        const found = await ended;
        assert.deepEqual(found, expected, fixture);
        const counted = [...group].reduce((sum, u) => sum + Number(u.nhits), 0);
        assert.ok(counted > 20, `${counted} hits`);
        if (handlers !== 'no') assert.equal(hits, counted);
        await group.unregister();
      }
    },
  );
}

test(
  'a library is probed in time also where the call that maps it is itself stepped over',
  { timeout: 60_000 },
  async () => {
    const { linker, libc, copy } = privateSystem(compileFixture('dlopener'));
    const { library } = linkedPair();
    const target = await start(linker, ['--library-path', dirname(libc), copy, library, '4', '5']);
    const group = await registerUprobes([
      ...[libc, linker]
        .flatMap((path) => specialPlaces(path, target.pid))
        .map((spec) => ({ ...spec, postHandler: () => undefined })),
      { pathname: library, symbol: 'lib_work', processes: target.pid },
      { pathname: library, symbol: 'lib_setup', processes: target.pid },
    ]);
    const ended = ending(target);
    await target.resume();
    const { code, stderr } = await ended;
    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
    const [work, setup] = [...group].slice(-2);
    assert.deepEqual([work?.nhits, setup?.nhits], [20n, 12n]); // as the stepper counts (oracle.test.ts)
    await group.unregister();
  },
);

for (const flags of [['-fPIE', '-pie'], ['-no-pie']]) {
  test(`inside a restartable sequence nothing is probed (${flags.join(' ')})`, () => {
    const view = openModule(compileFixture('restartable', { flags }));
    const [sequence] = [...view.functions()].filter(({ name }) => name === 'sequence');
    const instructions = [...view.instructions(sequence!)].slice(0, 5);
    const refusedBy = (name: EngineName): (string | undefined)[] =>
      instructions.map(({ offset }) => {
        const { engines } = view.plan({ offset }, { preHandler: false });
        return engines.find(({ engine }) => engine === name)?.refusal?.code;
      });
    const inside = 'rseq-critical-section';
    assert.deepEqual(refusedBy('trap'), [undefined, inside, inside, inside, undefined]);
    // whether or not the kernel engine can be used here
    assert.deepEqual(refusedBy('kernel').slice(1, 4), [inside, inside, inside]);
    view.close();
  });
}
