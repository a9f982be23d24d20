import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, it } from 'node:test';
import { compiled, counter, histogram, registerUprobes, type ReturnHit, type UprobeOptions } from 'uprobe';
import { compileFixture, privateCopy } from '../helpers/compile.js';
import { onEvents, whyNoKernelEngine } from '../helpers/kernel.js';

const LASTING = ['chosen', 'mix', 'salted'];
/** Places of their group that leave it, one after the other. The last is hit as often as the others. */
const LEAVING = ['main', 'hammer', 'expected'];
const THREADS = 4;

/** Four threads hammer functions while others of the same group are taken out. Hits, and rounds of the program. */
async function takeOutUnderFire(
  handlers: Pick<UprobeOptions, 'preHandler' | 'returnHandler'>,
): Promise<{ rounds: bigint; hits: bigint[]; missed: bigint }> {
  const pathname = privateCopy(compileFixture('hammer'));
  const specs = [...LASTING, ...LEAVING].map((symbol) => ({ pathname, symbol, ...handlers }));
  const group = await registerUprobes(specs);
  const child = spawn(pathname, { stdio: ['pipe', 'pipe', 'inherit'] });
  const said = text(child.stdout);
  await sleep(50);
  for (const [i] of LEAVING.entries()) {
    await group.at(LASTING.length + i)!.unregister();
    await sleep(30);
  }
  child.stdin.end();
  const [status] = (await once(child, 'close')) as [number];
  assert.equal(status, 0);
  const rounds = BigInt(/of (\d+)/.exec(await said)![1]!);
  const lasting = LASTING.map((_, i) => group.at(i)!);
  await group.unregister();
  return {
    rounds,
    hits: lasting.map((u) => u.nhits),
    missed: lasting.reduce((sum, u) => sum + u.nmissed, 0n),
  };
}

/** `chosen` is called once a round, and calls one of the others, which are called once besides. */
const expectEveryHit = (rounds: bigint, [chosen = 0n, mix = 0n, salted = 0n]: readonly bigint[]): void =>
  assert.deepEqual([chosen, mix + salted], [rounds, 3n * rounds]);

void describe(
  'uprobes that leave a group while threads run through the others',
  { skip: whyNoKernelEngine() },
  () => {
    void it('cost no hit that is counted, and add none', async () => {
      const { rounds, hits, missed } = await takeOutUnderFire({});
      expectEveryHit(rounds, hits);
      assert.equal(missed, 0n);
    });

    void it('cost none that a handler sees', async () => {
      const low = histogram();
      const preHandler = compiled({ scope: { low } }, (hit, scope) => scope.low.add(hit.arg(0) & 0xffffn));
      const { rounds, hits } = await takeOutUnderFire({ preHandler });
      expectEveryHit(rounds, hits);
      // those that have left were hit, too
      assert.ok(BigInt(low.count) >= 4n * rounds);
    });

    void it('cost no return', async () => {
      const returns = counter();
      const returnHandler = compiled({ scope: { returns } }, (_hit: ReturnHit<bigint>, scope) =>
        scope.returns.add(1),
      );
      const { rounds, hits } = await takeOutUnderFire({ returnHandler });
      expectEveryHit(rounds, hits);
    });

    const noNewLink = onEvents && 'nobody gets another link';
    void it(
      'cost at most the calls under way of those that look at how long a call took',
      { skip: noNewLink },
      async () => {
        const times = histogram();
        const returnHandler = compiled({ scope: { times } }, (hit: ReturnHit<bigint>, scope) =>
          scope.times.add(hit.duration),
        );
        const { rounds, hits } = await takeOutUnderFire({ returnHandler });
        const [chosen = 0n, mix = 0n, salted = 0n] = hits;
        const lost = 4n * rounds - (chosen + mix + salted);
        // `chosen` and what it calls, of each thread, each time
        assert.ok(lost >= 0n && lost <= BigInt(2 * THREADS * LEAVING.length), `${lost} lost`);
      },
    );
  },
);
