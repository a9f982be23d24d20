/**
 * /etc/ld.so.cache: which file the dynamic linker takes for a soname. glibc, sysdeps/generic/dl-cache.h. The format of
 * 2.2 and later begins with "glibc-ld.so.cache1.1"; an older one may stand before it.
 */

export interface LdCacheEntry {
  readonly soname: string;
  readonly path: string;
  /** Raw flags: FLAG_ELF_LIBC6 and the architecture. */
  readonly flags: number;
  /** Old-style hardware capabilities the library needs, or the extension bit. */
  readonly hwcap: bigint;
  /** The glibc-hwcaps directory it is in, e.g. `x86-64-v3`: only for processors that have it. */
  readonly hwcapsName?: string;
}

const NEW_MAGIC = 'glibc-ld.so.cache1.1';
const OLD_MAGIC = 'ld.so-1.7.0';
const NEW_HEADER = 48;
const NEW_ENTRY = 24;
const OLD_HEADER = 16;
const OLD_ENTRY = 12;
const FLAG_TYPE_MASK = 0x00ff;
const FLAG_ARCH_MASK = 0xff00;
const FLAG_ELF = 1;
const FLAG_ELF_LIBC6 = 3;
const FLAG_X8664_LIB64 = 0x0300;
/** cache_file_new.flags: 0 unset, 2 little-endian. */
const BIG_ENDIAN_CACHE = 3;
const HWCAP_EXTENSION = 1n << 62n;
const EXTENSION_MAGIC = 0xeaa42174;
const TAG_GLIBC_HWCAPS = 1;
const MOST_ENTRIES = 2 ** 20;
const MOST_HWCAPS = 1024;
const PATH_MAX = 4096;
/** Strings may be shared by entries; real caches have no more bytes of names than their own size, give or take. */
const MOST_STRING_BYTES = 2 ** 27;

/**
 * The 64-bit x86 entries, in the order the dynamic linker would meet them. None where the cache is damaged or of no format
 * known here: the linker passes over such a one, too.
 */
export function parseLdCache(contents: Uint8Array): LdCacheEntry[] {
  try {
    return entriesOf(Buffer.from(contents.buffer, contents.byteOffset, contents.length));
  } catch (e) {
    if (e instanceof DamagedCache) return [];
    throw e;
  }
}

class DamagedCache extends Error {}

function entriesOf(whole: Buffer): LdCacheEntry[] {
  const cache = whole.subarray(newCacheAt(whole));
  if (cache.length < NEW_HEADER) throw new DamagedCache('its header is cut short');
  if ((cache[28]! & 3) === BIG_ENDIAN_CACHE) throw new DamagedCache('it is for a big-endian machine');
  const count = cache.readUInt32LE(20);
  if (count > MOST_ENTRIES || NEW_HEADER + count * NEW_ENTRY > cache.length)
    throw new DamagedCache(`it claims ${count} entries, more than it has room for`);
  const string = stringReader(cache);
  const hwcaps = readHwcaps(whole, cache.readUInt32LE(32), string);
  const entries: LdCacheEntry[] = [];
  for (let i = 0; i < count; i++) {
    const at = NEW_HEADER + i * NEW_ENTRY;
    const flags = cache.readUInt32LE(at);
    if (!isX8664(flags)) continue;
    const hwcap = cache.readBigUInt64LE(at + 16);
    const hwcapsName = (hwcap & HWCAP_EXTENSION) === 0n ? undefined : hwcaps[cache.readUInt32LE(at + 16)];
    entries.push({
      soname: string(cache.readUInt32LE(at + 4)),
      path: string(cache.readUInt32LE(at + 8)),
      flags,
      hwcap,
      ...(hwcapsName !== undefined && { hwcapsName }),
    });
  }
  return entries;
}

function isX8664(flags: number): boolean {
  const type = flags & FLAG_TYPE_MASK;
  return (type === FLAG_ELF || type === FLAG_ELF_LIBC6) && (flags & FLAG_ARCH_MASK) === FLAG_X8664_LIB64;
}

/** Where the new format begins: at once, or aligned to 8 behind the entries of the old one. */
function newCacheAt(bytes: Buffer): number {
  const startsNew = (at: number): boolean =>
    bytes.toString('latin1', at, at + NEW_MAGIC.length) === NEW_MAGIC;
  if (startsNew(0)) return 0;
  if (bytes.length >= OLD_HEADER && bytes.toString('latin1', 0, OLD_MAGIC.length) === OLD_MAGIC) {
    const at = Math.ceil((OLD_HEADER + bytes.readUInt32LE(12) * OLD_ENTRY) / 8) * 8;
    if (startsNew(at)) return at;
  }
  throw new DamagedCache('it is not in a format known here (glibc 2.2 or later)');
}

/** Offsets of strings count from the start of the new header. */
function stringReader(cache: Buffer): (at: number) => string {
  let left = MOST_STRING_BYTES;
  return (at) => {
    const text = cache.subarray(at, at + PATH_MAX);
    const end = text.indexOf(0);
    left -= end;
    if (end < 0 || left < 0) throw new DamagedCache('its strings are out of place');
    return text.toString('utf8', 0, end);
  };
}

/**
 * The extension: magic, count, then for each part tag, flags, offset, size; that of hwcaps is offsets of names. Other than
 * those of strings, its offsets count from the start of the file, also behind an old format.
 */
function readHwcaps(file: Buffer, at: number, string: (at: number) => string): string[] {
  if (at === 0 || at + 8 > file.length || file.readUInt32LE(at) !== EXTENSION_MAGIC) return [];
  const count = Math.min(file.readUInt32LE(at + 4), Math.floor((file.length - at - 8) / 16));
  for (let part = at + 8; part < at + 8 + count * 16; part += 16) {
    if (file.readUInt32LE(part) !== TAG_GLIBC_HWCAPS) continue;
    const start = file.readUInt32LE(part + 8);
    const end = Math.min(start + file.readUInt32LE(part + 12), start + MOST_HWCAPS * 4, file.length);
    const names: string[] = [];
    for (let i = start; i + 4 <= end; i += 4) names.push(string(file.readUInt32LE(i)));
    return names;
  }
  return [];
}
