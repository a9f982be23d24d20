import assert from 'node:assert/strict';
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { statusField } from '#uprobe/linux/proc-status.js';
import { compileFixture, privateCopy, repositoryRoot } from '../helpers/compile.js';
import { fewer, linksOf, onEvents, whyNoKernelEngine } from '../helpers/kernel.js';
import { changedTexts } from '../helpers/outlive.js';
import { Random } from '../helpers/random.js';
import { until } from '../helpers/running.js';

const HOLDER = join(repositoryRoot, 'build', 'test', 'helpers', 'kernel-holder.js');
const ROUNDS = Number(process.env['UPROBE_OUTLIVE_ROUNDS'] ?? fewer(2, 1));
const random = new Random(Number(process.env['UPROBE_OUTLIVE_SEED'] ?? 1));

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** The keepers that a process has: its children, as long as it lives. Other tests may have some, too. */
const keepersOf = (pid: number): number[] =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((child) => isKeeper(child) && statusField(child, 'PPid') === String(pid));

function isKeeper(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'latin1') === 'uprobe-keeper\n';
  } catch {
    return false;
  }
}

/** The kernel's complaints about breakpoints that it could not take out. */
const leaks = (): number =>
  (spawnSync('dmesg', { encoding: 'utf8' }).stdout.match(/leaking uprobe/g) ?? []).length;

void describe('a program that holds uprobes of the kernel', { skip: whyNoKernelEngine() }, () => {
  const hammer = privateCopy(compileFixture('hammer'));
  // Of tens of thousands of events each would take its time to go.
  const large = onEvents ? hammer : privateCopy(process.execPath);
  const targets: ChildProcess[] = [];
  before(async () => {
    targets.push(spawn(hammer, [], { stdio: ['pipe', 'pipe', 'inherit'] }));
    const busy = 'console.log(1); setInterval(() => JSON.stringify({ a: [1, 2, Math.random()] }), 1)';
    targets.push(spawn(large, ['-e', busy], { stdio: ['pipe', 'pipe', 'inherit'] }));
    await Promise.all(targets.map((t) => once(t.stdout!, 'data')));
  });
  after(async () => {
    targets[0]!.stdin!.end();
    const [code] = (await once(targets[0]!, 'exit')) as [number];
    targets[1]!.kill('SIGKILL');
    assert.equal(code, 0, 'its results were right all the time');
  });

  const round = async (way: 'churn' | 'many', end: 'itself' | 'group', delay: number): Promise<void> => {
    const leaked = leaks();
    const child = spawn(process.execPath, [HOLDER, way === 'many' ? large : hammer, way], {
      stdio: ['ignore', 'pipe', 'inherit'],
      detached: true,
    });
    await Promise.race([once(child.stdout, 'data'), once(child, 'exit')]);
    assert.equal(child.exitCode, null);
    const held = keepersOf(child.pid!);
    assert.ok(held.length > 0, 'it has a keeper');
    await pause(delay);
    process.kill(end === 'group' ? -child.pid! : child.pid!, 'SIGKILL');
    await once(child, 'close');
    await until('its keeper has ended', () => !held.some(isKeeper));
    const target = targets[way === 'many' ? 1 : 0]!.pid!;
    // What it was closing itself when it was killed goes on being closed, and has its breakpoint until its turn comes.
    if (onEvents) await until('all breakpoints are out', () => changedTexts(target).length === 0);
    assert.deepEqual(changedTexts(target), []);
    assert.equal(leaks(), leaked);
    for (const one of targets) assert.equal(one.exitCode, null);
  };

  void it(
    'leaves nothing behind when it is killed while links come and go',
    { timeout: 60_000 },
    async () => {
      for (let i = 0; i < ROUNDS; i++)
        await round('churn', i % 2 === 0 ? 'itself' : 'group', random.below(120));
    },
  );

  void it(
    `leaves nothing behind when it is killed while it makes ${onEvents ? 'events of many' : 'a link of tens of thousands of'} places`,
    { timeout: 120_000 },
    async () => {
      for (let i = 0; i < Math.ceil(ROUNDS / 3); i++)
        await round('many', 'group', random.below(fewer(2500, 100)));
    },
  );

  const same = onEvents && 'it is the same keeper';
  void it('has another keeper when that one is killed', { timeout: 60_000, skip: same }, async () => {
    const child = spawn(process.execPath, [HOLDER, hammer, 'hold'], { stdio: ['ignore', 'pipe', 'inherit'] });
    await once(child.stdout, 'data');
    const [first] = keepersOf(child.pid!);
    process.kill(first!, 'SIGKILL');
    let others: number[] = [];
    await until('there is another', () => {
      others = keepersOf(child.pid!).filter((pid) => pid !== first);
      return others.length > 0;
    });
    child.kill('SIGKILL');
    await once(child, 'close');
    await until('it has ended', () => !others.some(isKeeper));
    assert.deepEqual(changedTexts(targets[0]!.pid!), []);
    assert.equal(linksOf(), 0);
  });
});
