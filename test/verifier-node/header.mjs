// The grammar of a frame's header (docs/sealed-log.md, section 3), read one byte after the other: what
// is not the one canonical text is Bad, what ends inside a text that could still become valid is Short.

import { hash } from 'node:crypto'

export const MAX_HEADER = 32 << 10 // bytes, first byte through the newline of `sum`
export const MAX_SECTION = 8 << 20 // bytes, stored and plain
export const MAX_RECORDS = 65536n

const MAX_HEARTBEAT = 1n << 31n // seconds

export const sha256 = b => hash('sha256', b, 'buffer')

export class Bad extends Error {}
export class Short extends Error {}

const MAGIC = 'meshaudit-seal/v1 '
const KINDS = ['open', 'batch', 'beat', 'erase', 'prune', 'close', 'checkpoint']
const BODIES = ['otlp-logs+zstd', 'otlp-traces+zstd', 'otlp-metrics+zstd']
const SECTIONS = {
  open: [['svid', 'raw'], ['svid-sig', 'raw']],
  batch: [['filter', 'bloom/v1'], ['body', BODIES]],
  erase: [['filter', 'bloom/v1'], ['body', BODIES], ['salts', 'raw'], ['leaves', 'raw']],
  checkpoint: [['note', 'raw']],
  beat: [], prune: [], close: [],
}
const MAX_U64 = (1n << 64n) - 1n

export function validOrigin(s) {
  return /^[a-z0-9._/-]{1,200}$/.test(s) && s.split('/').every(e => e !== '' && e !== '.' && e !== '..')
}

// decodeB64 decodes standard, padded, canonical base64.
export function decodeB64(s) {
  const b = Buffer.from(s, 'base64')
  if (s === '' || b.toString('base64') !== s) throw new Bad(`not canonical base64: ${JSON.stringify(s.slice(0, 60))}`)
  return b
}

// parseU64 parses a decimal without sign and leading zeros.
export function parseU64(s) {
  if (!/^(0|[1-9][0-9]{0,19})$/.test(s) || BigInt(s) > MAX_U64) throw new Bad(`not a number of 64 bits: ${JSON.stringify(s.slice(0, 30))}`)
  return BigInt(s)
}

class Cursor {
  constructor(buf) { this.buf = buf; this.pos = 0 }

  // has tells whether s comes next, and moves behind it if so.
  has(s) {
    const want = Buffer.from(s)
    const got = this.buf.subarray(this.pos, this.pos + want.length)
    if (got.length < want.length && want.subarray(0, got.length).equals(got)) throw new Short()
    if (!got.equals(want)) return false
    this.pos += want.length
    return true
  }
  lit(s) {
    if (!this.has(s)) {
      const got = this.buf.subarray(this.pos, this.pos + 40).toString('latin1')
      throw new Bad(`expected ${JSON.stringify(s)}, got ${JSON.stringify(got)}`)
    }
  }
  oneOf(words, end) {
    let short = false
    for (const w of words) {
      try {
        if (this.has(w + end)) return w
      } catch (e) {
        if (!(e instanceof Short)) throw e
        short = true
      }
    }
    if (short) throw new Short()
    throw new Bad(`expected one of ${words.join(', ')}, got ${JSON.stringify(this.buf.subarray(this.pos, this.pos + 30).toString('latin1'))}`)
  }
  // run takes bytes while ok(byte), at most max of them; something must follow.
  run(ok, max) {
    const from = this.pos
    while (this.pos < this.buf.length && this.pos - from <= max && ok(this.buf[this.pos])) this.pos++
    if (this.pos - from > max) throw new Bad('value too long')
    if (this.pos === this.buf.length) throw new Short()
    return this.buf.subarray(from, this.pos)
  }
  num() { return parseU64(this.run(c => c >= 0x30 && c <= 0x39, 20).toString('latin1')) }
  b64(max = MAX_HEADER) {
    const run = this.run(c => (c >= 0x30 && c <= 0x39) || (c >= 0x41 && c <= 0x5a) || (c >= 0x61 && c <= 0x7a) || c === 0x2b || c === 0x2f || c === 0x3d, max)
    return decodeB64(run.toString('latin1'))
  }
  hash() {
    const b = this.b64(44)
    if (b.length !== 32) throw new Bad(`a hash of ${b.length} bytes, want 32`)
    return b
  }
  hex(n) {
    const s = this.run(c => (c >= 0x30 && c <= 0x39) || (c >= 0x61 && c <= 0x66), n).toString('latin1')
    if (s.length !== n) throw new Bad(`${s.length} hex digits, want ${n}`)
    return s
  }
  text() {
    const b = this.run(c => c !== 0x0a, 1024)
    let s
    try {
      s = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(b)
    } catch {
      throw new Bad('text is not UTF-8')
    }
    if (s === '' || /\p{Cc}/u.test(s)) throw new Bad('text is empty or has control characters')
    return s
  }
}

// parseHeader parses the header at the beginning of buf. `length` in the result is that of the header,
// without the newline that follows `sum`; that newline must be there too.
export function parseHeader(buf) {
  const c = new Cursor(buf.length > MAX_HEADER + 1 ? buf.subarray(0, MAX_HEADER + 1) : buf)
  try {
    return parse(c)
  } catch (e) {
    if (e instanceof Short && buf.length > MAX_HEADER) throw new Bad(`header of more than ${MAX_HEADER} bytes`)
    throw e
  }
}

