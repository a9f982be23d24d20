import { describe, it } from 'node:test';
import assert from 'node:assert/strict';
import { programOf } from '#uprobe/handler/compiled-handler.js';
import { handlerOf, interpreter } from '#uprobe/handler/interpret.js';
import type { ProgramHit } from '#uprobe/handler/interpret.js';
import type { Expr, Program, Statement } from '#uprobe/handler/ir.js';
import type { Aggregate } from '#uprobe/handler/shapes.js';

const at = { start: 0, end: 4 };
const int = (value: bigint): Expr => ({ op: 'int', type: 'i64', value });
const unreadable: Expr = { op: 'read', type: 'u64', address: int(0n) };
const add = (value: Expr): Statement => ({ at, do: 'add', aggregate: 0, key: [], value });

/** A program over one counter that keeps what it is given. */
function programWith(body: readonly Statement[], absent: Program['absent']): [Program, unknown[]] {
  const added: unknown[] = [];
  const counter = {
    shape: { kind: 'counter' },
    add: (value: unknown) => added.push(value),
  } as unknown as Aggregate;
  return [{ moment: 'pre', locals: ['i64'], aggregates: [counter], body, absent, text: 'text of it' }, added];
}

const hit = {
  read: () => undefined,
  arg: () => {
    throw new Error('the stack is not readable');
  },
} as unknown as ProgramHit;

void describe('A program that is interpreted', () => {
  void it('leaves out, or ends at, a statement that has no value: no-value', () => {
    const body = [add(int(1n)), add(unreadable), add(int(2n))];
    const [lenient, first] = programWith(body, 'skip');
    interpreter(lenient)(hit);
    assert.deepEqual(first, [1n, 2n]);
    const [strict, second] = programWith(body, 'error');
    assert.throws(() => interpreter(strict)(hit), {
      code: 'no-value',
      message: 'there is no value for text',
    });
    assert.deepEqual(second, [1n]);
  });

  void it('ends where an argument on an unreadable stack is read, as the handler itself would', () => {
    const body: Statement[] = [
      { at, do: 'set', local: 0, value: { op: 'arg', type: 'u64', index: 7 } },
      add(int(1n)),
    ];
    const [strict, added] = programWith(body, 'error');
    assert.throws(() => interpreter(strict)(hit), /the stack is not readable/);
    assert.deepEqual(added, []);
    const [lenient, others] = programWith(body, 'skip');
    interpreter(lenient)(hit);
    assert.deepEqual(others, [1n]);
  });

  void it('goes round at most as often as was proven, and past what is left out', () => {
    const local: Expr = { op: 'local', type: 'i64', local: 0 };
    const odd: Expr = {
      op: 'compare',
      type: 'bool',
      operator: '==',
      left: { op: 'arithmetic', type: 'i64', operator: '&', left: local, right: int(1n) },
      right: int(1n),
    };
    const body: Statement[] = [
      {
        at,
        do: 'loop',
        local: 0,
        from: int(0n),
        to: int(100n),
        step: 1n,
        most: 6,
        body: [{ at, do: 'if', condition: odd, yes: [{ at, do: 'continue' }], no: [] }, add(local)],
      },
      { at, do: 'leave', verdict: 'skip' },
      add(int(99n)),
    ];
    const [program, added] = programWith(body, 'error');
    const handler = handlerOf(program);
    assert.equal(handler(hit), 'skip');
    assert.deepEqual(added, [0n, 2n, 4n]);
    assert.equal(programOf(handler, 'pre'), program);
  });

  void it('knows whether a value is there, and takes another where it is not', () => {
    const body: Statement[] = [
      add({ op: 'otherwise', type: 'i64', of: unreadable, instead: int(5n) }),
      {
        at,
        do: 'if',
        condition: { op: 'present', type: 'bool', of: unreadable },
        yes: [],
        no: [add(int(6n))],
      },
    ];
    const [program, added] = programWith(body, 'error');
    interpreter(program)(hit);
    assert.deepEqual(added, [5n, 6n]);
  });
});
