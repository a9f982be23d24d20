/**
 * What instructions load: a post handler sees the registers after the instruction has run.
 *
 *   node dist/examples/post-handler.js
 *
 * You see the first loads from memory that getenv() does in `ls`, with what each put into its register. One of them finds
 * the first string of the environment:
 *
 *   getenv+0x15  mov rbp,[rax]              rbp = 0x7ffd1c8f3a98
 *   getenv+0x33  mov rbx,[rbp]              rbx = 0x7ffd1c8f4f6f  "GREETING=hello"
 */
import { openModule, registerUprobes, spawnTarget } from 'uprobe';
import type { Hit, InstructionInfo, RegisterName, UprobeSpec } from 'uprobe';

const target = await spawnTarget('ls', ['/'], {
  stdio: ['ignore', 'ignore', 'inherit'],
  env: { GREETING: 'hello', PATH: process.env['PATH'] },
});

function showLoad(hit: Hit, { symbolOffset, text }: InstructionInfo, register: string): void {
  // The kernel's names of registers: ax for rax, r8 for r8.
  const name = (/^r\d/.test(register) ? register : register.slice(1)) as RegisterName;
  const value = hit.regs[name];
  const string = hit.readString(value, 60);
  const shown = string !== undefined && /^[ -~]{3,}$/.test(string) ? JSON.stringify(string) : '';
  const place = `getenv+0x${symbolOffset.toString(16)}`;
  console.log(
    `${place.padEnd(12)} ${text.padEnd(26)} ${register} = 0x${value.toString(16)}  ${shown}`.trimEnd(),
  );
}

/** One spec for each instruction of getenv that loads 64 bits from memory. */
function* loads(): Generator<UprobeSpec> {
  const libc = openModule('libc', { processes: target });
  for (const fn of libc.matching('getenv')) {
    for (const instruction of libc.instructions(fn)) {
      const register = /^mov (r\w+),\[/.exec(instruction.text)?.[1];
      if (register === undefined) continue;
      yield {
        pathname: libc.path,
        offset: instruction.offset,
        processes: target,
        postHandler(hit) {
          showLoad(hit, instruction, register);
          return 'remove'; // once is enough
        },
      };
    }
  }
  libc.close();
}

const probes = await registerUprobes(loads());
await target.resume();
await target.exited;
await probes.unregister();
