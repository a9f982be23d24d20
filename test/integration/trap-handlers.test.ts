import assert from 'node:assert/strict';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import {
  registerUprobe,
  registerUprobes,
  spawnTarget,
  type HandlerError,
  type Target,
  type UprobeSpec,
} from 'uprobe';
import { compileFixture, privateCopy } from '../helpers/compile.js';

const program = privateCopy(compileFixture('calls'));

type Rest = Omit<UprobeSpec, 'pathname' | 'processes'> & { symbol: string };

interface Run {
  readonly target: Target;
  readonly stdout: string;
  readonly stderr: string;
  readonly code: number | null;
}

/** Run the program with one probe, to its end. */
async function runWith(
  args: readonly string[],
  spec: Rest,
): Promise<Run & { probe: Awaited<ReturnType<typeof registerUprobe>> }> {
  const target = await spawnTarget(program, args);
  const probe = await registerUprobe({ ...spec, pathname: program, processes: target });
  const output = Promise.all([text(target.stdout!), text(target.stderr!)]);
  await target.resume();
  const { code } = await target.exited;
  const [stdout, stderr] = await output;
  return { target, probe, stdout, stderr, code };
}

test('arguments in registers and on the stack are what the caller passed', async () => {
  const seen: bigint[][] = [];
  await runWith(['3'], {
    symbol: 'many',
    preHandler: (hit) => void seen.push(Array.from({ length: 10 }, (_, n) => hit.arg(n))),
  });
  assert.deepEqual(
    seen,
    [0n, 1n, 2n].map((i) => [i, 2n, 3n, 4n, 5n, 6n, 7n, 8n, 9n, 10n]),
  );
});

test('floating-point arguments are what the caller passed', async () => {
  const seen: number[][] = [];
  const doubles = [0, 2, 3, 4, 5, 6, 7];
  await runWith(['2'], {
    symbol: 'mixed',
    preHandler: (hit) => void seen.push(doubles.map((n) => hit.floatArg(n))),
  });
  assert.deepEqual(
    seen,
    [0, 1].map(() => [0.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5]),
  );
});

test('strings and memory behind pointers are read; where nothing is mapped, nothing is', async () => {
  const strings: (string | undefined)[] = [];
  let nowhere: unknown = 'not asked';
  await runWith(['5'], {
    symbol: 'text',
    preHandler: (hit) => {
      strings.push(hit.readString(hit.arg(0)));
      nowhere = hit.read(8n, 'u64');
    },
  });
  assert.deepEqual(strings, ['', 'a', 'hello', 'grüße', 'a line\nand a tab\t']);
  assert.equal(nowhere, undefined);
});

test('a hit says which process, thread and program it is from', async () => {
  let seen: unknown;
  const before = process.hrtime.bigint();
  const { target } = await runWith(['1'], {
    symbol: 'fact',
    preHandler: (hit) =>
      void (seen = [
        hit.pid,
        hit.tid,
        hit.comm,
        hit.cpu >= 0,
        hit.time > before && hit.time < process.hrtime.bigint(),
      ]),
  });
  assert.deepEqual(seen, [target.pid, target.pid, 'calls', true, true]);
});

test('a changed argument changes what the function computes, and the program notices', async () => {
  const { code, stderr } = await runWith(['1'], {
    symbol: 'add',
    preHandler: (hit) => void (hit.regs.di = hit.regs.di + 1n),
  });
  assert.equal(code, 1);
  assert.match(stderr, /not true/);
});

test('memory written by a handler is what the program reads', async () => {
  const { code, stderr } = await runWith(['1'], {
    symbol: 'point_sum',
    preHandler: (hit) => hit.write(hit.arg(0), new Uint8Array(new BigInt64Array([41n]).buffer)),
  });
  assert.equal(code, 1);
  assert.match(stderr, /not true/);
});

test("'skip' replaces a function: it does not run, and returns what the handler says", async () => {
  const { probe, stdout, code } = await runWith(['4'], {
    symbol: 'add',
    preHandler: (hit) => {
      const { regs } = hit;
      regs.ax = regs.di + regs.si;
      regs.ip = hit.read(regs.sp, 'u64')!;
      regs.sp += 8n;
      return 'skip';
    },
  });
  assert.equal(code, 0);
  assert.match(stdout, /^add=0 /);
  assert.equal(probe.nhits, 8n);
});

