import assert from 'node:assert/strict';
import { test } from 'node:test';
import { registerUprobe, spawnTarget } from 'uprobe';
import { compileFixture, privateCopy, whyNoMusl } from '../helpers/compile.js';
import { readFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { startProgram } from '../helpers/running.js';

const program = privateCopy(compileFixture('sigtrap'));

/** What the program itself finds wrong. It calls the probed function at least once for each of these. */
const ROUNDS = 9;
const probes = {
  'no handlers': {},
  'a pre handler': { preHandler: () => undefined },
  'a post handler': { postHandler: () => undefined },
};
const programs = [
  ['handle'],
  ['handle', 'raise'],
  ['ignore'],
  ['ignore', 'raise'],
  ['block'],
  ['block', 'raise'],
  ['masked'],
  ['default', 'raise'],
];
const disposition = (pid: number): string[] =>
  readFileSync(`/proc/${pid}/status`, 'latin1').match(/^Sig(Blk|Ign|Cgt):.*$/gm) ?? [];

for (const args of programs) {
  for (const [title, handlers] of Object.entries(probes)) {
    test(`a program that runs sees of SIGTRAP what it has set up (${args.join(' ')}, ${title})`, async () => {
      const running = await startProgram(program, args);
      const { pid } = running;
      const uprobe = await registerUprobe({
        pathname: program,
        symbol: 'probed',
        processes: pid,
        ...handlers,
      });
      await running.feed(ROUNDS);
      while (uprobe.nhits < ROUNDS) await new Promise((resolve) => setTimeout(resolve, 10));
      await uprobe.unregister();
      assert.equal(uprobe.nmissed, 0n);
      const output = await running.finish();
      assert.equal(output, 'right status 0');
    });
  }
  test(`a program that is started sees of SIGTRAP what it has set up (${args.join(' ')})`, async () => {
    const target = await spawnTarget(program, args);
    const uprobe = await registerUprobe({
      pathname: program,
      symbol: 'probed',
      processes: target,
      preHandler: () => undefined,
    });
    const output = text(target.stdout!);
    await target.resume();
    target.stdin!.end('x'.repeat(ROUNDS));
    assert.deepEqual(await target.exited, { code: 0, signal: null });
    assert.equal(await output, 'ready\nright\n');
    assert.ok(uprobe.nhits >= ROUNDS);
  });
}

test(
  'a program with a C library whose calls have no such stubs has its own handler all the same',
  { skip: whyNoMusl() },
  async () => {
    const other = privateCopy(compileFixture('sigtrap', { compiler: 'musl-gcc', flags: ['-static'] }));
    for (const way of ['late', 'ignore']) {
      const target = await spawnTarget(other, [way, 'raise']);
      const uprobe = await registerUprobe({ pathname: other, symbol: 'probed', processes: target });
      const output = text(target.stdout!);
      await target.resume();
      target.stdin!.end('x'.repeat(ROUNDS));
      assert.deepEqual(await target.exited, { code: 0, signal: null });
      assert.equal(await output, 'ready\nright\n');
      assert.ok(uprobe.nhits >= ROUNDS);
    }
  },
);

test('a program whose action for SIGTRAP is looked at from outside has its own again afterwards', async () => {
  for (const args of [['handle'], ['ignore'], ['block'], ['default']]) {
    const running = await startProgram(program, args);
    const before = disposition(running.pid);
    const uprobe = await registerUprobe({ pathname: program, symbol: 'probed', processes: running.pid });
    await running.feed(ROUNDS);
    await uprobe.unregister();
    assert.deepEqual(disposition(running.pid), before);
    await running.finish();
  }
});
