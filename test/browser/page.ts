import { type Result, runTests } from "./harness.js";
import { afterReload, configure, suites } from "./suites.js";

declare global {
  /** Given by the driver: takes each result as it comes. */
  var reportResult: (result: Result) => Promise<void>;
}

/** Runs one suite, or what it tests after a reload; called by the driver. */
export async function run(name: string, reloaded: boolean): Promise<void> {
  configure();
  await (reloaded ? afterReload : suites)[name]?.();
  const reports: Promise<void>[] = [];
  await runTests((result) => reports.push(globalThis.reportResult(result)));
  await Promise.all(reports);
}

export const suiteNames = Object.keys(suites);
export const reloadedSuiteNames = Object.keys(afterReload);
