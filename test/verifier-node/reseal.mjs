// Breaks one rule of a log at a time and seals the result again with all of the writer's keys, so that
// nothing but that rule speaks against it:
//
//   node reseal.mjs list
//   node reseal.mjs STORE KEYS OUT      writes OUT/<case>/store/... for every case
//
// KEYS holds log.key, chain.key as it was before the first epoch, and auditor.pub of suite x25519.
// STORE holds one log of two epochs with batches of logs, at least two in each.

import { createCipheriv, diffieHellman, randomBytes, sign } from 'node:crypto'
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseHeader, sha256 } from './header.mjs'
import { commitment, firstEntryKey, labeled, nextEntryKey, nextEpoch, privateKey, publicKey, publicOf, tagOf, u16, ED25519, X25519 } from './keys.mjs'
import { Index, Tree, decompress, leafHash, nodeHash, recordLeaves, rootOf, salts } from './records.mjs'

const b64 = b => b.toString('base64')
const utf8 = s => Buffer.from(s)

// ---- a log as lines and sections

function load(dir) {
  const frames = []
  for (const segment of readdirSync(join(dir, 'segment')).sort()) {
    const b = readFileSync(join(dir, 'segment', segment))
    for (let at = 0; at < b.length;) {
      const h = parseHeader(b.subarray(at))
      const lines = h.text.toString().split('\n').slice(0, -1).filter(l => !/^(prev|section|tag|sum) /.test(l))
      const sections = h.sections.map(s => ({ name: s.name, enc: s.enc, plain: s.plain, bytes: b.subarray(at + s.at, at + s.at + s.stored) }))
      frames.push({ kind: h.kind, lines, sections, segment })
      at += h.size
    }
  }
  return frames
}

const get = (f, key) => f.lines.find(l => l.startsWith(key + ' '))?.slice(key.length + 1)
const set = (f, key, value) => { f.lines = f.lines.map(l => l.startsWith(key + ' ') ? `${key} ${value}` : l) }

function loadKeys(dir) {
  const [, , origin, , ...rest] = readFileSync(join(dir, 'log.key'), 'utf8').trim().split('+')
  const chain = Buffer.from(/\nkey (\S+)/.exec(readFileSync(join(dir, 'chain.key'), 'utf8'))[1], 'base64')
  const recipient = Buffer.from(readFileSync(join(dir, 'auditor.pub'), 'utf8').trim().split(/\s+/)[2], 'base64')
  const recipientId = sha256(Buffer.concat([u16(0x0020), recipient])).toString('hex', 0, 8)
  return { ...logKey(origin, Buffer.from(rest.join('+'), 'base64').subarray(1)), chain, recipient, recipientId }
}

function logKey(origin, seed) {
  const key = privateKey(ED25519, seed)
  const pub = Buffer.concat([Buffer.from([1]), publicOf(key)])
  const id = sha256(Buffer.concat([utf8(origin + '\n'), pub])).subarray(0, 4)
  return { origin, key, id, vkey: `${origin}+${id.toString('hex')}+${b64(pub)}` }
}

const signature = (k, text) => `\u2014 ${k.origin} ${b64(Buffer.concat([k.id, sign(null, utf8(text), k.key)]))}\n`
const note = (k, size, root, more = '') => {
  const text = `${k.origin}\n${size}\n${b64(root)}\n${more}`
  return utf8(text + '\n' + signature(k, text))
}

// escrow seals secret to the recipient: HPKE base mode, the sender's side.
function escrow(keys, epoch, secret) {
  const eph = privateKey(X25519, randomBytes(32))
  const enc = publicOf(eph)
  const kem = labeled(Buffer.concat([utf8('KEM'), u16(0x0020)]))
  const shared = kem.expand(kem.extract('', 'eae_prk', diffieHellman({ privateKey: eph, publicKey: publicKey(X25519, keys.recipient) })), 'shared_secret', Buffer.concat([enc, keys.recipient]), 32)
  const l = labeled(Buffer.concat([utf8('HPKE'), u16(0x0020), u16(1), u16(2)]))
  const info = `meshaudit-seal/v1 escrow\n${keys.origin}\n${epoch}\n${keys.recipientId}`
  const context = Buffer.concat([Buffer.from([0]), l.extract('', 'psk_id_hash', ''), l.extract('', 'info_hash', info)])
  const s = l.extract(shared, 'secret', '')
  const c = createCipheriv('aes-256-gcm', l.expand(s, 'key', context, 32), l.expand(s, 'base_nonce', context, 12))
  return `escrow x25519 ${keys.recipientId} ${b64(Buffer.concat([enc, c.update(secret), c.final(), c.getAuthTag()]))}`
}

// ---- sealing

