// Keys: trust and auditor files, signed notes, HPKE escrows, the HMAC chain (docs/sealed-log.md, section 5).

import { X509Certificate, createDecipheriv, createHash, createHmac, createPrivateKey, createPublicKey, diffieHellman, verify } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { Bad, decodeB64, parseU64, sha256, validOrigin } from './header.mjs'
import { decapsulate as mlkemDecapsulate, keyGen as mlkemKeyGen } from './mlkem.mjs'

const hmac = (key, ...data) => {
  const m = createHmac('sha256', key)
  for (const d of data) m.update(d)
  return m.digest()
}
export const u16 = n => Buffer.from([n >> 8, n & 255])

// Raw keys of 32 bytes in and out, by way of DER: Node 20 can deadlock when it exports a JWK.
export const X25519 = 0x6e, ED25519 = 0x70
export const privateKey = (curve, raw) => createPrivateKey({ key: Buffer.concat([Buffer.from([0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, curve, 4, 0x22, 4, 0x20]), raw]), format: 'der', type: 'pkcs8' })
export const publicKey = (curve, raw) => createPublicKey({ key: Buffer.concat([Buffer.from([0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, curve, 3, 0x21, 0]), raw]), format: 'der', type: 'spki' })
export const publicOf = priv => createPublicKey(priv).export({ format: 'der', type: 'spki' }).subarray(-32)

// expand is HKDF-Expand for one block, 32 bytes.
export const expand = (prk, info) => hmac(prk, info, Buffer.from([1]))
export const commitment = secret => sha256(Buffer.concat([Buffer.from('meshaudit-seal/v1 chain'), secret]))
export const nextEpoch = secret => expand(secret, 'meshaudit-seal/v1 next epoch')
export const firstEntryKey = secret => expand(secret, 'meshaudit-seal/v1 epoch')
export const nextEntryKey = key => expand(key, 'meshaudit-seal/v1 next')
export const tagOf = (key, data) => hmac(expand(key, 'meshaudit-seal/v1 tag'), data)

const SIGNER = 1, WITNESS = 4 // types of Ed25519 keys in notes

// parseVerifierKey parses NAME+HASH+BASE64 with an Ed25519 key (C2SP signed-note, tlog-cosignature).
export function parseVerifierKey(s, type = SIGNER) {
  const m = /^([^+\s]+)\+([0-9a-f]{8})\+(.+)$/.exec(s)
  if (!m) throw new Bad(`not a verifier key: ${s}`)
  const key = decodeB64(m[3])
  if (key.length !== 33 || key[0] !== type) throw new Bad(`not an Ed25519 verifier key: ${s}`)
  const id = sha256(Buffer.concat([Buffer.from(m[1] + '\n'), key])).subarray(0, 4)
  if (id.toString('hex') !== m[2]) throw new Bad(`the hash in verifier key ${s} is not its own`)
  return { vkey: s, name: m[1], id, type, key: publicKey(ED25519, key.subarray(1)) }
}

