/** Random sequences, whose single instructions have been tried out: most of what is tried at random faults. */
import { spawnSync } from 'node:child_process';
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { temporaryDirectory } from './compile.js';
import type { Random } from './random.js';
import {
  DoesNotFit,
  endOfSequences,
  GEN,
  layOut,
  MOST_SEQUENCES,
  programOf,
  ROOM,
  Tables,
  type Item,
  type Piece,
  type Sequence,
  type SequenceProgram,
} from './x64-sequence.js';
import { lastItem, someItem, type Context } from './x64-sequence-items.js';
import { someRoles, somePieces, type Roles } from './x64-sequence-pool.js';
import { readOutcomes, someRun, writeInputs, type Inputs, type Run } from './x64-sequence-run.js';

/** Instructions for one way of giving registers their roles. */
interface Pool {
  readonly roles: Roles;
  readonly good: readonly Piece[];
  readonly faulting: readonly Piece[];
}

const POOLS = 8;
const POOL_SIZE = 1500;
/** Room for an instruction and a jump to the end. */
const TRIAL_ROOM = 32;

const NO_CONTEXT = { part: 0, item: 0, items: 1, parts: 1 };

/** Run each instruction by itself, and see which of them come through. */
function somePools(random: Random, end: number): Pool[] {
  const tables = new Tables();
  const made = Array.from({ length: POOLS }, () => {
    const roles = someRoles(random);
    return { roles, pieces: somePieces(random, roles, POOL_SIZE) };
  });
  const tried = made.flatMap(({ roles, pieces }) => pieces.map((piece) => ({ roles, piece })));
  const sequences = tried.map(({ roles, piece }, i) => {
    const last = lastItem({ ...NO_CONTEXT, random, roles, tables }, end);
    return layOut([[[piece], last]], GEN + TRIAL_ROOM * i, tables);
  });
  const directory = temporaryDirectory();
  const runs = sequences.map(({ address }, i) => someRun(random, address, tried[i]!.roles));
  const inputs = writeInputs(directory, random, runs);
  const out = join(directory, 'trial');
  const args = [inputs.list, inputs.images, out, 'trial'];
  const { stderr, status, signal } = spawnSync(programOf(sequences, tables).path, args, { encoding: 'utf8' });
  const outcomes = readOutcomes(out, true);
  const last = tried[outcomes.length]?.piece.bytes.map((b) => b.toString(16));
  assert.equal(outcomes.length, runs.length, `${signal ?? status} ${stderr} at ${last?.join(' ')}`);
  let at = 0;
  return made.map(({ roles, pieces }) => {
    const ended = outcomes.slice(at, (at += pieces.length));
    return {
      roles,
      good: pieces.filter((_, i) => ended[i]!.signal === 0),
      faulting: pieces.filter((_, i) => ended[i]!.signal !== 0 && ended[i]!.signal !== TIMER),
    };
  });
}
const TIMER = 26; // SIGVTALRM

function someSequence(random: Random, pool: Pool, tables: Tables, end: number, address: number): Sequence {
  const parts = 1 + random.below(3);
  const made = Array.from({ length: parts }, (_, part) => {
    const items = part === 0 ? 12 + random.below(12) : 1 + random.below(5);
    const context = (item: number): Context => ({
      random,
      roles: pool.roles,
      tables,
      part,
      item,
      items,
      parts,
    });
    const list: Item[] = Array.from({ length: items }, (_unused, item) => {
      if (random.once(2)) return someItem(context(item));
      return [random.pick(random.once(50) && pool.faulting.length > 0 ? pool.faulting : pool.good)];
    });
    return [...list, lastItem(context(items), end)];
  });
  return layOut(made, address, tables);
}

export interface Suite {
  readonly program: SequenceProgram;
  readonly sequences: readonly Sequence[];
  /** The sequences' runs, one after the other from different states. */
  readonly runs: readonly Run[];
  readonly inputs: Inputs;
}

/** A program of random sequences, each run from several states. */
export function someSuite(random: Random, count: number, runsEach: number): Suite {
  assert.ok(count <= MOST_SEQUENCES);
  const end = endOfSequences();
  const pools = somePools(random, end);
  const tables = new Tables();
  const sequences: Sequence[] = [];
  const runs: Run[] = [];
  while (sequences.length < count) {
    const pool = random.pick(pools);
    try {
      const sequence = someSequence(random, pool, tables, end, GEN + ROOM * sequences.length);
      sequences.push(sequence);
      for (let i = 0; i < runsEach; i++) runs.push(someRun(random, sequence.address, pool.roles));
    } catch (e) {
      if (!(e instanceof DoesNotFit)) throw e;
      tables.forget();
    }
  }
  const inputs = writeInputs(temporaryDirectory(), random, runs);
  return { program: programOf(sequences, tables), sequences, runs, inputs };
}