// store seals frames and writes the log. A frame may override what is derived: prev, tag, sum, note, and
// of its sections stored, plain and hash.
function store(frames, keys, dir) {
  mkdirSync(join(dir, 'segment'), { recursive: true })
  writeFileSync(join(dir, 'lock'), '')
  let prev = Buffer.alloc(32)
  let secret = keys.chain
  let key = firstEntryKey(keys.chain)
  let last = null
  const tree = new Tree()
  const leaves = []
  const segments = new Map()
  for (const f of frames) {
    if (f.kind === 'open') {
      if (last) secret = f.secret ?? nextEpoch(secret)
      last = f
      key = firstEntryKey(secret)
      f.lines = f.lines.map(l => f.keepChain ? l : l.startsWith('chain ') ? `chain ${b64(commitment(secret))}${f.fresh ? ' fresh' : ''}` : l)
      if (f.escrow !== false) {
        const line = escrow(keys, get(f, 'epoch'), f.escrow ?? secret)
        const i = f.lines.findIndex(l => l.startsWith('escrow '))
        f.lines = f.lines.filter(l => !l.startsWith('escrow '))
        f.lines.splice(i, 0, line)
      }
    }
    if (f.kind === 'checkpoint') f.sections[0].bytes = f.note?.(tree, leaves) ?? note(keys, tree.size, tree.root())
    const lines = [...f.lines]
    lines.splice(f.kind === 'checkpoint' ? 2 : 5, 0, `prev ${b64(f.prev ?? prev)}`)
    for (const s of f.sections) {
      const plain = s.plain !== undefined && s.name === 'body' ? s.plain : s.bytes.length
      lines.push(`section ${s.name} ${s.enc} ${s.stored ?? s.bytes.length} ${s.forcePlain ?? plain} ${b64(s.hash ?? sha256(s.bytes))}`)
    }
    let text = lines.join('\n') + '\n'
    if (f.kind !== 'checkpoint') {
      text += `tag ${b64(f.tag ?? tagOf(key, utf8(text)))}\n`
      key = nextEntryKey(key)
    }
    text += `sum ${f.sum ?? sha256(utf8(text)).toString('hex', 0, 4)}\n`
    if (f.text) text = f.text(text)
    prev = sha256(utf8(text))
    if (f.kind !== 'checkpoint') {
      leaves.push(leafHash(utf8(text)))
      tree.push(leaves.at(-1))
    }
    const out = segments.get(f.segment) ?? []
    segments.set(f.segment, out)
    out.push(utf8(text + '\n'), ...f.sections.map(s => f.zero ? Buffer.alloc(s.bytes.length) : s.bytes))
  }
  for (const [name, out] of segments) if (!frames.gone?.has(name)) writeFileSync(join(dir, 'segment', name), Buffer.concat(out))
  writeFileSync(join(dir, 'checkpoint'), note(keys, tree.size, tree.root()))
  for (let level = 0, row = leaves; row.length > 0; level++) {
    const next = []
    mkdirSync(join(dir, 'tile', String(level)), { recursive: true })
    for (let n = 0; 256 * n < row.length; n++) {
      let t = row.slice(256 * n, 256 * n + 256)
      const path = join(dir, 'tile', String(level), String(n).padStart(3, '0'))
      if (t.length < 256) mkdirSync(path + '.p', { recursive: true })
      writeFileSync(t.length < 256 ? join(path + '.p', String(t.length)) : path, Buffer.concat(t))
      if (t.length < 256) continue
      while (t.length > 1) t = Array.from({ length: t.length / 2 }, (_, i) => nodeHash(t[2 * i], t[2 * i + 1]))
      next.push(t[0])
    }
    row = next
  }
}

// ---- bodies

const varint = n => { const b = []; for (; n > 127; n = Math.floor(n / 128)) b.push(n % 128 | 128); b.push(n); return Buffer.from(b) }
const field = (num, ...parts) => { const b = Buffer.concat(parts.map(p => Buffer.from(p))); return Buffer.concat([varint(num * 8 + 2), varint(b.length), b]) }
const fixed = (num, n) => { const b = Buffer.alloc(8); b.writeBigUInt64LE(BigInt(n)); return Buffer.concat([varint(num * 8 + 1), b]) }

// rawZstd is a zstd frame of raw blocks whose header can be anything.
function rawZstd(plain, { fhd = 0xa0, extra = [], width = 4, size = plain.length, tail = [] } = {}) {
  const fcs = Buffer.alloc(8)
  fcs.writeBigUInt64LE(BigInt(size))
  const parts = [Buffer.from([0x28, 0xb5, 0x2f, 0xfd, fhd, ...extra]), fcs.subarray(0, width)]
  for (let at = 0; at === 0 || at < plain.length; at += 1 << 17) {
    const block = plain.subarray(at, at + (1 << 17))
    const h = Buffer.alloc(3)
    h.writeUIntLE(block.length << 3 | (at + block.length === plain.length ? 1 : 0), 0, 3)
    parts.push(h, block)
  }
  return Buffer.concat([...parts, Buffer.from(tail)])
}

const seed = sha256(utf8('seed'))
const nonce = sha256(utf8('nonce'))

// rebatch gives batch f the message msg of a signal; opts override what follows from it.
function rebatch(f, msg, { signal = 'logs', zstd, plainSeed = seed, count, index, filter } = {}) {
  const idx = new Index()
  let leaves
  try {
    const stream = salts(seed, 65536)
    leaves = recordLeaves(signal, msg, i => stream.subarray(16 * i, 16 * i + 16), idx)
  } catch {
    leaves = [leafHash(utf8('malformed'))]
  }
  const plain = Buffer.concat([plainSeed, msg])
  const first = get(f, 'records').split(' ')[0]
  set(f, 'records', `${first} ${count ?? leaves.length}`)
  set(f, 'root', b64(rootOf(leaves)))
  const use = index ?? idx
  set(f, 'time', `${use.min} ${use.max}`)
  f.sections = [
    { name: 'filter', enc: 'bloom/v1', bytes: filter ?? Buffer.concat([nonce, use.filter()]) },
    { name: 'body', enc: `otlp-${signal}+zstd`, bytes: zstd ? zstd(plain) : rawZstd(plain), plain: plain.length },
  ]
}

// renumber puts the record numbers right after a batch has changed its count.
function renumber(frames) {
  let n = 0n
  for (const f of frames) {
    if (f.kind === 'checkpoint') continue
    const count = BigInt(get(f, 'records').split(' ')[1])
    set(f, 'records', `${n} ${count}`)
    n += count
  }
}

// renumberEntries puts entry numbers right after frames were taken out or put in.
function renumberEntries(frames) {
  let n = 0
  const names = new Map()
  for (const f of frames) {
    if (!names.has(f.segment)) names.set(f.segment, String(n).padStart(20, '0') + '.seal')
    f.segment = names.get(f.segment)
    if (f.kind !== 'checkpoint') set(f, 'entry', n++)
  }
}