function parse(c) {
  const h = { sections: [] }
  c.lit(MAGIC)
  h.kind = c.oneOf(KINDS, '\n')
  c.lit('origin ')
  h.origin = c.run(b => b !== 0x0a, 200).toString('latin1')
  if (!validOrigin(h.origin)) throw new Bad(`invalid origin ${JSON.stringify(h.origin)}`)
  c.lit('\n')
  const field = (key, read, end = '\n') => { c.lit(key + ' '); const v = read(); c.lit(end); return v }
  const num = () => c.num()
  const hash32 = () => c.hash()
  if (h.kind !== 'checkpoint') {
    h.entry = field('entry', num)
    h.epoch = field('epoch', num)
    h.first = field('records', num, ' ')
    h.count = c.num()
    c.lit('\n')
    if (h.kind === 'batch' ? h.count < 1n || h.count > MAX_RECORDS : h.count !== 0n) throw new Bad(`${h.kind} of ${h.count} records`)
  }
  h.prev = field('prev', hash32)
  if (h.kind !== 'checkpoint') {
    h.sealed = field('sealed', num)
    if (h.sealed >= 1n << 63n) throw new Bad(`sealed at ${h.sealed}`)
    LINES[h.kind]?.(c, h, field)
  }
  for (const [name, enc] of SECTIONS[h.kind]) {
    if (h.kind === 'open' && name === 'svid') {
      if (!c.has('section ')) break // both or none
    } else {
      c.lit('section ')
    }
    c.lit(name + ' ')
    const s = { name, enc: c.oneOf([enc].flat(), ' '), at: 0 }
    const stored = c.num(); c.lit(' ')
    const plain = c.num(); c.lit(' ')
    if (stored > MAX_SECTION || plain > MAX_SECTION) throw new Bad(`section ${name} of ${stored} and ${plain} bytes, more than ${MAX_SECTION}`)
    if (name !== 'body' && stored !== plain) throw new Bad(`section ${name}: lengths differ, but it is stored as it is`)
    s.stored = Number(stored); s.plain = Number(plain)
    s.hash = c.hash(); c.lit('\n')
    h.sections.push(s)
  }
  if (h.kind !== 'checkpoint') {
    h.tagged = c.pos // bytes that the tag covers
    h.tag = field('tag', hash32)
  }
  const above = c.pos
  c.lit('sum ')
  h.sum = c.hex(8)
  c.lit('\n')
  h.length = c.pos
  if (h.length > MAX_HEADER) throw new Bad(`header of more than ${MAX_HEADER} bytes`)
  if (sha256(c.buf.subarray(0, above)).toString('hex', 0, 4) !== h.sum) throw new Bad('header does not match its sum')
  c.lit('\n')
  let at = h.length + 1
  for (const s of h.sections) { s.at = at; at += s.stored }
  h.size = at // of the whole frame
  h.text = Buffer.from(c.buf.subarray(0, h.length))
  h.digest = sha256(h.text)
  return h
}

const LINES = {
  batch(c, h, field) {
    h.root = field('root', () => c.hash())
    c.lit('time ')
    h.tmin = c.num(); c.lit(' '); h.tmax = c.num(); c.lit('\n')
    if (h.tmin > h.tmax) throw new Bad('time: least after greatest')
  },
  open(c, h, field) {
    h.signer = field('signer', () => c.text())
    c.lit('chain ')
    h.chain = c.hash()
    h.fresh = c.has(' fresh')
    c.lit('\n')
    h.escrows = []
    do {
      c.lit('escrow ')
      const e = { suite: c.oneOf(['x25519', 'mlkem768x25519'], ' ') }
      e.recipient = c.hex(16); c.lit(' ')
      e.sealed = c.b64(); c.lit('\n')
      const want = { x25519: 80, mlkem768x25519: 1168 }[e.suite]
      if (e.sealed.length !== want) throw new Bad(`escrow of ${e.sealed.length} bytes, ${e.suite} has ${want}`)
      h.escrows.push(e)
    } while (peek(c, 'escrow '))
    h.heartbeat = field('heartbeat', () => c.num())
    if (h.heartbeat < 1n || h.heartbeat > MAX_HEARTBEAT) throw new Bad(`heartbeat of ${h.heartbeat} seconds`)
    c.lit('after ')
    h.after = c.oneOf(['first', 'clean', 'crash', 'fault', 'rotation'], '\n')
    h.torn = []
    while (peek(c, 'torn ')) {
      c.lit('torn ')
      const bytes = c.num(); c.lit(' ')
      h.torn.push({ bytes, hash: c.hash() }); c.lit('\n')
    }
  },
  erase(c, h, field) {
    h.target = field('target', () => c.num())
    h.erased = []
    c.lit('erased')
    do {
      c.lit(' ')
      const first = c.num()
      const wide = c.has('-')
      const last = wide ? c.num() : first
      const before = h.erased.at(-1)
      if (wide && last <= first || before && first <= before.last + 1n || last >= MAX_RECORDS) throw new Bad('erased positions are not ascending and joined')
      h.erased.push({ first, last })
    } while (peek(c, ' '))
    c.lit('\n')
    h.by = field('by', () => c.text())
    h.reason = field('reason', () => c.text())
  },
  prune(c, h, field) {
    h.keep = field('first', () => c.num())
    h.policy = field('policy', () => c.text())
  },
}

function peek(c, s) {
  const at = c.pos
  const ok = c.has(s)
  c.pos = at
  return ok
}
