// Two hundred ends of a program that probes, each at a random moment, and what became of the target:
//   node scripts/soak-outlive.mjs [ROUNDS=200]      after npm run build:test
import { compileFixture, privateCopy } from '../build/test/helpers/compile.js';
import { outlive } from '../build/test/helpers/outlive.js';

const rounds = Number(process.argv[2] ?? 200);
const program = privateCopy(compileFixture('hammer'));
const ways = ['handlers', 'counts', 'both', 'churn'];
const ends = ['SIGKILL', 'SIGABRT', 'SIGSEGV', 'SIGINT', 'SIGTERM', 'heap', 'guardian', 'all'];
let failed = 0;
for (let i = 0; i < rounds; i++) {
  const end = ends[i % ends.length];
  const way = end === 'heap' ? 'heap' : ways[Math.floor(i / ends.length) % ways.length];
  const target = i % 3 === 0 ? ['signals'] : [];
  const after = Math.random() * 150;
  const wrong = await outlive(program, { way, end, target, after });
  if (wrong.length > 0) failed++;
  if (wrong.length > 0)
    console.log(
      `round ${i}: ${way} ${end} ${target.join()} after ${after.toFixed()} ms: ${wrong.join('; ')}`,
    );
}
console.log(`${rounds} rounds, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
