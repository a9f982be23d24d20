import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import {
  openModule,
  registerUprobes,
  spawnTarget,
  type Fault,
  type FaultHit,
  type HandlerError,
  type Uprobe,
  type UprobeSpec,
} from 'uprobe';
import { compileFixture, privateCopy } from '../helpers/compile.js';

const program = privateCopy(compileFixture('faults'));
const unprobed = execFileSync(program, ['2'], { encoding: 'utf8' });
type Rest = Omit<UprobeSpec, 'pathname' | 'processes'> & { symbol: string };

async function run(
  specs: readonly Rest[],
  file = program,
  args = ['2'],
): Promise<{ probes: Uprobe[]; stdout: string; code: number | null; signal: string | null }> {
  const target = await spawnTarget(file, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const group = await registerUprobes(specs.map((s) => ({ ...s, pathname: file, processes: target })));
  const stdout = text(target.stdout!);
  await target.resume();
  const { code, signal } = await target.exited;
  return { probes: [...group], stdout: await stdout, code, signal };
}

/** The labelled instructions that raise something. */
const places = (): string[] => {
  using view = openModule(program);
  const refused = (symbol: string): boolean => view.plan({ symbol }).chosen === undefined;
  const names = unprobed.match(/^\w+(?= OK$)/gm)!.map((name) => `fault_${name}_at`);
  return names.filter((symbol) => !refused(symbol));
};

test('a fault handler sees what the instruction raised, and the program gets it all the same', async () => {
  const seen = new Map<string, Fault[]>();
  const specs = places().map((symbol): Rest => ({
    symbol,
    faultHandler: (hit) => {
      seen.set(symbol, [...(seen.get(symbol) ?? []), hit.fault]);
      hit.regs.ax = 1; // dropped: the fault is not handled
    },
  }));
  const { stdout, code, probes } = await run(specs);
  assert.equal(stdout, unprobed);
  assert.equal(code, 0);
  const one = (name: string): Fault => seen.get(`fault_${name}_at`)![0]!;
  assert.deepEqual(one('load'), { origin: 'instruction', signal: 'SIGSEGV', code: 1, address: 0x10n });
  const { address } = probes.find((p) => p.symbol === 'fault_divide_at')!;
  const divide = one('divide');
  assert.equal(divide.origin === 'instruction' && divide.signal, 'SIGFPE');
  assert.equal(divide.origin === 'instruction' && divide.address & 0xfffn, address & 0xfffn);
  // these fault where they go to, not where they are
  const elsewhere = ['fault_jump_at', 'fault_call_away_at'];
  for (const { symbol } of specs)
    assert.equal(seen.get(symbol)?.length ?? 0, elsewhere.includes(symbol) ? 0 : 2, symbol);
});

test('a fault handler can repair what was wrong and have the instruction tried again', async () => {
  const good = (hit: FaultHit): bigint => hit.regs.sp - 64n;
  const specs: Rest[] = [
    { symbol: 'fault_load_at', faultHandler: (hit) => ((hit.regs.di = good(hit)), 'handled') },
    {
      symbol: 'fault_divide_at',
      faultHandler: (hit) => {
        hit.regs.cx = 1;
        return 'handled';
      },
    },
  ];
  const { stdout } = await run(specs);
  // the program complains that nothing was raised
  assert.match(stdout, /^load BAD$/m);
  assert.match(stdout, /^divide BAD$/m);
  assert.match(stdout, /^overflow OK$/m);
});

test('a fault handler can go on elsewhere', async () => {
  using view = openModule(program);
  const skip = (symbol: string): Rest => {
    const { address, instruction } = view.plan({ symbol });
    assert.ok(address > 0n);
    return {
      symbol,
      faultHandler: (hit) => {
        hit.regs.ip += BigInt(instruction.bytes.length);
        return 'handled';
      },
    };
  };
  const { stdout } = await run([skip('fault_illegal_at'), skip('fault_store_at')]);
  assert.match(stdout, /^illegal BAD$/m);
  assert.match(stdout, /^store BAD$/m);
  assert.match(stdout, /^load OK$/m);
});

test('one that changes nothing is believed for a while, then the signal comes', async () => {
  let calls = 0;
  const { stdout, code } = await run([{ symbol: 'fault_load_at', faultHandler: () => (calls++, 'handled') }]);
  assert.equal(stdout, unprobed);
  assert.equal(code, 0);
  assert.equal(calls, 2 * 17);
});

test('with post handlers the fault comes instead of them', async () => {
  let posts = 0;
  let faults = 0;
  const specs = places().map((symbol): Rest => ({
    symbol,
    preHandler: () => undefined,
    postHandler: () => void posts++,
    faultHandler: () => void faults++,
  }));
  const { stdout } = await run(specs);
  assert.equal(stdout, unprobed);
  assert.equal(posts, 4, 'the two that fault where they go to, in two rounds');
  assert.equal(faults, 2 * (specs.length - 2));
});

test('a fault handler is told when another handler of its uprobe throws, and may mend it', async () => {
  const file = privateCopy(compileFixture('calls'));
  const output = execFileSync(file, ['3'], { encoding: 'utf8' });
  const seen: Fault[] = [];
  const errors: HandlerError[] = [];
  const mistake = new Error('a mistake');
  const thrower = (handled: boolean): Rest => ({
    symbol: 'many',
    preHandler: () => {
      throw mistake;
    },
    faultHandler: (hit) => {
      seen.push(hit.fault);
      return handled ? 'handled' : undefined;
    },
    onError: (e) => void errors.push(e),
  });
  const { stdout, probes } = await run([thrower(false), thrower(true)], file, ['3']);
  assert.equal(stdout, output);
  assert.equal(seen.length, 6);
  assert.deepEqual(seen[0], { origin: 'handler', handler: 'pre', error: mistake });
  assert.deepEqual(probes.map((p) => [p.nhits, p.nerrors]), [[3n, 3n], [3n, 3n]]); // prettier-ignore
  assert.deepEqual(errors.map((e) => [e.kind, e.error]), Array.from({ length: 3 }, () => ['pre', mistake])); // prettier-ignore
});
