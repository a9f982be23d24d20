import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, closeSync, openSync, renameSync, statSync } from 'node:fs';
import { describe, it } from 'node:test';
import type { FileError } from '#uprobe/base/errors.js';
import { takeReadLease } from '#uprobe/linux/lease.js';
import type { HandlerError, UprobeSpec } from '#uprobe/probe/types.js';
import { compileFixture, privateCopy } from './helpers/compile.js';
import { fakeSystem } from './helpers/fake-engine.js';
import { victim } from './helpers/victim.js';

const pid = victim();
const original = compileFixture('calls', { flags: ['-O1'] });
const spec = (pathname: string, fields: object = {}): UprobeSpec => ({
  pathname,
  symbol: 'add',
  processes: pid,
  ...fields,
});

/** Another process writes one byte: ours would wait for itself. */
async function append(path: string): Promise<void> {
  const [status] = (await once(spawn('sh', ['-c', `printf x >> '${path}'`]), 'exit')) as [number];
  assert.equal(status, 0);
}
const until = async (condition: () => boolean): Promise<void> => {
  for (let i = 0; i < 250 && !condition(); i++) await new Promise((r) => setTimeout(r, 20));
  assert.ok(condition(), 'it did not happen within five seconds');
};
const leases = (() => {
  const fd = openSync(privateCopy(original), 'r');
  const lease = takeReadLease(fd, () => undefined);
  if (typeof lease !== 'string') lease.release();
  closeSync(fd);
  return typeof lease !== 'string';
})();

void describe('a file that is changed while it is probed', () => {
  void it(
    'is disarmed before the writer may write, and the user is told',
    { skip: !leases && 'no leases on this filesystem' },
    async () => {
      const { engine, table, registerAll } = fakeSystem();
      const path = privateCopy(original);
      const errors: HandlerError[] = [];
      let whenTold: readonly [size: number, armed: number] | undefined;
      const onError = (e: HandlerError): void => {
        errors.push(e);
        whenTold ??= [statSync(path).size, engine.armed.size];
      };
      const group = await registerAll([spec(path, { onError }), spec(path, { symbol: 'fact', onError })]);
      const size = statSync(path).size;
      const [first] = group;
      const writing = append(path);
      await until(() => errors.length > 0);
      await writing;
      assert.deepEqual(whenTold, [size, 0]);
      assert.equal(statSync(path).size, size + 1);
      assert.equal(engine.armed.size, 0);
      assert.equal(first!.state, 'gone');
      assert.equal(first!.processes()[0]?.refusal?.code, 'file-changed');
      assert.deepEqual(errors.map((e) => [e.kind, (e.error as FileError).code]), [['uprobe', 'file-changed'], ['uprobe', 'file-changed']]); // prettier-ignore
      assert.match(String(errors[0]!.error), new RegExp(path));
      await until(() => table.modules().length === 0);
    },
  );

  void it('is noticed also where somebody has it open for writing, so that there is no lease', async () => {
    const { engine, registerOne } = fakeSystem();
    const path = privateCopy(original);
    const writer = openSync(path, 'r+');
    try {
      const errors: HandlerError[] = [];
      const uprobe = await registerOne(spec(path, { onError: (e: HandlerError) => errors.push(e) }));
      await append(path);
      await until(() => errors.length > 0);
      assert.equal((errors[0]!.error as FileError).code, 'file-changed');
      await uprobe.unregister();
      assert.equal(engine.armed.size, 0);
    } finally {
      closeSync(writer);
    }
  });

  void it('can be probed again afterwards', async () => {
    const { registerOne } = fakeSystem();
    const path = privateCopy(original);
    const first = await registerOne(spec(path, { onError: () => undefined }));
    await append(path);
    await until(() => first.state === 'gone');
    await first.unregister();
    await new Promise(setImmediate);
    const second = await registerOne(spec(path));
    assert.equal(second.state, 'armed');
    await second.unregister();
  });

  void it('may be renamed, chmodded and deleted: that changes no text', async () => {
    const { registerOne } = fakeSystem();
    const path = privateCopy(original);
    const uprobe = await registerOne(spec(path));
    chmodSync(path, 0o700);
    renameSync(path, `${path}.moved`);
    await new Promise((r) => setTimeout(r, 100));
    const second = await registerOne(spec(`${path}.moved`));
    assert.equal(second.module, uprobe.module);
    execFileSync('rm', [`${path}.moved`]);
    await new Promise((r) => setTimeout(r, 100));
    assert.equal(uprobe.state, 'armed');
    await Promise.all([uprobe.unregister(), second.unregister()]);
  });

  void it('keeps nobody waiting once the last uprobe is gone', async () => {
    const { registerOne } = fakeSystem();
    const path = privateCopy(original);
    await (await registerOne(spec(path))).unregister();
    const start = performance.now();
    closeSync(openSync(path, 'r+'));
    assert.ok(performance.now() - start < 1000);
    assert.equal(process.listenerCount('SIGURG'), 0);
  });
});
