import assert from 'node:assert/strict';
import { test } from 'node:test';
import { soak } from '../soak/soak.js';

const seed = Number(process.env['UPROBE_SOAK_SEED'] ?? 1);

test(
  'every call is handled or counted as missed while everything happens at once',
  { timeout: 120_000 },
  async (t) => {
    const sum = await soak({ seed, ms: 8000 });
    t.diagnostic(JSON.stringify(sum));
    assert.ok(sum.hits > 1000 && sum.storms > 10 && sum.epochs > 3, JSON.stringify(sum));
  },
);
