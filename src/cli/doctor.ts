/** `uprobe doctor`: what this machine and user may do, and a remedy for each no. */
import { examineMachine } from '../index.js';
import { escapeText, jsonText } from '../base/escape.js';
import { LineWriter } from '../outputs/line-writer.js';

export interface DoctorOptions {
  readonly json?: boolean;
}

/** 0: everything is allowed; 1: something is not. */
export async function doctor(options: DoctorOptions): Promise<number> {
  const findings = await examineMachine();
  let broken: NodeJS.ErrnoException | undefined;
  const lines = new LineWriter(1, (error) => {
    broken = error;
  });
  for (const { what, ok, detail, remedy } of findings) {
    if (options.json === true) {
      lines.line(jsonText({ what, ok, detail, remedy: remedy ?? null }));
      continue;
    }
    lines.line(`${ok ? 'yes' : 'no '}  ${escapeText(what)}: ${escapeText(detail)}`);
    if (!ok && remedy !== undefined) lines.line(`     ${escapeText(remedy)}`);
  }
  lines.flush();
  if (broken !== undefined && broken.code !== 'EPIPE') throw broken;
  return findings.every((f) => f.ok) ? 0 : 1;
}