const attr = (key, ...value) => field(6, field(1, key), field(2, ...value))
const logs = (...records) => field(1, field(2, ...records.map(r => field(2, r))))
const spans = logs
const one = () => Buffer.concat([fixed(1, 5), attr('user.id', field(1, 'u'))])

// ---- the cases

const batches = fs => fs.filter(f => f.kind === 'batch')
const opens = fs => fs.filter(f => f.kind === 'open')
const cps = fs => fs.filter(f => f.kind === 'checkpoint')
const add = (key, n) => f => set(f, key, BigInt(get(f, key)) + BigInt(n))
const bodyCase = (make, opts) => fs => { rebatch(batches(fs)[1], make(), opts); renumber(fs) }
const eachFrom = (fs, f, fn) => fs.slice(fs.indexOf(f)).filter(x => x.kind !== 'checkpoint').forEach(fn)
const raw = (...bytes) => Buffer.from(bytes)

// makeErase puts an erase of positions [from, to] of the second batch at the end of the last epoch.
function makeErase(fs, { from = 1, to = 2, zero = true, breakLeaf = false, count } = {}) {
  const target = batches(fs)[1]
  const body = target.sections[1]
  const plain = decompress([{ stored: body.bytes, plain: body.plain }])[0]
  const n = Number(get(target, 'records').split(' ')[1])
  const stream = salts(plain.subarray(0, 32), n)
  const all = recordLeaves('logs', plain.subarray(32), i => stream.subarray(16 * i, 16 * i + 16), new Index())
  const gone = i => i >= from && i <= to
  // the kept records, with all that they were reported under
  let i = 0
  const keep = (b, path) => {
    const out = []
    for (let at = 0; at < b.length;) {
      const start = at
      const tag = b[at++]
      let len = 0
      for (let s = 0, c = 128; c & 128; s += 7) { c = b[at++]; len |= (c & 127) << s }
      const inner = b.subarray(at, at += len)
      if (path === '' && tag === 10 || path === 'r' && tag === 18) out.push(varint(tag), ...sized(keep(inner, path === '' ? 'r' : 's')))
      else if (path === 's' && tag === 18) { if (!gone(i++)) out.push(b.subarray(start, at)) } else out.push(b.subarray(start, at))
    }
    return Buffer.concat(out)
  }
  const sized = b => [varint(b.length), b]
  const msg = keep(plain.subarray(32), '')
  const idx = new Index()
  recordLeaves('logs', msg, () => Buffer.alloc(16), idx)
  const closing = fs.findLastIndex(f => f.kind === 'close')
  const like = fs[closing]
  const hashes = all.filter((_, p) => gone(p))
  if (breakLeaf) hashes[0] = sha256(utf8('x'))
  const f = {
    kind: 'erase', segment: like.segment,
    lines: ['meshaudit-seal/v1 erase', ...like.lines.slice(1), `target ${get(target, 'entry')}`, from === to ? `erased ${from}` : `erased ${from}-${to}`, 'by someone', 'reason a law'],
    sections: [
      { name: 'filter', enc: 'bloom/v1', bytes: Buffer.concat([nonce, idx.filter()]) },
      { name: 'body', enc: 'otlp-logs+zstd', bytes: rawZstd(msg), plain: msg.length },
      { name: 'salts', enc: 'raw', bytes: Buffer.concat(all.map((_, p) => stream.subarray(16 * p, 16 * p + 16)).filter((_, p) => !gone(p))) },
      { name: 'leaves', enc: 'raw', bytes: Buffer.concat(hashes) },
    ],
  }
  fs.splice(closing, 0, f)
  renumberEntries(fs)
  target.zero = zero
  return f
}

function makePrune(fs, first) {
  const closing = fs.findLastIndex(f => f.kind === 'close')
  const like = fs[closing]
  fs.splice(closing, 0, { kind: 'prune', segment: like.segment, lines: ['meshaudit-seal/v1 prune', ...like.lines.slice(1), `first ${first}`, 'policy keep one epoch'], sections: [] })
  renumberEntries(fs)
}

const stranger = origin => logKey(origin, sha256(utf8('stranger')))