export function parseTrust(text, dir = '.') {
  const trust = { keys: [], chains: new Map(), fresh: new Set(), identities: [], reviewers: [], witnesses: [] }
  for (const [i, line] of text.split('\n').entries()) {
    try {
      const f = line.trim().split(/\s+/)
      if (line.trim() === '' || f[0].startsWith('#')) continue
      if (f[0] === 'log' && (f.length === 2 || f.length === 4 && f[2] === 'until')) {
        const key = parseVerifierKey(f[1])
        if (!validOrigin(key.name)) throw new Bad(`invalid origin ${key.name}`)
        trust.keys.push({ ...key, until: f.length === 4 ? parseU64(f[3]) : undefined })
      } else if (f[0] === 'spiffe' && (f.length === 3 || f.length === 4)) {
        const domain = /^spiffe:\/\/([^/]*)/.exec(f[1])?.[1]
        if (!domain || domain.includes('*')) throw new Bad(`no pattern of one trust domain: ${f[1]}`)
        trust.identities.push({ id: f[1], cas: parseBundle(readFileSync(resolve(dir, f[2]), 'utf8')), origin: f[3] ?? '*' })
      } else if (f[0] === 'chain' && f.length === 3 && f[2] === 'fresh') {
        if (!validOrigin(f[1])) throw new Bad('bad chain line')
        trust.fresh.add(f[1])
      } else if (f[0] === 'chain' && f.length === 3) {
        const chain = decodeB64(f[2])
        if (!validOrigin(f[1]) || chain.length !== 32 || trust.chains.has(f[1])) throw new Bad('bad chain line')
        trust.chains.set(f[1], chain)
      } else if (f[0] === 'witness' && (f.length === 2 || f.length === 3)) {
        const w = parseVerifierKey(f[1], WITNESS)
        if (trust.witnesses.some(v => v.key.equals(w.key) || v.name === w.name && v.id.equals(w.id))) throw new Bad('a witness twice')
        trust.witnesses.push(w)
      } else if (f[0] === 'quorum' && f.length === 2 && trust.quorum === undefined) {
        trust.quorum = Number(parseU64(f[1]))
      } else if (f[0] === 'reviewer' && f.length === 2) {
        trust.reviewers.push(parseVerifierKey(f[1]))
      } else {
        throw new Bad(`unknown line ${JSON.stringify(line)}`)
      }
    } catch (e) {
      throw new Error(`trust file, line ${i + 1}: ${e.message}`)
    }
  }
  trust.quorum ??= trust.witnesses.length
  if (trust.quorum > trust.witnesses.length || trust.quorum === 0 && trust.witnesses.length > 0) throw new Error(`trust file: a quorum of ${trust.quorum} of ${trust.witnesses.length} witnesses`)
  return trust
}

// ---- SPIFFE: X.509-SVIDs

const PEM = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g

function parseBundle(text) {
  const cas = text.trimStart().startsWith('{')
    ? (JSON.parse(text).keys ?? []).filter(k => k.use === 'x509-svid').flatMap(k => k.x5c ?? []).map(b => new X509Certificate(Buffer.from(b, 'base64')))
    : (text.match(PEM) ?? []).map(p => new X509Certificate(p))
  if (cas.length === 0) throw new Bad('a trust bundle without certificates')
  return cas
}

