import { readFileSync } from 'node:fs';

/** /sys/devices/system/cpu/online: `0-3,6`. Events of a CPU that is switched on later are not there. */
export function onlineCpus(): number[] {
  const list = readFileSync('/sys/devices/system/cpu/online', 'latin1').trim();
  return list.split(',').flatMap((range) => {
    const [first = 0, last = first] = range.split('-').map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
}
