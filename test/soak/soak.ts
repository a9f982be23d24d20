/** Rounds of the soak for a given time, and what they leave in our own process: nothing. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { uprobes } from 'uprobe';
import { Random } from '../helpers/random.js';
import { runRound, somePlan, type Tally } from './round.js';

export interface Soak {
  readonly seed: number;
  readonly ms: number;
  readonly say?: (line: string) => void;
}

interface Holdings {
  readonly fds: number;
  readonly threads: number;
  readonly children: string;
  readonly mebibytes: number;
}

/** Memory that a garbage collector may not have given back. */
const MOST_GROWTH = 150;

function holdings(): Holdings {
  const children = readdirSync('/proc/self/task').map((tid) =>
    readFileSync(`/proc/self/task/${tid}/children`, 'utf8').trim(),
  );
  return {
    fds: readdirSync('/proc/self/fd').length,
    threads: readdirSync('/proc/self/task').length,
    children: children
      .join(' ')
      .split(' ')
      .filter((pid) => pid !== '' && !isGuardian(pid))
      .join(' '),
    mebibytes: Math.round(process.memoryUsage.rss() / 2 ** 20),
  };
}

/** One stays as long as the engine lives. */
function isGuardian(pid: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes('guardian.js');
  } catch {
    return true; // it has ended and is taken care of
  }
}

export async function soak({ seed, ms, say = () => undefined }: Soak): Promise<Tally & { rounds: number }> {
  const until = performance.now() + ms;
  const sum = { rounds: 0, hits: 0, missed: 0, storms: 0, epochs: 0, pauses: 0, execs: 0 };
  let first: Holdings | undefined;
  for (let i = 0; performance.now() < until || sum.rounds < 3; i++) {
    const random = new Random(seed + i);
    const plan = somePlan(random);
    const name = `round ${i} (seed ${seed + i}): ${JSON.stringify(plan)}`;
    let tally: Tally;
    try {
      tally = await runRound(plan, random);
    } catch (e) {
      throw new Error(`${name}: ${String(e)}`, { cause: e });
    }
    sum.rounds++;
    for (const key of Object.keys(tally) as (keyof Tally)[]) sum[key] += tally[key];
    const now = await settled();
    say(`${name}: ${JSON.stringify(tally)} ${JSON.stringify(now)}`);
    first ??= now;
    assert.equal(uprobes().length, 0);
    assert.equal(now.children, '', `${name}: processes are left`);
    assert.ok(
      now.fds <= first.fds + 2,
      `${name}: ${now.fds} descriptors, ${first.fds} after the first round`,
    );
    assert.ok(now.threads <= first.threads + 2, `${name}: ${now.threads} threads, then ${first.threads}`);
    assert.ok(
      now.mebibytes <= first.mebibytes + MOST_GROWTH,
      `${name}: ${now.mebibytes} MiB, then ${first.mebibytes}`,
    );
  }
  return sum;
}

/** What ends soon may. */
async function settled(): Promise<Holdings> {
  for (let i = 0; i < 40 && holdings().children !== ''; i++)
    await new Promise((resolve) => setTimeout(resolve, 50));
  return holdings();
}
