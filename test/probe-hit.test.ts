import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { describe, it } from 'node:test';
import { UprobeError } from '#uprobe/base/errors.js';
import type { RawHit } from '#uprobe/engines/engine.js';
import { HitView } from '#uprobe/probe/hit.js';
import { PtRegs, REGISTER_NAMES } from '#uprobe/probe/regs.js';
import type { Uprobe } from '#uprobe/probe/uprobe.js';

void describe('registers', () => {
  void it('are the words of user_regs_struct, in its order', () => {
    const regs = new PtRegs(BigUint64Array.from({ length: 27 }, (_, i) => BigInt(i)));
    const order = ['r15', 'r14', 'r13', 'r12', 'bp', 'bx', 'r11', 'r10', 'r9', 'r8', 'ax', 'cx', 'dx', 'si', 'di', 'origAx', 'ip', 'cs', 'flags', 'sp', 'ss', 'fsBase', 'gsBase', 'ds', 'es', 'fs', 'gs'] as const; // prettier-ignore
    assert.deepEqual(order.map((name) => regs[name]), order.map((_, i) => BigInt(i))); // prettier-ignore
    assert.deepEqual(order.toSorted(), [...REGISTER_NAMES].toSorted());
  });
  void it('wrap to 64 bits and take numbers', () => {
    const words = new BigUint64Array(27);
    const regs = new PtRegs(words);
    regs.ax = -1;
    regs.bx = 1n << 64n;
    regs.cx = 2 ** 40;
    assert.deepEqual([regs.ax, regs.bx, regs.cx], [2n ** 64n - 1n, 0n, 2n ** 40n]);
    assert.throws(() => (regs.ax = 1.5), RangeError);
    assert.equal(regs.toJSON()['ax'], '0xffffffffffffffff');
  });
});

/** Memory from 0x1000 on, `length` bytes. */
function rawHit(memory: Uint8Array, regs = new BigUint64Array(27), fields: Partial<RawHit> = {}): RawHit {
  const slice = (address: bigint, length: number): Uint8Array | undefined => {
    const at = Number(address - 0x1000n);
    return at >= 0 && at + length <= memory.length ? memory.slice(at, at + length) : undefined;
  };
  return {
    siteId: 1,
    phase: 'pre',
    pid: process.pid,
    tid: process.pid,
    trees: [],
    call: 0,
    entry: { time: 0n, args: new BigUint64Array(6), lastConsumer: 0 },
    fault: { signal: 11, code: 1, address: 0n },
    time: 42n,
    regs,
    floatRegs: () => {
      const image = new Uint8Array(512);
      new DataView(image.buffer).setFloat64(160 + 16 * 3, 2.5, true);
      return image;
    },
    read: slice,
    write: (address, bytes) => memory.set(bytes, Number(address - 0x1000n)),
    alive: () => true,
    ...fields,
  };
}
const uprobe = {} as Uprobe;
const view = (raw: RawHit): HitView => new HitView(raw, uprobe, new PtRegs(raw.regs));
const codeIs =
  (code: string) =>
  (e: unknown): boolean =>
    e instanceof UprobeError && e.code === code;

