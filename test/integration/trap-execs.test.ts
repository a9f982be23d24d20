import assert from 'node:assert/strict';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { registerUprobe, spawnTarget } from 'uprobe';
import { compileFixture, privateCopy } from '../helpers/compile.js';

const IMAGES = 150;

for (const kind of ['self', 'thread']) {
  test(`uprobes come and go while their program executes itself (${kind})`, { timeout: 60_000 }, async () => {
    const warnings: string[] = [];
    const onWarning = (w: Error): void => void warnings.push(w.message);
    process.on('warning', onWarning);
    const program = privateCopy(compileFixture('execer'));
    const target = await spawnTarget(program, [kind, String(IMAGES - 1)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const spec = { pathname: program, symbol: 'work', processes: target };
    const lasting = await registerUprobe(spec);
    const output = text(target.stdout!);
    let hasEnded = false;
    const exited = target.exited.then((status) => {
      hasEnded = true;
      return status;
    });
    await target.resume();
    let comings = 0;
    const refused: unknown[] = [];
    for (; !hasEnded; comings++) {
      try {
        await (await registerUprobe({ ...spec, symbol: 'main' })).unregister();
      } catch (e) {
        refused.push(e);
        await exited; // only its end is a reason
      }
    }
    assert.deepEqual(await exited, { code: 0, signal: null });
    assert.equal(await output, `${kind} work=10\n`.repeat(IMAGES));
    // with a thread the first one goes on calling it until the other's exec ends it
    assert.ok(kind === 'self' ? lasting.nhits === BigInt(10 * IMAGES) : lasting.nhits >= 10 * IMAGES);
    await lasting.unregister();
    process.off('warning', onWarning);
    assert.deepEqual(warnings, []);
    assert.ok(refused.length <= 1 && comings > 2, `${comings}: ${String(refused)}`);
  });
}
