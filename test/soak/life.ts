/** A program that runs, however it was started. */
import { spawnTarget } from 'uprobe';
import { startProgram } from '../helpers/running.js';

export interface Life {
  readonly pid: number;
  kill(): void;
  /** Where it waits for that. */
  resume(): Promise<void>;
  /** Its status. */
  readonly ended: Promise<number | 'killed'>;
}

export const started = async (program: string, args: readonly string[]): Promise<Life> => {
  const target = await spawnTarget(program, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  return {
    pid: target.pid,
    kill: () => void target.kill('SIGKILL'),
    resume: () => target.resume(),
    ended: target.exited.then(({ code, signal }) => (signal === 'SIGKILL' ? 'killed' : (code ?? -1))),
  };
};

/** One that was there already, and is nobody's child of ours. */
export const running = async (program: string, args: readonly string[]): Promise<Life> => {
  const { pid, finish } = await startProgram(program, args);
  const ended = finish().then((said) => {
    const status = Number(/status (\d+)/.exec(said)?.[1]);
    return status === 128 + 9 ? ('killed' as const) : status;
  });
  return { pid, kill: () => process.kill(pid, 'SIGKILL'), resume: async () => {}, ended };
};