void describe('a hit', () => {
  void it('has six arguments in registers and the others on the stack', () => {
    const regs = new BigUint64Array(27);
    for (const [i, word] of [14, 13, 12, 11, 9, 8].entries()) regs[word] = BigInt(i);
    regs[19] = 0x1000n;
    const memory = new Uint8Array(new BigUint64Array([99n, 6n, 7n]).buffer);
    const hit = view(rawHit(memory, regs));
    assert.deepEqual([0, 1, 2, 3, 4, 5, 6, 7].map((n) => hit.arg(n)), [0n, 1n, 2n, 3n, 4n, 5n, 6n, 7n]); // prettier-ignore
    assert.throws(() => hit.arg(8), codeIs('not-readable'));
    for (const n of [-1, 1.5, 1000, NaN]) assert.throws(() => hit.arg(n), codeIs('bad-argument-number'));
  });

  void it('has floating-point arguments', () => {
    const hit = view(rawHit(new Uint8Array(0)));
    assert.equal(hit.floatArg(3), 2.5);
    assert.throws(() => hit.floatArg(8), codeIs('bad-argument-number'));
  });

  void it('reads scalars of every type, signed and unsigned', () => {
    const hit = view(rawHit(new Uint8Array(8).fill(0xff)));
    const types = ['u8', 'i8', 'u16', 'i16', 'u32', 'i32', 'u64', 'i64'] as const;
    assert.deepEqual(
      types.map((t) => hit.read(0x1000n, t)),
      [255n, -1n, 65535n, -1n, 2n ** 32n - 1n, -1n, 2n ** 64n - 1n, -1n],
    );
    assert.equal(hit.read(0x1001n, 'u64'), undefined);
    assert.equal(hit.read(-1n, 'u8'), undefined);
    assert.throws(() => hit.read(0x1000n, 'f32' as 'u8'), codeIs('bad-type'));
    assert.throws(() => hit.read(0x1000 as unknown as bigint, 'u8'), codeIs('bad-address'));
  });

  void it('reads strings to their end, at most as long as asked, and up to the last readable byte', () => {
    const memory = new Uint8Array(2 * 4096).fill(0x61);
    memory.set(Buffer.from('grüße\0'), 0);
    memory[4100] = 0;
    const hit = view(rawHit(memory));
    assert.equal(hit.readString(0x1000n), 'grüße');
    assert.equal(hit.readString(0x1000n, 2), 'gr');
    assert.equal(hit.readString(0x1000n, 3), 'gr\udcc3', 'half of a character');
    assert.equal(hit.readString(0x1000n, 0), '');
    assert.equal(hit.readString(0x1ff0n, 100), 'a'.repeat(20));
    assert.equal(hit.readString(0x2ff0n), undefined);
    assert.equal(hit.readString(0x2ff0n, 16), 'a'.repeat(16));
    assert.equal(hit.readString(0n), undefined);
    for (const max of [-1, 1.5, 1e9]) assert.throws(() => hit.readString(0x1000n, max), codeIs('bad-length'));
    assert.deepEqual(hit.readBytes(0x1000n, 2), Uint8Array.of(0x67, 0x72));
    assert.equal(hit.readBytes(0n, 2), undefined);
  });

  void it('writes memory, but not after its deadline', () => {
    const memory = new Uint8Array(8);
    view(rawHit(memory)).write(0x1002n, Uint8Array.of(1, 2));
    assert.deepEqual([...memory], [0, 0, 1, 2, 0, 0, 0, 0]);
    const late = view(rawHit(memory, undefined, { alive: () => false }));
    assert.throws(() => late.write(0x1000n, Uint8Array.of(1)), codeIs('deadline-passed'));
    assert.equal(memory[0], 0);
    assert.throws(() => late.write(0x1000n, 'x' as unknown as Uint8Array), codeIs('bad-bytes'));
  });

  void it('knows the name and processor of its thread', () => {
    const hit = view(rawHit(new Uint8Array(0)));
    assert.match(hit.comm, /^\S{1,15}$/);
    // the inode of the directory that we are in
    const mount = spawnSync('findmnt', ['-n', '-o', 'TARGET', '-t', 'cgroup2'], {
      encoding: 'utf8',
    }).stdout.split('\n')[0];
    const path = /^0::(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1];
    const isThere = mount !== undefined && mount !== '' && path !== undefined;
    assert.equal(hit.cgroup, isThere ? statSync(mount + path, { bigint: true }).ino : 0n);
    assert.ok(Number.isInteger(hit.cpu) && hit.cpu >= 0);
    assert.deepEqual([hit.pid, hit.tid, hit.time, hit.uprobe], [process.pid, process.pid, 42n, uprobe]);
    const gone = view(rawHit(new Uint8Array(0), undefined, { tid: 4_194_300 }));
    assert.deepEqual([gone.comm, gone.cpu, gone.cgroup], ['', -1, 0n]);
  });
});
