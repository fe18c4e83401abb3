import * as os from "node:os";

/** Processes of other machines and containers may share the folder, and have numbers of their own. */
export const ownerOf = (pid: number): string => `${os.hostname().replace(/[^\w.]/g, "_")}-${pid}`;

/** Whether there is a process of this number on this machine. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}
