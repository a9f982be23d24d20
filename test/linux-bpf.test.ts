import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { UprobeError } from '#uprobe/base/errors.js';
import { refusedByVerifier } from '#uprobe/engines/kernel/verifier.js';
import {
  MEANS,
  meansToTry,
  refusalOf,
  refusalOfSamples,
  unavailable,
} from '#uprobe/engines/kernel/machine.js';
import type { BpfCode } from '#uprobe/handler/bpf/code.js';
import {
  createMap,
  deleteFromMap,
  loadProgram,
  lookupMap,
  readHash,
  unmap,
  updateMap,
  mapArray,
  VerifierError,
} from '#uprobe/linux/bpf.js';
import { kernelFunctions } from '#uprobe/linux/btf.js';
import { closeFd } from '#uprobe/linux/fds.js';
import { SyscallError } from '#uprobe/linux/syscall-error.js';

const word = (n: bigint): Uint8Array => new Uint8Array(BigUint64Array.of(n).buffer);
const skip = unavailable()?.reason ?? false;

void describe('maps of the kernel', { skip }, () => {
  void it('are hashes: all that was put in is found again', () => {
    const shape = { type: 'hash', keyBytes: 8, valueBytes: 16, entries: 1000, mapped: false } as const;
    const fd = createMap(shape, 'uprobe_test');
    const put = (n: bigint): void => updateMap(fd, word(n), Buffer.concat([word(n * n), word(7n)]));
    for (let n = 0n; n < 1000n; n++) put(n);
    const found = readHash(fd, shape).map(({ key, value }) => [
      Buffer.from(key).readBigUInt64LE(),
      Buffer.from(value).readBigUInt64LE(),
    ]);
    assert.deepEqual(new Map(found as [bigint, bigint][]), new Map(Array.from({ length: 1000 }, (_, n) => [BigInt(n), BigInt(n * n)]))); // prettier-ignore
    assert.ok(deleteFromMap(fd, word(5n)));
    assert.ok(!deleteFromMap(fd, word(5n)));
    assert.equal(lookupMap(fd, word(5n), 16), undefined);
    assert.deepEqual(lookupMap(fd, word(6n), 16)?.slice(0, 8), word(36n));
    assert.equal(readHash(fd, shape).length, 999);
    closeFd(fd);
  });

  void it('are arrays in our memory', () => {
    const fd = createMap(
      { type: 'array', keyBytes: 4, valueBytes: 24, entries: 1, mapped: true },
      'uprobe_test',
    );
    const { bytes, address, length } = mapArray(fd, 24);
    new BigInt64Array(bytes.buffer)[2] = 42n;
    assert.deepEqual(lookupMap(fd, new Uint8Array(4), 24)?.slice(16), word(42n));
    unmap(address, length);
    closeFd(fd);
  });
});

/** r0 = *(u64 *)(r3 + 0), which nobody has written to; exit */
const UNREADABLE = Uint8Array.of(0x79, 0x30, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0);

void describe('the verifier', { skip }, () => {
  const refused = (): VerifierError => {
    try {
      loadProgram({ instructions: UNREADABLE, kind: 'entry', sleeps: false }, 'uprobe_test');
    } catch (e) {
      if (e instanceof VerifierError) return e;
    }
    return assert.fail('it took the program');
  };

  void it('is quoted', () => {
    assert.match(refused().message, /BPF_PROG_LOAD\): EACCES\. R3 !read_ok/);
  });

  void it('is quoted at the line of the handler: verifier-refused', () => {
    const text = 'hit.regs.nonsense + 1';
    const origins = [{ program: { text }, at: { start: 4, end: 8 } }, undefined];
    const error = refusedByVerifier(refused(), { origins } as unknown as BpfCode);
    assert.ok(error instanceof UprobeError && error.code === 'verifier-refused');
    assert.match(error.message, /R3 !read_ok\n {2}hit\.regs\.nonsense \+ 1\n {6}\^\^\^\^$/);
  });
});

void describe('the means of the kernel engine', () => {
  void it('are limited to one by UPROBE_KERNEL: no-such-means', () => {
    assert.deepEqual(meansToTry(''), MEANS);
    assert.deepEqual(meansToTry('perf'), ['perf']);
    assert.throws(
      () => meansToTry('pref'),
      (e) =>
        e instanceof UprobeError && e.code === 'no-such-means' && e.message.includes('UPROBE_KERNEL=pref'),
    );
  });
});

void describe('what the machine lacks', () => {
  void it('is privilege: needs-cap-bpf', () => {
    const refusal = refusalOf(new SyscallError('bpf(BPF_MAP_CREATE)', 1));
    assert.equal(refusal.code, 'needs-cap-bpf');
    assert.match(refusal.remedy!, /sudo.*setcap cap_bpf,cap_perfmon\+ep \/.*--cap-add=BPF/);
  });
  void it('is a newer kernel: no-uprobe-multi', () => {
    assert.equal(refusalOf(new SyscallError('bpf(BPF_LINK_CREATE)', 22)).code, 'no-uprobe-multi');
    assert.equal(refusalOf(new SyscallError('bpf(BPF_LINK_CREATE)', 22), 'perf').code, 'no-event-links');
  });
  void it('is privilege for perf events, or a kernel that has them: needs-cap-sys-admin, no-uprobe-events', () => {
    const refused = (errno: number) => refusalOfSamples(new SyscallError('perf_event_open(uprobe)', errno));
    assert.equal(refused(13).code, 'needs-cap-sys-admin');
    assert.match(refused(13).remedy!, /sudo.*setcap cap_sys_admin\+ep \/.*--cap-add=SYS_ADMIN/);
    assert.equal(refused(2).code, 'no-uprobe-events');
  });
  void it('is not a function that no kernel has', () => {
    assert.equal(kernelFunctions(['bpf_no_such_function_at_all']), undefined);
  });
});