export const matches = (pattern, s) => new RegExp('^' + pattern.split('*').map(p => p.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('.*') + '$', 's').test(s)

// usages reads the bits of a certificate's key usage, first bit highest; null without the extension.
function usages(raw) {
  const at = raw.indexOf(Buffer.from([6, 3, 0x55, 0x1d, 0x0f]))
  const bits = at < 0 ? -1 : raw.indexOf(Buffer.from([3, 2]), at + 5)
  return bits < 0 ? null : raw[bits + 3]
}

// openSVID reads an open's SVID, checks svid-sig over message, and returns { id, chain }.
export function openSVID(svid, sig, message) {
  const text = svid.toString('latin1')
  if (svid.length > 65536 || text.replace(PEM, '').trim() !== '') throw new Bad('svid is no chain in PEM')
  let chain
  try {
    chain = (text.match(PEM) ?? []).map(p => new X509Certificate(p))
  } catch (e) {
    throw new Bad(`svid: ${e.message}`)
  }
  if (chain.length < 1 || chain.length > 10) throw new Bad(`svid has ${chain.length} certificates`)
  const leaf = chain[0]
  const uris = (leaf.subjectAltName ?? '').split(', ').filter(n => n.startsWith('URI:'))
  const id = uris.length === 1 ? uris[0].slice(4) : ''
  if (!/^spiffe:\/\/[^/:@?#]+(\/[^?#]*)?$/.test(id)) throw new Bad(`the leaf is no SVID: ${leaf.subjectAltName}`)
  const usage = usages(leaf.raw)
  if (leaf.ca || usage === null || !(usage & 0x80) || usage & 0x06) throw new Bad('the key of the leaf is not for signatures alone')
  const key = leaf.publicKey
  const curve = key.asymmetricKeyDetails?.namedCurve
  const hash = { rsa: 'sha256', ed25519: null, ec: { prime256v1: 'sha256', secp384r1: 'sha384', secp521r1: 'sha512' }[curve] }[key.asymmetricKeyType]
  if (hash === undefined || !verify(hash, message, key, sig)) throw new Bad("svid-sig is not by the SVID's key")
  return { id, chain }
}

// leadsTo reports whether a chain leads to one of the authorities at a time (unix ms).
export function leadsTo(chain, cas, time) {
  const valid = c => Date.parse(c.validFrom) <= time && time <= Date.parse(c.validTo)
  const issued = (c, by) => (by.ca || by.raw.equals(c.raw)) && c.checkIssued(by) && c.verify(by.publicKey)
  const climb = (c, left) => valid(c) && (cas.some(a => valid(a) && (a.raw.equals(c.raw) || issued(c, a))) ||
    left.some((by, i) => issued(c, by) && climb(by, left.filter((_, j) => j !== i))))
  return climb(chain[0], chain.slice(1))
}

// openNote parses a signed checkpoint and returns { size, root, signers, seen }: the given keys that signed it, and
// when (unix s) the last of those that are witnesses did.
// A signature under a given key that does not verify is Bad; signatures of others are passed over.
export function openNote(note, origin, keys) {
  const { body, signers, seen } = openSigned(note, keys)
  const lines = body.split('\n')
  if (lines.length !== 4) throw new Bad('note is no checkpoint of three lines')
  if (lines[0] !== origin) throw new Bad(`checkpoint of ${JSON.stringify(lines[0])}`)
  const cp = { size: parseU64(lines[1]), root: decodeB64(lines[2]), signers, seen }
  if (cp.root.length !== 32) throw new Bad('checkpoint has a root that is not 32 bytes')
  return cp
}

// openAccepted returns what a list of accepted findings names, each as its line without the reason.
export function openAccepted(note, reviewers) {
  const { body, signers } = openSigned(note, reviewers)
  if (signers.length === 0) throw new Bad('not signed by a trusted reviewer')
  const [magic, ...lines] = body.slice(0, -1).split('\n')
  if (magic !== 'meshaudit-accepted/v1') throw new Bad('no list of accepted findings')
  return new Set(lines.map(l => {
    const m = /^([a-z0-9._/-]+ (?:0|[1-9][0-9]*) [a-z]+ [a-z-]+ [A-Za-z0-9+/=]{44}) (.+)$/.exec(l)
    if (!m || !validOrigin(l.split(' ')[0])) throw new Bad(`accepted findings: ${JSON.stringify(l.slice(0, 60))}`)
    return m[1]
  }))
}

// openSigned takes a signed note apart.
function openSigned(note, keys) {
  const text = note.toString('utf8')
  if (!Buffer.from(text).equals(note) || /[\x00-\x09\x0b-\x1f\x7f]/.test(text)) throw new Bad('note is not UTF-8 text')
  const split = text.lastIndexOf('\n\n')
  if (split < 0 || !text.endsWith('\n') || split + 2 === text.length) throw new Bad('note has no signatures')
  const body = text.slice(0, split + 1)
  const signers = []
  let seen = 0n
  const sigs = text.slice(split + 2, -1).split('\n')
  if (sigs.length > 100) throw new Bad('note has too many signatures')
  for (const line of sigs) {
    const m = /^\u2014 ([^\s+]+) ([A-Za-z0-9+/]+=*)$/.exec(line)
    if (!m) throw new Bad('malformed signature line')
    const sig = decodeB64(m[2])
    if (sig.length < 5) throw new Bad('malformed signature')
    const key = keys.find(k => k.name === m[1] && k.id.equals(sig.subarray(0, 4)))
    if (!key || signers.includes(key)) continue
    const time = key.type === WITNESS && sig.length === 76 ? sig.readBigUInt64BE(4) : 0n
    const [message, from] = key.type === WITNESS ? [`cosignature/v1\ntime ${time}\n${body}`, 12] : [body, 4]
    if (time >= 1n << 63n || !verify(null, Buffer.from(message), key.key, sig.subarray(from))) throw new Bad(`signature of ${m[1]} does not verify`)
    if (time > seen) seen = time
    signers.push(key)
  }
  return { body, signers, seen }
}

// ---- HPKE (RFC 9180), base mode, single shot, empty aad; HKDF-SHA256, AES-256-GCM

export const labeled = suite => ({
  extract: (salt, label, ikm) => hmac(salt, 'HPKE-v1', suite, label, ikm),
  expand: (prk, label, info, n) => hmac(prk, u16(n), 'HPKE-v1', suite, label, info, Buffer.from([1])).subarray(0, n),
})

const SUITES = {
  x25519: {
    kem: 0x0020, encSize: 32,
    load(raw) {
      const priv = privateKey(X25519, raw)
      const pub = publicOf(priv)
      const l = labeled(Buffer.concat([Buffer.from('KEM'), u16(0x0020)]))
      return {
        pub,
        decapsulate(enc) {
          const dh = diffieHellman({ privateKey: priv, publicKey: publicKey(X25519, enc) })
          return l.expand(l.extract('', 'eae_prk', dh), 'shared_secret', Buffer.concat([enc, pub]), 32)
        },
      }
    },
  },
  // X-Wing: ML-KEM-768 and X25519, combined with SHA3-256; the private key is its 32-byte seed.
  mlkem768x25519: {
    kem: 0x647a, encSize: 1088 + 32,
    load(seed) {
      const wide = createHash('shake256', { outputLength: 96 }).update(seed).digest()
      const pq = mlkemKeyGen(wide.subarray(0, 32), wide.subarray(32, 64))
      const priv = privateKey(X25519, wide.subarray(64))
      const xpub = publicOf(priv)
      return {
        pub: Buffer.concat([pq.ek, xpub]),
        decapsulate(enc) {
          const ct = enc.subarray(1088)
          const dh = diffieHellman({ privateKey: priv, publicKey: publicKey(X25519, ct) })
          return createHash('sha3-256').update(mlkemDecapsulate(pq, enc.subarray(0, 1088))).update(dh).update(ct).update(xpub).update('\\.//^\\').digest()
        },
      }
    },
  },
}

// parseAuditorKey parses an auditor.key file.
export function parseAuditorKey(text) {
  const m = /^meshaudit-auditor-key\/v1\nsuite (\S+)\nkey (\S+)\n?$/.exec(text)
  if (!m) throw new Error('not an auditor key file')
  const suite = SUITES[m[1]]
  if (!suite) throw new Error(`auditor key: unknown suite ${m[1]}`)
  const raw = decodeB64(m[2])
  if (raw.length !== 32) throw new Error(`auditor key: ${raw.length} bytes, want 32`)
  const kem = suite.load(raw)
  return { suite: m[1], ...suite, ...kem, recipient: sha256(Buffer.concat([u16(suite.kem), kem.pub])).toString('hex', 0, 8) }
}

// openEscrow returns the 32 bytes that were escrowed to the auditor, or throws Bad.
export function openEscrow(auditor, escrow, origin, epoch) {
  const sealed = escrow.sealed
  if (sealed.length !== auditor.encSize + 32 + 16) throw new Bad(`escrow of ${sealed.length} bytes, want ${auditor.encSize + 48}`)
  const info = `meshaudit-seal/v1 escrow\n${origin}\n${epoch}\n${escrow.recipient}`
  const l = labeled(Buffer.concat([Buffer.from('HPKE'), u16(auditor.kem), u16(1), u16(2)]))
  try {
    const shared = auditor.decapsulate(sealed.subarray(0, auditor.encSize))
    const context = Buffer.concat([Buffer.from([0]), l.extract('', 'psk_id_hash', ''), l.extract('', 'info_hash', info)])
    const secret = l.extract(shared, 'secret', '')
    const open = createDecipheriv('aes-256-gcm', l.expand(secret, 'key', context, 32), l.expand(secret, 'base_nonce', context, 12))
    open.setAuthTag(sealed.subarray(-16))
    return Buffer.concat([open.update(sealed.subarray(auditor.encSize, -16)), open.final()])
  } catch (e) {
    throw new Bad(`escrow does not open: ${e.message}`)
  }
}
