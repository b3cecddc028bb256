/** Foreign JSON: bounds on depth and length, and what counts as an object. */
import assert from 'node:assert/strict'
import {writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {describe, it} from 'node:test'
import {UserError} from '../../src/config/errors.js'
import {isCount, isShare, jsonObjectOr, parseFields, parseJson, parseJsonObject, parseRow, readJsonObject} from '../../src/system/json.js'
import {folder} from '../support/program.js'

const nested = (depth: number): string => '['.repeat(depth) + ']'.repeat(depth)

describe('foreign JSON', () => {
  it('may lie 64 levels deep, brackets in texts not counted', () => {
    assert.doesNotThrow(() => parseJson(nested(64)))
    assert.throws(() => parseJson(nested(65)), /more than 64 levels deep/)
    assert.throws(() => parseJson('['.repeat(10_000_000)), SyntaxError)
    assert.equal(parseJson(JSON.stringify('['.repeat(1000))), '['.repeat(1000))
    assert.equal(parseJson('"\\"[[["'), '"[[[')
  })

  it('lies less deep in fields of lists, so that what is written of them can be read again', () => {
    const fields = parseFields(`{"a":${nested(55)}}`)
    assert.doesNotThrow(() => parseJson(JSON.stringify({id: 'x', extra: {row: {extra: fields}}})))
    assert.throws(() => parseFields(`{"a":${nested(56)}}`), /levels deep/)
  })

  it('keeps every digit of whole numbers that a double does not hold, outside of vectors', () => {
    const row = parseRow(
      '{"id": 9007199254740993, "a":"1\\"2,9007199254740993", "vector":[9007199254740993,{"b":1}],"label":-12345678901234567890,"x":1e300,"y":16}'
    )
    assert.deepEqual(row, {
      id: '9007199254740993',
      a: '1"2,9007199254740993',
      vector: [9007199254740992, {b: 1}],
      label: '-12345678901234567890',
      x: 1e300,
      y: 16
    })
    assert.deepEqual(parseRow('{"id":9007199254740991,"__proto__":9007199254740993}')['id'], 9007199254740991)
    assert.equal(({} as Record<string, unknown>)['9007199254740993'], undefined)
  })

  it('keeps those digits in parts of fields too', () => {
    assert.deepEqual(parseRow('{"a":{"vector":[9007199254740993]},"vector":[9007199254740993],"b":[{"c":-9007199254740993}]}'), {
      a: {vector: ['9007199254740993']},
      vector: [9007199254740992],
      b: [{c: '-9007199254740993'}]
    })
  })

  it('has no name twice in one object, however it is written', () => {
    for (const text of ['{"a":1,"a":1}', '{"a":1,"b":{"a":2},"a":3}', '[{"x":{"\\u0061":1,"a":2}}]', '{"":0,"":0}'])
      assert.throws(() => parseJson(text), /it has the name "a?" twice in one object/)
    const apart = '{"a":[{"a":1},{"a":"a,"}],"b":{"a":["a","a"]},"c,":"a"}'
    assert.deepEqual(parseJson(apart), JSON.parse(apart))
  })

  it('holds no number that becomes infinite', () => {
    for (const number of ['1e400', '-1E+400', '9'.repeat(310)]) assert.throws(() => parseJson(`{"a":[${number}]}`), /not finite/)
    assert.deepEqual(parseJson('[1e308,1e-400,"1e400"]'), [1e308, 0, '1e400'])
  })

  it('is explained by what stands where, not by words of the engine', () => {
    for (const [text, why] of [
      ['', /^it is empty$/],
      ['{"a":', /^it ends early$/],
      ['{"a":1,}', /^it has "}" at character 8, where JSON has something else$/],
      ['{"a":1}{', /^it has "{" at character 8,/],
      ['\uFEFF{}', /^it has .* where JSON has something else$/]
    ] as const)
      assert.throws(() => parseJson(text), {name: 'SyntaxError', message: why})
  })

  it('is an object only where it has named parts', () => {
    for (const text of ['[]', 'null', '1', '"x"', '', '{', 'true']) {
      assert.throws(() => parseJsonObject(text), SyntaxError)
      assert.equal(jsonObjectOr(text), undefined)
    }
    assert.equal(jsonObjectOr(undefined), undefined)
    assert.deepEqual(parseJsonObject('{"a":1}'), {a: 1})
  })

  it('gives counts and shares that are such', () => {
    for (const wrong of [-1, 0.5, NaN, 2 ** 60, '1', null, undefined, Infinity]) assert.equal(isCount(wrong), false)
    for (const wrong of [-0.1, 1.1, NaN, '0.5', null]) assert.equal(isShare(wrong), false)
    assert.ok(isCount(0) && isShare(1))
  })

  it('in a file is refused with a sentence that names it', async () => {
    const path = join(folder(), 'a.json')
    await writeFile(path, '{"a":')
    await assert.rejects(readJsonObject(path, 'BAD'), (error: unknown) => error instanceof UserError && error.message.includes(path))
    await writeFile(path, nested(100_000))
    await assert.rejects(readJsonObject(path, 'BAD'), /levels deep/)
  })
})
