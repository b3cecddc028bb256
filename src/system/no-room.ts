/** Errors of the system that mean that a file cannot grow: a full disk, a quota, a limit on the size of files. */
export const isNoRoom = (error: unknown): boolean =>
  ['ENOSPC', 'EDQUOT', 'EFBIG'].includes((error as NodeJS.ErrnoException | undefined)?.code ?? '')
