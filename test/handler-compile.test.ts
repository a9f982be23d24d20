import { describe, it } from 'node:test';
import assert from 'node:assert/strict';
import {
  CompileError,
  compiled,
  counter,
  events,
  histogram,
  i32,
  i64,
  linearHistogram,
  stats,
  string,
  table,
  u16,
  u32,
  u64,
  u8,
} from 'uprobe';
import type { PreHit, ReturnHit } from 'uprobe';
import { lowerText } from '#uprobe/handler/compile-handler.js';
import { programOf } from '#uprobe/handler/compiled-handler.js';
import { interpreter } from '#uprobe/handler/interpret.js';
import type { ProgramMoment, Verdict } from '#uprobe/handler/ir.js';
import type { Aggregate } from '#uprobe/handler/shapes.js';
import { FakeHit, MEMORY } from './helpers/handler-hits.js';
import type { HitValues } from './helpers/handler-hits.js';
import { recorder } from './helpers/handler-recorder.js';

const SHAPES = {
  c: counter(),
  h: histogram(),
  t: table({ key: ['u32', string(16)], value: counter, capacity: 10 }),
  e: events({ pid: 'u32', path: string(64), n: 'i64', ok: 'bool' }),
};

interface Outcome {
  readonly verdict: unknown;
  readonly calls: readonly unknown[];
  readonly written: unknown;
  readonly call: unknown;
  readonly threw: boolean;
}

function outcome(hit: FakeHit, calls: unknown[], run: () => Verdict | undefined): Outcome {
  let verdict: Verdict | undefined;
  let threw = false;
  try {
    verdict = run();
  } catch {
    threw = true;
  }
  return { verdict, calls, written: hit.written, call: hit.call, threw };
}

type Handler = (hit: never, scope: never) => unknown;

/** Runs a handler both ways, and returns what it did: the same. */
function did(
  handler: Handler,
  values: Partial<HitValues> = {},
  more: object = {},
  moment: ProgramMoment = 'pre',
): Outcome {
  const all: HitValues = { args: [7n, 8n, 9n, 10n, 11n, 12n, 13n], memory: new Uint8Array(64), ...values };
  const [first, second] = [plainly, byProgram].map((how) => {
    const calls: unknown[] = [];
    const scope = {
      ...Object.fromEntries(
        Object.entries(SHAPES).map(([name, of]) => [name, recorder(of as unknown as Aggregate, calls)]),
      ),
      ...more,
    };
    const run = how(handler, scope, moment);
    const hit = new FakeHit(all);
    return outcome(hit, calls, () => run(hit));
  }) as [Outcome, Outcome];
  assert.deepEqual(second, first);
  return first;
}
type Run = (hit: FakeHit) => Verdict | undefined;
const plainly =
  (handler: Handler, scope: object): Run =>
  (hit) =>
    handler(hit as never, scope as never) as Verdict | undefined;
function byProgram(handler: Handler, scope: object, moment: ProgramMoment): Run {
  const run = interpreter(lowerText(handler.toString(), scope as Record<string, unknown>, moment));
  return (hit) => run(hit);
}

const SCOPE = {
  ...SHAPES,
  limit: 100n,
  max: 64,
  word: 'redis',
  on: true,
  lh: linearHistogram({ min: 0, max: 10, step: 1 }),
  s: stats(),
  kernel: [1],
  half: 0.5,
  wide: 1n << 70n,
};

/** What is wrong with a text, at the place that the carets mark. */
function problem(text: string, moment: ProgramMoment = 'pre'): string {
  try {
    lowerText(text, SCOPE, moment);
  } catch (e) {
    assert.ok(e instanceof CompileError && e.code === 'bad-handler', String(e));
    return e.problem;
  }
  return assert.fail(`no error: ${text}`);
}
/** The same of statements. */
const wrong = (body: string, moment: ProgramMoment = 'pre'): string =>
  problem(`(hit, { c, h, s, lh, t, e, limit, max, word, on }) => { ${body} }`, moment);

