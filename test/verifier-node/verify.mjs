#!/usr/bin/env node
// A second verifier of sealed logs, written from docs/sealed-log.md alone and sharing no line with the
// Go package: what both accept, the page describes. Node 20 and the zstd command; nothing else.
//
//   node verify.mjs STORE --trust FILE [--auditor KEY] [--as-of TIME] [--since CHECKPOINT] [--accepted FILE]
//
// Exit: 0 all proven, 1 tampering, 2 incomplete or unproven, 3 the verifier failed. Memory is bounded by
// a few sections and does not grow with the log.

import { createHash } from 'node:crypto'
import { closeSync, existsSync, fstatSync, lstatSync, openSync, opendirSync, readFileSync, readSync, readdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { Bad, MAX_HEADER, Short, parseHeader, sha256, validOrigin } from './header.mjs'
import { commitment, firstEntryKey, leadsTo, matches, nextEntryKey, nextEpoch, openAccepted, openEscrow, openNote, openSVID, parseAuditorKey, parseTrust, parseVerifierKey, tagOf } from './keys.mjs'
import { Index, Tree, checkBatch, checkZstd, decompress, leafHash, nodeHash, recordLeaves, rootOf, signalOf } from './records.mjs'

const NOTE = 0, INCOMPLETE = 1, TAMPERING = 2
const CLASSES = ['note', 'incomplete', 'tampering']
const MAX_FINDINGS = 200 // that are kept; the answer counts all
const MAX_SMALL_FILE = 1 << 20 // bytes: trust, keys, checkpoint
const BATCH = 16 << 20 // plain bytes that wait for one zstd process
const CHUNK = 1 << 20
const PUBLISH_GRACE = 10n * 1000000000n // ns
const ZERO = Buffer.alloc(32)
// subject is what of a finding can be accepted.
const subject = (h, code, entry = h.entry, leaf = leafHash(h.text)) => ({ code, entry, leaf })
const isZero = b => !b.some(c => c !== 0)
const seconds = ns => new Date(Number(ns / 1000000n)).toISOString()

// Reader reads a file that may grow, up to the size it had when it was opened.
class Reader {
  constructor(path) {
    this.fd = openSync(path)
    this.size = fstatSync(this.fd).size
    this.buf = Buffer.alloc(0)
    this.at = 0
  }
  // view returns n bytes; they are valid until the next call.
  view(at, n) {
    if (at < this.at || at + n > this.at + this.buf.length) {
      const b = Buffer.alloc(Math.min(this.size - at, Math.max(n, CHUNK)))
      let got = 0
      while (got < b.length) {
        const r = readSync(this.fd, b, got, b.length - got, at + got)
        if (r === 0) throw new Error('file became shorter while it was read')
        got += r
      }
      this.buf = b
      this.at = at
    }
    return this.buf.subarray(at - this.at, at - this.at + n)
  }
  close() { closeSync(this.fd) }
}

function readSmall(path) {
  if (statSync(path).size > MAX_SMALL_FILE) throw new Bad(`file of more than ${MAX_SMALL_FILE} bytes`)
  return readFileSync(path)
}

const list = dir => existsSync(dir) ? readdirSync(dir).sort() : []

class LogVerifier {
  constructor(root, dirName, origin, opts) {
    this.dir = join(root, dirName)
    this.origin = origin
    this.opts = opts
    this.since = opts.since?.origin === origin ? opts.since : null
    this.findings = []
    this.worst = NOTE
    this.omitted = 0
    this.keys = (opts.trust?.keys ?? []).filter(k => k.name === origin)
    this.identities = this.keys.length > 0 ? [] : (opts.trust?.identities ?? []).filter(i => matches(i.origin, origin))
    this.next = { entry: 0n, epoch: 0n, record: 0n }
    this.prev = ZERO
    this.last = null // the last entry's header
    this.sealed = 0n
    this.tree = new Tree()
    this.tiles = [] // by level: the hashes of the tile that is growing
    this.group = null // { at, entries } since the last checkpoint
    this.kept = null // what the last checkpoint frame covers
    this.queue = []
    this.queued = 0
    this.erasures = new Map() // target entry -> { by, batch }
    this.pruned = 0n
    this.secret = null // E of this epoch
    this.key = null // k of the next entry
    this.tagless = 0
    this.stats = { entries: 0, records: 0n, epochs: 0, checkpoints: 0 }
  }

  isAccepted(axis, s) {
    return s !== undefined && !!this.opts.accepted?.has(`${this.origin} ${s.entry} ${axis} ${s.code} ${s.leaf.toString('base64')}`)
  }

  find(cls, axis, file, at, what, subject) {
    if (cls === INCOMPLETE && this.isAccepted(axis, subject)) cls = NOTE
    if (cls === INCOMPLETE && (axis === 'completeness' || axis === 'order') && this.next.entry < (this.since?.size ?? 0n)) cls = NOTE // reviewed then
    if (cls > this.worst) this.worst = cls
    if (this.findings.length < MAX_FINDINGS) this.findings.push({ cls, axis, file, at, what })
    else this.omitted++
  }

  run() {
    if (this.identities.length > 0) this.unpinned = false
    else if (this.keys.length === 0) this.find(INCOMPLETE, 'integrity', '', 0, 'no trusted key for this log')
    else if (!this.opts.trust.chains.has(this.origin)) this.unpinned = true
    this.published = this.readPublished()
    this.cosigned = this.readCosignatures()
    this.files()
    this.torn = this.readTorn()
    this.stamps = this.readStamps()
    this.segments = list(join(this.dir, 'segment')).filter(n => /^[0-9]{20}\.seal$/.test(n))
    this.plan()
    this.start()
    for (let i = 0; i < this.segments.length; i++) if (!this.segment(i)) break
    this.flush()
    this.end()
    const rank = f => f.file.startsWith('segment/') ? 0 : f.file ? 1 : 2
    this.findings.sort((a, b) => rank(a) - rank(b) || (a.file < b.file ? -1 : a.file > b.file ? 1 : a.at - b.at))
  }

  // ---- the directory

  files() {
    const dirs = ['segment', 'tile', 'timestamp', 'torn']
    for (const name of list(this.dir)) {
      if (![...dirs, 'checkpoint', 'lock'].includes(name) && !name.endsWith('.tmp')) this.find(TAMPERING, 'integrity', name, 0, 'unknown file')
      else if (dirs.includes(name) !== lstatSync(join(this.dir, name)).isDirectory()) this.find(TAMPERING, 'integrity', name, 0, 'not the kind of file it should be')
    }
    for (const name of list(join(this.dir, 'segment'))) {
      if (!/^[0-9]{20}\.seal$/.test(name) && !name.endsWith('.tmp')) this.find(TAMPERING, 'integrity', `segment/${name}`, 0, 'unknown file')
    }
  }

  // readStamps lists the sizes that were timestamped; the tokens themselves are not checked here.
  readStamps() {
    const sizes = []
    for (const name of list(join(this.dir, 'timestamp'))) {
      if (/^[0-9]{20}\.tsr$/.test(name) && BigInt(name.slice(0, 20)) > 0n) sizes.push(BigInt(name.slice(0, 20)))
      else if (!name.endsWith('.tmp')) this.find(TAMPERING, 'integrity', `timestamp/${name}`, 0, 'unknown file')
    }
    return sizes
  }

  readTorn() {
    const torn = []
    for (const name of list(join(this.dir, 'torn'))) {
      if (name.endsWith('.tmp')) continue
      const m = /^([0-9]{20})-([0-9]{20})-(0|[1-9][0-9]*)$/.exec(name)
      if (!m) {
        this.find(TAMPERING, 'integrity', `torn/${name}`, 0, 'unknown file')
        continue
      }
      const r = new Reader(join(this.dir, 'torn', name))
      const h = createHash('sha256')
      for (let at = 0; at < r.size; at += CHUNK) h.update(r.view(at, Math.min(CHUNK, r.size - at)))
      torn.push({ name, entry: BigInt(m[1]), bytes: BigInt(r.size), hash: h.digest() })
      r.close()
    }
    return torn
  }

  // stillStands: a torn file was only copied, and not yet cut off.
  stillStands(t) {
    const [, segment, at] = t.name.split('-')
    const path = join(this.dir, 'segment', segment + '.seal')
    if (!existsSync(path) || t.bytes === 0n) return false
    const r = new Reader(path)
    try {
      return Number(at) + Number(t.bytes) <= r.size && sha256(r.view(Number(at), Number(t.bytes))).equals(t.hash)
    } finally {
      r.close()
    }
  }

  readPublished() {
    const path = join(this.dir, 'checkpoint')
    if (!existsSync(path)) {
      return { size: 0n } // end() judges that
    }
    try {
      const note = readSmall(path)
      return { ...openNote(note, this.origin, []), note } // who signed it is known at the end of the walk
    } catch (e) {
      if (!(e instanceof Bad)) throw e
      this.find(TAMPERING, 'integrity', 'checkpoint', 0, e.message)
      return { size: 0n }
    }
  }

  // readCosignatures returns which witnesses cosigned what is published, and when the last of them did.
  readCosignatures() {
    const witnesses = this.opts.trust?.witnesses ?? []
    try {
      if (witnesses.length > 0 && this.published.note) return openNote(this.published.note, this.origin, witnesses)
    } catch (e) {
      if (!(e instanceof Bad)) throw e
      this.find(TAMPERING, 'witnessed', 'checkpoint', 0, e.message)
    }
    return { signers: [], seen: 0n }
  }

  // witnesses judges how far a quorum vouches for the log, and returns when it was last cosigned (unix ns).
  witnesses() {
    const { witnesses, quorum } = this.opts.trust ?? { witnesses: [] }
    if (witnesses.length === 0) return 0n
    const cosigned = this.publishedSeen ? this.cosigned : { signers: [], seen: 0n }
    if (!this.publishedSeen && this.cosigned.signers.length > 0 && this.published.size <= (this.kept?.size ?? 0n)) this.find(TAMPERING, 'integrity', '', 0, 'the log has no such commit as was cosigned')
    if (cosigned.signers.length < quorum) this.find(INCOMPLETE, 'witnessed', '', 0, `${cosigned.signers.length} of ${witnesses.length} witnesses vouch for this log, want ${quorum}`)
    else if (this.beyond !== undefined && this.opts.asOf - this.beyond > PUBLISH_GRACE) this.find(INCOMPLETE, 'witnessed', '', 0, `the entries from ${this.published.size} on are not witnessed`)
    return cosigned.seen * 1000000000n
  }

  openCheckpoint(note) {
    const cp = openNote(note, this.origin, this.keys)
    const want = this.keyFor(cp.size)
    if (this.keys.length > 0 && !want) throw new Bad('checkpoint is beyond the bound of every trusted key')
    if (want && !openNote(note, this.origin, [want]).signers.length) throw new Bad('checkpoint is not signed by the trusted key')
    return cp
  }

  // keyFor is the key in force for a checkpoint of that size: of those whose bound is not passed the one with the
  // least, or whom it handed the log over to.
  keyFor(size) {
    if (this.identities.length > 0) return this.vouched
    const end = k => k.until ?? 1n << 64n
    const key = this.keys.filter(k => size <= end(k)).sort((a, b) => end(a) < end(b) ? -1 : end(a) > end(b) ? 1 : 0)[0]
    return key && this.heir?.of === key.vkey ? this.heir.key : key
  }

  // rotated judges a change of the log key between two epochs, and the lack of one.
  rotated(h, file, at, bad) {
    const before = this.signer
    if (!before || before === h.signer && h.after !== 'rotation') return
    if (before === h.signer || h.after !== 'rotation') return bad('integrity', 'log key and "after" do not agree about a rotation')
    const both = [before, h.signer].map(k => parseVerifierKey(k))
    let signers = []
    try {
      if (this.note) signers = openNote(this.note, this.origin, both).signers
    } catch (e) {
      if (!(e instanceof Bad)) throw e
    }
    if (signers.length !== 2) return bad('integrity', 'no checkpoint signed by both keys is in front of the rotation')
    const trusted = this.keyFor(h.entry)
    if (!trusted || trusted.vkey !== before) return
    const of = this.heir?.key === trusted ? this.heir.of : trusted.vkey
    if (this.keys.find(k => k.vkey === of).until !== undefined) return
    this.heir = { of, key: both[1] }
    this.find(INCOMPLETE, 'integrity', file, at, `the log key was replaced: log ${before} until ${h.entry}, log ${h.signer}`)
  }

  // plan reads all headers once, for the erasures and prunes that are ordered behind what they are about.
  plan() {
    for (const name of this.segments) {
      const r = new Reader(join(this.dir, 'segment', name))
      try {
        for (let at = 0; at < r.size;) {
          const h = parseHeader(r.view(at, Math.min(MAX_HEADER + 1, r.size - at)))
          if (h.kind === 'erase') this.erasures.set(h.target, { by: h.entry, leaf: leafHash(h.text), batch: null })
          if (h.kind === 'prune' && h.keep > this.pruned) this.pruned = h.keep
          at += h.size
        }
      } catch (e) {
        if (!(e instanceof Bad || e instanceof Short)) throw e
        return
      } finally {
        r.close()
      }
    }
  }

  // start begins behind what was pruned: the tree's leaves are still in the tiles.
  start() {
    if (this.segments.length === 0) return
    const first = BigInt(this.segments[0].slice(0, 20))
    if (first === 0n) {
      if (this.pruned > 0n) this.find(NOTE, 'erasures', 'segment/' + this.segments[0], 0, `entries before ${this.pruned} are to be pruned and are still there`)
      return
    }
    if (first > this.pruned) {
      this.find(TAMPERING, 'completeness', 'segment/' + this.segments[0], 0, `entries before ${first} are missing and no prune says so`)
    } else if (first < this.pruned) {
      this.find(NOTE, 'erasures', 'segment/' + this.segments[0], 0, `entries before ${this.pruned} are to be pruned and are still there`)
    }
    this.resumed = true
    this.next.entry = first
    for (let n = 0; BigInt(n) * 256n < first; n++) {
      const want = Number(first - BigInt(n) * 256n < 256n ? first - BigInt(n) * 256n : 256n)
      const have = this.tileFiles(0, n).find(t => t.width >= want)
      const b = have && readFileSync(join(this.dir, have.path))
      if (!b || b.length !== 32 * have.width) {
        this.find(INCOMPLETE, 'completeness', 'segment/' + this.segments[0], 0, `leaf hashes of pruned entries from ${256 * n} are missing: roots cannot be checked`)
        this.rootless = true
        return
      }
      for (let i = 0; i < want; i++) this.leaf(b.subarray(32 * i, 32 * i + 32))
    }
  }

  // ---- frames

  // segment walks one segment; false ends the walk.
  segment(i) {
    const name = this.segments[i]
    const file = 'segment/' + name
    const first = BigInt(name.slice(0, 20))
    if (first !== this.next.entry) {
      this.find(TAMPERING, 'completeness', file, 0, `segment begins with entry ${first}, want ${this.next.entry}`)
      this.next.entry = first
    }
    const r = new Reader(join(this.dir, file))
    const isLast = i === this.segments.length - 1
    this.group = { at: 0, entries: 0 }
    this.hurt = [] // sections of this group that do not match their hash
    try {
      let at = 0
      while (at < r.size) {
        if (this.group.sealed) this.group = { at, entries: 0 }
        let h
        try {
          h = parseHeader(r.view(at, Math.min(MAX_HEADER + 1, r.size - at)))
          if (at + h.size > r.size) throw new Short()
        } catch (e) {
          if (!(e instanceof Bad || e instanceof Short)) throw e
          const from = this.hurt[0]?.from ?? at // the damage may have begun in the frames before
          this.judge(r, file, isLast)
          this.damage(r, file, isLast, at, from, e instanceof Short ? null : e.message)
          return false
        }
        this.frame(r, file, at, h)
        at += h.size
        if (this.group.sealed) this.judge(r, file, isLast && at === r.size)
      }
      this.judge(r, file, isLast)
      if (!this.group.sealed && this.group.entries > 0 || r.size === 0 && !isLast) { // the last may not have been written to yet
        this.damage(r, file, isLast, r.size, this.group.at, null)
        return false
      }
      return true
    } finally {
      r.close()
    }
  }

  // judge judges the sections of a group that do not match their hash.
  judge(r, file, isLastGroup) {
    for (const d of this.hurt) this.damage(r, file, isLastGroup, d.at, d.from, d.what)
    this.hurt = []
  }

  // damage judges the bytes from `from` on, in the frame at `at`: what a crash can have left is incomplete, all
  // else tampering. what is null if the file merely ends too early.
  damage(r, file, mayBeTorn, at, from, what) {
    const size = this.kept?.size ?? 0n
    if (mayBeTorn && this.published.size <= size && this.laterCheckpoints(r, at) < 2) {
      if (what === null) return this.find(INCOMPLETE, 'completeness', file, at, 'torn tail: the file ends within a group')
      for (let b = Math.ceil(from / 512) * 512; b < r.size; b += 512) { // the last block is cut short by the file's end
        if (isZero(r.view(b, Math.min(512, r.size - b)))) return this.find(INCOMPLETE, 'completeness', file, at, `torn tail: a block of zeros at ${b}: ${what}`)
      }
    }
    this.find(TAMPERING, 'integrity', file, at, what ?? 'the segment ends within a group')
  }

  // laterCheckpoints counts checkpoint frames of this log at or behind `at`, wherever they begin, up to 2.
  laterCheckpoints(r, at) {
    const magic = Buffer.from(`meshaudit-seal/v1 checkpoint\norigin ${this.origin}\n`)
    let n = 0
    while (at + magic.length <= r.size && n < 2) {
      const b = r.view(at, Math.min(CHUNK, r.size - at))
      const i = b.indexOf(magic)
      if (i < 0) { at += b.length === r.size - at ? b.length : b.length - magic.length + 1; continue }
      at += i
      try {
        const h = parseHeader(r.view(at, Math.min(MAX_HEADER + 1, r.size - at)))
        const note = at + h.size <= r.size && r.view(at + h.sections[0].at, h.sections[0].stored)
        if (note && sha256(note).equals(h.sections[0].hash)) {
          this.openCheckpoint(Buffer.from(note))
          n++
        }
      } catch (e) {
        if (!(e instanceof Bad || e instanceof Short)) throw e
      }
      at++
    }
    return n
  }

  frame(r, file, at, h) {
    const bad = (axis, what) => this.find(TAMPERING, axis, file, at, what)
    if (h.origin !== this.origin) bad('order', `frame of log ${h.origin}`)
    if (this.resumed && !this.last) this.prev = h.prev
    if (!h.prev.equals(this.prev)) bad('order', 'prev is not the hash of the frame before')
    this.prev = h.digest

    const sections = h.sections.map(s => {
      const b = r.view(at + s.at, s.stored)
      return { ...s, bytes: sha256(b).equals(s.hash) ? Buffer.from(b) : null, zero: isZero(b) }
    })
    const planned = this.erasures.get(h.kind === 'erase' ? h.target : h.entry)
    const mayBeErased = planned !== undefined && (h.kind === 'batch' ? h.entry < planned.by : h.kind === 'erase' && h.entry < planned.by)
    for (const s of sections) {
      if (s.bytes || mayBeErased) continue
      this.hurt.push({ at, from: at + s.at, what: `section ${s.name} does not match its hash` })
    }
    if (h.kind === 'checkpoint') return this.checkpoint(h, sections[0], file, at, bad)
    this.entry(h, at, file, bad, sections)
    if (h.kind === 'batch') {
      if (planned && h.entry < planned.by) {
        if (sections.some(s => !s.zero)) this.find(INCOMPLETE, 'erasures', file, at, `erasure by entry ${planned.by} is ordered, not done`, subject(h, 'erase-undone', planned.by, planned.leaf))
        planned.batch = h
      }
      if (sections.every(s => s.bytes)) this.enqueue({ h, file, at, sections })
    }
    if (h.kind === 'erase') {
      if (planned.erased && !planned.erased.every(r => h.erased.some(s => s.first <= r.first && r.last <= s.last))) bad('erasures', `leaves out records that entry ${planned.before} erased`)
      planned.erased = h.erased
      planned.before = h.entry
      if (planned.by === h.entry && sections.every(s => s.bytes)) this.enqueue({ h, file, at, sections, target: planned.batch })
      if (planned.by !== h.entry && sections.some(s => !s.zero)) this.find(INCOMPLETE, 'erasures', file, at, `erasure by entry ${planned.by} is ordered, not done`, subject(h, 'erase-undone', planned.by, planned.leaf))
    }
  }

  checkpoint(h, section, file, at, bad) {
    this.stats.checkpoints++
    this.group.sealed = true
    if (!section.bytes) return
    try {
      const cp = this.openCheckpoint(section.bytes)
      if (cp.size !== this.next.entry) bad('order', `checkpoint of ${cp.size} entries behind entry ${this.next.entry - 1n}`)
      else if (!this.rootless && !cp.root.equals(this.tree.root())) bad('integrity', 'checkpoint has another root than the entries')
      if (!this.signer) throw new Bad('a checkpoint in front of the first open')
      if (this.keys.length > 0 && !openNote(section.bytes, this.origin, [parseVerifierKey(this.signer)]).signers.length) bad('integrity', "checkpoint is not signed by its epoch's signer")
      this.note = section.bytes
      if (cp.size === this.since?.size) {
        this.sinceSeen = true
        if (!this.since.root.equals(this.tree.root())) bad('integrity', 'the older checkpoint has another root: the log was rewritten')
      }
      if (cp.size === this.published.size) this.publishedSeen = this.published.root.equals(this.tree.root())
      if (cp.size <= this.published.size) this.publishedKey = this.keyFor(cp.size)
    } catch (e) {
      if (!(e instanceof Bad)) throw e
      bad('integrity', e.message)
    }
    while (this.stamps[0] <= this.next.entry) {
      const size = this.stamps.shift()
      if (size < this.next.entry && size > BigInt(this.segments[0].slice(0, 20))) this.find(TAMPERING, 'integrity', `timestamp/${size}`, 0, 'no commit is there')
    }
    this.kept = { size: this.next.entry, records: this.next.record, last: this.last, heartbeat: this.heartbeat }
    if (this.worst < TAMPERING) this.proven = this.kept
  }

  entry(h, at, file, bad, sections) {
    this.stats.entries++
    this.stats.records += h.count
    if (h.entry === this.published.size) this.beyond = h.sealed
    this.group.entries++
    if (h.entry !== this.next.entry) bad('order', `entry ${h.entry}, want ${this.next.entry}`)
    if (this.resumed && !this.last) {
      if (h.kind !== 'open') bad('order', 'the first entry that is kept is no open')
      this.next.record = h.first
      this.next.epoch = h.epoch
    }
    if (h.first !== this.next.record) bad('order', `record ${h.first}, want ${this.next.record}`)
    if (h.kind === 'open') {
      if (at !== 0) bad('order', 'an open stands within a segment')
      this.open(h, at, file, bad, sections)
    } else {
      if (!this.last) bad('order', 'the log does not begin with an open')
      else if (this.last.kind === 'close') bad('order', `${h.kind} behind a close`)
      if (h.epoch !== this.next.epoch - 1n) bad('order', `epoch ${h.epoch}, want ${this.next.epoch - 1n}`)
      if (h.sealed < this.sealed) bad('order', 'sealed before the entry in front of it')
    }
    if (this.key) {
      if (!tagOf(this.key, h.text.subarray(0, h.tagged)).equals(h.tag)) bad('integrity', 'tag is not that of the HMAC chain')
      this.key = nextEntryKey(this.key)
    } else {
      if (!this.excused) this.tagless++
    }
    if (h.kind === 'prune') {
      if (h.keep > h.entry) bad('erasures', `prune up to entry ${h.keep}, which was not there yet`)
    }
    if (h.kind === 'erase' && h.target >= h.entry) bad('erasures', `erasure of entry ${h.target}, which was not there yet`)
    this.next = { entry: h.entry + 1n, epoch: h.epoch + 1n, record: h.first + h.count }
    this.sealed = h.sealed
    this.last = h
    this.leaf(leafHash(h.text))
  }

  // identity checks the SVID of an open, and whether it vouches for its signer.
  identity(h, sections, file, at) {
    this.vouched = null
    let svid = null
    if (sections.length === 2 && sections.every(s => s.bytes)) {
      svid = openSVID(sections[0].bytes, sections[1].bytes, h.text.subarray(0, h.text.lastIndexOf('\nsection svid-sig raw ') + 1))
    }
    if (this.identities.length === 0) return
    if (!svid) return this.find(INCOMPLETE, 'integrity', file, at, 'no SVID vouches for the signer')
    const issuers = this.identities.filter(i => leadsTo(svid.chain, i.cas, Number(h.sealed / 1000000n)))
    if (issuers.length === 0) return this.find(INCOMPLETE, 'integrity', file, at, `${svid.id} leads to no trust bundle at ${seconds(h.sealed)}`)
    if (!issuers.some(i => matches(i.id, svid.id))) throw new Bad(`${svid.id} may not write this log`)
    this.vouched = parseVerifierKey(h.signer)
  }

  open(h, at, file, bad, sections) {
    this.stats.epochs++
    if (h.epoch !== this.next.epoch) bad('order', `epoch ${h.epoch}, want ${this.next.epoch}`)
    if (!(this.resumed && !this.last)) {
      const want = !this.last ? ['first'] : this.last.kind === 'close' ? ['clean', 'rotation'] : ['crash', 'fault']
      if (!want.includes(h.after)) bad('order', `open after ${h.after}, want ${want.join(' or ')}`)
      else if (want[0] === 'crash') this.find(INCOMPLETE, 'completeness', file, at, `epoch ${this.last.epoch} ended by a ${h.after}`, subject(h, h.after))
    }
    if (h.sealed < this.sealed) this.find(INCOMPLETE, 'order', file, at, 'the clock stepped back between epochs', subject(h, 'clock'))
    this.heartbeat = h.heartbeat
    try {
      if (parseVerifierKey(h.signer).name !== this.origin) throw new Bad('signer is the key of another log')
      this.rotated(h, file, at, bad)
      this.identity(h, sections, file, at)
      const want = this.keyFor(h.entry + 1n)
      if (want && want.vkey !== h.signer) throw new Bad('signer is no trusted key')
    } catch (e) {
      if (!(e instanceof Bad)) throw e
      bad('integrity', e.message)
    }
    this.signer = h.signer
    for (const t of h.torn) {
      const i = this.torn.findIndex(f => f.entry === h.entry && f.bytes === t.bytes && f.hash.equals(t.hash))
      if (i < 0) this.find(INCOMPLETE, 'completeness', file, at, `torn file of ${t.bytes} bytes is missing or differs`, subject(h, 'torn-missing'))
      else this.torn.splice(i, 1)
    }
    this.chain(h, at, file, bad)
  }

  chain(h, at, file, bad) {
    const pinned = this.opts.trust?.chains.get(this.origin)
    if (h.epoch === 0n && pinned && !h.chain.equals(pinned)) bad('integrity', 'chain is not the pinned one')
    const expected = this.opts.trust?.fresh.has(this.origin)
    if (h.fresh && h.epoch === 0n && expected) this.unpinned = false
    if (h.fresh && h.epoch > 0n && !this.vouched) this.find(expected ? NOTE : INCOMPLETE, 'completeness', file, at, 'the chain key was not kept: the HMAC proof begins here', subject(h, 'fresh-chain'))
    const ratcheted = this.secret && !h.fresh ? nextEpoch(this.secret) : null
    this.secret = this.key = null
    this.excused = false
    const auditor = this.opts.auditor
    if (!auditor) return
    const escrow = h.escrows.find(e => e.suite === auditor.suite && e.recipient === auditor.recipient)
    let secret = ratcheted
    if (escrow) {
      try {
        secret = openEscrow(auditor, escrow, this.origin, h.epoch)
      } catch (e) {
        if (!(e instanceof Bad)) throw e
        return bad('integrity', e.message)
      }
      if (ratcheted && !secret.equals(ratcheted)) bad('integrity', "chain key does not follow from the epoch's before")
    } else {
      this.find(INCOMPLETE, 'integrity', file, at, `epoch ${h.epoch} is not escrowed to this auditor`, subject(h, 'not-escrowed'))
      this.excused = this.isAccepted('integrity', subject(h, 'not-escrowed'))
      if (!secret) return
    }
    if (!commitment(secret).equals(h.chain)) return bad('integrity', 'chain key is not the one that chain states')
    this.secret = secret
    this.key = firstEntryKey(secret)
  }

  // ---- sections: bodies wait until a zstd process is worth it

  enqueue(item) {
    const body = item.sections[1]
    const fault = (section, what) => this.find(TAMPERING, 'integrity', item.file, item.at, `section ${item.sections[section].name}: ${what}`)
    try {
      checkZstd(body.bytes, body.plain)
    } catch (e) {
      if (!(e instanceof Bad)) throw e
      return fault(1, e.message)
    }
    this.queue.push({ ...item, fault })
    this.queued += body.plain + body.stored
    if (this.queued >= BATCH) this.flush()
  }

  flush() {
    if (this.queue.length === 0) return
    const plains = decompress(this.queue.map(q => ({ stored: q.sections[1].bytes, plain: q.sections[1].plain })))
    for (const [i, q] of this.queue.entries()) {
      if (plains[i] === null) q.fault(1, 'zstd: corrupt')
      else if (q.h.kind === 'batch') checkBatch(q.h, q.sections[0].bytes, plains[i], q.fault)
      else this.checkErase(q, plains[i])
    }
    this.queue = []
    this.queued = 0
  }

  // checkErase rebuilds the target's root from what an erase keeps: records with their salts, hashes of the others.
  checkErase({ h, sections, target, fault }, body) {
    const [filter, , salts, hashes] = sections.map(s => s.bytes)
    const pruned = h.target < BigInt(this.segments[0].slice(0, 20)) // then nothing says what root it had
    if (!target && !pruned) return fault(1, `entry ${h.target} is no batch`)
    const erased = h.erased.reduce((n, r) => n + Number(r.last - r.first) + 1, 0)
    const count = pruned ? erased + salts.length / 16 : Number(target.count)
    if (h.erased.at(-1).last >= count || hashes.length !== 32 * erased || salts.length !== 16 * (count - erased)) return fault(1, 'erase does not fit its target')
    if (!pruned && sections[1].enc !== target.sections[1].enc) return fault(1, 'the body is of another signal than the target')
    const index = new Index()
    let kept
    try {
      kept = recordLeaves(signalOf(sections[1].enc), body, i => salts.subarray(16 * i, 16 * i + 16), index)
    } catch (e) {
      if (!(e instanceof Bad)) throw e
      return fault(1, e.message)
    }
    if (kept.length !== count - erased) return fault(1, `${kept.length} records are left, want ${count - erased}`)
    const leaves = []
    const gone = p => h.erased.some(r => r.first <= p && p <= r.last)
    for (let p = 0, k = 0, e = 0; p < count; p++) leaves.push(gone(BigInt(p)) ? hashes.subarray(32 * e, 32 * ++e) : kept[k++])
    if (!pruned && !rootOf(leaves).equals(target.root)) fault(1, `root of entry ${h.target} cannot be rebuilt`)
    if (!pruned && index.min !== 0n && (index.min < target.tmin || index.max > target.tmax)) fault(1, 'event times are not those of the target')
    if (filter.length < 32 || !filter.subarray(32).equals(index.filter())) fault(0, 'filter is not that of the records')
  }

  // ---- tree and tiles

  leaf(h) {
    this.tree.push(h)
    this.grow(0, h)
    if (BigInt(this.tree.size) === this.published.size) this.checkPublishedRoot()
  }
  checkPublishedRoot() {
    if (!this.last && !this.rootless) this.publishedSeen = this.published.root.equals(this.tree.root()) // within what was pruned
    if (!this.rootless && !this.published.root.equals(this.tree.root())) this.find(TAMPERING, 'integrity', 'checkpoint', 0, 'another root than the entries')
  }

  grow(level, h) {
    const t = this.tiles[level] ??= { index: 0, hashes: [] }
    t.hashes.push(h)
    if (t.hashes.length < 256) return
    this.checkTile(level, t)
    let row = t.hashes
    while (row.length > 1) row = Array.from({ length: row.length / 2 }, (_, i) => nodeHash(row[2 * i], row[2 * i + 1]))
    this.tiles[level] = { index: t.index + 1, hashes: [] }
    this.grow(level + 1, row[0])
  }

  tileName(level, n) {
    let name = String(n % 1000).padStart(3, '0')
    for (n = Math.floor(n / 1000); n > 0; n = Math.floor(n / 1000)) name = `x${String(n % 1000).padStart(3, '0')}/${name}`
    return `tile/${level}/${name}`
  }
  // tileFiles returns the files there are of tile n of a level.
  tileFiles(level, n) {
    const path = this.tileName(level, n)
    const found = existsSync(join(this.dir, path)) ? [{ path, width: 256 }] : []
    for (const w of list(join(this.dir, path + '.p'))) if (/^[1-9][0-9]{0,2}$/.test(w) && Number(w) < 256) found.push({ path: `${path}.p/${w}`, width: Number(w) })
    return found
  }

  checkTile(level, t) {
    const want = Buffer.concat(t.hashes)
    const published = Number(this.published.size / 256n ** BigInt(level)) - 256 * t.index
    const need = Math.min(256, Math.max(0, published))
    let have = 0
    for (const f of this.tileFiles(level, t.index)) {
      if (f.width > t.hashes.length) continue // end() finds it
      const b = statSync(join(this.dir, f.path)).size === 32 * f.width ? readFileSync(join(this.dir, f.path)) : null
      if (!b || !b.equals(want.subarray(0, b.length))) this.find(TAMPERING, 'integrity', f.path, 0, 'tile differs from the entries')
      have = Math.max(have, f.width)
    }
    if (have < need && need === 256) this.find(INCOMPLETE, 'completeness', this.tileName(level, t.index), 0, 'tile is missing')
  }

  // walkTiles finds what is no tile of a tree of `size` entries.
  walkTiles(path, size) {
    if (!existsSync(join(this.dir, path))) return
    const dir = opendirSync(join(this.dir, path))
    for (let e; (e = dir.readSync());) {
      const p = `${path}/${e.name}`
      if (e.isDirectory()) { this.walkTiles(p, size); continue }
      if (e.name.endsWith('.tmp')) continue
      const m = /^tile\/(0|[1-9][0-9]?)\/((?:x[0-9]{3}\/)*)([0-9]{3})(?:\.p\/([1-9][0-9]{0,2}))?$/.exec(p)
      const index = m && BigInt(m[2].replace(/[x/]/g, '') + m[3])
      if (!m || m[2].startsWith('x000/') || Number(m[4] ?? 0) > 255) {
        this.find(TAMPERING, 'integrity', p, 0, 'unknown file')
      } else if ((index * 256n + BigInt(m[4] ?? 256)) * 256n ** BigInt(m[1]) > size) {
        this.find(TAMPERING, 'completeness', p, 0, 'tile of more entries than there are')
      }
    }
    dir.closeSync()
  }

  // ---- the end

  end() {
    if (this.unpinned && this.pruned === 0n) this.find(INCOMPLETE, 'integrity', '', 0, 'its first chain key is not pinned')
    const size = this.kept?.size ?? 0n
    const { note, size: published } = this.published
    const signer = published <= size && this.publishedKey || this.keyFor(published)
    if (note && (signer || this.keys.length > 0)) {
      try {
        if (!signer || openNote(note, this.origin, [signer]).signers.length === 0) throw new Bad('published checkpoint is not signed by the trusted key')
      } catch (e) {
        if (!(e instanceof Bad)) throw e
        this.find(TAMPERING, 'integrity', 'checkpoint', 0, e.message)
      }
    }
    for (const [level, t] of this.tiles.entries()) this.checkTile(level, t)
    this.walkTiles('tile', size)
    if (this.published.size > size) this.find(TAMPERING, 'completeness', 'checkpoint', 0, `truncation: ${this.published.size} entries were published, ${size} are there`)
    if (this.since?.size > size) this.find(TAMPERING, 'completeness', '', 0, `rolled back: an older checkpoint states ${this.since.size} entries, ${size} are there`)
    else if (this.since && !this.sinceSeen && this.since.size > BigInt(this.segments[0].slice(0, 20))) this.find(TAMPERING, 'integrity', '', 0, 'the log has no commit where the older checkpoint was published')
    if (this.stamps.length > 0) this.find(TAMPERING, 'completeness', 'timestamp', 0, `truncation: ${this.stamps.at(-1)} entries were timestamped, ${size} are there`)
    for (const t of this.torn) {
      const pending = t.entry === size || this.stillStands(t) // a recovery was interrupted before its open
      this.find(pending ? NOTE : TAMPERING, 'integrity', `torn/${t.name}`, 0, 'no open names this file')
    }
    const seen = this.witnesses()
    if (this.opts.auditor && this.tagless > 0) this.find(INCOMPLETE, 'integrity', '', 0, `tags of ${this.tagless} entries are not checked`)
    if (!this.kept) {
      this.find(INCOMPLETE, 'completeness', '', 0, 'no sealed entry')
      return
    }
    if (!existsSync(join(this.dir, 'checkpoint')) && this.opts.asOf - this.kept.last.sealed > PUBLISH_GRACE) this.find(INCOMPLETE, 'completeness', 'checkpoint', 0, 'the published checkpoint is missing')
    const late = this.opts.asOf - (seen > this.kept.last.sealed ? seen : this.kept.last.sealed)
    if (late > 2n * 1000000000n * this.kept.heartbeat) {
      this.find(INCOMPLETE, 'freshness', '', 0, `last sealed at ${seconds(this.kept.last.sealed)}, not within two heartbeats of ${seconds(this.opts.asOf)}`)
    }
  }

  print(out) {
    out(`${this.origin}: ${this.stats.entries} entries, ${this.stats.records} records, ${this.stats.epochs} epochs, ${this.stats.checkpoints} checkpoints`)
    out(`  HMAC chain: ${!this.opts.auditor ? "not checked (needs the auditor's key)" : this.tagless > 0 ? 'not all checked' : 'checked'}`)
    if (this.proven) out(`  proven through entry ${this.proven.size - 1n}, ${this.proven.records} records, sealed ${seconds(this.proven.last.sealed)}`)
    for (const f of this.findings) out(`  ${CLASSES[f.cls]} (${f.axis}): ${f.file ? `${f.file} at ${f.at}: ` : ''}${f.what}`)
    if (this.omitted) out(`  and ${this.omitted} more findings`)
  }
}

// verifyStore verifies all logs of a store and returns the exit code.
export function verifyStore(root, opts, out) {
  let worst = NOTE
  let failed = false
  const find = (cls, what) => { worst = Math.max(worst, cls); out(`${CLASSES[cls]}: ${what}`) }
  const origins = new Map()
  if (!existsSync(root)) find(INCOMPLETE, `no store at ${root}`)
  for (const name of list(root)) {
    const origin = name.replaceAll('%2F', '/')
    if (lstatSync(join(root, name)).isDirectory() && validOrigin(origin)) origins.set(origin, name)
    else if (!name.endsWith('.tmp')) find(TAMPERING, `${name} is no log`)
  }
  if (origins.size === 0) find(INCOMPLETE, 'nothing found')
  for (const o of new Set((opts.trust?.keys ?? []).map(k => k.name))) {
    if (!origins.has(o)) find(INCOMPLETE, `no log of trusted origin ${o}`)
  }
  if (opts.since && !origins.has(opts.since.origin)) find(TAMPERING, `the log of ${opts.since.origin}, of which there is an older checkpoint, is gone`)
  for (const [origin, name] of origins) {
    const log = new LogVerifier(root, name, origin, opts)
    try {
      log.run()
    } catch (e) {
      failed = true
      out(`${origin}: the verifier failed: ${e.stack}`)
    }
    log.print(out)
    worst = Math.max(worst, log.worst)
  }
  return worst === TAMPERING ? 1 : failed ? 3 : worst === INCOMPLETE ? 2 : 0
}

// run is the command: it returns the exit code.
export function run(args, out) {
  const opts = { asOf: BigInt(Date.now()) * 1000000n }
  let root, since, accepted
  while (args.length > 0) {
    const a = args.shift()
    if (['--trust', '--auditor', '--as-of', '--since', '--accepted'].includes(a) && args.length === 0) throw new Error(`${a} wants a value`)
    if (a === '--trust') opts.trust = parseTrust(readSmall(args[0]).toString(), dirname(args.shift()))
    else if (a === '--auditor') opts.auditor = parseAuditorKey(readSmall(args.shift()).toString('latin1'))
    else if (a === '--since') since = readSmall(args.shift())
    else if (a === '--accepted') accepted = readSmall(args.shift())
    else if (a === '--as-of') {
      const t = args.shift()
      const ms = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/.test(t) ? Date.parse(t) : NaN
      if (Number.isNaN(ms)) throw new Error(`--as-of wants an RFC 3339 time, got ${t}`)
      opts.asOf = BigInt(ms) * 1000000n
    } else if (root === undefined && !a.startsWith('--')) root = a
    else throw new Error(`unexpected argument ${a}`)
  }
  if (root === undefined) throw new Error('usage: verify.mjs STORE --trust FILE [--auditor KEY] [--as-of TIME] [--since CHECKPOINT] [--accepted FILE]')
  if (accepted) opts.accepted = openAccepted(accepted, opts.trust?.reviewers ?? [])
  if (since) {
    const origin = since.toString().split('\n')[0]
    opts.since = { origin, ...openNote(since, origin, (opts.trust?.keys ?? []).filter(k => k.name === origin)) }
    if (opts.since.signers.length === 0) throw new Error('the older checkpoint is not signed by a trusted key')
  }
  return verifyStore(root, opts, out)
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    process.exitCode = run(process.argv.slice(2), line => console.log(line))
  } catch (e) {
    console.error(e.message)
    process.exitCode = 3
  }
}
