/** Programs of Go: many threads, stacks that move, and a runtime that sends itself signals to preempt (SIGURG). */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { registerUprobes, spawnTarget } from 'uprobe';
import { repositoryRoot, temporaryDirectory } from '../helpers/compile.js';

function whyNoGo(): string | false {
  const { error } = spawnSync('go', ['version'], { stdio: 'ignore' });
  return error !== undefined && 'go is not installed (on Debian: golang-go)';
}

function buildGo(name: string): string {
  const directory = temporaryDirectory();
  const program = join(directory, name);
  const source = join(repositoryRoot, 'test', 'fixtures', `${name}.go`);
  const env = {
    ...process.env,
    GOCACHE: join(repositoryRoot, 'build', 'go'),
    GO111MODULE: 'off',
    GOFLAGS: '',
  };
  const { status, stderr } = spawnSync('go', ['build', '-o', program, source], { encoding: 'utf8', env });
  assert.equal(status, 0, stderr);
  return program;
}

test(
  'goroutines, the collector and the scheduler of Go are counted, and compute the same',
  { skip: whyNoGo() },
  async () => {
    const program = buildGo('goroutines');
    const symbols = [
      'main.work',
      'runtime.mallocgc',
      'runtime.newproc',
      'runtime.gcStart',
      'runtime.schedule',
    ];
    const target = await spawnTarget(program, ['8', '500'], { stdio: ['ignore', 'pipe', 'inherit'] });
    try {
      const places = symbols.map((symbol) => ({ pathname: program, symbol, processes: target }));
      const counted = await registerUprobes(places);
      const handled = await registerUprobes(
        places.map((place) => ({ ...place, preHandler: () => undefined })),
      );
      const after = await registerUprobes([{ ...places[0]!, postHandler: () => undefined }]);
      const output = text(target.stdout!);
      await target.resume();
      assert.equal((await target.exited).code, 0);
      assert.equal(await output, 'work=4000 wrong=0 collected=true\n');
      const hits = [...counted].map((u) => u.nhits);
      assert.deepEqual([...handled].map((u) => u.nhits + u.nmissed), hits); // prettier-ignore
      assert.equal(hits[0], 4000n);
      assert.equal(after.at(0)!.nhits, 4000n);
      assert.ok(hits[1]! >= 4000n, `mallocgc ${hits[1]}`);
      assert.ok(hits[2]! >= 16n && hits[3]! >= 1n && hits[4]! >= 16n, hits.join());
      for (const group of [after, handled, counted]) await group.unregister();
    } finally {
      await target[Symbol.asyncDispose]();
    }
  },
);
