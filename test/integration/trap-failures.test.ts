/** The engine itself: what it says when it is asked for what it cannot do, or cannot go on. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { Worker } from 'node:worker_threads';
import { after, describe, test } from 'node:test';
import { asOffset } from '#uprobe/base/address.js';
import { UprobeError } from '#uprobe/base/errors.js';
import { x64 } from '#uprobe/arch/x64/x64.js';
import { ElfImage } from '#uprobe/elf/image.js';
import type { Consumer, EngineSink, SiteFacts } from '#uprobe/engines/engine.js';
import { createTrapEngine, type TrapEngine } from '#uprobe/engines/trap/trap-engine.js';
import { COUNTERS } from '#uprobe/engines/trap/mailbox.js';
import { OpenedFile } from '#uprobe/process/opened-file.js';

const program = '/bin/sleep';

function newEngine(failed: (e: Error) => void = assert.fail): TrapEngine {
  const nothing = (): void => undefined;
  const sink: EngineSink = {
    hit: () => ({ skip: false, changed: false }),
    missed: nothing,
    abandoned: nothing,
    state: nothing,
    ended: nothing,
    born: nothing,
    treeEnded: nothing,
    failed,
  };
  return createTrapEngine(sink);
}

const start = (engine: TrapEngine): ReturnType<TrapEngine['spawn']> =>
  engine.spawn({ file: program, argv: ['sleep', '60'], env: [], cwd: undefined, fds: [0, 1, 2] });

function consumer(id: number, pid: number): Consumer {
  return {
    id,
    processes: [pid],
    pre: false,
    post: false,
    fault: false,
    return: false,
    deadline: 1000,
  };
}

/** The program's first instruction, as if it were a nop. */
function site(): SiteFacts {
  const file = OpenedFile.open(program);
  const image = ElfImage.parse(file, program);
  const offset = asOffset(image.addressToOffset(image.entry)!);
  const { dev, ino } = file;
  file.close();
  const instruction = x64.decode(Uint8Array.of(0x90), image.entry)!;
  const displaced = x64.displace(instruction);
  assert.ok(displaced.ok);
  const module = { id: 1, dev, ino, path: program, fd: -1 };
  return { id: 1, module, offset, instruction, template: displaced.template };
}

const named =
  (code: string) =>
  (e: unknown): boolean =>
    e instanceof UprobeError && e.code === code;

void describe('an engine', () => {
  // Engines keep nobody alive who waits for them alone.
  const alive = setInterval(() => undefined, 1000);
  after(() => clearInterval(alive));

  void test('that was closed does nothing any more: engine-closed', async () => {
    const engine = newEngine();
    await engine.close();
    await assert.rejects(start(engine), named('engine-closed'));
    await assert.rejects(engine.apply([]), named('engine-closed'));
  });

  void test('whose thread ends says so to whoever waits, and to the table: tracer-ended', async () => {
    const created = once(process, 'worker') as Promise<[Worker]>;
    const failures: Error[] = [];
    const engine = newEngine((e) => failures.push(e));
    const asked = assert.rejects(start(engine), named('tracer-ended'));
    const [worker] = await created;
    await worker.terminate();
    await asked;
    assert.ok(failures.length === 1 && named('tracer-ended')(failures[0]));
  });

  void test('counts for so many uprobes and no more: too-many-uprobes', async () => {
    const engine = newEngine();
    const consumers = Array.from({ length: COUNTERS + 1 }, (_, id) => consumer(id, 5));
    await assert.rejects(engine.apply([{ site: site(), consumers }]), named('too-many-uprobes'));
    await engine.close();
  });

  void test('says where an error that nobody foresaw comes from: internal-error', async () => {
    const engine = newEngine();
    const target = await start(engine);
    // What `canArm` is there to prevent: a site whose instruction cannot run out of line.
    const broken = { ...site(), template: undefined } as unknown as SiteFacts;
    await assert.rejects(
      engine.apply([{ site: broken, consumers: [consumer(1, target.pid)] }]),
      (e) => named('internal-error')(e) && /arming/.test((e as Error).stack ?? ''),
    );
    target.kill(9);
    await target.exited;
    await engine.close();
  });
});
