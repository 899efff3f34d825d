// Runs verify.mjs for many stores in one process, for the test: each line of standard input is a JSON array
// of its arguments, each line of standard output {"exit": code, "lines": [...]}.

import { createInterface } from 'node:readline'
import { run } from './verify.mjs'

for await (const line of createInterface({ input: process.stdin })) {
  const lines = []
  let exit = 3
  try {
    exit = run(JSON.parse(line), l => lines.push(l))
  } catch (e) {
    lines.push(e.message)
  }
  process.stdout.write(JSON.stringify({ exit, lines }) + '\n')
}
