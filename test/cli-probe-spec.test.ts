import { describe, it } from 'node:test';
import assert from 'node:assert/strict';
import { parseProbe, probeText, symbolText } from '#uprobe/cli/probe-spec.js';
import { UsageError } from '#uprobe/cli/usage-error.js';

const placeOf = (text: string): unknown => parseProbe(text).place;
const symbol = (name: string, symbolOffset?: number): unknown => ({
  kind: 'symbol',
  symbol: name,
  symbolOffset,
});

void describe('PROBE', () => {
  void it('is a path and a symbol', () => {
    assert.deepEqual(parseProbe('libc:malloc'), {
      text: 'libc:malloc',
      pathname: 'libc',
      place: symbol('malloc'),
      isReturn: false,
    });
    assert.equal(
      parseProbe('/usr/lib/x86_64-linux-gnu/libc.so.6:free').pathname,
      '/usr/lib/x86_64-linux-gnu/libc.so.6',
    );
  });

  void it('can be an instruction inside a function', () => {
    assert.deepEqual(placeOf('bash:main+0x10'), symbol('main', 16));
    assert.deepEqual(placeOf('bash:main+16'), symbol('main', 16));
    assert.deepEqual(placeOf('bash:main+0'), symbol('main', 0));
  });

  void it('can be a file offset or an address', () => {
    assert.deepEqual(placeOf('bash:0x1F00'), { kind: 'offset', offset: 0x1f00 });
    assert.deepEqual(placeOf('bash:@0x401000'), { kind: 'addr', addr: 0x401000n });
    assert.deepEqual(placeOf('bash:@0xffffffffff600000'), { kind: 'addr', addr: 0xffffffffff600000n });
  });

  void it('keeps the colons of C++ and the signs of its operators', () => {
    assert.deepEqual(placeOf('app:std::vector<int>::push_back'), symbol('std::vector<int>::push_back'));
    assert.equal(parseProbe('app:ns::f').pathname, 'app');
    assert.deepEqual(placeOf('app:operator+'), symbol('operator+'));
    assert.deepEqual(placeOf('app:A::operator++'), symbol('A::operator++'));
    assert.deepEqual(placeOf('app:operator++0x4'), symbol('operator+', 4));
    assert.deepEqual(placeOf('app:"operator*"'), symbol('operator*'));
    assert.deepEqual(
      placeOf('app:"main.(*T).Get[go.shape.int]"+0x8'),
      symbol('main.(*T).Get[go.shape.int]', 8),
    );
  });

  void it('keeps the version of a symbol', () => {
    assert.deepEqual(placeOf('libc:memcpy@@GLIBC_2.14'), symbol('memcpy@@GLIBC_2.14'));
    assert.deepEqual(placeOf('libc:memcpy@GLIBC_2.2.5+0x4'), symbol('memcpy@GLIBC_2.2.5', 4));
  });

  void it('can be a glob, and every instruction', () => {
    assert.deepEqual(placeOf('libc:*alloc'), {
      kind: 'glob',
      glob: '*alloc',
      literal: '*alloc',
      symbolOffset: undefined,
    });
    assert.deepEqual(placeOf('libc:mem[cs]??+0x4'), {
      kind: 'glob',
      glob: 'mem[cs]??',
      literal: 'mem[cs]??',
      symbolOffset: 4,
    });
    assert.deepEqual(placeOf('libc:malloc+*'), { kind: 'every', symbol: 'malloc', isGlob: false });
    assert.deepEqual(placeOf('libc:*+*'), { kind: 'every', symbol: '*', isGlob: true });
    assert.deepEqual(placeOf('app:operator\\*'), symbol('operator*'));
  });

  void it('can be a return', () => {
    assert.equal(parseProbe('libc:malloc%return').isReturn, true);
    assert.deepEqual(placeOf('libc:malloc%return'), symbol('malloc'));
    assert.equal(parseProbe('libc:*alloc%return').isReturn, true);
  });

  void it('understands what bpftrace writes', () => {
    assert.deepEqual(parseProbe('uprobe:/bin/bash:readline').place, symbol('readline'));
    assert.equal(parseProbe('uprobe:/bin/bash:readline').pathname, '/bin/bash');
    assert.equal(parseProbe('u:libc:malloc').pathname, 'libc');
    assert.equal(parseProbe('uretprobe:libc:malloc').isReturn, true);
    assert.equal(parseProbe('ur:libc:malloc').isReturn, true);
    assert.equal(parseProbe('u:main').pathname, 'u', 'a file called u');
    assert.equal(parseProbe('u:ns::f').pathname, 'u');
    assert.throws(
      () => parseProbe('uprobe:/bin/bash:0x1000'),
      /takes this number for an address: write \/bin\/bash:@0x1000/,
    );
  });

  void it('takes a colon of the path with a backslash', () => {
    assert.equal(parseProbe('/tmp/a\\:b:main').pathname, '/tmp/a:b');
    assert.equal(parseProbe('/tmp/a\\\\:main').pathname, '/tmp/a\\');
  });

  const mistakes: readonly (readonly [string, RegExp])[] = [
    ['malloc', /write PATH:SYMBOL/],
    ['', /write PATH:SYMBOL/],
    ['libc::malloc', /write PATH:SYMBOL/],
    [':malloc', /no PATH/],
    ['libc:', /must follow the colon/],
    ['libc:%return', /must follow the colon/],
    ['libc:+0x10', /no symbol before the \+/],
    ['libc:+*', /no symbol before the \+/],
    ['libc:malloc%entry', /only suffix is %return/],
    ['libc:malloc+0x10%return', /whole function/],
    ['libc:malloc+*%return', /whole function/],
    ['libc:0x10%return', /whole function/],
    ['uretprobe:libc:malloc+4', /whole function/],
    ['libc:0x', /not a number/],
    ['libc:0xzz', /not a number/],
    ['libc:malloc+0x', /not a number/],
    ['libc:0xffffffffffffffffff', /beyond the end/],
    ['libc:@', /written @0x/],
    ['libc:@1000', /written @0x/],
    ['libc:@0x10000000000000000', /64-bit/],
    ['libc:1234', /begins with a digit/],
    ['libc:"a"b', /after the symbol/],
    ['li\0bc:x', /NUL/],
    ['libc:x\0', /NUL/],
    [`libc:${'x'.repeat(9000)}`, /may have 8192/],
  ];
  for (const [text, message] of mistakes) {
    void it(`says what is wrong with ${JSON.stringify(text.slice(0, 40))}`, () => {
      assert.throws(
        () => parseProbe(text),
        (e: unknown) => e instanceof UsageError && message.test(e.message),
      );
    });
  }

  void it('comes back from the text made for a place', () => {
    const names = [
      'malloc',
      'operator*',
      'a+4',
      'x?',
      'memcpy@@GLIBC_2.14',
      'operator+',
      'A::b',
      'v[0]',
      '0x10',
      '@x',
      'f%return',
      'a\\b',
    ];
    for (const name of names) {
      for (const path of ['libc', '/tmp/a:b', 'C:\\x']) {
        const parsed = parseProbe(probeText(path, symbolText(name)));
        assert.deepEqual([parsed.pathname, parsed.place], [path, symbol(name)], name);
      }
    }
  });

  void it('never ends in another error, whatever is typed', () => {
    const parts = [
      'libc',
      ':',
      '::',
      '+',
      '*',
      '0x',
      '12',
      '@',
      '%return',
      '%',
      '"',
      '\\',
      'uprobe:',
      'u:',
      '[',
      ']',
      '?',
      '\n',
      ' ',
      '\ud800',
    ];
    let state = 1;
    for (let i = 0; i < 30_000; i++) {
      let text = '';
      for (let k = 0; k < 7; k++) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        text += parts[Math.floor((state / 2 ** 32) * parts.length)];
      }
      try {
        parseProbe(text);
      } catch (e) {
        assert.ok(e instanceof UsageError, `${JSON.stringify(text)}: ${String(e)}`);
      }
    }
  });
});
