// ML-KEM-768 (FIPS 203), key generation from a seed and decapsulation: Node 20 has neither. It works on
// an auditor's key in an auditor's process and makes no attempt at constant time.

import { createHash } from 'node:crypto'

const Q = 3329, N = 256, K = 3, DU = 10, DV = 4

const sha3 = (bits, ...data) => data.reduce((h, d) => h.update(d), createHash(`sha3-${bits}`)).digest()
const shake = (bits, n, ...data) => data.reduce((h, d) => h.update(d), createHash(`shake${bits}`, { outputLength: n })).digest()

const pow = (b, e) => { let r = 1; for (; e > 0; e >>= 1, b = b * b % Q) if (e & 1) r = r * b % Q; return r }
const bitrev7 = i => { let r = 0; for (let b = 0; b < 7; b++) r |= (i >> b & 1) << 6 - b; return r }
const ZETA = Array.from({ length: 128 }, (_, i) => pow(17, bitrev7(i)))
const GAMMA = Array.from({ length: 128 }, (_, i) => pow(17, 2 * bitrev7(i) + 1))

const poly = () => new Int32Array(N)
const add = (a, b) => a.map((x, i) => (x + b[i]) % Q)
const sub = (a, b) => a.map((x, i) => (x - b[i] + Q) % Q)

function ntt(a) {
  const f = a.slice()
  let i = 1
  for (let len = 128; len >= 2; len >>= 1) {
    for (let start = 0; start < N; start += 2 * len) {
      const z = ZETA[i++]
      for (let j = start; j < start + len; j++) {
        const t = z * f[j + len] % Q
        f[j + len] = (f[j] - t + Q) % Q
        f[j] = (f[j] + t) % Q
      }
    }
  }
  return f
}

function inverseNTT(a) {
  const f = a.slice()
  let i = 127
  for (let len = 2; len <= 128; len <<= 1) {
    for (let start = 0; start < N; start += 2 * len) {
      const z = ZETA[i--]
      for (let j = start; j < start + len; j++) {
        const t = f[j]
        f[j] = (t + f[j + len]) % Q
        f[j + len] = z * (f[j + len] - t + Q) % Q
      }
    }
  }
  return f.map(x => x * 3303 % Q)
}

function multiply(a, b) {
  const h = poly()
  for (let i = 0; i < 128; i++) {
    const [a0, a1, b0, b1] = [a[2 * i], a[2 * i + 1], b[2 * i], b[2 * i + 1]]
    h[2 * i] = (a0 * b0 + a1 * b1 % Q * GAMMA[i]) % Q
    h[2 * i + 1] = (a0 * b1 + a1 * b0) % Q
  }
  return h
}
const dot = (a, b) => a.map((x, i) => multiply(x, b[i])).reduce(add)

function sampleNTT(rho, j, i) {
  const a = poly()
  for (let size = 840; ; size *= 2) { // shake128 is no stream in Node: ask for more if it was too little
    const b = shake(128, size, rho, Buffer.from([j, i]))
    let n = 0
    for (let p = 0; p + 3 <= size && n < N; p += 3) {
      const d1 = b[p] + 256 * (b[p + 1] % 16)
      const d2 = (b[p + 1] >> 4) + 16 * b[p + 2]
      if (d1 < Q) a[n++] = d1
      if (d2 < Q && n < N) a[n++] = d2
    }
    if (n === N) return a
  }
}

// noise draws from the centered binomial distribution with eta = 2.
function noise(seed, nonce) {
  const b = shake(256, 128, seed, Buffer.from([nonce]))
  const bit = i => b[i >> 3] >> (i & 7) & 1
  return poly().map((_, i) => (bit(4 * i) + bit(4 * i + 1) - bit(4 * i + 2) - bit(4 * i + 3) + Q) % Q)
}

function encode(d, a) {
  const out = Buffer.alloc(32 * d)
  for (let i = 0; i < N * d; i++) out[i >> 3] |= (a[Math.floor(i / d)] >> i % d & 1) << (i & 7)
  return out
}
function decode(d, b) {
  const a = poly()
  for (let i = 0; i < N * d; i++) a[Math.floor(i / d)] |= (b[i >> 3] >> (i & 7) & 1) << i % d
  return a
}
const compress = (d, a) => a.map(x => Math.floor((2 * x * (1 << d) + Q) / (2 * Q)) % (1 << d))
const decompress = (d, a) => a.map(x => (x * Q + (1 << d - 1)) >> d)

const range = [0, 1, 2]
const matrix = rho => range.map(i => range.map(j => sampleNTT(rho, j, i)))

// keyGen returns the key pair of the seeds d and z.
export function keyGen(d, z) {
  const g = sha3(512, d, Buffer.from([K]))
  const [rho, sigma] = [g.subarray(0, 32), g.subarray(32)]
  const a = matrix(rho)
  const s = range.map(i => ntt(noise(sigma, i)))
  const e = range.map(i => ntt(noise(sigma, K + i)))
  const t = range.map(i => add(dot(a[i], s), e[i]))
  const ek = Buffer.concat([...t.map(p => encode(12, p)), rho])
  return { a, s, t, z, ek }
}

function encrypt(key, m, r) {
  const y = range.map(i => ntt(noise(r, i)))
  const e1 = range.map(i => noise(r, K + i))
  const e2 = noise(r, 2 * K)
  const u = range.map(i => add(inverseNTT(dot(range.map(j => key.a[j][i]), y)), e1[i]))
  const v = add(add(inverseNTT(dot(key.t, y)), e2), decompress(1, decode(1, m)))
  return Buffer.concat([...u.map(p => encode(DU, compress(DU, p))), encode(DV, compress(DV, v))])
}

// decapsulate returns the 32-byte shared secret of ciphertext c (1088 bytes).
export function decapsulate(key, c) {
  const u = range.map(i => decompress(DU, decode(DU, c.subarray(32 * DU * i, 32 * DU * (i + 1)))))
  const v = decompress(DV, decode(DV, c.subarray(32 * DU * K)))
  const m = encode(1, compress(1, sub(v, inverseNTT(dot(key.s, u.map(ntt))))))
  const g = sha3(512, m, sha3(256, key.ek))
  return encrypt(key, m, g.subarray(32)).equals(c) ? g.subarray(0, 32) : shake(256, 32, key.z, c)
}
