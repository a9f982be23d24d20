/** What an editor knows of compiled handlers. Checked when the tests are built; nothing here runs. */
import { it } from 'node:test';
import assert from 'node:assert/strict';
import { compiled, histogram, registerUprobe } from 'uprobe';
import type { PreHit, ReturnHit, Uprobe, UprobeSpec } from 'uprobe';

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
declare const same: <A, B>(..._: Same<A, B> extends true ? [] : [never]) => void;

const sizes = histogram();

const inASpec = (): UprobeSpec => ({
  pathname: 'libc',
  symbol: 'malloc',
  preHandler: compiled({ scope: { sizes, limit: 5n } }, (hit, scope) => {
    same<typeof hit, PreHit<bigint>>();
    same<typeof scope.limit, bigint>();
    scope.sizes.add(hit.arg(0));
    hit.call = hit.arg(0);
    // @ts-expect-error: there is no such thing in the scope
    same<typeof scope.size, unknown>();
  }),
  returnHandler: compiled({ scope: { sizes } }, (hit, scope) => {
    same<typeof hit, ReturnHit<bigint>>();
    scope.sizes.add(hit.returnValue);
    return 'remove';
  }),
});

const inACall = (): Promise<Uprobe> =>
  registerUprobe({
    pathname: 'libc',
    symbol: 'malloc',
    preHandler: compiled({ scope: { sizes } }, (hit, { sizes: all }) => {
      same<typeof hit, PreHit<bigint>>();
      if (hit.arg(0) > 5n) return 'skip';
      all.add(hit.arg(0));
      return undefined;
    }),
    returnHandler: compiled({ scope: { sizes } }, (hit, { sizes: all }) => {
      same<typeof hit, ReturnHit<bigint>>();
      if (hit.call !== undefined) all.add(hit.call);
    }),
  });

const wrongVerdict = (): UprobeSpec => ({
  pathname: 'libc',
  symbol: 'malloc',
  // @ts-expect-error: a return handler skips nothing
  returnHandler: compiled({}, () => 'skip' as const),
});

function alone(): UprobeSpec<string> {
  const pre = compiled({}, (hit) => {
    same<typeof hit, PreHit<bigint>>();
  });
  const returned = compiled({ scope: { sizes } }, (hit: ReturnHit<bigint>, scope) => {
    scope.sizes.add(hit.duration);
  });
  return { pathname: 'libc', symbol: 'malloc', preHandler: pre, returnHandler: returned };
}

void it('A compiled handler is typed by where it stands', () => {
  assert.equal([inASpec, inACall, wrongVerdict, alone].length, 4);
});
