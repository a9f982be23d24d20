/** Trees of processes: every hit of every descendant is handled or counted, and each computes what it would have. */
import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { test, type TestContext } from 'node:test';
import {
  registerUprobe,
  registerUprobes,
  spawnTarget,
  UprobeError,
  type ArmState,
  type Uprobe,
} from 'uprobe';
import { compileFixture, privateCopy } from '../helpers/compile.js';
import { until, tracerOf } from '../helpers/running.js';

const printed = (output: string, word: string): bigint =>
  [...output.matchAll(new RegExp(`\\b${word}=(\\d+)`, 'g'))].reduce((sum, m) => sum + BigInt(m[1]!), 0n);

interface Counted {
  /** Without handlers, with a handler before and one after: the same hits. */
  readonly counted: Uprobe;
  readonly before: Uprobe;
  readonly after: Uprobe;
  /** Hits by process. */
  readonly pids: Map<number, number>;
  readonly output: string;
}

/** Run a program with three uprobes on one function in its whole tree, until nobody of it is left. */
async function countTree(program: string, args: readonly string[], symbol = 'work'): Promise<Counted> {
  const target = await spawnTarget(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const pids = new Map<number, number>();
  const place = { pathname: program, symbol, processes: { tree: target.pid } };
  const group = await registerUprobes([
    place,
    { ...place, preHandler: ({ pid }) => void pids.set(pid, (pids.get(pid) ?? 0) + 1) },
    { ...place, postHandler: () => undefined },
  ]);
  const output = text(target.stdout!);
  await target.resume();
  const said = await output;
  assert.equal((await target.exited).code, 0);
  const [counted, before, after] = [group.at(0)!, group.at(1)!, group.at(2)!];
  await until('the tree has ended', () => counted.state === 'gone');
  await group.unregister();
  return { counted, before, after, pids, output: said };
}

function assertAll(hits: bigint, { counted, before, after }: Counted): void {
  assert.deepEqual([counted.nhits, before.nhits, after.nhits], [hits, hits, hits]);
  assert.deepEqual([counted.nmissed, before.nmissed, after.nmissed], [0n, 0n, 0n]);
}

const WAYS: readonly (readonly [string, number, string])[] = [
  ['fork', 20, 'children one after the other'],
  ['bomb', 200, 'two hundred children at once'],
  ['deep', 20, 'children of children'],
  ['threads', 10, 'threads that fork while others work'],
  ['share', 10, 'children that share memory and descriptors and run beside their parent'],
  ['wait', 10, 'children that share memory while their parent waits'],
  ['apart', 10, 'children that share all but the memory'],
  ['clone3', 10, 'children by clone3'],
  ['daemon', 1, 'a daemon, in a session of its own, whose parents have ended'],
  ['orphans', 10, 'children that go on when their parent has ended'],
];

for (const [way, number, title] of WAYS)
  test(`${title}: every hit is counted`, async () => {
    const program = privateCopy(compileFixture('family'));
    const result = await countTree(program, [way, String(number), '10']);
    assert.match(result.output, /failures=0/);
    assertAll(printed(result.output, 'total'), result);
    assert.equal(BigInt(result.pids.size), printed(result.output, 'processes'));
  });

test('fork, vfork, posix_spawn, system and exec in them: every hit is counted, for the process it is of', async () => {
  const program = privateCopy(compileFixture('forker'));
  const result = await countTree(program, ['10']);
  assertAll(printed(result.output, 'work'), result);
  // the parent; by fork; by vfork, which calls once and then executes; by vfork; by posix_spawn; by system
  assert.deepEqual([...result.pids.values()], [20, 10, 11, 1, 10, 10]);
});

test('a program that executes itself is armed each time before it runs', async () => {
  const result = await countTree(privateCopy(compileFixture('execer')), ['self', '10']);
  assertAll(110n, result);
  assert.equal(result.pids.size, 1);
});

test('a program that is executed by a thread which is not the leader, while the leader works, is armed', async () => {
  const result = await countTree(privateCopy(compileFixture('execer')), ['thread', '10']);
  // what the leader calls until the exec ends it depends on the moment; the first ten calls of each image do not
  assert.equal(printed(result.output, 'work'), 110n);
  assert.ok(result.before.nhits >= 110n);
  // a leader that waits for its handlers when it is ended has been hit all the same
  assert.equal(result.before.nhits + result.before.nmissed, result.counted.nhits);
  assert.equal(result.pids.size, 1);
});

test('a shell with pipelines: every program of them', async () => {
  const program = privateCopy(compileFixture('family'));
  const shell = privateCopy('/bin/bash');
  const script = `("$0" fork 3; "$0" bomb 3) | cat; x=$("$0" deep 2); echo "$x"; "$0" share 2 & wait`;
  const target = await spawnTarget(shell, ['-c', script, program], { stdio: ['ignore', 'pipe', 'inherit'] });
  const group = await registerUprobes([
    { pathname: program, symbol: 'work', processes: { tree: target.pid } },
    { pathname: shell, symbol: 'execute_command', processes: { tree: target.pid } },
    { pathname: shell, symbol: 'execute_command', processes: target },
  ]);
  const output = text(target.stdout!);
  await target.resume();
  assert.equal(printed(await output, 'total'), 140n);
  await until('the tree has ended', () => group.at(0)!.state === 'gone');
  assert.equal(group.at(0)!.nhits, 140n);
  assert.ok(group.at(1)!.nhits > group.at(2)!.nhits && group.at(2)!.nhits > 0n, 'its subshells, too');
  await group.unregister();
});

test('a site that only the parent is asked for is taken out of its children before they run', async () => {
  const program = privateCopy(compileFixture('forker'));
  const target = await spawnTarget(program, ['10'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const states: ArmState[] = [];
  const own = await registerUprobe({
    pathname: program,
    symbol: 'work',
    processes: target,
    onState: (s) => states.push(s),
  });
  const all = await registerUprobe({ pathname: program, symbol: 'do_work', processes: { tree: target.pid } });
  const output = text(target.stdout!);
  await target.resume();
  assert.equal(printed(await output, 'work'), 62n);
  assert.equal((await target.exited).code, 0);
  assert.equal(own.nhits, 20n);
  assert.equal(all.nhits, 6n);
  assert.deepEqual([...new Set(states.map((s) => s.pid))], [target.pid]);
  await all.unregister();
  await own.unregister();
});

test('each process of a tree is told of, and forgotten when it has ended', async () => {
  const program = privateCopy(compileFixture('family'));
  const target = await spawnTarget(program, ['fork', '30', '3'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const living = new Map<number, string>();
  let most = 0;
  const probe = await registerUprobe({
    pathname: program,
    symbol: 'work',
    processes: { tree: target.pid },
    preHandler: () => {
      most = Math.max(most, probe.processes().length);
      return undefined;
    },
    onState: ({ pid, state }) => void living.set(pid, state),
  });
  assert.deepEqual(probe.processes().map((s) => [s.pid, s.state]), [[target.pid, 'armed']]); // prettier-ignore
  await target.resume();
  await text(target.stdout!);
  await until('all have ended', () => probe.state === 'gone');
  assert.equal(living.size, 31);
  assert.deepEqual([...new Set(living.values())], ['gone']);
  assert.ok(most <= 3, `at most ${most} processes were remembered at once`);
  assert.deepEqual(probe.processes().map((s) => s.pid), [target.pid]); // prettier-ignore
  await probe.unregister();
});

test('uprobes come and go in a tree that forks all the time, and the text of each process is as it was', async () => {
  const program = privateCopy(compileFixture('family'));
  const target = await spawnTarget(program, ['threads', '60', '20'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const output = text(target.stdout!);
  const keeper = await registerUprobe({
    pathname: program,
    symbol: 'child',
    processes: { tree: target.pid },
  });
  await target.resume();
  let ended = false;
  void target.exited.then(() => (ended = true));
  let hits = 0n;
  for (let i = 0; !ended; i++) {
    const probe = await registerUprobe({
      pathname: program,
      symbol: i % 2 === 0 ? 'work' : 'do_work',
      processes: { tree: target.pid },
      ...(i % 3 === 0 && { preHandler: () => undefined }),
    }).catch((e: unknown) => {
      assert.ok(e instanceof UprobeError && /^(no-such-process|is-a-zombie)$/.test(e.code), String(e));
    });
    if (probe === undefined) break;
    await probe.unregister();
    hits += probe.nhits;
  }
  const said = await output;
  assert.equal((await target.exited).code, 0);
  assert.match(said, /failures=0/);
  assert.equal(printed(said, 'processes'), 241n);
  assert.ok(hits > 0n);
  await until('the tree has ended', () => keeper.state === 'gone');
  assert.equal(keeper.nhits, 240n);
  await keeper.unregister();
});

test('a tree that is let go while it forks goes on unprobed', async () => {
  const program = privateCopy(compileFixture('family'));
  const target = await spawnTarget(program, ['threads', '60', '20'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const output = text(target.stdout!);
  const probe = await registerUprobe({
    pathname: program,
    symbol: 'work',
    processes: { tree: target.pid },
    preHandler: () => undefined,
  });
  await target.resume();
  await until('it is hit', () => probe.nhits > 500n);
  await probe.unregister();
  const hits = probe.nhits;
  assert.equal((await target.exited).code, 0);
  assert.match(await output, /failures=0/);
  assert.equal(probe.nhits, hits);
});

// ---- trees that exist already

/** A shell that is not Node's own child, with its children: `script` is run by bash, whose pid is the root's. */
async function startTree(
  t: TestContext,
  script: string,
  args: readonly string[],
  ready: number,
): Promise<RunningTree> {
  const shell = spawn(
    'sh',
    ['-c', 'bash -c "$@"; echo left', 'sh', `echo root $$; exec 3<&0; ${script}`, ...args],
    {
      stdio: ['pipe', 'pipe', 'inherit'],
    },
  );
  t.after(() => shell.stdin.end()); // at its end all of them end
  let output = '';
  shell.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const readies = (): number[] => [...output.matchAll(/ready (\d+)/g)].map((m) => Number(m[1]));
  await until('all are ready', () => readies().length === ready);
  return {
    shell,
    root: Number(/root (\d+)/.exec(output)?.[1]),
    pids: readies(),
    end: async () => {
      shell.stdin.end();
      await once(shell, 'close');
      return output;
    },
  };
}

interface RunningTree {
  readonly shell: ChildProcess;
  readonly root: number;
  readonly pids: readonly number[];
  end(): Promise<string>;
}

test('descendants that exist already are probed, at any depth, and those that come', async (t) => {
  const loop = privateCopy(compileFixture('loop'));
  const tree = await startTree(
    t,
    '"$0" slow <&3 & (sh -c \'"$0" slow <&3; "$0" slow 3 </dev/null\' "$0"; true) & wait',
    [loop],
    2,
  );
  const pids = new Map<number, number>();
  const probe = await registerUprobe({
    pathname: loop,
    symbol: 'tick',
    processes: { tree: tree.root },
    preHandler: ({ pid }) => void pids.set(pid, (pids.get(pid) ?? 0) + 1),
  });
  await until('both are hit', () => pids.size === 2);
  assert.deepEqual(new Set(pids.keys()), new Set(tree.pids));
  const output = await tree.end();
  await until('the tree has ended', () => probe.state === 'gone');
  assert.match(output, /left/);
  assert.equal([...output.matchAll(/wrong=0/g)].length, 3);
  const third = Number([...output.matchAll(/ready (\d+)/g)][2]?.[1]);
  assert.equal(pids.get(third), 3);
  await probe.unregister();
});

test('a descendant that another tool traces is reported as refused and left alone; the rest is probed', async (t) => {
  const loop = privateCopy(compileFixture('loop'));
  const tree = await startTree(t, '"$0" slow <&3 & "$0" slow <&3 & wait', [loop], 2);
  const [traced = 0, free = 0] = tree.pids;
  const strace = straceOf(traced, t);
  await until('strace has it', () => tracerOf(traced) === String(strace.pid));
  const states: ArmState[] = [];
  const probe = await registerUprobe({
    pathname: loop,
    symbol: 'tick',
    processes: { tree: tree.root },
    onState: (s) => void states.push(s),
  });
  const refused = states.filter((s) => s.state === 'refused');
  assert.deepEqual(refused.map((s) => [s.pid, s.refusal?.code]), [[traced, 'cannot-attach']]); // prettier-ignore
  assert.match(refused[0]!.refusal!.reason, new RegExp(`Process ${strace.pid} is already tracing it`));
  assert.deepEqual(probe.processes().find((s) => s.pid === traced)?.state, 'refused');
  await until('the other is hit', () => probe.nhits > 10n);
  assert.equal(tracerOf(traced), String(strace.pid), 'strace goes on');
  assert.equal(tracerOf(free), tracerOf(tree.root));
  const hits = probe.nhits;
  process.kill(free, 'SIGTERM');
  await until('it has ended', () => probe.processes().every((s) => s.pid !== free));
  assert.ok(probe.nhits >= hits);
  const output = await tree.end();
  assert.equal([...output.matchAll(/wrong=0/g)].length, 2);
  await until('nobody is left whom we probe', () => probe.state === 'gone');
  await probe.unregister();
});

function straceOf(pid: number, t: TestContext): ChildProcess {
  const strace = spawn('strace', ['-o', '/dev/null', '-p', String(pid)], { stdio: 'ignore' });
  t.after(() => strace.kill('SIGKILL'));
  return strace;
}

test('a root that another tool traces is an error, and nothing of the tree is touched', async (t) => {
  const loop = privateCopy(compileFixture('loop'));
  const tree = await startTree(t, '"$0" slow <&3 & wait', [loop], 1);
  const strace = straceOf(tree.root, t);
  await until('strace has it', () => tracerOf(tree.root) === String(strace.pid));
  await assert.rejects(
    registerUprobe({ pathname: loop, symbol: 'tick', processes: { tree: tree.root } }),
    (e) => e instanceof UprobeError && e.code === 'cannot-attach' && e.message.includes('already tracing it'),
  );
  assert.equal(tracerOf(tree.pids[0]!), '0');
  assert.equal(tracerOf(tree.root), String(strace.pid));
  assert.match(await tree.end(), /wrong=0/);
});

test('a process can be in eight trees: too-many-trees', async (t) => {
  // a chain of shells with a program at its end
  const loop = privateCopy(compileFixture('loop'));
  const nested =
    'echo shell $$; if [ "$1" -gt 0 ]; then bash -c "$2" "$0" $(($1 - 1)) "$2"; else "$0" slow <&3; fi; true';
  const tree = await startTree(t, 'bash -c "$2" "$0" 8 "$2"; true', [loop, '8', nested], 1);
  const chain: number[] = [tree.pids[0]!];
  for (let pid = tree.pids[0]!; pid !== tree.root;) chain.push((pid = parentOf(pid)));
  const roots = chain.slice(1, 10);
  assert.equal(roots.length, 9);
  const probes: Uprobe[] = [];
  const place = { pathname: loop, symbol: 'tick' };
  for (const root of roots.slice(0, 8))
    probes.push(await registerUprobe({ ...place, processes: { tree: root } }));
  const ninth = await registerUprobe({ ...place, processes: { tree: roots[8]! } });
  assert.deepEqual(
    ninth
      .processes()
      .filter((s) => s.state === 'refused')
      .map((s) => [s.pid, s.refusal?.code]),
    [
      [chain[1], 'too-many-trees'],
      [chain[0], 'too-many-trees'],
    ].sort((a, b) => Number(a[0]) - Number(b[0])),
  );
  await until('the eight count', () => probes.every((p) => p.nhits > 5n));
  await assert.rejects(registerUprobe({ ...place, processes: { tree: chain[0]! } }), {
    code: 'too-many-trees',
  });
  await probes.pop()!.unregister();
  await (await registerUprobe({ ...place, processes: { tree: chain[0]! } })).unregister();
  const output = await tree.end();
  assert.match(output, /wrong=0/);
  for (const probe of [ninth, ...probes]) await probe.unregister();
});

const parentOf = (pid: number): number =>
  Number(/^PPid:\t(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))![1]);
