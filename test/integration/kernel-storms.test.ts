import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { describe, it } from 'node:test';
import { counter, registerUprobe, registerUprobes, type UprobeGroup } from 'uprobe';
import { compileFixture, privateCopy } from '../helpers/compile.js';
import { fewer, linksOf, whyNoKernelEngine } from '../helpers/kernel.js';
import { changedTexts } from '../helpers/outlive.js';
import { until } from '../helpers/running.js';
import { handlerOf } from '#uprobe/handler/interpret.js';

const NAMES = ['chosen', 'salted', 'expected', 'main'];

/** The hammer's threads, stopped and going at will. */
async function hammer(program: string) {
  const child = spawn(program, [], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  assert.equal((await lines.next()).value, 'ready');
  return {
    pid: child.pid!,
    end: async (): Promise<number> => {
      child.stdin.end();
      const said = String((await lines.next()).value);
      await once(child, 'close');
      assert.match(said, /^0 wrong of \d+$/);
      return Number(/\d+$/.exec(said)![0]);
    },
  };
}

const fds = (): number => readdirSync('/proc/self/fd').length;
const memory = (): number => Number(/VmRSS:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'latin1'))![1]);

void describe('uprobes of the kernel that come and go', { skip: whyNoKernelEngine() }, () => {
  void it('change no count of those that stay, although they were registered together', async () => {
    const program = privateCopy(compileFixture('hammer'));
    const count = counter();
    const handler = handlerOf({
      moment: 'pre',
      locals: [],
      aggregates: [count],
      body: [
        {
          at: { start: 0, end: 1 },
          do: 'add',
          aggregate: 0,
          key: [],
          value: { op: 'int', type: 'i64', value: 1n },
        },
      ],
      absent: 'skip',
      text: ' ',
    });
    const witness = await registerUprobe({ pathname: program, symbol: 'salted' });
    const group = await registerUprobes([
      { pathname: program, symbol: 'salted', preHandler: handler },
      ...['mix', 'chosen', 'expected', 'main'].map((symbol) => ({
        pathname: program,
        symbol,
        preHandler: handler,
      })),
    ]);
    const alone = await registerUprobe({ pathname: program, symbol: 'mix' });
    const running = await hammer(program);
    const [salted, ...others] = group;
    for (const other of others) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      await other.unregister();
    }
    await until('it was hit once more', () => salted!.nhits > 1000n);
    await running.end();
    assert.equal(salted!.nhits, witness.nhits);
    assert.equal(
      count.value,
      [...group].reduce((sum, u) => sum + u.nhits, 0n),
    );
    await Promise.all([group.unregister(), witness.unregister(), alone.unregister()]);
  });

  void it('leave nothing behind, and a lasting one exact', { timeout: 120_000 }, async () => {
    const program = privateCopy(compileFixture('hammer'));
    const [one, two] = [
      await registerUprobe({ pathname: program, symbol: 'mix' }),
      await registerUprobe({ pathname: program, symbol: 'mix' }),
    ];
    const links = linksOf();
    const running = await hammer(program);
    const storm = async (rounds: number): Promise<void> => {
      for (let i = 0; i < rounds; i++) {
        const group: UprobeGroup = await registerUprobes(
          NAMES.map((symbol) => ({ pathname: program, symbol })),
        );
        if (i % 3 === 0) await [...group][0]!.unregister();
        await group.unregister();
      }
    };
    const [first, rest] = [fewer(6, 2), fewer(30, 3)];
    await Promise.all([storm(first), storm(first)]);
    const [descriptors, kilobytes] = [fds(), memory()];
    await Promise.all([storm(rest), storm(rest)]);
    assert.equal(fds(), descriptors);
    assert.ok(memory() - kilobytes < 30_000, `${memory() - kilobytes} KiB more`);
    assert.equal(linksOf(), links);
    await running.end();
    assert.ok(one.nhits > 1000n);
    assert.equal(one.nhits, two.nhits);
    await Promise.all([one.unregister(), two.unregister()]);
  });

  void it('leave the text of what runs as it was', async () => {
    const program = privateCopy(compileFixture('hammer'));
    const running = await hammer(program);
    const group = await registerUprobes(NAMES.map((symbol) => ({ pathname: program, symbol })));
    assert.deepEqual(changedTexts(running.pid), [program]);
    await [...group][0]!.unregister();
    await group.unregister();
    assert.deepEqual(changedTexts(running.pid), []);
    await running.end();
  });
});
