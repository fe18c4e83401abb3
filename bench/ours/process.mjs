// What a process can say of itself on Linux: age and memory, as the Python peers measure theirs.
import { readFileSync } from "node:fs";

/** Wall seconds since the kernel started this process. */
export function secondsSinceProcessStart() {
  const fields = readFileSync("/proc/self/stat", "utf8").split(")").at(-1).trim().split(" ");
  const ticksPerSecond = 100;
  const uptime = Number(readFileSync("/proc/uptime", "utf8").split(" ")[0]);
  return uptime - Number(fields[19]) / ticksPerSecond;
}

/** VmRSS, RssAnon, RssFile and VmHWM in MB (2**20 bytes). */
export function memoryStatus() {
  const text = readFileSync("/proc/self/status", "utf8");
  return Object.fromEntries(
    ["VmRSS", "RssAnon", "RssFile", "VmHWM"].map((key) => [
      key,
      Number(new RegExp(`${key}:\\s+(\\d+)`).exec(text)?.[1] ?? 0) / 1024,
    ]),
  );
}

/** Samples memory every 10 ms until stopped; anonymous and file-backed pages each at their own peak. */
export function memorySampler() {
  const peak = { anon: 0, file: 0, total: 0, atPeak: undefined };
  const sample = () => {
    const now = memoryStatus();
    peak.anon = Math.max(peak.anon, now.RssAnon);
    peak.file = Math.max(peak.file, now.RssFile);
    if (now.VmRSS > peak.total)
      Object.assign(peak, { total: now.VmRSS, atPeak: { anon: now.RssAnon, file: now.RssFile } });
    return now;
  };
  const timer = setInterval(sample, 10);
  return {
    stop() {
      clearInterval(timer);
      const last = sample();
      return {
        peakRssMb: last.VmHWM,
        peakRssAnonMb: peak.anon,
        peakRssFileMb: peak.file,
        atPeak: peak.atPeak,
      };
    },
  };
}
