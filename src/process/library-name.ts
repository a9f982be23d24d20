/** Which file names a library's name covers. */

/**
 * A full soname (`libc.so.6`) means itself. A bare stem (`libc`) also means every version of it, in both fashions of
 * naming: `libc.so.6` and `libc-2.31.so`; but `libcrypto` is not a `libc`.
 */
export function nameMatcher(wanted: string): (fileName: string) => boolean {
  if (isSoname(wanted)) return (name) => name === wanted;
  return (name) => name === wanted || stemOf(name) === wanted || isMuslLibc(wanted, name);
}

export const isSoname = (name: string): boolean => /\.so(\.|$)/.test(name);

/** `libc.so.6` → `libc`, `libc-2.31.so` → `libc`, `libpython3.11.so.1.0` → `libpython3.11`. */
function stemOf(name: string): string | undefined {
  const stem = /^(.*?)\.so(?:\..*)?$/.exec(name)?.[1];
  return stem?.replace(/-\d[\d.]*$/, '');
}

/** musl's C library and dynamic linker are one file (ldso/dynlink.c). */
const isMuslLibc = (wanted: string, name: string): boolean =>
  wanted === 'libc' && /^ld-musl-[\w]+\.so\.1$/.test(name);

/** ldso/dynlink.c, `reserved`: names that musl takes for itself, whatever lies in the directories. */
export const isOfMusl = (name: string): boolean => /^lib(?:c|pthread|rt|m|dl|util|xnet)(?:\.|$)/.test(name);

/** Version numbers of a soname for sorting, the highest first. */
export function byVersion(a: string, b: string): number {
  const left = versionOf(a);
  const right = versionOf(b);
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const order = (right[i] ?? -1) - (left[i] ?? -1);
    if (order !== 0) return order;
  }
  return 0;
}

const versionOf = (name: string): number[] =>
  (/\.so\.([\d.]+)$/.exec(name)?.[1] ?? '').split('.').map(Number);
