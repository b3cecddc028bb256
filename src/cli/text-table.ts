/** Tables for terminals: columns side by side, words to the left, figures to the right. */
import type {Summary, Table} from '../tasks/eval/shared/evaluation.js'

/** Lines of a table: its head, then its rows. */
function textTable({columns, rows}: Pick<Table, 'columns' | 'rows'>): string[] {
  const lines = [columns.map(({name}) => name), ...rows]
  const widths = columns.map((_, column) => Math.max(...lines.map(line => line[column]!.length)))
  return lines.map(line =>
    line
      .map((cell, column) => (columns[column]!.align === 'left' ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)))
      .join('  ')
      .trimEnd()
  )
}

/** The whole summary: its heading, then its tables; every table after the first has its title above it. */
export const textSummary = ({heading, tables}: Summary): string =>
  [heading, ...tables.flatMap((table, i) => ['', ...(i === 0 ? [] : [`${table.title}:`]), ...textTable(table)])].join('\n')