export const CASES = {
  'nothing': () => {},
  // numbers
  'entry +1': fs => eachFrom(fs, batches(fs)[1], add('entry', 1)),
  'entry -1': fs => eachFrom(fs, batches(fs)[1], add('entry', -1)),
  'epoch +1': fs => eachFrom(fs, opens(fs)[1], add('epoch', 1)),
  'epoch of one batch': fs => add('epoch', 1)(batches(fs)[0]),
  'first epoch is 1': fs => eachFrom(fs, opens(fs)[0], add('epoch', 1)),
  'records +1': fs => eachFrom(fs, batches(fs)[1], f => { const [a, n] = get(f, 'records').split(' '); set(f, 'records', `${BigInt(a) + 1n} ${n}`) }),
  'records of open': fs => set(opens(fs)[1], 'records', '0 0'),
  'count +1': fs => { const f = batches(fs)[1]; const [a, n] = get(f, 'records').split(' '); set(f, 'records', `${a} ${BigInt(n) + 1n}`); renumber(fs) },
  'count -1': fs => { const f = batches(fs)[1]; const [a, n] = get(f, 'records').split(' '); set(f, 'records', `${a} ${BigInt(n) - 1n}`); renumber(fs) },
  'prev of another frame': fs => { batches(fs)[1].prev = sha256(utf8('x')) },
  'prev of a checkpoint': fs => { cps(fs)[1].prev = sha256(utf8('x')) },
  'prev of the first': fs => { fs[0].prev = sha256(utf8('x')) },
  'other origin': fs => set(batches(fs)[1], 'origin', 'example.org/other'),
  'other origin in a checkpoint': fs => set(cps(fs)[1], 'origin', 'example.org/other'),
  // clocks
  'sealed steps back': fs => add('sealed', -3600e9)(batches(fs)[1]),
  'sealed stands still': fs => set(batches(fs)[1], 'sealed', get(batches(fs)[0], 'sealed')),
  'sealed steps back between epochs': fs => fs.slice(0, fs.indexOf(opens(fs)[1])).forEach(f => f.kind !== 'checkpoint' && add('sealed', 3600e9)(f)),
  'heartbeat 0': fs => opens(fs).forEach(f => set(f, 'heartbeat', 0)),
  'heartbeat 2^63': fs => opens(fs).forEach(f => set(f, 'heartbeat', 1n << 63n)),
  'heartbeat 10^11': fs => opens(fs).forEach(f => set(f, 'heartbeat', 100000000000n)),
  'sealed 0': fs => fs.forEach(f => f.kind !== 'checkpoint' && set(f, 'sealed', 0)),
  // epochs
  'after crash, but closed': fs => set(opens(fs)[1], 'after', 'crash'),
  'after fault, but closed': fs => set(opens(fs)[1], 'after', 'fault'),
  'after first, but second': fs => set(opens(fs)[1], 'after', 'first'),
  'after clean, but first': fs => set(opens(fs)[0], 'after', 'clean'),
  'after crash, but first': fs => set(opens(fs)[0], 'after', 'crash'),
  'after rotation': fs => set(opens(fs)[1], 'after', 'rotation'),
  'after crash': fs => { fs.splice(fs.findIndex(f => f.kind === 'close'), 2); renumberEntries(fs); set(opens(fs)[1], 'after', 'crash') },
  'after fault': fs => { fs.splice(fs.findIndex(f => f.kind === 'close'), 2); renumberEntries(fs); set(opens(fs)[1], 'after', 'fault') },
  'after clean, but not closed': fs => { fs.splice(fs.findIndex(f => f.kind === 'close'), 2); renumberEntries(fs) },
  'after rotation, but not closed': fs => { fs.splice(fs.findIndex(f => f.kind === 'close'), 2); renumberEntries(fs); set(opens(fs)[1], 'after', 'rotation') },
  'no close at the end': fs => { fs.splice(fs.findLastIndex(f => f.kind === 'close'), 2) },
  'close is followed by a beat': fs => { const i = fs.findIndex(f => f.kind === 'close'); const c = fs[i]; fs.splice(i + 1, 0, { ...c, kind: 'beat', lines: ['meshaudit-seal/v1 beat', ...c.lines.slice(1)], sections: [] }); renumberEntries(fs) },
  'a beat': fs => { const i = fs.findIndex(f => f.kind === 'close'); const c = fs[i]; fs.splice(i, 0, { ...c, kind: 'beat', lines: ['meshaudit-seal/v1 beat', ...c.lines.slice(1)], sections: [] }); renumberEntries(fs) },
  'no open at the beginning': fs => { fs.splice(0, 2); renumberEntries(fs) },
  'open within a segment': fs => { const s = fs[0].segment; fs.forEach(f => { f.segment = s }) },
  // groups and segments
  'a checkpoint less': fs => { fs.splice(fs.indexOf(cps(fs)[1]), 1) },
  'a checkpoint twice': fs => { const c = cps(fs)[1]; fs.splice(fs.indexOf(c), 0, { ...c, sections: [{ ...c.sections[0] }] }) },
  'a checkpoint first': fs => { const c = cps(fs)[1]; fs.unshift({ ...c, sections: [{ ...c.sections[0] }] }) },
  'segment cut between groups': fs => { const i = fs.indexOf(batches(fs)[1]); fs.forEach((f, n) => { if (n >= i && f.segment === fs[0].segment) f.segment = get(fs[i], 'entry').padStart(20, '0') + '.seal' }) },
  'segment cut within a group': fs => { const i = fs.indexOf(batches(fs)[1]) + 1; const e = BigInt(get(batches(fs)[1], 'entry')) + 1n; const s = fs[0].segment; fs.forEach((f, n) => { if (n >= i && f.segment === s) f.segment = String(e).padStart(20, '0') + '.seal' }) },
  'segment of another name': fs => { const s = fs.at(-1).segment; fs.forEach(f => { if (f.segment === s) f.segment = String(BigInt(s.slice(0, 20)) + 1n).padStart(20, '0') + '.seal' }) },
  // checkpoints
  'checkpoint of another root': (fs, k) => { cps(fs)[1].note = t => note(k, t.size, sha256(utf8('x'))) },
  'checkpoint of size +1': (fs, k) => { cps(fs)[1].note = t => note(k, t.size + 1, t.root()) },
  'checkpoint of the size before': (fs, k) => { cps(fs)[2].note = (t, leaves) => note(k, t.size - 1, rootOf(leaves.slice(0, -1))) },
  'checkpoint of a stranger': (fs, k) => { cps(fs)[1].note = t => note(stranger(k.origin), t.size, t.root()) },
  'checkpoint of two': (fs, k) => { cps(fs)[1].note = t => { const n = note(k, t.size, t.root()); const text = n.toString().split('\n\n')[0] + '\n'; return Buffer.concat([n, utf8(signature(stranger('example.org/witness'), text))]) } },
  'checkpoint of two, stranger first': (fs, k) => { cps(fs)[1].note = t => { const [text, sig] = note(k, t.size, t.root()).toString().split('\n\n'); return utf8(text + '\n\n' + signature(stranger('example.org/witness'), text + '\n') + sig) } },
  'checkpoint with an extension': (fs, k) => { cps(fs)[1].note = t => note(k, t.size, t.root(), 'more\n') },
  'checkpoint with an empty extension': (fs, k) => { cps(fs)[1].note = t => note(k, t.size, t.root(), '\n') },
  'checkpoint with a broken signature': (fs, k) => { cps(fs)[1].note = t => { const s = note(k, t.size, t.root()).toString(); return utf8(s.slice(0, s.lastIndexOf(' ') + 7) + 'AAAA' + s.slice(s.lastIndexOf(' ') + 11)) } },
  'checkpoint with a leading zero': (fs, k) => { cps(fs)[1].note = t => note(k, '0' + t.size, t.root()) },
  'checkpoint of another log': (fs, k) => { cps(fs)[1].note = t => note(stranger('example.org/other'), t.size, t.root()) },
  'checkpoint without a signature': (fs, k) => { cps(fs)[1].note = t => utf8(note(k, t.size, t.root()).toString().split('\n\n')[0] + '\n\n') },
  'checkpoint empty': fs => { cps(fs)[1].note = () => Buffer.alloc(0) },
  'checkpoint section is cut': (fs, k) => { cps(fs)[1].note = t => note(k, t.size, t.root()).subarray(0, -1) },
  'open names a stranger': (fs, k) => set(opens(fs)[1], 'signer', stranger(k.origin).vkey),
  'open names another log': (fs, k) => set(opens(fs)[1], 'signer', stranger('example.org/other').vkey),
  'open names no key': fs => set(opens(fs)[1], 'signer', 'someone'),
  'open names a stranger who signs': (fs, k) => { set(opens(fs)[1], 'signer', stranger(k.origin).vkey); fs.slice(fs.indexOf(opens(fs)[1])).forEach(f => { if (f.kind === 'checkpoint') f.note = t => note(stranger(k.origin), t.size, t.root()) }) },
  // the chain
  'tag of another key': fs => { batches(fs)[1].tag = sha256(utf8('x')) },
  'chain key that does not follow': fs => { opens(fs)[1].secret = sha256(utf8('x')) },
  'chain key afresh': fs => { opens(fs)[1].secret = sha256(utf8('x')); opens(fs)[1].fresh = true },
  'chain key that follows, called fresh': fs => { opens(fs)[1].fresh = true },
  'first epoch called fresh': fs => { opens(fs)[0].fresh = true },
  'escrow of another key': fs => { opens(fs)[1].escrow = sha256(utf8('x')) },
  'escrow of 31 bytes': fs => { opens(fs)[1].escrow = sha256(utf8('x')).subarray(1) },
  'escrow that does not open': fs => { const f = opens(fs)[1]; f.escrow = false; f.lines = f.lines.map(l => /^escrow x25519/.test(l) ? l.replace(/ \S+$/, ' ' + b64(Buffer.alloc(80, 7))) : l) },
  'escrow of one byte': fs => { const f = opens(fs)[1]; f.escrow = false; f.lines = f.lines.map(l => /^escrow x25519/.test(l) ? l.replace(/ \S+$/, ' AA==') : l) },
  'escrow to somebody else in one epoch': fs => { const f = opens(fs)[1]; f.escrow = false; f.lines = f.lines.map(l => /^escrow x25519/.test(l) ? l.replace(/x25519 \S+/, 'x25519 0123456789abcdef') : l) },
  'escrow to somebody else in the first epoch': fs => { const f = opens(fs)[0]; f.escrow = false; f.lines = f.lines.map(l => /^escrow x25519/.test(l) ? l.replace(/x25519 \S+/, 'x25519 0123456789abcdef') : l) },
  'escrow twice': fs => { const f = opens(fs)[1]; const i = f.lines.findIndex(l => l.startsWith('escrow ')); f.escrow = false; f.lines.splice(i, 0, f.lines[i]) },
  'commitment to another key': fs => { const f = opens(fs)[1]; f.keepChain = true; set(f, 'chain', b64(sha256(utf8('x')))) },
  'torn line without its file': fs => opens(fs)[1].lines.push(`torn 7 ${b64(sha256(utf8('x')))}`),
  'svid': fs => opens(fs)[1].sections.push({ name: 'svid', enc: 'raw', bytes: utf8('pem') }, { name: 'svid-sig', enc: 'raw', bytes: utf8('sig') }),
  'header of 33 KiB': fs => { for (let i = 0; i < 700; i++) opens(fs)[1].lines.push(`torn ${i} ${b64(sha256(utf8('x')))}`) },
  // batches
  'root of other records': fs => set(batches(fs)[1], 'root', b64(sha256(utf8('x')))),
  'time earlier': fs => { const f = batches(fs)[1]; const [a, b] = get(f, 'time').split(' '); set(f, 'time', `${BigInt(a) - 1n} ${b}`) },
  'time later': fs => { const f = batches(fs)[1]; const [a, b] = get(f, 'time').split(' '); set(f, 'time', `${a} ${BigInt(b) + 1n}`) },
  'time 0 0': fs => set(batches(fs)[1], 'time', '0 0'),
  'filter with a bit more': fs => { const s = batches(fs)[1].sections[0]; s.bytes = Buffer.from(s.bytes); const i = s.bytes.findIndex((c, n) => n >= 32 && c !== 255); s.bytes[i] |= s.bytes[i] + 1 },
  'filter with a bit less': fs => { const s = batches(fs)[1].sections[0]; s.bytes = Buffer.from(s.bytes); const i = s.bytes.findIndex((c, n) => n >= 32 && c !== 0); s.bytes[i] &= s.bytes[i] - 1 },
  'filter without a nonce': fs => { const s = batches(fs)[1].sections[0]; s.bytes = s.bytes.subarray(32) },
  'filter with another nonce': fs => { const s = batches(fs)[1].sections[0]; s.bytes = Buffer.concat([nonce, s.bytes.subarray(32)]) },
  'filter empty': fs => { batches(fs)[1].sections[0].bytes = Buffer.alloc(0) },
  'filter longer': fs => { const s = batches(fs)[1].sections[0]; s.bytes = Buffer.concat([s.bytes, Buffer.alloc(8)]) },
  'body of another signal': fs => { batches(fs)[1].sections[1].enc = 'otlp-traces+zstd' },
  'seed of another body': bodyCase(() => logs(one()), { plainSeed: sha256(utf8('other')) }),
  // zstd
  'zstd of raw blocks': bodyCase(() => logs(one())),
  'zstd with a checksum that is wrong': bodyCase(() => logs(one()), { zstd: p => rawZstd(p, { fhd: 0xa4, tail: [1, 2, 3, 4] }) }),
  'zstd with trailing bytes': bodyCase(() => logs(one()), { zstd: p => rawZstd(p, { tail: [0] }) }),
  'zstd with a skippable frame': bodyCase(() => logs(one()), { zstd: p => Buffer.concat([rawZstd(p), raw(0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9)]) }),
  'zstd behind a skippable frame': bodyCase(() => logs(one()), { zstd: p => Buffer.concat([raw(0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9), rawZstd(p)]) }),
  'zstd of two frames': bodyCase(() => logs(one()), { zstd: p => Buffer.concat([rawZstd(p.subarray(0, 20)), rawZstd(p.subarray(20))]) }),
  'zstd with an empty frame behind': bodyCase(() => logs(one()), { zstd: p => Buffer.concat([rawZstd(p), rawZstd(Buffer.alloc(0))]) }),
  'zstd without a content size': bodyCase(() => logs(one()), { zstd: p => rawZstd(p, { fhd: 0x00, extra: [0x38], width: 0 }) }),
  'zstd of another content size': bodyCase(() => logs(one()), { zstd: p => rawZstd(p, { size: p.length + 1 }) }),
  'zstd with a dictionary id': bodyCase(() => logs(one()), { zstd: p => rawZstd(p, { fhd: 0xa1, extra: [7] }) }),
  'zstd with dictionary id 0': bodyCase(() => logs(one()), { zstd: p => rawZstd(p, { fhd: 0xa1, extra: [0] }) }),
  'zstd with the reserved bit': bodyCase(() => logs(one()), { zstd: p => rawZstd(p, { fhd: 0xa8 }) }),
  'zstd with the unused bit': bodyCase(() => logs(one()), { zstd: p => rawZstd(p, { fhd: 0xb0 }) }),
  'zstd with a window of 8 MiB': bodyCase(() => logs(one()), { zstd: p => rawZstd(p, { fhd: 0x80, extra: [13 << 3] }) }),
  'zstd with a window of 9 MiB': bodyCase(() => logs(one()), { zstd: p => rawZstd(p, { fhd: 0x80, extra: [13 << 3 | 1] }) }),
  'zstd with a size of 8 bytes': bodyCase(() => logs(one()), { zstd: p => rawZstd(p, { fhd: 0xe0, width: 8 }) }),
  'zstd with a block of type 3': bodyCase(() => logs(one()), { zstd: p => { const b = rawZstd(p); b[9] |= 6; return b } }),
  'zstd with an empty last block': bodyCase(() => logs(one()), { zstd: p => { const b = rawZstd(p); b[9] &= 0xfe; return Buffer.concat([b, raw(1, 0, 0)]) } }),
  'plain is not the content size': fs => { const s = batches(fs)[1].sections[1]; s.forcePlain = s.plain + 1 },
  // messages
  'record of no bytes': bodyCase(() => logs(Buffer.alloc(0))),
  'no record': bodyCase(() => field(1, field(2)), { count: 1 }),
  'empty message': bodyCase(() => Buffer.alloc(0), { count: 1 }),
  'fields ascending': bodyCase(() => field(1, field(1, 'r'), field(2, field(1, 's'), field(2, one()), field(3, 'url')), field(3, 'url'))),
  'fields descending': bodyCase(() => field(1, field(3, 'url'), field(2, field(3, 'url'), field(2, one()), field(1, 's')), field(1, 'r'))),
  'resource between scopes': bodyCase(() => field(1, field(2, field(2, one())), field(1, 'r'), field(2, field(2, one())))),
  'resource is no message': bodyCase(() => field(1, field(1, raw(0xff)), field(2, field(2, one())))),
  'schema URL is not UTF-8': bodyCase(() => field(1, field(2, field(2, one()), field(3, raw(0xff))))),
  'empty resource': bodyCase(() => field(1, field(1), field(2, field(1), field(2, one()), field(3)), field(3))),
  'resource twice': bodyCase(() => field(1, field(1), field(1), field(2, field(2, one())))),
  'scope twice': bodyCase(() => field(1, field(2, field(1), field(2, one()), field(1)))),
  'url twice': bodyCase(() => field(1, field(2, field(2, one())), field(3), field(3))),
  'unknown field of the request': bodyCase(() => Buffer.concat([logs(one()), field(2, 'x')])),
  'unknown field of the resource logs': bodyCase(() => field(1, field(2, field(2, one())), field(1000, 'x'))),
  'unknown field of the scope logs': bodyCase(() => field(1, field(2, field(2, one()), field(4, 'x')))),
  'field of another type': bodyCase(() => field(1, fixed(1, 1), field(2, field(2, one())))),
  'group in the request': bodyCase(() => Buffer.concat([logs(one()), raw(0x13, 0x14)])),
  'group in a record': bodyCase(() => logs(Buffer.concat([one(), raw(0x7b, 0x7c)]))),
  'end of a group in a record': bodyCase(() => logs(Buffer.concat([one(), raw(0x7c)]))),
  'wire type 6 in a record': bodyCase(() => logs(Buffer.concat([one(), raw(0x7e)]))),
  'long tag in the request': bodyCase(() => { const m = logs(one()); return Buffer.concat([raw(0x8a, 0x00), m.subarray(1)]) }),
  'long length in the request': bodyCase(() => { const m = logs(one()); return Buffer.concat([raw(0x0a, m[1] | 0x80, 0x00), m.subarray(2)]) }),
  'long tag in a record': bodyCase(() => logs(Buffer.concat([one(), raw(0xf8, 0x80, 0x00, 1)]))),
  'long number in a record': bodyCase(() => logs(Buffer.concat([one(), raw(0x78, 0x81, 0x00)]))),
  'long length in a record': bodyCase(() => logs(Buffer.concat([one(), raw(0x7a, 0x81, 0x00, 0x41)]))),
  'long number in an attribute': bodyCase(() => logs(attr('user.id', raw(0x18, 0x81, 0x00)))),
  'number of 10 bytes in a record': bodyCase(() => logs(Buffer.concat([one(), raw(0x78, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1)]))),
  'number of 65 bits in a record': bodyCase(() => logs(Buffer.concat([one(), raw(0x78, 255, 255, 255, 255, 255, 255, 255, 255, 255, 3)]))),
  'number of 11 bytes in a record': bodyCase(() => logs(Buffer.concat([one(), raw(0x78, 255, 255, 255, 255, 255, 255, 255, 255, 255, 129, 0)]))),
  'field number 0 in a record': bodyCase(() => logs(Buffer.concat([one(), raw(0x02, 0x00)]))),
  'field number 2^29 in a record': bodyCase(() => logs(Buffer.concat([one(), varint(2 ** 32 + 2), raw(0)]))),
  'field number 2^29-1 in a record': bodyCase(() => logs(Buffer.concat([one(), varint((2 ** 29 - 1) * 8 + 2), raw(0)]))),
  'record cut short': bodyCase(() => logs(raw(0x0a, 5, 1))),
  'attribute cut short': bodyCase(() => logs(field(6, raw(0x0a, 5, 1)))),
  'value cut short': bodyCase(() => logs(field(6, field(1, 'user.id'), field(2, raw(0x0a, 5, 1))))),
  'value of an unindexed key cut short': bodyCase(() => logs(field(6, field(1, 'x'), field(2, raw(0x0a, 5, 1))))),
  'value cut short before its key': bodyCase(() => logs(field(6, field(2, raw(0x0a, 5, 1)), field(1, 'x')))),
  'body of a record cut short': bodyCase(() => logs(field(5, raw(0x0a, 5, 1)))),
  // the index
  'no keys': bodyCase(() => logs(fixed(1, 1))),
  'no times': bodyCase(() => logs(attr('user.id', field(1, 'u')))),
  'observed time only': bodyCase(() => logs(fixed(11, 9))),
  'time 0 and observed': bodyCase(() => logs(Buffer.concat([fixed(1, 0), fixed(11, 9)]))),
  'time twice': bodyCase(() => logs(Buffer.concat([fixed(1, 7), fixed(1, 9)]))),
  'time twice, then 0': bodyCase(() => logs(Buffer.concat([fixed(1, 7), fixed(1, 0), fixed(11, 3)]))),
  'time as a number': bodyCase(() => logs(Buffer.concat([raw(0x08, 7), fixed(11, 9)]))),
  'time 2^64-1': bodyCase(() => logs(Buffer.concat([fixed(1, (1n << 64n) - 1n)]))),
  'trace id': bodyCase(() => logs(field(9, Buffer.alloc(16, 5)))),
  'trace id of zeros': bodyCase(() => logs(field(9, Buffer.alloc(16)))),
  'trace id of 15 bytes': bodyCase(() => logs(field(9, Buffer.alloc(15, 5)))),
  'trace id twice': bodyCase(() => logs(Buffer.concat([field(9, Buffer.alloc(16, 5)), field(9, Buffer.alloc(16, 6))]))),
  'trace id, then empty': bodyCase(() => logs(Buffer.concat([field(9, Buffer.alloc(16, 5)), field(9)]))),
  'trace id and the same as another': bodyCase(() => logs(field(9, Buffer.alloc(16, 5)), field(9, Buffer.alloc(16, 5)))),
  'all keys': bodyCase(() => logs(Buffer.concat(['audit.record.id', 'mesh.amends', 'mesh.join.request_id', 'mesh.join.decision_id', 'mesh.authz.decision.id', 'mesh.source.spiffe.id', 'mesh.destination.spiffe.id', 'user.id', 'mesh.evidence.id'].map((k, i) => attr(k, field(1, 'v' + i)))))),
  'one name by two attributes': bodyCase(() => logs(Buffer.concat([attr('mesh.amends', field(1, 'v')), attr('audit.record.id', field(1, 'v'))]))),
  'key not at its place': bodyCase(() => logs(field(6, field(2, field(1, 'v')), field(1, 'user.id')))),
  'key twice': bodyCase(() => logs(field(6, field(1, 'user.id'), field(2, field(1, 'v')), field(1, 'x')))),
  'key twice, the other way': bodyCase(() => logs(field(6, field(1, 'x'), field(2, field(1, 'v')), field(1, 'user.id')))),
  'value twice': bodyCase(() => logs(field(6, field(1, 'user.id'), field(2, field(1, 'v')), field(2, field(1, 'w'))))),
  'value twice, then empty': bodyCase(() => logs(field(6, field(1, 'user.id'), field(2, field(1, 'v')), field(2)))),
  'string twice': bodyCase(() => logs(attr('user.id', field(1, 'v'), field(1, 'w')))),
  'string, then empty': bodyCase(() => logs(attr('user.id', field(1, 'v'), field(1)))),
  'string, then a number': bodyCase(() => logs(attr('user.id', field(1, 'v'), raw(0x18, 1)))),
  'number, then a string': bodyCase(() => logs(attr('user.id', raw(0x18, 1), field(1, 'v')))),
  'value is a number': bodyCase(() => logs(attr('user.id', raw(0x18, 1)))),
  'value is bytes': bodyCase(() => logs(attr('user.id', field(7, 'v')))),
  'value is not UTF-8': bodyCase(() => logs(attr('user.id', field(1, raw(0xff, 0xfe))))),
  'value with a zero byte': bodyCase(() => logs(attr('user.id', field(1, raw(0, 1))))),
  'value of 64 KiB': bodyCase(() => logs(attr('user.id', field(1, Buffer.alloc(65536, 0x61))))),
  'same attribute twice': bodyCase(() => logs(Buffer.concat([attr('user.id', field(1, 'v')), attr('user.id', field(1, 'w'))]))),
  'attributes of the resource': bodyCase(() => field(1, field(1, field(1, field(1, 'user.id'), field(2, field(1, 'v')))), field(2, field(2, one())))),
  'span': bodyCase(() => spans(Buffer.concat([field(1, Buffer.alloc(16, 3)), fixed(7, 9), fixed(8, 4), field(9, field(1, 'user.id'), field(2, field(1, 'v')))])), { signal: 'traces' }),
  'span without an end': bodyCase(() => spans(fixed(7, 9)), { signal: 'traces' }),
  'span with events': bodyCase(() => spans(Buffer.concat([fixed(7, 9), fixed(8, 9), field(11, fixed(1, 3))])), { signal: 'traces' }),
  'metrics of all kinds': bodyCase(() => logs(...[5, 7, 9, 10, 11].map((n, i) => field(n, field(1, fixed(2, 1), fixed(3, 10 + i)))), field(6, field(1, fixed(3, 1))), field(8, field(1, fixed(3, 1))), field(12, field(1, fixed(3, 1)))), { signal: 'metrics' }),
  'metric of two kinds': bodyCase(() => logs(Buffer.concat([field(5, field(1, fixed(3, 10))), field(7, field(1, fixed(3, 99)))])), { signal: 'metrics' }),
  'metric of one kind twice': bodyCase(() => logs(Buffer.concat([field(5, field(1, fixed(3, 10))), field(5, field(1, fixed(3, 99)))])), { signal: 'metrics' }),
  'metric with a time twice': bodyCase(() => logs(field(5, field(1, fixed(3, 10), fixed(3, 20)))), { signal: 'metrics' }),
  'metric with a trace id': bodyCase(() => logs(Buffer.concat([field(9, field(1, fixed(3, 3))), field(1, Buffer.alloc(16, 5))])), { signal: 'metrics' }),
  'metric with exemplars': bodyCase(() => logs(field(5, field(1, fixed(3, 10), field(5, fixed(2, 1))))), { signal: 'metrics' }),
  'metric cut short in a point': bodyCase(() => logs(field(5, field(1, raw(0x19, 1)))), { signal: 'metrics' }),
  'metric cut short in other data': bodyCase(() => logs(field(6, field(1, raw(0x19, 1)))), { signal: 'metrics' }),
  // erasures and prunes
  'zeros without an erase': fs => { batches(fs)[1].zero = true },
  'erase': fs => { makeErase(fs) },
  'erase of one': fs => { makeErase(fs, { from: 0, to: 0 }) },
  'erase that is not done': fs => { makeErase(fs, { zero: false }) },
  'erase with another hash': fs => { makeErase(fs, { breakLeaf: true }) },
  'erase with another hash, not done': fs => { makeErase(fs, { breakLeaf: true, zero: false }) },
  'erase of an entry that is no batch': fs => { set(makeErase(fs, { zero: false }), 'target', 0) },
  'erase of an entry to come': fs => { set(makeErase(fs, { zero: false }), 'target', 999) },
  'erase with an empty line': fs => { set(makeErase(fs, { zero: false }), 'reason', '') },
  'erase with a control character': fs => { set(makeErase(fs, { zero: false }), 'reason', 'a\tb') },
  'erase with a no-break space': fs => { set(makeErase(fs, { zero: false }), 'reason', 'a\u00a0b') },
  'erase with a soft hyphen': fs => { set(makeErase(fs, { zero: false }), 'reason', 'a\u00adb') },
  'erase with an ideograph': fs => { set(makeErase(fs, { zero: false }), 'reason', '\u6cd5') },
  'erase with 1025 bytes': fs => { set(makeErase(fs, { zero: false }), 'reason', 'a'.repeat(1025)) },
  'erase with 1024 bytes': fs => { set(makeErase(fs, { zero: false }), 'reason', 'a'.repeat(1024)) },
  'erased 1 2': fs => { set(makeErase(fs, { zero: false }), 'erased', '1 2') },
  'erased 1-1': fs => { set(makeErase(fs, { zero: false }), 'erased', '1-1') },
  'erased 2 1': fs => { set(makeErase(fs, { zero: false }), 'erased', '2 1') },
  'erased 1-18446744073709551615': fs => { set(makeErase(fs, { zero: false }), 'erased', '1-18446744073709551615') },
  'prune': fs => { const f = get(opens(fs)[1], 'entry'); makePrune(fs, f); fs.gone = new Set([fs[0].segment]) },
  'prune that is not done': fs => { makePrune(fs, get(opens(fs)[1], 'entry')) },
  'prune of too little': fs => { makePrune(fs, 1); fs.gone = new Set([fs[0].segment]) },
  'prune of what is to come': fs => { makePrune(fs, 999) },
  'missing segment': fs => { fs.gone = new Set([fs[0].segment]) },
}

function main([storeDir, keysDir, out]) {
  if (storeDir === 'list') {
    console.log(Object.keys(CASES).join('\n'))
    return
  }
  const [name] = readdirSync(storeDir)
  const keys = loadKeys(keysDir)
  rmSync(out, { recursive: true, force: true })
  for (const [i, edit] of Object.values(CASES).entries()) {
    const frames = load(join(storeDir, name))
    edit(frames, keys)
    store(frames, keys, join(out, String(i), 'store', name))
  }
}

main(process.argv.slice(2))
