package main

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"

	"github.com/gowebpki/jcs"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
)

// Signing record by record, as contrib's signing processor does it: each record
// becomes RFC 8785 canonical JSON, with the library that the processor uses,
// the JSON is signed, and the signature is an attribute of the record. That
// processor cannot be had as a module at the collector's version used here.
// Resource and scope stay outside the signature, and so does the order.

const integrityValue = "audit.integrity.value"

type signer func(payload []byte) []byte

func newHMACSigner() signer {
	key := make([]byte, 32)
	rand.Read(key)
	return func(payload []byte) []byte {
		m := hmac.New(sha256.New, key)
		m.Write(payload)
		return m.Sum(nil)
	}
}

func newEd25519Signer() (signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return func(payload []byte) []byte { return ed25519.Sign(key, payload) }, err
}

// signRecords signs each record of ld, again if it is signed already.
func signRecords(ld plog.Logs, sign signer) error {
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, r := range sl.LogRecords().All() {
				payload, err := canonicalJSON(r)
				if err != nil {
					return err
				}
				r.Attributes().PutStr(integrityValue, base64.StdEncoding.EncodeToString(sign(payload)))
			}
		}
	}
	return nil
}

// canonicalJSON is what is signed of a record: all but its signature.
func canonicalJSON(r plog.LogRecord) ([]byte, error) {
	attributes := make(map[string]any, r.Attributes().Len())
	for name, v := range r.Attributes().All() {
		if name != integrityValue {
			attributes[name] = v.AsRaw()
		}
	}
	fields := map[string]any{
		"timestamp":          r.Timestamp().AsTime().UnixNano(),
		"observed_timestamp": r.ObservedTimestamp().AsTime().UnixNano(),
		"trace_id":           r.TraceID().String(),
		"span_id":            r.SpanID().String(),
		"attributes":         attributes,
	}
	if r.EventName() != "" {
		fields["event_name"] = r.EventName()
	}
	if r.Body().Type() == pcommon.ValueTypeStr {
		fields["body"] = r.Body().Str()
	}
	plain, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	return jcs.Transform(plain)
}
