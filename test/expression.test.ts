import { describe, it } from 'node:test';
import assert from 'node:assert/strict';
import {
  ExpressionError,
  compileExpression,
  parseArgsList,
  parseExpression,
} from '#uprobe/handler/expression.js';
import type { ExpressionHit, Moment, Value } from '#uprobe/handler/expression.js';
import { REGISTERS } from '#uprobe/handler/ir.js';
import type { IntType, Register } from '#uprobe/handler/ir.js';

/** A hit over a few bytes of "memory" at 0x1000; arguments 0 to 9; everything else unreadable. */
function hitWith(args: readonly bigint[], memory: Uint8Array = new Uint8Array(0)): ExpressionHit {
  const regs = Object.fromEntries(REGISTERS.map((r, i) => [r, BigInt(i) + 100n])) as Record<Register, bigint>;
  const bytes = (address: bigint, length: number): Uint8Array | undefined => {
    const at = Number(address) - 0x1000;
    return at >= 0 && at + length <= memory.length ? memory.subarray(at, at + length) : undefined;
  };
  return {
    pid: 42,
    tid: 43,
    cpu: 1,
    comm: 'bash',
    time: 123_456_789_012_345_678n,
    regs,
    returnValue: 0xffff_ffff_ffff_ffffn,
    arg: (n) => args[n] ?? 0n,
    floatArg: (n) => n + 0.5,
    read: (address, type: IntType) => {
      const found = bytes(address, Number(type.slice(1)) / 8);
      if (found === undefined) return undefined;
      const value = BigInt(`0x${Buffer.from(found).reverse().toString('hex')}`);
      return type.startsWith('i') ? BigInt.asIntN(found.length * 8, value) : value;
    },
    readBytes: bytes,
    readString: (address, max = 256) => {
      const at = Number(address) - 0x1000;
      if (at < 0 || at >= memory.length) return undefined;
      const text = Buffer.from(memory.subarray(at, at + max));
      const end = text.indexOf(0);
      return text.subarray(0, end < 0 ? text.length : end).toString('utf8');
    },
  };
}

const MAX = 0xffff_ffff_ffff_ffffn;
const evaluate = (text: string, hit: ExpressionHit = hitWith([]), moment: Moment = 'entry'): Value =>
  compileExpression(parseExpression(text, moment))(hit);

function problem(text: string, moment: Moment = 'entry'): string {
  try {
    parseArgsList(text, moment);
  } catch (e) {
    assert.ok(e instanceof ExpressionError && e.code === 'bad-expression', String(e));
    return e.problem;
  }
  return assert.fail(`no error: ${text}`);
}

