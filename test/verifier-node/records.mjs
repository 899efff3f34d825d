// What is inside a batch: the zstd frame, the records and their leaves, the filter and the event times
// (docs/sealed-log.md, sections 3 and 4).

import { createCipheriv, hash } from 'node:crypto'
import { spawnSync } from 'node:child_process'
import { Bad, MAX_SECTION, sha256 } from './header.mjs'

// ---- zstd

const MAX_BLOCK = 128 << 10

// checkZstd refuses everything but one zstd frame that states its content size, which must be plain.
export function checkZstd(b, plain) {
  const need = n => { if (n > b.length) throw new Bad('zstd: frame is cut short') }
  need(5)
  if (b.readUInt32LE(0) !== 0xfd2fb528) throw new Bad('zstd: not a frame')
  const fhd = b[4]
  if (fhd & 0x08) throw new Bad('zstd: reserved bit is set')
  const single = (fhd & 0x20) !== 0
  let at = 5
  let window = plain
  if (!single) {
    need(at + 1)
    const base = 2 ** (10 + (b[at] >> 3))
    window = base + base / 8 * (b[at] & 7)
    at++
  }
  const idWidth = [0, 1, 2, 4][fhd & 3]
  need(at + idWidth)
  if (b.subarray(at, at + idWidth).some(c => c !== 0)) throw new Bad('zstd: frame has a dictionary')
  at += idWidth
  if (window > MAX_SECTION) throw new Bad(`zstd: window of ${window} bytes`)
  const code = fhd >> 6
  const width = code === 0 ? (single ? 1 : 0) : 1 << code
  if (width === 0) throw new Bad('zstd: frame does not state its content size')
  need(at + width)
  const size = width === 8 ? Number(b.readBigUInt64LE(at)) : b.readUIntLE(at, width) + (width === 2 ? 256 : 0)
  at += width
  if (size !== plain) throw new Bad(`zstd: content of ${size} bytes, header says ${plain}`)
  for (let last = false; !last;) {
    need(at + 3)
    const h = b.readUIntLE(at, 3)
    const type = h >> 1 & 3
    last = (h & 1) === 1
    if (type === 3 || h >> 3 > Math.min(MAX_BLOCK, window)) throw new Bad('zstd: malformed block')
    at += 3 + (type === 1 ? 1 : h >> 3)
    need(at)
  }
  if (fhd & 0x04) { at += 4; need(at) }
  if (at !== b.length) throw new Bad(`zstd: ${b.length - at} bytes after the frame`)
}

// decompress returns the contents of checked frames, null for those that are corrupt: one process for
// all of them, one each if that fails.
export function decompress(frames) {
  const total = frames.reduce((n, f) => n + f.plain, 0)
  const p = spawnSync('zstd', ['-dcq'], { input: Buffer.concat(frames.map(f => f.stored)), maxBuffer: total + 1 })
  if (p.error && p.error.code !== 'ENOBUFS') throw new Error(`cannot run zstd (Debian: apt-get install zstd): ${p.error.message}`)
  if (p.status !== 0 || p.error || p.stdout.length !== total) {
    return frames.length === 1 ? [null] : frames.flatMap(f => decompress([f]))
  }
  let at = 0
  return frames.map(f => p.stdout.subarray(at, at += f.plain))
}

// ---- RFC 6962

const LEAF = Buffer.from([0])
const NODE = Buffer.from([1])
export const leafHash = b => sha256(Buffer.concat([LEAF, b]))
export const nodeHash = (l, r) => sha256(Buffer.concat([NODE, l, r]))

// Tree is the right edge of a Merkle tree.
export class Tree {
  constructor() { this.size = 0; this.edge = [] }
  push(leaf) {
    let h = leaf
    for (let n = this.size++; n & 1; n = Math.floor(n / 2)) h = nodeHash(this.edge.pop(), h)
    this.edge.push(h)
  }
  root() {
    return this.edge.length === 0 ? sha256(Buffer.alloc(0)) : this.edge.reduceRight((r, l) => nodeHash(l, r))
  }
}

// ---- protobuf

// Fields walks the fields of b[at:end]. A length-delimited value is b[from:to]; so is a fixed one.
class Fields {
  constructor(b, at, end) { this.b = b; this.at = at; this.end = end }

