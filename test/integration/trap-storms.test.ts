import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { openModule, registerUprobe, registerUprobes, spawnTarget } from 'uprobe';
import { compileFixture, privateCopy, privateCopies } from '../helpers/compile.js';
import { until } from '../helpers/running.js';
import { Shared } from '../soak/shared.js';

const STORMS = 60;
const KILLED = 25;

test('steps that end while their uprobes are taken out harm nobody', { timeout: 60_000 }, async () => {
  const program = privateCopy(compileFixture('threads'));
  const target = await spawnTarget(program, ['3', '1000000000000', '0'], { stdio: 'ignore' });
  after(() => target.kill('SIGKILL'));
  const view = openModule(program);
  const work = [...view.matching('work')].flatMap((fn) => [...view.instructions(fn)]);
  view.close();
  await target.resume();
  let ended: unknown;
  void target.exited.then((status) => (ended = status));
  let calls = 0;
  const places = work.map(({ offset }) => ({
    pathname: program,
    offset,
    processes: target,
    postHandler: () => void calls++,
  }));
  for (let i = 0; i < STORMS && ended === undefined; i++)
    try {
      const group = await registerUprobes(places);
      await new Promise((resolve) => setTimeout(resolve, i % 4));
      await group.unregister();
    } catch (e) {
      assert.equal((e as { code: string }).code, 'no-such-process', String(e));
      await target.exited; // which is told below
    }
  assert.equal(ended, undefined, JSON.stringify(ended));
  assert.ok(calls > STORMS);
  target.kill('SIGKILL');
  await target.exited;
});

test('threads that hit while they were to be stopped can be stopped again', { timeout: 60_000 }, async () => {
  const [program = '', library = ''] = privateCopies(
    compileFixture('soak'),
    compileFixture('soak-library', { flags: ['-shared'] }),
  );
  const shared = new Shared();
  const target = await spawnTarget(program, [shared.path, library, '4', '1', '5'], { stdio: 'ignore' });
  after(() => target.kill('SIGKILL'));
  const at = (symbol: string) => ({ pathname: program, symbol, processes: target });
  const lasting = await registerUprobes(['soak_pre', 'soak_counted', 'soak_post'].map(at));
  shared.set('go', 1);
  await target.resume();
  for (let i = 0; i < 8; i++) {
    for (let j = 0; j < 5; j++) await (await registerUprobe(at('soak_storm'))).unregister();
    shared.set('paused', 1);
    await until('it stands still', () => shared.state('parked') === shared.state('alive'));
    const begin = performance.now();
    await (await registerUprobe(at('soak_storm'))).unregister();
    assert.ok(performance.now() - begin < 2500, 'it can be stopped where it sleeps');
    shared.set('paused', 0);
  }
  shared.set('stop', 1);
  assert.deepEqual(await target.exited, { code: 5, signal: null });
  await lasting.unregister();
  shared.close();
});

test('targets that are killed while they are changed take nobody along', { timeout: 120_000 }, async () => {
  const warnings: string[] = [];
  const onWarning = (w: Error): void => void warnings.push(w.message);
  process.on('warning', onWarning);
  for (let round = 0; round < KILLED; round++) await killedInStorm(round);
  process.off('warning', onWarning);
  assert.deepEqual(warnings, []);
});

/** Uprobes come and go until the target has ended. */
async function killedInStorm(round: number): Promise<void> {
  const [program = '', library = ''] = privateCopies(
    compileFixture('soak'),
    compileFixture('soak-library', { flags: ['-shared'] }),
  );
  const shared = new Shared();
  const target = await spawnTarget(program, [shared.path, library, '4', String(round), '5'], {
    stdio: 'ignore',
  });
  const spec = { pathname: program, symbol: 'soak_storm', processes: target };
  const lasting = await registerUprobe({ ...spec, symbol: 'soak_pre', preHandler: () => undefined });
  shared.set('go', 1);
  await target.resume();
  let hasEnded = false;
  void target.exited.then(() => (hasEnded = true));
  setTimeout(() => target.kill('SIGKILL'), 20 + ((round * 37) % 150));
  while (!hasEnded) {
    try {
      await (await registerUprobe({ ...spec, postHandler: () => undefined })).unregister();
    } catch {
      await target.exited; // the only reason there is
    }
  }
  assert.deepEqual(await target.exited, { code: null, signal: 'SIGKILL' });
  await lasting.unregister();
  shared.close();
}