void describe('An expression', () => {
  void it('reads arguments, registers and what is known of the hit', () => {
    const hit = hitWith([7n, 8n]);
    assert.equal(evaluate('arg0', hit), 7n);
    assert.equal(evaluate('arg1', hit), 8n);
    assert.equal(evaluate('regs.ax', hit), 100n);
    assert.equal(evaluate('regs.origAx', hit), 118n);
    assert.equal(evaluate('pid', hit), 42n);
    assert.equal(evaluate('tid', hit), 43n);
    assert.equal(evaluate('cpu', hit), 1n);
    assert.equal(evaluate('comm', hit), 'bash');
    assert.equal(evaluate('time', hit), 123_456_789_012_345_678n);
    assert.equal(evaluate('cgroup', { ...hit, cgroup: 77n }), 77n);
    assert.equal(evaluate('farg2', hit), 2.5);
  });

  void it('reads what a function returns, and the arguments it was called with', () => {
    const hit = { ...hitWith([7n]), duration: 1234n, entryArgs: [1n, 2n, 3n, 4n, 5n, 6n] };
    assert.equal(evaluate('retval', hit, 'return'), MAX);
    assert.equal(evaluate('i32(retval) == -1 && arg1 == 2', hit, 'return'), true);
    assert.equal(evaluate('arg5', hit, 'return'), 6n);
    assert.equal(evaluate('duration / 1000', hit, 'return'), 1n);
    assert.equal(evaluate('fretval', hit, 'return'), 0.5);
    assert.match(problem('arg6', 'return'), /arg0 to arg5 have been kept/);
    assert.match(problem('farg1', 'return'), /what it returns is fretval/);
    assert.match(problem('f32arg1', 'return'), /what it returns is f32retval/);
    for (const name of ['retval', 'fretval', 'f32retval', 'duration'])
      for (const moment of ['entry', 'after'] as const)
        assert.match(problem(name, moment), /known only where a function returns/);
  });

  void it('takes a float from the lower half of its register', () => {
    const bits = new Float32Array([1.25, 0]);
    const hit = { ...hitWith([]), floatArg: () => new Float64Array(bits.buffer)[0]! };
    assert.equal(evaluate('f32arg0', hit), 1.25);
  });

  void it('converts as registers of that width do', () => {
    const hit = hitWith([MAX, 0x1_8000_0080n]);
    assert.equal(evaluate('i32(arg0)', hit), -1n);
    assert.equal(evaluate('u32(arg0)', hit), 0xffff_ffffn);
    assert.equal(evaluate('i8(arg1)', hit), -128n);
    assert.equal(evaluate('u8(arg1)', hit), 128n);
    assert.equal(evaluate('i64(arg0)', hit), -1n);
    assert.equal(evaluate('u64(i32(arg0))', hit), MAX);
    assert.equal(evaluate('u8(-1)', hit), 255n);
    assert.equal(evaluate('i64(comm == "bash")', hit), 1n);
    assert.equal(evaluate('i64(farg1)', hit), 1n);
    assert.equal(evaluate('u8(farg1 * 1e30)', hit), 255n);
    assert.equal(evaluate('f64(i32(arg0)) / 2', hit), -0.5);
  });

  void it('computes with 64 bits and wraps round like the program', () => {
    const hit = hitWith([MAX, 10n, 3n]);
    assert.equal(evaluate('arg0 + 2', hit), 1n);
    assert.equal(evaluate('arg2 - arg1', hit), MAX - 6n);
    assert.equal(evaluate('i64(arg2) - i64(arg1)', hit), -7n);
    assert.equal(evaluate('arg1 / arg2 * 10 + arg1 % arg2', hit), 31n);
    assert.equal(evaluate('i32(arg0) / 2', hit), 0n);
    assert.equal(evaluate('-i64(arg1) / i64(arg2)', hit), -3n);
    assert.equal(evaluate('i64(0x7fffffffffffffffn) + 1', hit), -(1n << 63n));
    assert.equal(evaluate('u32(arg2) - 5', hit), -2n);
    assert.equal(evaluate('1 << 40', hit), 1n << 40n);
  });

  void it('shifts and masks bits', () => {
    const hit = hitWith([MAX, 0x1234_5678n, 68n]);
    assert.equal(evaluate('arg0 & ~0xfff', hit), MAX - 0xfffn);
    assert.equal(evaluate('~arg0', hit), 0n);
    assert.equal(evaluate('arg1 >> 8 & 0xff', hit), 0x56n);
    assert.equal(evaluate('i64(arg0) >> 8', hit), -1n);
    assert.equal(evaluate('arg0 >> 60', hit), 15n);
    assert.equal(evaluate('1 << arg2', hit), 16n, 'only six bits of a count matter');
    assert.equal(evaluate('(arg1 | 0x80000000) ^ 0xf', hit), 0x9234_5677n);
  });

  void it('compares numbers, strings and doubles', () => {
    const hit = hitWith([MAX, 10n]);
    assert.equal(evaluate('arg0 > arg1', hit), true);
    assert.equal(evaluate('i32(arg0) < 0', hit), true);
    assert.equal(evaluate('10 <= arg1', hit), true);
    assert.equal(evaluate('arg1 === 0xa && arg0 !== 10n', hit), true);
    assert.equal(evaluate('comm == "bash"', hit), true);
    assert.equal(evaluate("'ls' != comm", hit), true);
    assert.equal(evaluate('farg0 < 1', hit), true);
    assert.equal(evaluate('u8(arg1) < i8(arg0)', hit), false);
  });

  void it('decides with && || ! and ?:, and looks only at what it needs', () => {
    const hit = hitWith([0n, 5n]);
    assert.equal(evaluate('arg0 ? 1 : 2', hit), 2n);
    assert.equal(evaluate('!arg0', hit), true);
    assert.equal(evaluate('!arg0 && arg1 > 4 || comm == ""', hit), true);
    assert.equal(evaluate('arg0 == 0 ? "none" : str(arg0)', hit), 'none');
    assert.equal(evaluate('arg0 != 0 && read(arg0, "u8") == 1', hit), false);
    assert.equal(evaluate('arg1 ? u8(arg1) : u16(arg0)', hit), 5n);
  });

  void it('reads memory, and has no value where that cannot be read', () => {
    const memory = Buffer.from('hello\0\xff\xff\xff\xff\x01\x02\x03\x04\x05\x06\x07\x08', 'latin1');
    const hit = hitWith([0x1000n, 3n, 0n], memory);
    assert.equal(evaluate('str(arg0)', hit), 'hello');
    assert.equal(evaluate('str(arg0, arg1)', hit), 'hel');
    assert.equal(evaluate('str(arg0, i32(arg2))', hit), '');
    assert.equal(evaluate('buf(arg0 + 6, 4)', hit), 'ffffffff');
    assert.equal(evaluate('read(arg0 + 6, "i32")', hit), -1n);
    assert.equal(evaluate('read(arg0 + 10, "u16")', hit), 0x0201n);
    assert.equal(evaluate('hex(read(arg0 + 10, "u64"))', hit), '0x807060504030201');
    assert.equal(evaluate('hex(i32(read(arg0 + 6, "i32")))', hit), '0xffffffff');
    for (const text of [
      'str(arg2)',
      'read(arg2, "u8")',
      'read(arg2, "u8") + 1 == 3',
      'buf(arg2, 4)',
      '!read(arg2, "u8")',
    ]) {
      assert.equal(evaluate(text, hit), undefined, text);
    }
    assert.equal(evaluate('arg0 / arg2', hit), undefined, 'a division by zero has no value');
  });

  void it('never asks for more than 4096 bytes', () => {
    let asked = 0;
    const hit = { ...hitWith([MAX]), readBytes: (_: bigint, n: number) => ((asked = n), new Uint8Array(n)) };
    evaluate('buf(1, arg0)', hit);
    assert.equal(asked, 4096);
  });

  void it('keeps every bit of constants', () => {
    assert.equal(evaluate('0xffffffffffffffffn'), MAX);
    assert.equal(evaluate('0x7fff_ffff_ffff_ffffn'), (1n << 63n) - 1n);
    assert.match(problem('0xffffffffffffffff'), /round.*write 0xffffffffffffffffn/);
    assert.match(problem('1n << 63n << 2n'), /more than 64 bits/);
  });

  const mistakes: readonly (readonly [string, RegExp])[] = [
    ['arg0 < 0', /always false: for a signed value write i64\(arg0\) or i32\(arg0\)/],
    ['arg0 >= 0', /always true/],
    ['arg0 == -1', /always false.*i64\(arg0\)/],
    ['u8(arg0) == 256', /it holds 0 to 255/],
    ['u8(arg0) < 0', /write i8\(u8\(arg0\)\)/],
    ['i32(arg0) + arg1', /write i64\(arg1\) or u64\(i32\(arg0\)\)/],
    ['i64(arg0) < arg1', /is signed and arg1 is unsigned/],
    ['-arg0', /write -i64\(arg0\)/],
    ['arg0 + -8', /negative, and arg0 is unsigned/],
    ['arg0 && arg1 == 1', /write arg0 != 0/],
    ['arg0 = 1 = 2', /.*/],
    ['x = arg0 = 1', /write ==/],
    ['rdi', /write regs\.di/],
    ['regs.rdi', /write regs\.di/],
    ['regs.r10d', /write regs\.r10/],
    ['regs["di"]', /write regs\.NAME/],
    ['regs', /name a register/],
    ['retval', /%return.*regs\.ax/],
    ['ret', /write retval/],
    ['elapsed', /write duration/],
    ['arg10', /arg0 to arg9/],
    ['farg8', /farg0 to farg7/],
    ['agr0', /did you mean arg0\?/],
    ['strr(arg0)', /did you mean str\(…\)\?/],
    ['str', /write str\(…\)/],
    ['str()', /write str\(address\)/],
    ['str(arg0, 0)', /1 to 4096/],
    ['str(i64(arg0))', /write u64\(i64\(arg0\)\)/],
    ['str("x")', /an address is needed/],
    ['read(arg0)', /read\(address, "u32"\)/],
    ['read(arg0, "int")', /name a type/],
    ['comm + 1', /needs whole numbers, and this is a string/],
    ['comm > "a"', /== and != only/],
    ['comm == 1', /cannot be compared/],
    ['hex(arg0) + 1', /must stand alone/],
    ['str(buf(arg0, 4))', /must stand alone/],
    ['farg0 & 1', /needs whole numbers/],
    ['farg0 + arg0', /write f64\(arg0\)/],
    ['arg0 >>> 1', /write u64\(…\) >> n/],
    ['arg0 ** 2', /not part of the expression language/],
    ['arg0 ?? 1', /not part of the expression language/],
    ['arg0 << 64', /0 to 63/],
    ['arg0 / 0', /divides by zero/],
    ['typeof arg0', /not part of the expression language/],
    ['() => 1', /functions/],
    ['`x`', /in quotes/],
    ['[1]', /arrays/],
    ['null', /write 0/],
    ['/x/', /regular expressions/],
    ['process.exit(1)', /only these can be called/],
    ['constructor', /unknown name/],
    ['__proto__', /unknown name/],
    ['arg0; arg1', /an expression is needed/],
    ['arg0 +', /ends too early/],
    ['(arg0', /ends too early/],
    ['"abc', /unterminated string/],
    ['', /missing/],
    ['a=arg0,,b=arg1', /missing/],
    ['arg0,', /missing/],
    ['a=', /missing/],
    ['a=arg0, a=arg1', /second argument is called a/],
    ['comm == "x" ? 1 : "a"', /one kind/],
    ['(1 + 2', /ends too early/],
  ];
  for (const [text, message] of mistakes) {
    void it(`says what to write instead of ${JSON.stringify(text)}`, () => {
      assert.match(problem(text), message);
    });
  }

  void it('points at the wrong spot', () => {
    assert.throws(() => parseArgsList('fd=arg0, n=rsi + 1'), {
      message: 'unknown name rsi: write regs.si\n  fd=arg0, n=rsi + 1\n             ^^^',
    });
  });

  void it('escapes what it repeats', () => {
    assert.throws(
      () => parseExpression('"\u001b[31m" + 1'),
      (e: Error) => !e.message.includes('\u001b') && e.message.includes('\\x1b'),
    );
  });
});

