/** Files and memory maps that cannot be read, each refused by its name. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { pathToFileURL } from 'node:url';
import { OpenedFile } from '#uprobe/process/opened-file.js';
import { readMaps } from '#uprobe/process/maps.js';
import { repositoryRoot, temporaryDirectory } from './helpers/compile.js';
import { withoutPrivilege } from './helpers/nobody.js';
import { victim } from './helpers/victim.js';

function newFile(bytes = 'some bytes'): string {
  const directory = temporaryDirectory();
  chmodSync(directory, 0o755);
  const path = join(directory, 'file');
  writeFileSync(path, bytes);
  return path;
}

void describe('a file', () => {
  void it('that this user may not read', () => {
    const path = newFile();
    chmodSync(path, 0);
    assert.throws(() => withoutPrivilege(() => OpenedFile.open(path)), {
      name: 'FileError',
      code: 'file-not-permitted',
    });
  });

  void it('whose path leads nowhere, in a circle', () => {
    const path = join(temporaryDirectory(), 'circle');
    symlinkSync('circle', path);
    assert.throws(() => OpenedFile.open(path), {
      name: 'FileError',
      code: 'file-unreadable',
      message: /ELOOP/,
    });
  });

  void it('that is cut short while it is read', () => {
    const path = newFile();
    const file = OpenedFile.open(path);
    truncateSync(path, 4);
    assert.throws(() => file.read(0, 10), { name: 'FileError', code: 'file-truncated', message: /byte 4/ });
    file.close();
  });
});

void describe('a memory map', () => {
  void it("of another user's process", () => {
    // Root becomes another user than its victim's; any other user is another one than process 1's.
    const pid = process.getuid?.() === 0 ? victim() : 1;
    assert.throws(() => withoutPrivilege(() => readMaps(pid)), {
      name: 'ProcessError',
      code: 'process-not-permitted',
      pid,
    });
  });

  void it('that cannot be opened for another reason', () => {
    const maps = pathToFileURL(join(repositoryRoot, 'dist', 'process', 'maps.js')).href;
    const script = `
      import { openSync } from 'node:fs';
      const { readMaps } = await import('${maps}');
      try { for (;;) openSync('/dev/null'); } catch {}
      try { readMaps(process.pid); } catch (e) { process._rawDebug(e.code + ': ' + e.message); }
    `;
    const limited = ['-c', 'ulimit -n 100; exec "$@"', 'sh', process.execPath];
    const { stderr } = spawnSync('sh', [...limited, '--input-type=module', '-e', script], {
      encoding: 'utf8',
    });
    assert.match(stderr, /^bad-maps: .*EMFILE/);
  });
});
