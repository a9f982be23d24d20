import assert from 'node:assert/strict';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { registerUprobe, spawnTarget } from 'uprobe';
import { compileFixture, privateCopies } from '../helpers/compile.js';

test('a library that is loaded while signals arrive is armed each time', { timeout: 60_000 }, async () => {
  const [program = '', library = ''] = privateCopies(
    compileFixture('reloads'),
    compileFixture('soak-library', { flags: ['-shared'] }),
  );
  const target = await spawnTarget(program, [library], { stdio: ['ignore', 'pipe', 'inherit'] });
  const uprobe = await registerUprobe({ pathname: library, symbol: 'soak_loaded', processes: target });
  const output = text(target.stdout!);
  await target.resume();
  const { code, signal } = await target.exited;
  await uprobe.unregister();
  assert.deepEqual({ code, signal, output: await output }, { code: 0, signal: null, output: 'calls=200\n' });
  assert.equal(uprobe.nhits, 200n);
});
