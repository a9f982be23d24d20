/** A program that runs, however it was started. */
import { spawnTarget } from 'uprobe';
import { startProgram } from '../helpers/running.js';

export interface Life {
  readonly pid: number;
  kill(): void;
  /** Where it waits for that. */
  resume(): Promise<void>;
  /** Its status, or the signal that ended it. */
  readonly ended: Promise<number | string>;
}

export const started = async (program: string, args: readonly string[]): Promise<Life> => {
  const target = await spawnTarget(program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  return {
    pid: target.pid,
    kill: () => target.kill('SIGKILL'),
    resume: () => target.resume(),
    ended: target.exited.then(({ code, signal }) => signal ?? code ?? -1),
  };
};

/** One that was there already, and is nobody's child of ours. */
export const running = async (program: string, args: readonly string[]): Promise<Life> => {
  const shell = await startProgram(program, args);
  const { pid } = shell;
  const ended = shell.finish().then((said) => {
    const status = Number(/status (\d+)/.exec(said)?.[1]);
    return status === 128 + 9 ? 'SIGKILL' : status;
  });
  return { pid, kill: () => process.kill(pid, 'SIGKILL'), resume: async () => {}, ended };
};
