import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { compiled, counter, events, registerUprobe, string, table } from 'uprobe';
import { compileFixture, temporaryDirectory } from '../helpers/compile.js';
import { whyNoKernelEngine } from '../helpers/kernel.js';

/** In namespaces of its own: an overlay for a root, a pid of its own; runs /calls there. `$1`: the directory of all. */
const CONTAINER = `
set -e
mount -t tmpfs tmpfs "$1/rw"
mkdir "$1/rw/upper" "$1/rw/work"
mount -t overlay overlay -o "lowerdir=$1/lower,upperdir=$1/rw/upper,workdir=$1/rw/work" "$1/root"
exec chroot "$1/root" /calls "$2"
`;

/** For `skip`: a container that runs nothing of ours. */
function whyNoContainer(): string | false {
  const script = 'mount -t tmpfs tmpfs /mnt';
  const { status, stderr } = spawnSync('unshare', ['-m', '-p', '-f', 'sh', '-c', script], {
    encoding: 'utf8',
  });
  return status === 0 ? false : `namespaces cannot be made here: ${stderr ?? 'unshare is missing'}`;
}

void describe('a program in a container', { skip: whyNoKernelEngine() || whyNoContainer() }, () => {
  void it('is probed through the file that its overlay shows', async () => {
    const directory = temporaryDirectory();
    for (const name of ['lower', 'rw', 'root']) mkdirSync(join(directory, name));
    const program = join(directory, 'lower', 'calls');
    copyFileSync(compileFixture('calls', { flags: ['-O2', '-static'] }), program);
    const names = table({ key: string(16), value: counter, capacity: 10 });
    const seen = events({ pid: 'u32' });
    await using uprobe = await registerUprobe({
      pathname: program,
      symbol: 'add',
      processes: 'all',
      preHandler: compiled({ scope: { names, seen } }, (hit, scope) => {
        scope.names.at(hit.comm).add();
        scope.seen.emit({ pid: hit.pid });
      }),
    });
    let wanted = 0n;
    for (const rounds of ['3', '7', '30']) {
      const args = ['-m', '-p', '-f', 'sh', '-c', CONTAINER, 'sh', directory, rounds];
      const { status, stdout, stderr } = spawnSync('unshare', args, { encoding: 'utf8' });
      assert.equal(status, 0, stderr);
      wanted += BigInt(/\badd=(\d+)/.exec(stdout)![1]!);
    }
    await uprobe.unregister();
    assert.equal(uprobe.nhits, wanted);
    assert.equal(names.get('calls')?.value, wanted);
    seen.close();
    const pids = new Set<number | undefined>();
    for await (const { pid } of seen) pids.add(pid);
    // as we see them, not as they see themselves (each is 1 there)
    assert.equal(pids.size, 3);
    assert.ok(!pids.has(1));
  });
});
