import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, it } from 'node:test';
import { mapRegion } from '#uprobe/linux/memory.js';
import { PerfRingReader } from '#uprobe/linux/perf-ring.js';
import {
  RECORD,
  cpuOf,
  idOf,
  pidOf,
  readRecords,
  relatives,
  renamed,
  restOf,
  tidOf,
  timeOf,
  type PerfRecord,
} from '#uprobe/linux/perf-records.js';

import { AS_NOBODY, whyNotAsNobody } from './helpers/nobody.js';

const PAGE = 4096;

/** As include/uapi/linux/perf_event.h has them. */
function record(type: number, body: readonly (number | bigint | Uint8Array)[]): Uint8Array {
  const parts = body.map((part) =>
    part instanceof Uint8Array
      ? part
      : typeof part === 'bigint'
        ? new Uint8Array(BigUint64Array.of(part).buffer)
        : new Uint8Array(Uint32Array.of(part).buffer),
  );
  const size = 8 + parts.reduce((sum, p) => sum + p.length, 0);
  const header = new Uint8Array(8);
  new DataView(header.buffer).setUint32(0, type, true);
  new DataView(header.buffer).setUint16(6, size, true);
  return Buffer.concat([header, ...parts]);
}
const trailer = (time: bigint) => [11, 12, time, 1, 0, 77n];
const read = (...chunks: readonly Uint8Array[]): PerfRecord[] => {
  const records: PerfRecord[] = [];
  for (const chunk of chunks) readRecords(chunk, records);
  return records;
};

void describe('records of perf events', () => {
  void it('are samples with registers and more, or without', () => {
    const base = [77n, 11, 12, 5_000_000_000_123n, 3, 0];
    const [one, two, three] = read(
      Buffer.concat([
        record(RECORD.sample, [...base, 2n, 0xffff_ffff_ffff_fff0n, 6n, 9n]),
        record(RECORD.sample, base),
      ]),
      record(RECORD.sample, [...base, 0n]),
    );
    assert.deepEqual(
      [idOf(one!), pidOf(one!), tidOf(one!), timeOf(one!), cpuOf(one!), one!.time],
      [77, 11, 12, 5_000_000_000_123n, 3, 5_000_000_000_123],
    );
    const layout = { registers: 2, stackBytes: 0, cgroup: true };
    const { registers, stack, cgroup } = restOf(one!, layout)!;
    assert.deepEqual([[...registers], [...stack], cgroup], [[0xffff_ffff_ffff_fff0n, 6n], [], 9n]);
    assert.equal(restOf(two!, { registers: 0, stackBytes: 0, cgroup: false })!.registers.length, 0);
    assert.equal(restOf(three!, layout), undefined, 'of a thread without registers');
    assert.equal(restOf(one!, { ...layout, registers: 4 }), undefined, 'there are fewer');
  });

  void it('are samples with a part of the stack, as far as it could be read', () => {
    const base = [77n, 11, 12, 5n, 3, 0, 2n, 100n];
    const layout = { registers: 1, stackBytes: 24, cgroup: true };
    const read1 = (...body: bigint[]): unknown => {
      const [one] = read(record(RECORD.sample, [...base, ...body]));
      const rest = restOf(one!, layout);
      return rest && [[...rest.registers], [...rest.stack], rest.cgroup];
    };
    assert.deepEqual(read1(24n, 7n, 8n, 9n, 24n, 55n), [[100n], [7n, 8n, 9n], 55n]);
    assert.deepEqual(read1(24n, 7n, 0n, 0n, 8n, 55n), [[100n], [7n], 55n]);
    assert.deepEqual(read1(0n, 55n), [[100n], [], 55n]);
    assert.equal(read1(24n, 7n), undefined);
  });

  void it('are what happens to threads, with a time at their end', () => {
    const name = new Uint8Array(16);
    name.set(Buffer.from('worker'));
    const [comm, fork, lost] = read(
      record(RECORD.comm, [20, 21, name, ...trailer(7n)]),
      record(RECORD.fork, [30, 20, 31, 21, 8n, ...trailer(8n)]),
      record(RECORD.lost, [77n, 5n, ...trailer(9n)]),
    );
    const { tid, comm: bytes } = renamed(comm!);
    assert.deepEqual([tid, Buffer.from(bytes).toString(), comm!.time], [21, 'worker', 7]);
    assert.deepEqual(relatives(fork!), { parentPid: 20, tid: 31, parentTid: 21 });
    assert.deepEqual([lost!.type, lost!.time], [RECORD.lost, 9]);
  });

  void it('are not believed beyond what is there', () => {
    const sample = record(RECORD.sample, [77n, 11, 12, 1n, 3, 0]);
    assert.equal(read(sample.subarray(0, sample.length - 8)).length, 0);
    const short = record(RECORD.comm, [1, 2]);
    assert.equal(read(short, sample).length, 1);
  });
});

void describe('a ring of perf events', () => {
  void it('is read over its end, and emptied', () => {
    const region = mapRegion(2 * PAGE);
    const positions = new BigInt64Array(region.bytes.buffer, 0, PAGE / 8);
    const [HEAD, TAIL] = [128, 129];
    const reader = new PerfRingReader({ address: region.address, bytes: PAGE });
    assert.equal(reader.take(), undefined);
    const start = 5 * PAGE - 10;
    positions[HEAD] = positions[TAIL] = BigInt(start);
    const written = Uint8Array.from({ length: 24 }, (_, i) => i + 1);
    written.forEach((byte, i) => (region.bytes[PAGE + ((start + i) % PAGE)] = byte));
    Atomics.store(positions, HEAD, BigInt(start + written.length));
    assert.deepEqual(reader.take(), written);
    assert.equal(positions[TAIL], BigInt(start + written.length));
    assert.equal(reader.take(), undefined);
  });

  void it('is smaller where less may be locked, and all are of one size', { skip: whyNotAsNobody() }, () => {
    const module = new URL('../../dist/linux/perf-ring.js', import.meta.url).href;
    const script = `
      const { openPerfRings } = await import('${module}');
      console.log(openPerfRings([0, 0], 1 << 22).map((r) => r.bytes).join());`;
    const [setpriv = '', ...flags] = AS_NOBODY;
    const caps = ['--inh-caps=+sys_admin', '--ambient-caps=+sys_admin'];
    const limited = ['sh', '-c', 'ulimit -l 0; exec "$@"', 'sh'];
    const words = [...flags, ...caps, ...limited, process.execPath, '--input-type=module', '-e', script];
    const { stdout, stderr } = spawnSync(setpriv, words, { encoding: 'utf8', cwd: '/' });
    const [one, two] = stdout.trim().split(',').map(Number);
    assert.ok(one! > 0 && one! < 1 << 22 && one === two, stdout + stderr);
  });
});