test("'skip' suppresses the post handlers", async () => {
  let posts = 0;
  const { code } = await runWith(['2'], {
    symbol: 'add',
    preHandler: (hit) => {
      hit.regs.ax = hit.regs.di + hit.regs.si;
      hit.regs.ip = hit.read(hit.regs.sp, 'u64')!;
      hit.regs.sp += 8n;
      return 'skip';
    },
    postHandler: () => void posts++,
  });
  assert.equal(code, 0);
  assert.equal(posts, 0);
});

test("'remove' is the end after this hit", async () => {
  const { probe, code } = await runWith(['50'], { symbol: 'add', preHandler: () => 'remove' });
  assert.equal(code, 0);
  assert.equal(probe.nhits, 1n);
  assert.equal(probe.state, 'gone');
});

test('a throwing handler is counted and reported, and the program does not notice', async () => {
  const errors: HandlerError[] = [];
  const { probe, code } = await runWith(['3'], {
    symbol: 'add',
    preHandler: (hit) => {
      hit.regs.di = 77n;
      throw new Error('handler of a test');
    },
    onError: (e) => void errors.push(e),
  });
  assert.equal(code, 0);
  assert.equal(probe.nerrors, 6n);
  assert.equal(errors.length, 6);
  assert.equal(errors[0]?.kind, 'pre');
});

test('handlers of one place run in order, each seeing what its predecessor left', async () => {
  const target = await spawnTarget(program, ['1'], { stdio: 'ignore' });
  const order: [string, bigint][] = [];
  const place = { pathname: program, symbol: 'fact', processes: target };
  const group = await registerUprobes([
    {
      ...place,
      preHandler: (hit) => {
        order.push(['first', hit.regs.r11]);
        hit.regs.r11 = 1234n;
      },
    },
    { ...place, preHandler: (hit) => void order.push(['second', hit.regs.r11]) },
  ]);
  await target.resume();
  await target.exited;
  assert.equal(order.length, 20);
  assert.deepEqual(order[1], ['second', 1234n]);
  assert.deepEqual(
    [...group].map((u) => u.nhits),
    [10n, 10n],
  );
});

test('the post handler sees the registers after the instruction', async () => {
  const steps: [bigint, bigint][] = [];
  let before = 0n;
  // endbr64 or the first instruction proper: whatever it is, ip moves behind it
  await runWith(['2'], {
    symbol: 'add',
    preHandler: (hit) => void (before = hit.regs.ip),
    postHandler: (hit) => void steps.push([before, hit.regs.ip]),
  });
  assert.equal(steps.length, 4);
  for (const [start, end] of steps) assert.ok(end > start && end <= start + 15n);
});

test('a handler beyond its deadline: the program goes on, and the hit is counted as missed', async () => {
  let calls = 0;
  const { probe, code } = await runWith(['20'], {
    symbol: 'text',
    deadline: 50,
    preHandler: () => {
      if (calls++ > 0) return;
      const end = performance.now() + 300;
      while (performance.now() < end);
    },
  });
  assert.equal(code, 0);
  assert.ok(probe.nmissed >= 1n, `${probe.nmissed} missed`);
  assert.equal(probe.nhits + probe.nmissed, 20n);
});

test('uprobes come and go on a place that threads run through', async () => {
  const threads = privateCopy(compileFixture('threads'));
  const target = await spawnTarget(threads, ['4', '1500', '2']);
  let ended = false;
  void target.exited.then(() => (ended = true));
  const output = text(target.stdout!);
  const place = { pathname: threads, symbol: 'work', processes: target };
  const always = await registerUprobe(place);
  let calls = 0n;
  const handled = await registerUprobe({ ...place, preHandler: () => void calls++ });
  await target.resume();
  for (let i = 0; i < 30 && !ended; i++) {
    const passing = await registerUprobe({ ...place, ...(i % 2 ? { preHandler: () => undefined } : {}) });
    await passing.unregister();
    assert.ok(passing.nhits <= always.nhits);
  }
  const { code } = await target.exited;
  const made = BigInt(/work=(\d+)/.exec(await output)?.[1] ?? (1500 * 6).toString());
  assert.equal(code, 0);
  assert.equal(always.nhits, made);
  assert.equal(handled.nhits + handled.nmissed, made);
  assert.equal(calls >= handled.nhits, true);
});
