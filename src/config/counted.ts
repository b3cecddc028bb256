/** Numbers of things in words. */

/** `1 image`, `3 images`; `many` where the plural has another form, `shown` where the number has. */
export const counted = (n: number, one: string, many = `${one}s`, shown = String(n)): string => `${shown} ${n === 1 ? one : many}`
