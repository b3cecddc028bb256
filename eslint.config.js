/**
 * Lint: the project's rules that the compiler does not check. Formatting is prettier's; test/architecture.test.ts holds
 * the rules of imports between folders.
 */
import eslint from '@eslint/js'
import tseslint from 'typescript-eslint'

const onlyTests = {
  selector: 'CallExpression[callee.property.name=/^(only|skip)$/][callee.object.name=/^(it|test|describe)$/]',
  message: 'A test runs with all others, or says in its options when and why it is skipped.'
}

export default tseslint.config(
  {ignores: ['dist/**', 'node_modules/**', 'native/**', 'demo/**', 'test/golden/**']},
  eslint.configs.recommended,
  ...tseslint.configs.recommended,
  {
    files: ['**/*.ts'],
    languageOptions: {parserOptions: {projectService: true, tsconfigRootDir: import.meta.dirname}},
    rules: {
      '@typescript-eslint/no-floating-promises': [
        'error',
        {allowForKnownSafeCalls: [{from: 'package', name: ['describe', 'it', 'test', 'suite'], package: 'node:test'}]}
      ],
      '@typescript-eslint/await-thenable': 'error',
      '@typescript-eslint/no-misused-promises': ['error', {checksVoidReturn: false}],
      '@typescript-eslint/consistent-type-imports': ['error', {fixStyle: 'inline-type-imports', disallowTypeAnnotations: false}],
      '@typescript-eslint/no-unused-vars': ['error', {argsIgnorePattern: '^_', varsIgnorePattern: '^_', caughtErrors: 'none'}],
      '@typescript-eslint/no-non-null-assertion': 'off', // indexed access is checked (noUncheckedIndexedAccess); ! marks where the shape is known
      'no-restricted-syntax': ['error', onlyTests],
      'max-len': ['error', {code: 10000, comments: 119}], // prettier breaks code; nobody breaks comments
      eqeqeq: ['error', 'always', {null: 'ignore'}],
      'no-empty': ['error', {allowEmptyCatch: true}]
    }
  },
  {
    files: ['src/**/*.ts', 'commands/**/*.ts'],
    rules: {'no-console': 'error'} // stdout is for results, stderr for what the command base says
  },
  {
    files: ['src/**/*.ts'],
    ignores: ['src/cli/**', 'src/engine/smoke.ts'], // the latter is a program of its own, run beside to see whether an engine works
    rules: {
      'no-restricted-properties': [
        'error',
        {object: 'process', property: 'stdout', message: 'Only the command base writes to stdout.'},
        {object: 'process', property: 'exit', message: 'Throw a UserError; the command base sets the status.'}
      ]
    }
  },
  {
    files: ['src/**/*.ts'],
    rules: {
      'no-restricted-syntax': [
        'error',
        onlyTests,
        {selector: 'ExportDefaultDeclaration', message: 'Named exports; only a command file has a default one.'}
      ]
    }
  },
  {files: ['**/*.js'], languageOptions: {globals: {process: 'readonly', URL: 'readonly', console: 'readonly'}}},
  {
    files: ['bin/*.js'], // CommonJS, for the reason that stands there
    languageOptions: {sourceType: 'commonjs', globals: {require: 'readonly', __dirname: 'readonly'}},
    rules: {'@typescript-eslint/no-require-imports': 'off'}
  }
)
