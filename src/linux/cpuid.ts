/** What the processor itself says, where /proc/cpuinfo leaves something out (kernels hide what a hypervisor does not vouch for). */
import { functionAt, syscall } from './ffi.js';
import { mapRegion } from './memory.js';
import { NR } from './numbers.js';

/** ecx of a leaf without subleaves. Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E. */
export function cpuidEcx(leaf: number): number {
  const page = mapRegion(4096, true);
  // prettier-ignore
  page.bytes.set([
    0x53,                                   // push rbx
    0x89, 0xf8,                             // mov  eax, edi
    0x31, 0xc9,                             // xor  ecx, ecx
    0x0f, 0xa2,                             // cpuid
    0x89, 0xc8,                             // mov  eax, ecx
    0x5b,                                   // pop  rbx
    0xc3,                                   // ret
  ]);
  try {
    return functionAt(page.address, 'int64_t cpuid_ecx(int64_t)')(leaf);
  } finally {
    syscall(NR.munmap, page.address, page.length);
  }
}
