/** A linear report as tables for terminal and page: scores, then differences. */
import {counted} from '../../../config/counted.js'
import type {Summary, Table} from '../shared/evaluation.js'
import {candidateTitle, differenceTable, figures, percent, span, words} from '../shared/tables.js'
import type {LinearReport} from './linear-report.js'

/** What was done, in one line. */
export function linearHeading({train, val, classes, solver, cached}: LinearReport): string {
  const how =
    solver === undefined
      ? 'a trained classifier'
      : solver === 'lbfgs'
        ? 'logistic regression'
        : `linear classifiers on ${cached ? 'cached features' : 'random crops'}`
  return `${counted(val, 'image')}, ${train > 0 ? `${train} to train on, ` : ''}${counted(classes.length, 'class', 'classes')}; ${how}`
}

function linearScores({scores, sets}: LinearReport): Table {
  return {
    title: 'Scores',
    note: '95 % bootstrap intervals, by drawing the scored images with replacement.',
    columns: [
      words('features'),
      ...(sets.length > 1 ? [words('set')] : []),
      ...['images', 'top-1 %', '95 % interval', 'top-5 %'].map(figures),
      words('chosen')
    ],
    rows: scores.map(({features, set, images, top1, intervals, top5, chosen}) => [
      candidateTitle(features),
      ...(sets.length > 1 ? [set] : []),
      String(images),
      percent(top1),
      span(intervals['top1']!),
      percent(top5),
      chosen
    ])
  }
}

export function linearSummary(report: LinearReport): Summary {
  const table = differenceTable(report.differences, {titles: {top1: 'points of top-1'}})
  return {heading: linearHeading(report), tables: [linearScores(report), ...(table ? [table] : [])]}
}