type In = Record<'c' | 'h', { add(value?: bigint | number): void }> & {
  t: { at(...key: unknown[]): { add(value?: bigint | number): void } };
  e: { emit(fields: object): void };
};
type Pre = PreHit<bigint>;
type Return = ReturnHit<bigint>;

const memoryOf = (text: string): Uint8Array => Buffer.from(text.padEnd(64, '\0'), 'latin1');

void describe('A compiled handler', () => {
  void it('adds to aggregates what JavaScript adds', () => {
    const { calls } = did((hit: Pre, { c, h, t }: In) => {
      c.add();
      h.add((hit.arg(0) + 5n) & 0xffffn);
      t.at(hit.pid, hit.comm).add(hit.cpu);
      c.add(i64(hit.arg(0) - hit.arg(1)));
    });
    assert.deepEqual(calls, [[1n], [12n], [[42n, 'redis-server'], 1n], [-1n]]);
  });

  void it('emits events with fields that may be undefined', () => {
    const { calls } = did(
      (hit: Pre, { e }: In) => {
        e.emit({ n: -3n, pid: hit.pid, path: hit.readString(0x1000n), ok: hit.arg(0) === 7n });
        e.emit({ pid: hit.tid, path: hit.readString(1n), n: hit.read(2n, 'i32'), ok: false });
      },
      { memory: memoryOf('/etc/passwd') },
    );
    assert.deepEqual(calls, [
      [{ pid: 42n, path: '/etc/passwd', n: -3n, ok: true }],
      [{ pid: 43n, path: undefined, n: undefined, ok: false }],
    ]);
  });

  void it('knows values that are not there by their being undefined', () => {
    const handler = (hit: Pre, { c, h }: In): void => {
      const v = hit.read(hit.arg(0), 'u16');
      if (v === undefined) {
        c.add();
        return;
      }
      h.add(v + 1n);
      h.add(hit.read(hit.arg(0) + 2n, 'u8') ?? 99n);
      const name = hit.readString(hit.arg(0));
      if (name !== undefined && name === 'ab') c.add(2n);
      if (hit.readString(hit.arg(1)) === 'x') c.add(3n);
      if (hit.readString(hit.arg(1)) !== 'x') c.add(4n);
    };
    const there = did(handler, { args: [MEMORY, 1n], memory: memoryOf('ab') });
    assert.deepEqual(there.calls, [[0x6262n], [0n], [2n], [4n]]);
    assert.deepEqual(did(handler, { args: [1n, 1n] }).calls, [[1n]]);
  });

  void it('has loops with a bound, broken off and gone on with', () => {
    const { calls } = did((hit: Pre, { c, h }: In) => {
      let sum = 0n;
      for (let i = 0; i < 16; i++) {
        if (i === 3) continue;
        if (i > 5) break;
        sum += (BigInt(i) * hit.arg(0)) & 0xffffn;
      }
      h.add(sum);
      const n = hit.arg(1) < 64n ? hit.arg(1) : 64n;
      for (let i = 2n; i <= n; i += 3n) c.add(i);
    });
    assert.deepEqual(calls, [[84n], [2n], [5n], [8n]]);
  });

  void it('returns verdicts, early or at its end', () => {
    const handler = (hit: Pre): 'skip' | 'remove' | undefined => {
      if (hit.arg(0) > 5n && hit.arg(1) !== 8n) return 'remove';
      return hit.arg(0) === 7n ? 'skip' : undefined;
    };
    assert.equal(did(handler).verdict, 'skip');
    assert.equal(did(handler, { args: [6n, 1n] }).verdict, 'remove');
    assert.equal(did(handler, { args: [1n, 1n] }).verdict, undefined);
  });

  void it('writes registers and what the return handler gets', () => {
    const { written, call } = did((hit: Pre) => {
      const { regs } = hit;
      regs.ax = -1;
      hit.regs.si += hit.regs.di;
      regs.cx--;
      hit.call = hit.arg(1);
    });
    assert.deepEqual(written, { ax: 0xffff_ffff_ffff_ffffn, si: 15n, cx: 9n });
    assert.equal(call, 15n);
  });

  void it('reads and changes what a function returns', () => {
    const handler = (hit: Return, { c, h }: In): void => {
      if (hit.call !== undefined) h.add(hit.duration + (hit.call % 8n));
      else c.add(hit.entryArgs[1] ?? 0n);
      if (i32(hit.returnValue) === -1n) hit.returnValue = 0n;
    };
    const given = { returnValue: 0xffff_ffffn, call: 9n };
    const { calls, written } = did(handler, given, {}, 'return');
    assert.deepEqual([calls, written], [[[1235n]], { ax: 0n }]);
    assert.deepEqual(did(handler, { returnValue: 1n }, {}, 'return').calls, [[8n]]);
  });

  void it('ends where an argument on the stack cannot be read', () => {
    const handler = (hit: Pre, { c }: In): void => {
      c.add(1n);
      const x = hit.arg(7);
      c.add(2n);
      c.add(x);
    };
    assert.deepEqual(did(handler).calls, [[1n]]);
    assert.equal(did(handler).threw, true);
    assert.deepEqual(did(handler, { args: [0n, 1n, 2n, 3n, 4n, 5n, 6n, 70n] }).calls, [[1n], [2n], [70n]]);
  });

  void it('cuts off what a conversion is asked to cut off', () => {
    const { calls } = did((hit: Pre, { c }: In) => {
      const x = hit.arg(0);
      c.add(u8(x * x * x));
      c.add(u32(x << 40n));
      c.add(i32(-x));
      c.add(u64(~x));
      c.add(i64((x << 63n) - 1n));
      c.add(u16(hit.pid - 100));
      c.add(u64(x - 8n) >> 60n);
      c.add(u8(x > 3n));
    });
    const all = (1n << 64n) - 1n;
    assert.deepEqual(calls.flat(), [87n, 0n, -7n, all - 7n, (1n << 63n) - 1n, 65478n, 15n, 1n]);
  });

  void it('computes with numbers where they are exact', () => {
    const { calls } = did((hit: Pre, { c }: In) => {
      const n = Number(u32(hit.arg(0)));
      c.add(n * 3 - 1);
      c.add(Math.trunc(-n / 2));
      c.add(n % 4);
      c.add((hit.pid & 15) << 2);
      c.add(~hit.pid);
      if (n < hit.arg(1)) c.add(hit.pid ^ 1);
    });
    assert.deepEqual(calls.flat(), [20n, -3n, 3n, 40n, -43n, 43n]);
  });

  void it('has what its scope holds, and keeps it whatever becomes of the object', () => {
    const scope = { c: counter(), by: 5n };
    const handler = compiled({ scope }, (hit, { c, by }) => {
      c.add(hit.arg(0) % by);
    });
    scope.by = 1n;
    const { c } = scope;
    handler(new FakeHit({ args: [8n], memory: new Uint8Array(0) }) as never);
    assert.equal(c.value, 3n);
    const program = programOf(handler, 'pre')!;
    interpreter(program)(new FakeHit({ args: [9n], memory: new Uint8Array(0) }));
    assert.equal(c.value, 7n);
    assert.deepEqual(program.aggregates, [c]);
    assert.equal(programOf(handler, 'pre'), program);
  });

  void it('takes its hit and its scope apart', () => {
    const { calls } = did(
      ({ regs, pid, comm: name }: Pre, scope: In & { by: bigint }) => {
        const { c, by } = scope;
        const { di } = regs;
        scope.t.at(pid, name).add(di);
        c.add(by);
      },
      {},
      { by: 4n },
    );
    assert.deepEqual(calls, [[[42n, 'redis-server'], 7n], [4n]]);
  });

  void it('knows how tools write undefined, true and false', () => {
    const text = `(hit, { c }) => {
      const v = hit.read(hit.arg(0), "u8");
      if (v === void 0 || !0 === (hit.arg(1) === 3n)) return;
      c.add(!1 ? 1n : v);
    }`;
    const program = lowerText(text, { c: SHAPES.c }, 'pre');
    const before = SHAPES.c.value;
    for (const args of [[MEMORY, 1n], [MEMORY, 3n], [1n]])
      interpreter(program)(new FakeHit({ args, memory: Uint8Array.of(5) }));
    assert.equal(SHAPES.c.value - before, 5n);
  });

  void it('may be handed the conversions, where a tool has renamed them', () => {
    const { calls } = did(
      (hit: Pre, { c, cut }: In & { cut: (v: bigint) => bigint }) => {
        c.add(cut(hit.arg(0) - 8n));
      },
      {},
      { cut: u8 },
    );
    assert.deepEqual(calls, [[255n]]);
  });
});

