import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { describe, it } from 'node:test';
import { ProcessError } from '#uprobe/base/errors.js';
import { makedev, mappingsOf, parseMaps, readMaps } from '#uprobe/process/maps.js';

const TEXT = `55f0d21a1000-55f0d21a3000 r--p 00000000 fe:00 260131                     /usr/bin/cat
55f0d21a3000-55f0d21a8000 r-xp 00002000 fe:00 260131                     /usr/bin/cat
7ffc1b1d4000-7ffc1b1f5000 rw-p 00000000 00:00 0                          [stack]
7f0000000000-7f0000001000 rw-s 00000000 00:01 5                          /memfd:a b (deleted)
7f0000002000-7f0000003000 ---p 00000000 00:00 0
7f0000004000-7f0000005000 r-xp 0000a000 103:1ff 18446744073709551615     /tmp/with\\012newline
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
`;

void describe('/proc/PID/maps', () => {
  const mappings = parseMaps(TEXT);

  void it('gives every field of a file mapping', () => {
    assert.deepEqual(mappings[1], {
      start: 0x55f0d21a3000,
      end: 0x55f0d21a8000,
      perms: 'r-xp',
      offset: 0x2000,
      dev: 0xfe00n,
      ino: 260131n,
      path: '/usr/bin/cat',
      deleted: false,
    });
  });

  void it('tells names in brackets, deleted files, nothing at all and newlines apart', () => {
    assert.deepEqual(
      mappings.map((m) => [m.path, m.deleted]),
      [
        ['/usr/bin/cat', false],
        ['/usr/bin/cat', false],
        ['[stack]', false],
        ['/memfd:a b', true],
        ['', false],
        ['/tmp/with\nnewline', false],
      ],
    );
    assert.equal(mappings[5]?.ino, 2n ** 64n - 1n);
  });

  void it('leaves out the vsyscall page, whose addresses no double holds', () => {
    assert.ok(mappings.every((m) => m.end <= Number.MAX_SAFE_INTEGER));
  });

  void it('encodes devices as stat does', () => {
    const { dev } = statSync('/', { bigint: true });
    const major = Number((dev >> 8n) & 0xfffn);
    const minor = Number((dev & 0xffn) | ((dev >> 12n) & 0xfff00n));
    assert.equal(makedev(major, minor), dev);
    assert.equal(makedev(0x12345, 0x6789a), 0x1200067834500n | 0x9an);
  });

  void it('refuses what the kernel does not write', () => {
    for (const line of [
      '',
      'nonsense',
      '1-2 rwxp 0 0:0',
      '1-2 r??p 0 0:0 0 x',
      `${'f'.repeat(17)}-1 r-xp 0 0:0 0`,
    ])
      assert.throws(() => parseMaps(`${line}\n`), SyntaxError, line);
  });

  void it('reads our own, whose text it knows', () => {
    const own = readMaps(process.pid);
    const exe = statSync('/proc/self/exe', { bigint: true });
    const found = mappingsOf({ dev: exe.dev, ino: exe.ino, path: process.execPath }, own, process.pid);
    assert.ok(found.some((m) => m.perms === 'r-xp'));
    assert.ok(found.every((m) => m.ino === exe.ino));
  });

  void it('says that a process does not exist', () => {
    assert.throws(
      () => readMaps(4_194_300),
      (e) => e instanceof ProcessError && e.code === 'no-such-process',
    );
  });
});

void describe('which mappings belong to a file', () => {
  const file = { dev: 77n, ino: 260131n, path: '/usr/bin/cat' };
  const mappings = parseMaps(TEXT);

  void it('asks the mapped file itself where only the device differs, as on btrfs and overlayfs', () => {
    const asked: string[] = [];
    const found = mappingsOf(file, mappings, 5, (path) => {
      asked.push(path);
      return { dev: 77n, ino: 260131n };
    });
    assert.equal(found.length, 2);
    assert.deepEqual(asked, ['/proc/5/map_files/55f0d21a1000-55f0d21a3000']);
  });

  void it('falls back to the name in the root of the process', () => {
    const stat = (path: string) =>
      path === '/proc/5/root/usr/bin/cat' ? { dev: 77n, ino: 260131n } : undefined;
    assert.equal(mappingsOf(file, mappings, 5, stat).length, 2);
  });

  void it('takes another file with the same inode number for what it is', () => {
    assert.deepEqual(
      mappingsOf(file, mappings, 5, () => ({ dev: 78n, ino: 260131n })),
      [],
    );
    assert.deepEqual(
      mappingsOf(file, mappings, 5, () => undefined),
      [],
    );
  });

  void it('takes a file of the same name on another layer when stat says that it is the same', () => {
    const other = { ...file, ino: 9n };
    assert.equal(mappingsOf(other, mappings, 5, () => ({ dev: 77n, ino: 9n })).length, 2);
    assert.deepEqual(
      mappingsOf({ ...other, path: '/elsewhere' }, mappings, 5, () => ({ dev: 77n, ino: 9n })),
      [],
    );
  });
});
