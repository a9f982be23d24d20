import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { clonePaused } from '#uprobe/linux/clone.js';

test('a child that nobody lets go into its program is ended, and waited for', () => {
  const child = clonePaused({ file: '/bin/true', argv: ['true'], env: [], cwd: undefined, fds: [0, 1, 2] });
  assert.ok(existsSync(`/proc/${child.pid}`));
  child.release();
  assert.ok(!existsSync(`/proc/${child.pid}`), 'it would hold our descriptors open for ever');
});