void describe('A handler that cannot be compiled', () => {
  void it('is told where, with the line and a caret: bad-handler', () => {
    const scope = { c: counter() };
    const make = (): unknown =>
      compiled({ scope }, (hit, { c }) => {
        c.add();
        c.add(hit.arg(0) - hit.arg(1));
      });
    assert.throws(make, (e: Error) => {
      assert.ok(e instanceof CompileError);
      assert.equal(e.code, 'bad-handler');
      assert.equal(e.line, 3);
      const [what, line, carets, where] = e.message.split('\n');
      assert.match(what!, /^hit\.arg\(0\) - hit\.arg\(1\) may not fit in 64 bits/);
      assert.match(line!, /^ {2}3 \| c\.add\(hit\.arg\(0\) - hit\.arg\(1\)\);$/);
      assert.equal(carets!.indexOf('^'), line!.indexOf('hit'));
      assert.equal(carets!.trim().length, 'hit.arg(0) - hit.arg(1)'.length);
      assert.match(where!, /line 3 of the handler that is compiled at .*handler-compile\.test\.js:\d+:\d+$/);
      return true;
    });
  });

  for (const [body, expected] of [
    // 64 bits
    [
      'h.add(hit.arg(0) + 1n)',
      'hit.arg(0) + 1n may not fit in 64 bits (1 to 2^64): write u64(hit.arg(0) + 1n)',
    ],
    [
      'h.add(hit.arg(0) * -1n)',
      /may not fit in 64 bits .*: write u64\(.*\), or i64\(.*\) where it may be negative/,
    ],
    ['h.add(~hit.arg(0))', /~hit\.arg\(0\) may not fit in 64 bits: write u64\(~hit\.arg\(0\)\) or ~i64/],
    ['h.add(-hit.arg(0))', /may not fit in 64 bits/],
    ['h.add(u64((hit.arg(0) + 1n) / 2n))', /^hit\.arg\(0\) \+ 1n may not fit/],
    ['h.add(0x1_0000_0000_0000_0000n)', '0x10000000000000000n needs more than 64 bits'],
    [
      'h.add(hit.arg(0) << hit.arg(1))',
      /a shift is by 0 to 63, and hit\.arg\(1\) may be 0 to 2\^64 - 1: write hit\.arg\(1\) & 63n/,
    ],
    [
      'h.add(1n / hit.arg(0))',
      'hit.arg(0) may be 0, and nothing can be divided by that: write if (hit.arg(0) === 0n) return; before it',
    ],
    ['h.add(hit.arg(0) % 0n)', 'this divides by zero'],
    [
      'const a = i64(hit.arg(0)); h.add(hit.arg(1) / (a === 0n ? 1n : a))',
      /may be negative and hit\.arg\(1\) may be above 2\^63: write i64\(hit\.arg\(1\)\) or u64/,
    ],
    [
      'if (i64(hit.arg(0)) < hit.arg(1)) c.add()',
      'i64(hit.arg(0)) may be negative and hit.arg(1) may be above 2^63: write i64(hit.arg(1)) or u64(i64(hit.arg(0)))',
    ],
    [
      'let x = hit.arg(0); x = i64(hit.arg(1)); c.add(x)',
      /x would be 0 to 2\^64 - 1 and -2\^63 to 2\^63 - 1, which no 64 bits hold/,
    ],
    ['c.add(on ? hit.arg(0) : 5n); c.add(hit.arg(1) > 3n ? hit.arg(0) : -1n)', /which no 64 bits hold/],
    [
      'let x = hit.arg(0); x += 1n; c.add(x)',
      'x + 1n may not fit in 64 bits (1 to 2^64): write x = u64(x + 1n)',
    ],
    [
      'let x = hit.arg(0); x--; c.add(x)',
      /^x - 1n may not fit in 64 bits .*: write x = u64\(x - 1n\), or x = i64/,
    ],
    // kinds
    [
      'h.add(hit.arg(0) & 1)',
      'hit.arg(0) is a bigint and 1 a number, which JavaScript does not mix: write 1n',
    ],
    ['h.add(hit.arg(0) % hit.pid)', /hit\.pid may be 0|write BigInt\(hit\.pid\)/],
    [
      'if (hit.arg(0) === 1) c.add()',
      'hit.arg(0) is a bigint and 1 a number, so this is always false: write 1n',
    ],
    ['if (hit.pid !== 1n) c.add()', /so this is always true/],
    ['if (hit.comm === 5) c.add()', /hit\.comm is a string and 5 a number, so this is always false/],
    [
      'h.add(hit.pid / 2)',
      'a division of numbers has a fraction: write Math.trunc(hit.pid / 2), or BigInt(hit.pid) / BigInt(2)',
    ],
    ['h.add(1.5)', 'numbers with a fraction are not part of compiled handlers'],
    ['h.add(9007199254740993)', 'JavaScript rounds this number: write 9007199254740993n'],
    [
      'h.add(Number(hit.arg(0)))',
      /which a number does not hold exactly: write Number\(u32\(hit\.arg\(0\)\)\)/,
    ],
    [
      'const a = Number(u32(hit.arg(0))); h.add(a & 1)',
      /& sees the lowest 32 bits of a number, and a may be 0 to 2\^32 - 1: write BigInt\(a\)/,
    ],
    ['const a = Number(u32(hit.arg(0))); h.add(a * a)', /which a number does not hold exactly/],
    ['h.add(hit.pid << 20)', /which a number cuts off at 32 bits/],
    ['let x = 5n; x = 5; c.add(x)', 'x is a bigint, and this is a number'],
    [
      'h.add(on ? 1n : 2); h.add(hit.pid > 5 ? 1n : 2)',
      /both alternatives must be of one kind: 1n is a bigint and 2 a number/,
    ],
    ['h.add("x")', 'whole numbers are added, and this is a string'],
    ['h.add(hit.comm + "x")', 'strings cannot be joined here: emit or key by both of them'],
    ['h.add(hit.comm.length)', 'strings can be compared, be keys and be emitted, and nothing else'],
    ['if (hit.comm < "x") c.add()', 'strings are compared with === and !== only'],
    ['if (hit.comm === `a${1}`) c.add()', /strings cannot be put together here/],
    ['if (hit.comm === "a\\0") c.add()', 'strings end at their NUL: no other has one'],
    ['if (hit.comm === "\\ud800") c.add()', /^no sequence of bytes is read as this string/],
    // conditions
    ['if (hit.arg(0)) c.add()', 'a condition is needed, and this is a bigint: write hit.arg(0) !== 0n'],
    [
      'if (hit.read(1n, "u8")) c.add()',
      'a condition is needed, and this is a bigint or undefined: write hit.read(1n, "u8") !== undefined',
    ],
    ['if (!hit.pid) c.add()', 'a condition is needed, and this is a number: write hit.pid !== 0'],
    ['if (hit.arg(0) == 1n) c.add()', '== converts in JavaScript: write ==='],
    [
      'if (hit.arg(0) < 0n) c.add()',
      'hit.arg(0) is 0 to 2^64 - 1 here, so this is always false; for a signed value write i64(hit.arg(0)) or i32(hit.arg(0))',
    ],
    ['const v = u8(hit.arg(0)); if (v <= 255n) c.add()', /^v is 0 to 255 here, so this is always true/],
    ['if (hit.arg(0) === undefined) c.add()', 'hit.arg(0) is never undefined here'],
    // undefined
    [
      'h.add(hit.read(1n, "u8"))',
      /^hit\.read\(1n, "u8"\) may be undefined: write const v = …; if \(v === undefined\) return; before it, or hit\.read\(1n, "u8"\) \?\? 0n$/,
    ],
    [
      'const v = hit.read(1n, "u8"); h.add(v + 1n)',
      'v may be undefined: write if (v === undefined) return; before it, or v ?? 0n',
    ],
    ['const v = hit.read(1n, "u8"); if (v !== undefined || hit.pid > 3) h.add(v)', /^v may be undefined/],
    ['t.at(hit.pid, hit.readString(1n)).add()', /may be undefined/],
    ['h.add(undefined)', 'undefined is only compared with: === undefined, !== undefined'],
    // loops
    ['while (true) c.add()', 'a loop must have a bound: write for (let i = 0; i < 16; i++)'],
    [
      'for (let i = 0; i < hit.pid; i++) c.add()',
      /a loop goes round at most 1024 times, and hit\.pid may be 0 to 4194304, so this may go 4194304 times: write hit\.pid < 64 \? hit\.pid : 64/,
    ],
    [
      'for (let i = 0n; i < hit.arg(0); i++) c.add()',
      /a loop goes round at most 1024 times, and hit\.arg\(0\) may be 0 to 2\^64 - 1/,
    ],
    ['for (let i = 9; i > 0; i--) c.add()', 'write for (let i = 0; i < 16; i++)'],
    ['for (let i = 0; i < 9; i++) i = 3', 'i cannot be assigned to: declare it with let'],
    ['for (let i = 0; i < i + 1; i++) c.add()', 'the end of a loop cannot depend on i, which runs up to it'],
    ['for (const x of [1]) c.add()', 'write for (let i = 0; i < 16; i++)'],
    // names
    [
      'c.add(outer)',
      'outer is outside of the handler, which runs elsewhere: pass it in: compiled({ scope: { outer } }, (hit, { outer }) => …)',
    ],
    ['c.add(limits)', /outside of the handler.*\(or did you mean limit\?\)$/],
    ['console.log(1)', 'a compiled handler cannot print: emit an event and print that'],
    [
      'c.add((0, uprobe_1.u64)(hit.arg(0)))',
      /^uprobe_1 is not the author's: TypeScript \(CommonJS output\) has rewritten this text.*compiled\(\{ scope: \{ u64 \} \}/,
    ],
    ['c.add((0, __vite_ssr_import_0__.u64)(1n))', /vitest or vite has rewritten this text/],
    ['c.add((0, import_uprobe.u64)(1n))', /esbuild or tsx \(CommonJS output\) has rewritten/],
    ['__name(1, "x")', /tsx or esbuild \(keepNames\)/],
    ['cov_1abc().s[0]++; c.add()', /a coverage tool \(istanbul\)/],
    ['c.add(x); const x = 1n', 'x is declared further down, where it gets its value'],
    ['const x = 1n; x = 2n', 'x cannot be assigned to: declare it with let'],
    ['var x = 1n', 'write let or const'],
    ['let x; x = 1n', 'a variable needs a value: let x = 0n'],
    // the hit
    ['c.add(hit.pidd)', 'a hit has no pidd: did you mean hit.pid?'],
    ['c.add(hit.floatArg(0))', 'floating-point numbers are not part of compiled handlers'],
    ['hit.write(1n, x)', 'compiled handlers do not write memory'],
    ['c.add(hit.regs.rax)', "there is no register rax; they have the kernel's names: regs.di, regs.ax, …"],
    ['c.add(hit.regs)', 'name a register: hit.regs.di'],
    ['c.add(hit.arg(10))', 'write a number from 0 to 9, as in hit.arg(0)'],
    ['c.add(hit.arg(hit.pid))', 'write a number from 0 to 9, as in hit.arg(0)'],
    ['c.add(hit.arg)', 'write hit.arg(…)'],
    ['const { arg } = hit; c.add(arg(0))', 'a method needs its hit: write hit.arg(…)'],
    ['hit.read(1n, "u9")', /^name a type: "u8" "u16"/],
    ['hit.read(5, "u8")', 'an address is a bigint, and this is a number'],
    ['hit.readString(1n, 5000)', /0 to 4096 bytes can be read, and 5000 may be 5000/],
    ['hit.readString(1n, 16n)', /a number of bytes is needed, and this is a bigint: write Number\(16n\)/],
    ['c.add(hit.uprobe.name)', 'of the uprobe only its id is known here: hit.uprobe.id'],
    ['c.add(hit.returnValue)', 'returnValue is known only where a function returns, in a return handler'],
    ['c.add(hit.duration)', 'duration is known only where a function returns, in a return handler'],
    ['c.add(hit.entryArgs[0])', /entryArgs is known only where a function returns/],
    ['c.add(hit.call ?? 0n)', /a pre handler writes hit\.call, and the return handler reads it/],
    ['hit.call = 5', 'hit.call keeps a bigint, and this is a number: write BigInt(5)'],
    ['hit.call = -5n', /hit\.call holds 0 to .* and -5n may be -5: write u64\(-5n\)/],
    ['hit.pid = 5', 'only variables, hit.regs.NAME, hit.returnValue and hit.call can be assigned'],
    // aggregates
    ['c.add(c.value)', 'a handler writes aggregates (add, at(…).add, emit); read them outside of it'],
    ['c.clear()', /a handler writes aggregates .*; a counter has add\(\) or add\(value\)/],
    ['h.add()', 'a histogram needs a value: add(value)'],
    ['c.add(1n, 2n)', 'one value is added at a time'],
    ['c.emit({})', 'a counter has add() or add(value)'],
    ['t.add(1n)', 'a table has at(key, …).add(value)'],
    ['c.at(1n).add(1n)', 'a counter has add() or add(value)'],
    ['t.at(hit.pid).add()', "the table's key has 2 parts, and 1 is given"],
    [
      't.at(hit.arg(0), "x").add()',
      /this part of the key holds 0 to 4294967295, and hit\.arg\(0\) may be 0 to 2\^64 - 1: write u32\(hit\.arg\(0\)\)/,
    ],
    ['t.at("x", "x").add()', 'this part of the key holds a number, and this is a string'],
    [
      'const row = t.at(hit.pid, hit.comm)',
      'of a table a handler writes table.at(key).add(value), as one statement',
    ],
    ['c.add(h.add(1n))', 'add() is a statement of its own: it has no value'],
    ['e.emit({ pid: 1, path: "x", n: 1 })', 'the event has ok, too: write ok: …'],
    [
      'e.emit({ pid: 1, path: "x", n: 1, okay: true })',
      'the event has no field okay: it has pid, path, n, ok',
    ],
    ['e.emit({ pid: 1, path: "x", n: 1, ok: 1 })', 'the field ok holds true or false, and this is a number'],
    ['e.emit({ pid: hit.arg(0), path: "x", n: 1, ok: on })', /the field pid holds 0 to 4294967295/],
    ['e.emit(hit)', 'write emit({ field: value, … })'],
    // syntax
    ['return 5n', "a handler returns nothing, 'skip' or 'remove'"],
    ['hit.pid > 5 && c.add()', 'write if (…) … in place of a condition that stands alone'],
    ['hit.arg(0)', 'this does nothing: its value is not used'],
    ['try { c.add() } catch {}', /nothing throws in a compiled handler/],
    ['throw c', 'a compiled handler cannot throw: return'],
    ['const f = () => 1', 'functions cannot be written in a compiled handler'],
    ['c.add(hit.arg(0) >>> 1n)', '>>> is not part of compiled handlers: write u64(…) >> n'],
    ['c.add(hit.arg(0) ** 2n)', '** is not part of compiled handlers'],
    ['c.add(Math.min(1, 2))', 'of Math there is only trunc: write a < b ? a : b'],
    ['switch (hit.pid) {}', 'write if … else if …'],
    ['let x = 1n; c.add(x++)', '++ and -- are statements of their own here'],
  ] as const) {
    void it(`says what to write: ${body}`, () => {
      const said = wrong(body);
      if (typeof expected === 'string') assert.equal(said, expected);
      else assert.match(said, expected);
    });
  }

  void it('is told what is not there where a function returns', () => {
    assert.match(wrong('c.add(hit.arg(0))', 'return'), /its arguments are gone: write hit\.entryArgs\[0\]/);
    assert.match(wrong("return 'skip'", 'return'), /there is no instruction to skip/);
    assert.match(wrong('hit.call = 1n', 'return'), /the return handler reads hit\.call/);
  });

  void it('is found out when it is made, if it can run at no moment, else when it is used', () => {
    const scope = { c: counter() };
    assert.throws(
      () =>
        compiled({ scope }, (hit: Return, { c }) => {
          c.add(hit.duration);
          c.add(hit.arg(0));
        }),
      CompileError,
    );
    const handler = compiled({ scope }, (hit: Return, { c }) => {
      c.add(hit.duration);
    });
    assert.ok(programOf(handler, 'return'));
    assert.throws(() => programOf(handler, 'pre'), /duration is known only where a function returns/);
  });

  void it('is no function with a text of its own', () => {
    const scope = {};
    function handler(this: void): void {}
    const methods: Record<string, unknown> = { f() {} };
    const make = (f: unknown) => (): unknown => compiled({ scope }, f as never);
    assert.throws(make(Math.max), /a bound or native function has no text/);
    assert.throws(make(handler.bind(undefined)), /a bound or native function has no text/);
    assert.throws(
      make(async () => {}),
      /a handler is synchronous: leave async out/,
    );
    assert.throws(
      make(function* f() {}),
      /a generator is no handler/,
    );
    assert.throws(make(CompileError), /a class is no handler/);
    assert.throws(make(methods['f']), /this is a method/);
    assert.throws(make(undefined), /compiled takes a function: compiled\(\{ scope: .* not undefined/);
    const bare = compiled as unknown as (f: () => void) => unknown;
    assert.throws(() => bare(() => {}), { code: 'bad-handler', message: /compiled takes a function/ });
  });

  void it('is told what is in its scope that cannot be compiled', () => {
    const text = (use: string): string => `(hit, s) => { s.c.add(s.${use}) }`;
    assert.match(problem(text('kernel')), /kernel of the scope is an array: a scope holds/);
    assert.match(problem(text('half')), /half of the scope is 0\.5, which is no whole number/);
    assert.match(problem(text('wide')), /which needs more than 64 bits/);
    assert.match(problem(text('limits')), /the scope has no limits: did you mean limit\?/);
  });
});
