// Package envoy reads what Envoy says about a request: entries of its gRPC
// access log service (HTTP, TCP) and of its OpenTelemetry access log
// (FromOTLPLog).
//
// It promises never to panic, whatever parts of an entry are absent, and to
// keep nothing that is not named in README.md: no cookies, no authorization, no
// query strings, no bodies, no headers but those that are read.
//
// # Identities
//
// URI SANs of the certificates that the proxy itself saw are mtls_san. Headers
// (x-spiffe-id, x-forwarded-client-cert) are claims.
//
// # Trace context
//
// An entry's request headers are those at logging time. Envoy's router writes
// the active span's context into them when it forwards the request, if the
// proxy traces; so
//
//   - for a caller's entry the header is what went to the callee: its span is
//     the caller's (SpanID), be it the application's or the proxy's;
//   - for a callee's entry it is what came in if the proxy does not trace or
//     answered by itself, and the proxy's own server span if it traces and
//     forwarded. The entry does not tell which. It is read as the parent
//     (ParentSpanID): in the second case the application's server span has the
//     same parent, so the two still meet.
//
// Where a custom tag or label gives the proxy's own span (%SPAN_ID%), that is
// SpanID, and a header that names the same span says nothing more.
//
// # Stream ids
//
// Envoy's stream id of an HTTP request is, in its default configuration, the
// x-request-id: the same for a whole tree of calls and for retries. Where the
// two are equal the stream id is left out, so that nothing joins on it as on
// something unique.
package envoy
