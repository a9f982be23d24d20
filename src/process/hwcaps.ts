/**
 * The subdirectories of glibc-hwcaps that the dynamic linker looks into on this processor, the best first (ld.so(8), "The
 * glibc-hwcaps mechanism"; sysdeps/x86_64/dl-hwcaps-subdirs.c, sysdeps/x86/get-isa-level.h).
 */
import { readFileSync } from 'node:fs';
import { cpuidEcx } from '../linux/cpuid.js';

/** x86-64 psABI, "Micro-Architecture Levels", by the kernel's names (arch/x86/include/asm/cpufeatures.h). Each includes the one before. */
const LEVELS: readonly { readonly name: string; readonly flags: string }[] = [
  { name: 'x86-64-v2', flags: 'cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2' },
  { name: 'x86-64-v3', flags: 'avx avx2 bmi1 bmi2 f16c fma abm movbe' },
  { name: 'x86-64-v4', flags: 'avx512f avx512bw avx512cd avx512dq avx512vl' },
];

/** The levels of a processor with these flags, as /proc/cpuinfo lists them. */
export function levelsOf(flags: ReadonlySet<string>): string[] {
  const missing = LEVELS.findIndex((level) => !level.flags.split(' ').every((flag) => flags.has(flag)));
  return LEVELS.slice(0, missing < 0 ? LEVELS.length : missing)
    .map((level) => level.name)
    .reverse();
}

let levels: readonly string[] | undefined;

/** Of this machine. None where /proc does not tell. */
export const hwcapsLevels = (): readonly string[] => (levels ??= levelsOf(flagsHere()));

/** Leaf and bit of `abm` (lzcnt), which kernels under some hypervisors do not list; the linker asks the processor. */
const [EXTENDED, ABM] = [0x8000_0001, 1 << 5];

function flagsHere(): Set<string> {
  try {
    const listed = /^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'latin1'))?.[1]?.trim().split(' ');
    const flags = new Set(listed);
    if ((cpuidEcx(EXTENDED) & ABM) !== 0) flags.add('abm');
    return flags;
  } catch {
    return new Set();
  }
}
