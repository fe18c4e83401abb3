/**
 * The 256 numbers of bitsandbytes' dynamic data type (arXiv 2110.02861, `create_dynamic_map`), ascending in [-1, 1] or
 * [0, 1]: seven powers of ten, each divided more finely the larger it is.
 */
export function dynamicMap(signed: boolean): Float32Array {
  const values = [0, 1];
  for (let exponent = 0; exponent < 7; exponent++) {
    const count = 2 ** (exponent + (signed ? 0 : 1));
    for (let i = 0; i < count; i++) {
      const mean = (0.1 + (0.9 * (2 * i + 1)) / (2 * count)) * 10 ** (exponent - 6);
      values.push(mean);
      if (signed) values.push(-mean);
    }
  }
  return Float32Array.from(values).sort();
}

/** Codes of the nearest number of `map`, blocks of `size` values scaled by their largest magnitude; written in place. */
export function quantizeByMap(
  data: Float32Array,
  map: Float32Array,
  size: number,
  codes: Uint8Array,
  scales: Float32Array,
): void {
  for (let block = 0, from = 0; from < data.length; block++, from += size) {
    const to = Math.min(from + size, data.length);
    let largest = 0;
    for (let i = from; i < to; i++) largest = Math.max(largest, Math.abs(data[i] as number));
    scales[block] = largest;
    const factor = largest > 0 ? 1 / largest : 0;
    for (let i = from; i < to; i++) codes[i] = nearestCode(map, (data[i] as number) * factor);
  }
}

/** The numbers behind the codes, written into `out`. */
export function dequantizeByMap(
  codes: Uint8Array,
  map: Float32Array,
  size: number,
  scales: Float32Array,
  out: Float32Array,
): void {
  for (let i = 0; i < codes.length; i++) {
    out[i] = (map[codes[i] as number] as number) * (scales[Math.floor(i / size)] as number);
  }
}

/** Index of the nearest number of an ascending map. */
function nearestCode(map: Float32Array, value: number): number {
  let low = 0;
  let high = map.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if ((map[middle] as number) <= value) low = middle;
    else high = middle;
  }
  return value - (map[low] as number) < (map[high] as number) - value ? low : high;
}
