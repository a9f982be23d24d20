/**
 * The SQL that a program gives to SQLite.
 *
 *   node dist/examples/sqlite-statements.js                       sqlite3 with a few statements of ours
 *   node dist/examples/sqlite-statements.js sqlite3 my.db .dump   any command that uses SQLite
 *
 * You see the text of each statement as it is prepared, on stderr, beside what the command prints itself:
 *
 *   sqlite3 4711: "CREATE TABLE t(x);"
 */
import { openModule, registerUprobe, spawnTarget } from 'uprobe';
import type { Hit } from 'uprobe';

const OURS = ['CREATE TABLE t(x);', 'INSERT INTO t VALUES (1), (2), (39);', 'SELECT sum(x) FROM t;'];
const PREPARE = 'sqlite3_prepare_v2';

const isDemonstration = process.argv.length < 3;
const [command, ...args] = isDemonstration ? ['sqlite3', ':memory:'] : process.argv.slice(2);
const stdio = [isDemonstration ? 'pipe' : 'inherit', 'inherit', 'inherit'] as const;
const target = await spawnTarget(command!, args, { stdio });

/** Some programs have SQLite linked in; most load the library. */
function whoHasSqlite(): string {
  const program = openModule(`/proc/${target.pid}/exe`);
  const [linkedIn] = program.matching(PREPARE);
  program.close();
  return linkedIn === undefined ? 'libsqlite3' : program.path;
}

/** int sqlite3_prepare_v2(sqlite3 *db, const char *zSql, int nByte, …): nByte below 0 means up to the NUL. */
function showStatement(hit: Hit): void {
  const length = Number(BigInt.asIntN(32, hit.arg(2)));
  const sql = hit.readString(hit.arg(1), length < 0 ? 65_536 : length);
  console.error(`${hit.comm} ${hit.pid}: ${JSON.stringify(sql ?? '(not readable)')}`);
}

const probe = await registerUprobe({
  pathname: whoHasSqlite(),
  symbol: PREPARE,
  processes: target,
  preHandler: showStatement,
});
await target.resume();
if (isDemonstration) target.stdin?.end(OURS.join('\n'));
const { code } = await target.exited;
await probe.unregister();
process.exitCode = code ?? 1;