  // varint returns a number that is exact below 2^53; larger ones are only passed over.
  varint() {
    let v = 0, scale = 1
    for (let i = 0; i < 10; i++) {
      if (this.at >= this.end) throw new Bad('otlp: cut short')
      const c = this.b[this.at++]
      if (i === 9 && c > 1) break
      v += (c & 0x7f) * scale
      scale *= 128
      if (c < 0x80) {
        if (c === 0 && i > 0) throw new Bad('otlp: varint is not minimal')
        return v
      }
    }
    throw new Bad('otlp: varint of more than 64 bits')
  }
  next() {
    if (this.at === this.end) return false
    const tag = this.varint()
    this.type = tag % 8
    this.num = (tag - this.type) / 8
    if (this.num < 1 || this.num >= 2 ** 29) throw new Bad('otlp: invalid field number')
    let n
    switch (this.type) {
      case 0: this.varint(); return true
      case 1: n = 8; break
      case 2: n = this.varint(); break
      case 5: n = 4; break
      default: throw new Bad(`otlp: wire type ${this.type}`)
    }
    this.from = this.at
    this.to = this.at + n
    if (this.to > this.end) throw new Bad('otlp: field runs over the end')
    this.at = this.to
    return true
  }
  is(num, type) { return this.num === num && this.type === type }
  inner() { return new Fields(this.b, this.from, this.to) }
  fixed64() { return this.b.readBigUInt64LE(this.from) }
}

const EMPTY = Buffer.alloc(0)

// envelope reads { 1: head, 2: repeated item, 3: schema URL }: ResourceLogs, ScopeSpans and so on.
function envelope(f) {
  const e = { head: EMPTY, url: EMPTY, items: [] }
  const seen = [false, false, false, false]
  while (f.next()) {
    if (f.num > 3 || f.type !== 2) throw new Bad(`otlp: unknown field ${f.num} of type ${f.type}`)
    if (f.num === 2) { e.items.push(f.inner()); continue }
    if (seen[f.num]) throw new Bad(`otlp: field ${f.num} twice`)
    seen[f.num] = true
    if (f.num === 1) e.head = f.b.subarray(f.from, f.to)
    else e.url = f.b.subarray(f.from, f.to)
  }
  return e
}

function contextOf(...parts) {
  return sha256(Buffer.concat(parts.flatMap(p => {
    const n = Buffer.alloc(4)
    n.writeUInt32BE(p.length)
    return [n, p]
  })))
}

// eachRecord calls fn(context, from, to) for the records of an export request in order of their bytes.
export function eachRecord(msg, fn) {
  const f = new Fields(msg, 0, msg.length)
  while (f.next()) {
    if (!f.is(1, 2)) throw new Bad(`otlp: unknown field ${f.num} of type ${f.type}`)
    const resource = envelope(f.inner())
    for (const item of resource.items) {
      const scope = envelope(item)
      const context = contextOf(resource.head, resource.url, scope.head, scope.url)
      for (const r of scope.items) fn(context, r.at, r.end)
    }
  }
}

// ---- index: filter and time

const KEYS = new Map(Object.entries({
  'audit.record.id': 'record_id=', 'mesh.amends': 'record_id=',
  'mesh.join.request_id': 'request_id=',
  'mesh.join.decision_id': 'decision_id=', 'mesh.authz.decision.id': 'decision_id=',
  'mesh.source.spiffe.id': 'spiffe_id=', 'mesh.destination.spiffe.id': 'spiffe_id=',
  'user.id': 'user_id=', 'mesh.evidence.id': 'evidence_id=',
}))
const POINTS = [5, 7, 9, 10, 11]

export class Index {
  constructor() { this.keys = new Set(); this.min = 0n; this.max = 0n }
  time(t) {
    if (t === 0n) return
    if (this.min === 0n || t < this.min) this.min = t
    if (t > this.max) this.max = t
  }
  add(kind, msg, from, to) { this[kind](new Fields(msg, from, to)) }

