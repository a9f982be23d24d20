import assert from 'node:assert/strict';
import { test } from 'node:test';
import { openModule, registerUprobes, spawnTarget } from 'uprobe';
import { compileFixture, privateCopy } from '../helpers/compile.js';

const STORMS = 60;

test('steps that end while their uprobes are taken out harm nobody', { timeout: 60_000 }, async () => {
  const program = privateCopy(compileFixture('threads'));
  const target = await spawnTarget(program, ['3', '1000000000000', '0'], { stdio: 'ignore' });
  const view = openModule(program);
  const work = [...view.matching('work')].flatMap((fn) => [...view.instructions(fn)]);
  view.close();
  await target.resume();
  let ended: unknown;
  void target.exited.then((status) => (ended = status));
  let after = 0;
  for (let i = 0; i < STORMS && ended === undefined; i++) {
    const group = await registerUprobes(
      work.map(({ offset }) => ({
        pathname: program,
        offset,
        processes: target,
        postHandler: () => void after++,
      })),
    );
    await new Promise((resolve) => setTimeout(resolve, i % 4));
    await group.unregister();
  }
  assert.equal(ended, undefined, JSON.stringify(ended));
  assert.ok(after > STORMS);
  target.kill('SIGKILL');
  await target.exited;
});
