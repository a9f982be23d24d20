/**
 * A program that reads through a bad pointer and lives: a fault handler mends the pointer, and the instruction is run again.
 *
 *   uprobe run bad-pointer.ts -- perl -e 'print unpack("P8", pack("J", 16)), "\n"'
 *
 * perl is told that there are 8 bytes of text at address 16, copies them with memcpy, and would be killed by SIGSEGV. Instead:
 *
 *   perl (4711) reads at 0x10: mov rax,[rsi]
 *   mended!!
 */
import { openModule, probeModule, registerUprobes } from 'uprobe';
import type { FaultHit, InstructionInfo, UprobeSpec } from 'uprobe';

/** Nothing is mapped so low (vm.mmap_min_addr, the kernel's documentation of sysctl). */
const LOWEST = 0x10000n;

export default probeModule({
  description: 'Mends bad pointers that memcpy is given to copy from',
  parameters: {
    text: { type: 'string', default: 'mended!!', description: 'what is read instead' },
  },
  async load({ processes, parameters, print }) {
    const text = Buffer.from(`${parameters.text.padEnd(64)}\0`);

    function mend(hit: FaultHit, instruction: InstructionInfo): 'handled' | undefined {
      const { fault, regs } = hit;
      if (fault.origin !== 'instruction' || fault.signal !== 'SIGSEGV' || fault.address >= LOWEST) return;
      print(`${hit.comm} (${hit.pid}) reads at 0x${fault.address.toString(16)}: ${instruction.text}`);
      // The stack far below what is used: memcpy calls nobody, and it is read before anybody else comes there.
      const address = regs.sp - 4096n;
      hit.write(address, text);
      regs.si = address;
      return 'handled';
    }

    const libc = openModule('libc', { processes });
    const specs: UprobeSpec[] = [];
    // The name stands for one of several functions, chosen by the processor.
    for (const { address } of libc.plans({ symbol: 'memcpy' }, { processes })) {
      const [fn] = [...libc.functions()].filter((f) => f.address === address);
      for (const instruction of fn === undefined ? [] : libc.instructions(fn)) {
        if (!/\[rsi/.test(instruction.text)) continue;
        const faultHandler = (hit: FaultHit): 'handled' | undefined => mend(hit, instruction);
        specs.push({ pathname: libc.path, offset: instruction.offset, processes, faultHandler });
      }
    }
    libc.close();
    await registerUprobes(specs);
  },
});