  logs(f) {
    let time = 0n, observed = 0n
    while (f.next()) {
      if (f.is(1, 1)) time = f.fixed64()
      else if (f.is(11, 1)) observed = f.fixed64()
      else if (f.is(9, 2)) this.trace(f.b.toString('hex', f.from, f.to))
      else if (f.is(6, 2)) this.attribute(f.inner())
    }
    this.time(time || observed)
  }
  traces(f) {
    let start = 0n, end = 0n
    while (f.next()) {
      if (f.is(7, 1)) start = f.fixed64()
      else if (f.is(8, 1)) end = f.fixed64()
      else if (f.is(1, 2)) this.trace(f.b.toString('hex', f.from, f.to))
      else if (f.is(9, 2)) this.attribute(f.inner())
    }
    this.time(start)
    this.time(end)
  }
  metrics(f) {
    while (f.next()) {
      if (f.type !== 2 || !POINTS.includes(f.num)) continue
      for (const data = f.inner(); data.next();) {
        if (!data.is(1, 2)) continue
        for (const point = data.inner(); point.next();) if (point.is(3, 1)) this.time(point.fixed64())
      }
    }
  }
  trace(id) { if (id.length === 32 && !/^0+$/.test(id)) this.keys.add('trace_id=' + id) }
  attribute(f) {
    let key = '', values = []
    while (f.next()) {
      if (f.is(1, 2)) key = f.b.toString('latin1', f.from, f.to)
      else if (f.is(2, 2)) {
        values = []
        for (const v = f.inner(); v.next();) if (v.is(1, 2) && v.to > v.from) values.push(v.b.toString('latin1', v.from, v.to))
      }
    }
    const name = KEYS.get(key)
    if (name) for (const v of values) this.keys.add(name + v)
  }

  // filter returns the bits of the filter over all keys.
  filter() {
    const hashes = new Set([...this.keys].map(fnv1a)) // two keys with one hash count as one
    const m = 64n * ((10n * BigInt(hashes.size) + 63n) / 64n)
    const bits = Buffer.alloc(Number(m / 8n))
    for (const hash of hashes) {
      const h1 = finalize(hash)
      const h2 = finalize(h1) | 1n
      for (let i = 0n, h = h1; i < 7n; i++, h += h2) {
        const bit = Number(BigInt.asUintN(64, h) % m)
        bits[bit >> 3] |= 1 << (bit & 7)
      }
    }
    return bits
  }
}

// fnv1a is FNV-1a 64 of the bytes of a latin1 string, in two halves: the prime is 2^40 + 0x1b3.
function fnv1a(s) {
  let lo = 0x84222325, hi = 0xcbf29ce4
  for (let i = 0; i < s.length; i++) {
    lo = (lo ^ s.charCodeAt(i)) >>> 0
    const low = lo * 0x1b3
    hi = (hi * 0x1b3 + Math.floor(low / 2 ** 32) + (lo << 8 >>> 0)) % 2 ** 32
    lo = low % 2 ** 32
  }
  return BigInt(hi) << 32n | BigInt(lo)
}

// finalize is the finalizer of splitmix64.
function finalize(z) {
  z = BigInt.asUintN(64, (z ^ z >> 30n) * 0xbf58476d1ce4e5b9n)
  z = BigInt.asUintN(64, (z ^ z >> 27n) * 0x94d049bb133111ebn)
  return z ^ z >> 31n
}

// ---- a batch

export const signalOf = enc => /^otlp-(.*)\+zstd$/.exec(enc)[1]

// salts returns those of n records.
export function salts(seed, n) {
  return createCipheriv('aes-256-ctr', seed, Buffer.alloc(16)).update(Buffer.alloc(16 * n))
}

// recordLeaves indexes the records of a message and returns their leaf hashes; salt(i) is that of record i.
export function recordLeaves(kind, msg, salt, index) {
  const leaves = []
  eachRecord(msg, (context, from, to) => {
    index.add(kind, msg, from, to)
    leaves.push(hash('sha256', Buffer.concat([LEAF, salt(leaves.length), context, msg.subarray(from, to)]), 'buffer'))
  })
  return leaves
}

export function rootOf(leaves) {
  const t = new Tree()
  for (const l of leaves) t.push(l)
  return t.root()
}

// checkBatch calls fault(section, what) for everything in a batch that is not what its header says.
export function checkBatch(h, filter, body, fault) {
  if (body.length < 32) return fault(1, 'body is too short for its seed')
  const index = new Index()
  const keystream = salts(body.subarray(0, 32), Number(h.count))
  let leaves
  try {
    leaves = recordLeaves(signalOf(h.sections[1].enc), body.subarray(32), i => keystream.subarray(16 * i, 16 * i + 16), index)
  } catch (e) {
    if (e instanceof Bad) return fault(1, e.message)
    throw e
  }
  if (BigInt(leaves.length) !== h.count) return fault(1, `${leaves.length} records, header says ${h.count}`)
  if (!rootOf(leaves).equals(h.root)) fault(1, 'record root differs')
  if (index.min !== h.tmin || index.max !== h.tmax) fault(1, `event times are ${index.min} to ${index.max}, header says ${h.tmin} ${h.tmax}`)
  if (!filter.subarray(32).equals(index.filter()) || filter.length < 32) fault(0, 'filter is not that of the records')
}
