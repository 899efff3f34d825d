package envoy

import (
	"strings"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

// An entry is what is read of one access log entry, HTTP or TCP: the fields of
// envoy.data.accesslog.v3 that README.md names.
type entry struct {
	ids *evidence.KnownIDs

	// Of an HTTP entry.
	method, protocol                         uint64
	path, originalPath, authority, requestID string
	headers                                  Headers
	code                                     uint64
	details, grpcHeader, grpcTrailer         string

	// The common properties.
	common                                             bool // they are there
	remote, local, direct                              address
	upstreamRemote, upstreamLocal                      address
	tls                                                tlsProperties
	started                                            bool
	seconds                                            int64
	nanos                                              int32
	lastDownstreamTx, duration, lastUpstreamRx, lastRx string // serialized Durations since the start
	cluster, route, streamID, termination              string
	upstreamFailure, downstreamFailure                 string
	flags                                              uint64                    // bit n: field n of ResponseFlags
	metadata                                           [len(filters)]protoStruct // by filter
	peers                                              [len(peerStates)]string   // serialized Any, by filter state
	peerPrincipal, localPrincipal                      string                    // the same
	tags                                               *labels                   // never nil
	tagged                                             bool                      // tags is not zero
	attempts, logType                                  uint64
	intermediate                                       bool
	broken                                             bool // what was read after the entry was not whole
}

// reset makes e zero but for its memory.
func (e *entry) reset() {
	tags, ids := e.tags, e.ids
	if e.tagged {
		*tags = labels{}
	}
	*e = entry{}
	e.tags, e.ids = tags, ids
}

// An address is a serialized core.v3.Address. An entry has up to five, most of
// them twice, and is not asked for all: they are read where they are.
type address string

type tlsProperties struct {
	given, hasCipher bool
	version, cipher  uint64
	serverName       string
	peer, own        certificate
}

// A certificate is what an entry says of one.
type certificate struct {
	given   bool // anything: of a peer that presented none Envoy writes an empty one
	message string
	uris    [evidence.MaxIdentities]string
	count   int
}

// http reads an HTTPAccessLogEntry.
func (e *entry) http(message string) bool {
	w := wire{s: message}
	for w.more() {
		switch f := w.next(); f.tag {
		case 1<<3 | bytesType:
			w.require(e.properties(f.s))
		case 2<<3 | varintType:
			e.protocol = f.v
		case 3<<3 | bytesType:
			w.require(e.request(f.s))
		case 4<<3 | bytesType:
			w.require(e.response(f.s))
		}
	}
	return !w.bad
}

// tcp reads a TCPAccessLogEntry.
func (e *entry) tcp(message string) bool {
	w := wire{s: message}
	for w.more() {
		if f := w.next(); f.tag == 1<<3|bytesType {
			w.require(e.properties(f.s))
		}
	}
	return !w.bad
}

// request reads HTTPRequestProperties.
func (e *entry) request(message string) bool {
	w := wire{s: message}
	for w.more() {
		switch f := w.next(); f.tag {
		case 1<<3 | varintType:
			e.method = f.v
		case 3<<3 | bytesType:
			e.authority = f.s
		case 5<<3 | bytesType:
			e.path = f.s
		case 9<<3 | bytesType:
			e.requestID = f.s
		case 10<<3 | bytesType:
			e.originalPath = f.s
		case 13<<3 | bytesType:
			e.headers.Add(w.pair(f.s))
		}
	}
	return !w.bad
}

// response reads HTTPResponseProperties.
func (e *entry) response(message string) bool {
	w := wire{s: message}
	for w.more() {
		switch f := w.next(); f.tag {
		case 1<<3 | bytesType:
			e.code = w.wrapped(f.s)
		case 4<<3 | bytesType:
			if name, value := w.pair(f.s); name == "grpc-status" {
				e.grpcHeader = value
			}
		case 5<<3 | bytesType:
			if name, value := w.pair(f.s); name == "grpc-status" {
				e.grpcTrailer = value
			}
		case 6<<3 | bytesType:
			e.details = f.s
		}
	}
	return !w.bad
}

// properties reads AccessLogCommon.
func (e *entry) properties(message string) bool {
	e.common = true
	w := wire{s: message}
	for w.more() {
		switch f := w.next(); f.tag {
		case 2<<3 | bytesType:
			e.remote = address(f.s)
		case 3<<3 | bytesType:
			e.local = address(f.s)
		case 4<<3 | bytesType:
			w.require(e.tls.read(f.s))
		case 5<<3 | bytesType:
			e.seconds, e.nanos = w.clock(f.s)
			e.started = true
		case 6<<3 | bytesType:
			e.lastRx = f.s
		case 10<<3 | bytesType:
			e.lastUpstreamRx = f.s
		case 12<<3 | bytesType:
			e.lastDownstreamTx = f.s
		case 13<<3 | bytesType:
			e.upstreamRemote = address(f.s)
		case 14<<3 | bytesType:
			e.upstreamLocal = address(f.s)
		case 15<<3 | bytesType:
			e.cluster = f.s
		case 16<<3 | bytesType:
			w.require(e.responseFlags(f.s))
		case 17<<3 | bytesType:
			w.require(e.filterMetadata(f.s))
		case 18<<3 | bytesType:
			e.upstreamFailure = f.s
		case 19<<3 | bytesType:
			e.route = f.s
		case 20<<3 | bytesType:
			e.direct = address(f.s)
		case 21<<3 | bytesType:
			name, state := w.pair(f.s)
			for n := range peerStates {
				if name == peerStates[n] {
					e.peers[n] = state
				}
			}
			switch name {
			case peerPrincipal:
				e.peerPrincipal = state
			case localPrincipal:
				e.localPrincipal = state
			}
		case 22<<3 | bytesType:
			e.tagged = true
			e.tags.set(w.pair(f.s))
		case 23<<3 | bytesType:
			e.duration = f.s
		case 24<<3 | varintType:
			e.attempts = uint64(uint32(f.v))
		case 25<<3 | bytesType:
			e.termination = f.s
		case 26<<3 | bytesType:
			e.streamID = f.s
		case 27<<3 | varintType:
			e.intermediate = f.v != 0
		case 28<<3 | bytesType:
			e.downstreamFailure = f.s
		case 33<<3 | varintType:
			e.logType = f.v
		}
	}
	return !w.bad
}

// socket reads an address: a socket's, a pipe's path as the host, or the endpoint
// behind a listener of Envoy's own (HBONE).
func (e *entry) socket(a address) (host string, port uint16) {
	w := wire{s: string(a)}
	number := uint64(0)
	for w.more() {
		f := w.next()
		in := wire{s: f.s}
		switch f.tag {
		case 1<<3 | bytesType:
			for in.more() {
				switch f := in.next(); f.tag {
				case 2<<3 | bytesType:
					host = f.s
				case 3<<3 | varintType:
					number = uint64(uint32(f.v))
				}
			}
		case 2<<3 | bytesType:
			for in.more() {
				if f := in.next(); f.tag == 1<<3|bytesType {
					host, number = f.s, 0
				}
			}
		case 3<<3 | bytesType:
			for in.more() {
				if f := in.next(); f.tag == 2<<3|bytesType {
					h, port := SplitAddress(f.s)
					host, number = h, uint64(port)
				}
			}
		}
		w.require(!in.bad)
	}
	e.broken = e.broken || w.bad
	if host == "" {
		return "", 0
	}
	return evidence.Text(host, evidence.MaxName), uint16(min(number, 65535))
}

// read reads TLSProperties.
func (t *tlsProperties) read(message string) bool {
	t.given = true
	w := wire{s: message}
	for w.more() {
		switch f := w.next(); f.tag {
		case 1<<3 | varintType:
			t.version = f.v
		case 2<<3 | bytesType:
			t.cipher, t.hasCipher = w.wrapped(f.s), true
		case 3<<3 | bytesType:
			t.serverName = f.s
		case 4<<3 | bytesType:
			w.require(t.own.read(f.s))
		case 5<<3 | bytesType:
			w.require(t.peer.read(f.s))
		}
	}
	return !w.bad
}

// read reads CertificateProperties.
func (c *certificate) read(message string) bool {
	c.message = message
	w := wire{s: message}
	for w.more() {
		switch f := w.next(); f.tag {
		case 1<<3 | bytesType:
			c.given = true
			in := wire{s: f.s}
			for in.more() {
				if f := in.next(); f.tag == 1<<3|bytesType && c.count < len(c.uris) {
					c.uris[c.count] = f.s
					c.count++
				}
			}
			w.require(!in.bad)
		case 2<<3 | bytesType, 3<<3 | bytesType: // subject, issuer
			c.given = c.given || f.s != ""
		}
	}
	return !w.bad
}

// identities states the URI SANs. It is false if there are none.
func (c *certificate) identities(p *evidence.Party, proof evidence.Proof, from string, ids *evidence.KnownIDs) bool {
	for _, uri := range c.uris[:c.count] {
		p.AddIdentity(ids.ParseIdentity(uri, proof, from))
	}
	return c.count > 0
}

// otherNames states whom a certificate without URI SANs names: by its DNS SANs,
// else by its subject, as Envoy's own policies do.
func (c *certificate) otherNames(p *evidence.Party, proof evidence.Proof) {
	subject := ""
	dns := false
	w := wire{s: c.message} // read before, and whole
	for w.more() {
		switch f := w.next(); f.tag {
		case 1<<3 | bytesType:
			in := wire{s: f.s}
			for in.more() {
				if f := in.next(); f.tag == 2<<3|bytesType && f.s != "" {
					addName(p, f.s, proof, fromPeerDNS)
					dns = true
				}
			}
		case 2<<3 | bytesType:
			subject = f.s
		}
	}
	if !dns {
		addName(p, subject, proof, fromPeerSubject)
	}
}

// addName adds a name that is no SPIFFE ID, whatever it looks like: only a URI SAN
// is one.
func addName(p *evidence.Party, name string, proof evidence.Proof, from string) {
	p.AddIdentity(evidence.Identity{Invalid: evidence.Text(strings.TrimSpace(name), evidence.MaxInvalidIdentity), Proof: proof, From: from})
}

// responseFlags reads ResponseFlags: all bools, but for the details of one
// whose presence alone says that the request was not authorized.
func (e *entry) responseFlags(message string) bool {
	w := wire{s: message}
	for w.more() {
		f := w.next()
		number := f.tag >> 3
		if number < uint64(len(flagNames)) && (f.tag&7 == bytesType) == (number == unauthorizedDetails) {
			if f.tag&7 == varintType && f.v == 0 {
				e.flags &^= 1 << number
			} else {
				e.flags |= 1 << number
			}
		}
	}
	return !w.bad
}

// filterMetadata reads core.v3.Metadata.
func (e *entry) filterMetadata(message string) bool {
	w := wire{s: message}
	for w.more() {
		f := w.next()
		if f.tag != 1<<3|bytesType {
			continue
		}
		name, value := w.pair(f.s)
		for n := range filters {
			if name == filters[n] {
				e.metadata[n] = protoStruct(value)
			}
		}
	}
	return !w.bad
}
