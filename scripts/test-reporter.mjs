/**
 * Node's own report (for people on a terminal, TAP elsewhere) with one thing more: before its closing lines, every
 * test that was skipped and why. What did not run is never silent.
 */
import { Readable } from 'node:stream';
import { spec, tap } from 'node:test/reporters';

const note = (message) => ({ type: 'test:diagnostic', data: { nesting: 0, message } });

/** Reasons first, each with its tests. */
function* skippedLines(skipped) {
  yield note(`skipped tests: ${skipped.length}`);
  for (const [reason, tests] of groupByReason(skipped)) {
    yield note(`  ${reason} (${tests.length})`);
    for (const { name, file } of tests) yield note(`    ${name} (${file})`);
  }
}

/** Node 20 has no Map.groupBy. */
function groupByReason(skipped) {
  const groups = new Map();
  for (const s of skipped) groups.set(s.reason, [...(groups.get(s.reason) ?? []), s]);
  return groups;
}

const reasonOf = (skip) => (typeof skip === 'string' && skip !== '' ? skip : 'no reason given');
const shortened = (file) => file?.replace(/^.*\/build\//, '') ?? '?';

async function* withSkipped(events) {
  const skipped = [];
  let told = false;
  for await (const event of events) {
    const { type, data } = event;
    // With a name pattern node reports every test left out as skipped: not news.
    if (type === 'test:pass' && data.skip !== undefined && data.skip !== 'test name does not match pattern') {
      skipped.push({ name: data.name, reason: reasonOf(data.skip), file: shortened(data.file) });
    }
    // The closing lines begin with `tests N`, at the outermost level.
    if (!told && type === 'test:diagnostic' && data.nesting === 0 && /^tests \d+$/.test(data.message)) {
      told = true;
      yield* skippedLines(skipped);
    }
    yield event;
  }
}

export default async function* report(events) {
  const merged = withSkipped(events);
  if (process.stdout.isTTY) yield* Readable.from(merged).pipe(new spec());
  else yield* tap(merged);
}
