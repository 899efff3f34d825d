package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// play tells the story, in order, and stops at the first step that does not go
// as told.
func play(ctx context.Context, m *mesh, out io.Writer) error {
	t := &teller{ctx: ctx, mesh: m, out: out}

	t.tell("1. A customer looks around, buys and asks where the order is.",
		"   Every call is allowed, over as many hops as it takes.")
	t.request("GET", "/products", http.StatusOK)
	t.request("POST", "/orders", http.StatusCreated)
	t.request("GET", "/orders/1001", http.StatusOK)

	t.tell("2. The customer asks for a refund. The frontend calls payments for it, which only",
		"   orders may do: OPA denies that hop, and nothing is paid out.")
	t.request("POST", "/refunds/1001", http.StatusForbidden)

	t.tell("3. Somebody outside asks for the same refund and claims to be orders, in two headers that",
		"   the gateway should have removed. The policy looks at certificates only: denied again, and",
		"   the records show both what the header claims and what the certificate proves.")
	ordersID := spiffeID(m.orders.name).String()
	t.request("POST", "/refunds/1001", http.StatusForbidden,
		"X-Spiffe-Id", ordersID,
		"X-Forwarded-Client-Cert", "By="+spiffeID(m.gateway.name).String()+";URI="+ordersID)

	t.tell("4. An order is cancelled, which the policy's first revision allows. Then the second one is",
		"   published, and the same call is denied. Each record names the revision it was decided under.")
	t.request("DELETE", "/orders/1001", http.StatusOK)
	t.setPolicy(revisionNoCancelling)
	t.request("DELETE", "/orders/1001", http.StatusForbidden)

	t.tell("5. Payments restarts while a customer buys: orders gets a 503 and tries again. Both attempts",
		"   carry the same x-request-id, and they are two records all the same.")
	m.paymentsRestarting.Store(true)
	t.request("POST", "/orders", http.StatusCreated)
	return t.err
}

// teller plays one step after the other, until one fails.
type teller struct {
	ctx  context.Context
	mesh *mesh
	out  io.Writer
	err  error
}

func (t *teller) tell(lines ...string) {
	if t.err != nil {
		return
	}
	fmt.Fprintf(t.out, "\n%s\n", strings.Join(lines, "\n"))
}

// request is one request from outside the mesh. Like a web page that is traced
// with OpenTelemetry, it sends a traceparent.
func (t *teller) request(method, path string, want int, headers ...string) {
	if t.err != nil {
		return
	}
	trace, status, err := t.send(method, path, headers)
	switch {
	case err != nil:
		t.err = fmt.Errorf("%s %s: %w", method, path, err)
	case status != want:
		t.err = fmt.Errorf("%s %s: got %d, the story wants %d", method, path, status, want)
	default:
		fmt.Fprintf(t.out, "     %-6s %-14s %d %-12s trace %s\n", method, path, status, http.StatusText(status), trace)
	}
}

func (t *teller) send(method, path string, headers []string) (trace string, status int, err error) {
	r, err := http.NewRequestWithContext(t.ctx, method, "http://"+t.mesh.gateway.address+path, nil)
	if err != nil {
		return "", 0, err
	}
	var ids [24]byte
	_, _ = rand.Read(ids[:]) // never fails
	trace = hex.EncodeToString(ids[:16])
	r.Header.Set("Traceparent", "00-"+trace+"-"+hex.EncodeToString(ids[16:])+"-01")
	r.Header.Set("User-Agent", "shop-app/1.0")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return trace, resp.StatusCode, err
}

func (t *teller) setPolicy(revision string) {
	if t.err != nil {
		return
	}
	if err := t.mesh.setPolicy(t.ctx, revision); err != nil {
		t.err = fmt.Errorf("publish %s: %w", revision, err)
		return
	}
	fmt.Fprintf(t.out, "     policy is now %s\n", revision)
}