void describe('An argument list', () => {
  const names = (text: string): string[] => parseArgsList(text).map((a) => a.name);

  void it('names its entries, or takes their text for a name', () => {
    assert.deepEqual(names('fd=arg0, path=str(arg1), n=i32(arg2)'), ['fd', 'path', 'n']);
    assert.deepEqual(names(' arg0 , str(arg1, 10)'), ['arg0', 'str(arg1, 10)']);
    assert.deepEqual(names('eq=arg0 == 1, arg1 == 2'), ['eq', 'arg1 == 2']);
    assert.deepEqual(names('class=arg0, in=arg1, $x_1=arg2'), ['class', 'in', '$x_1']);
  });

  void it('splits at commas outside brackets and strings', () => {
    assert.deepEqual(names(`a=comm == ",", b=str(arg0, 3), c=comm == '\\',' ? (1) : 2`), ['a', 'b', 'c']);
  });
});

/** A small generator of numbers, the same in every run (Numerical Recipes' linear congruence). */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

void describe('Random text', () => {
  const words = ['arg0', 'arg9', 'farg1', 'regs', '.', 'di', 'str', 'read', 'hex', 'buf', 'u8', 'i64', 'f64', '(', ')', ',', '=', '==',
    '!', '~', '-', '+', '*', '/', '%', '<<', '>>', '>>>', '&', '&&', '|', '||', '^', '?', ':', '"u32"', "'x", '`', '${', '0', '-1', '0x',
    '1n', '1e9', '9007199254740993', ' ', '\n', '[', ']', '{', '}', '=>', 'async', 'await', 'retval', 'duration', 'comm', 'pid', '\\', '\u2028', '\ud800',
    '//', '/*', '*/', '#', '@', ';', 'new', 'this', 'null', 'true', 'yield', 'import', '...']; // prettier-ignore

  void it('is understood or refused with an error of its own, and always evaluates', () => {
    const below = random(20_240_501);
    const hit = hitWith([0x1000n, MAX, 1n], Buffer.from('text\0more'));
    let understood = 0;
    for (let i = 0; i < 15_000; i++) {
      const text = Array.from({ length: 1 + below(9) }, () => words[below(words.length)]).join('');
      try {
        for (const { expr } of parseArgsList(text)) compileExpression(expr)(hit);
        understood++;
      } catch (e) {
        assert.ok(e instanceof ExpressionError, `${JSON.stringify(text)}: ${String(e)}`);
      }
    }
    assert.ok(understood > 100, `only ${understood} were expressions`);
  });

  void it('of great depth or length ends in an error too', () => {
    for (const text of [
      '('.repeat(3900),
      '!'.repeat(3900) + '1',
      '1+'.repeat(1900) + '1',
      '1?'.repeat(1300) + '1',
      'x'.repeat(5000),
      '['.repeat(3999),
    ]) {
      try {
        compileExpression(parseExpression(text))(hitWith([]));
      } catch (e) {
        assert.ok(e instanceof ExpressionError, String(e));
      }
    }
  });

  void it('built of the grammar computes what 64-bit arithmetic computes', () => {
    const below = random(7);
    const args = [MAX, 1n << 63n, 0x1234_5678_9abc_def0n, 3n];
    const operators = ['+', '-', '*', '&', '|', '^'];
    for (let i = 0; i < 3000; i++) {
      let text = 'arg0';
      let value = args[0]!;
      for (let k = below(6); k >= 0; k--) {
        const operator = operators[below(operators.length)]!;
        const index = below(4);
        text = `(${text} ${operator} arg${index})`;
        value = BigInt.asUintN(64, apply(operator, value, args[index]!));
      }
      assert.equal(evaluate(text, hitWith(args)), value, text);
    }
  });
});

function apply(operator: string, a: bigint, b: bigint): bigint {
  switch (operator) {
    case '+':
      return a + b;
    case '-':
      return a - b;
    case '*':
      return a * b;
    case '&':
      return a & b;
    case '|':
      return a | b;
    default:
      return a ^ b;
  }
}
