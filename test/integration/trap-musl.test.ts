/** Programs of another C library: its dynamic linker is another, and a static program has none. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { registerUprobes, spawnTarget } from 'uprobe';
import { compileFixture, privateCopy, whyNoMusl } from '../helpers/compile.js';

const COUNTED = ['add', 'fact', 'many', 'text', 'small'];

for (const flags of [[], ['-static']])
  test(
    `a program of musl (${flags.join(' ') || 'dynamic'}) is counted right`,
    { skip: whyNoMusl() },
    async () => {
      const program = privateCopy(
        compileFixture('calls', { compiler: 'musl-gcc', flags: ['-O1', ...flags] }),
      );
      const plain = spawnSync(program, ['20'], { encoding: 'utf8' });
      const target = await spawnTarget(program, ['20']);
      try {
        const own = COUNTED.map((symbol) => ({ pathname: program, symbol, processes: target }));
        const libc = { pathname: flags.length === 0 ? 'libc' : program, symbol: 'printf', processes: target };
        const group = await registerUprobes([...own, { ...libc, preHandler: () => undefined }]);
        const output = text(target.stdout!);
        await target.resume();
        assert.equal((await target.exited).code, 0);
        assert.equal(await output, plain.stdout);
        await group.unregister();
        const numbers = COUNTED.map((name) => new RegExp(`\\b${name}=(\\d+)`).exec(plain.stdout)![1]!);
        assert.deepEqual(
          [...group].map((u) => u.nhits),
          [...numbers.map(BigInt), 2n],
        );
      } finally {
        await target[Symbol.asyncDispose]();
      }
    },
  );
