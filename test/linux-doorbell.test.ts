import assert from 'node:assert/strict';
import { test } from 'node:test';
import { clonePaused } from '#uprobe/linux/clone.js';
import { BELL_WORDS, Bell, BellWait } from '#uprobe/linux/doorbell.js';
import { mapRegion } from '#uprobe/linux/memory.js';

test('rings are heard from before there is a waiter on, and waiting for one child outlasts the signals that rings and timeouts send', () => {
  const { address, bytes } = mapRegion(4096);
  const words = new Int32Array(bytes.buffer, 0, BELL_WORDS);
  const bell = new Bell(address, words);
  bell.ring(4);
  const wait = new BellWait(address, words);
  assert.equal(wait.next(undefined), 0); // at once
  assert.equal(wait.rung(), 4);
  const argv = ['sleep', '0.3'];
  const child = clonePaused({ file: '/bin/sleep', argv, env: [], cwd: undefined, fds: [0, 1, 2] });
  child.proceed();
  bell.ring(1);
  assert.equal(wait.next(50), 0); // at once, and its timer goes on
  assert.equal(wait.reap(child.pid), child.pid);
  assert.equal(wait.status, 0);
  child.release();
  wait.close();
});
