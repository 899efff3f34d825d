package distribution

import (
	"fmt"
	"time"
)

// report is what one proxy knows of a stream or connection when it has ended.
type report struct {
	pod                             *pod
	inbound, tcp, final, interim    bool
	start                           time.Time
	duration                        time.Duration
	method, path, authority         string
	request, traceparent            string
	trace, span                     string // the proxy's own
	status, grpc, attempts, attempt int
	details, flags                  string
	remote, direct, local           string
	upstream, upstreamLocal         string
	cluster                         string
	peerSAN, localSAN               string
	peer                            *pod
	decision, user, principal       string
	logType                         string
}

func (w *world) call(from *pod, to *service, at time.Duration, h headers, depth int, entry bool) time.Duration {
	if to.tcp {
		return w.connect(from, to, at)
	}
	method, path := "GET", fmt.Sprintf("/%s/items/%d", to.name, w.IntN(3))
	switch {
	case to.grpc:
		method, path = "POST", fmt.Sprintf("/%s.v1.Service/Do%d", to.name, w.IntN(3))
	case w.chance(0.2):
		method, path = "POST", "/"+to.name+"/orders"
	case w.chance(0.05):
		path = "/admin/" + to.name
	}
	denied := to.rbac != nil && w.chance(0.1)
	if denied && !to.grpc {
		method, path = "DELETE", "/"+to.name+"/items/1"
	}
	if !from.forwards && !entry {
		if h.trace != "" {
			w.traps["application that does not propagate"]++
		}
		h = headers{}
	}
	if entry {
		h.span = ""
	}

	// The caller's application.
	var appSpan *span
	if from.appTraces && !entry {
		appSpan = w.begins(from, "client", h, at)
		h = appSpan.headers
		at += 100 * time.Microsecond
	}
	if to.mesh == byZtunnel {
		end := w.ambient(from, to, at, h, depth, method, path, appSpan, entry)
		return end
	}

	// The caller's proxy.
	start := at
	var proxySpan *span
	var mine *report
	if from.sidecar() {
		if h.request == "" {
			h.request = w.uuid()
		}
		if from.proxyTraces {
			proxySpan = w.begins(from, "proxy client", h, at)
			h = proxySpan.headers
		}
		mine = &report{pod: from, start: w.stamp(from.node, at), method: method, path: path, authority: to.name + "." + to.namespace, final: true,
			request: h.request, traceparent: h.traceparent(), cluster: fmt.Sprintf("outbound|%d||%s", to.port, to.host()), details: "via_upstream"}
		if proxySpan != nil {
			mine.trace, mine.span = h.trace, h.span
		}
		if entry {
			mine.user, mine.remote = h.user, "203.0.113.7:41022"
			mine.local = from.ip + ":8080"
		} else {
			mine.remote, mine.local = fmt.Sprintf("%s:%d", from.ip, w.portOf(from, to.vip, 0)), fmt.Sprintf("%s:%d", to.vip, to.port)
		}
		at += 300 * time.Microsecond
	}

	attempts := 1
	if from.sidecar() && w.chance(0.05) {
		attempts = 2 + w.IntN(2)
		w.traps["retried calls"]++
	}
	timeout := from.sidecar() && w.chance(0.004)
	long := to.grpc && w.chance(0.05)
	var last *action
	var tried []*action
	status := 200
	for attempt := 1; attempt <= attempts; attempt++ {
		p := w.podOf(to, at)
		ok := attempt == attempts
		if !ok && w.chance(0.2) { // it reaches nobody
			w.traps["attempts that reach nobody"]++
			at += w.between(time.Millisecond, 5*time.Millisecond) + 25*time.Millisecond
			continue
		}
		a := w.newAction("request", from, p, at)
		a.method, a.path, a.retried, a.entry = method, path, attempts > 1, entry
		tried = append(tried, a)
		at, status = w.served(a, at, h, depth, attempt, ok, denied, long, timeout, entry)
		last = a
		if mine != nil {
			mine.peer = p
			mine.upstream = fmt.Sprintf("%s:%d", p.ip, p.port)
			mine.upstreamLocal = fmt.Sprintf("%s:%d", from.ip, w.portOf(from, p.ip, 0))
		}
		if status < 500 {
			break
		}
		if !ok {
			at += w.between(5*time.Millisecond, 30*time.Millisecond)
		}
	}
	at += w.between(50*time.Microsecond, 500*time.Microsecond)
	if mine != nil && last != nil {
		mine.attempts = attempts
		mine.status, mine.duration = status, at-start
		if timeout {
			mine.status, mine.flags, mine.details = 504, "UT", "response_timeout"
		} else if status == 503 {
			mine.flags, mine.details = "URX", "upstream_retry_limit_exceeded"
		}
		if to.grpc && status == 200 {
			mine.grpc = 1
		}
		last.caller = w.log(mine, "caller", at, tried...)
		if entry {
			w.entered[h.trace] = last.caller
		}
		for _, a := range tried {
			a.caller = last.caller
		}
		if proxySpan != nil {
			w.ends(proxySpan, mine, at, tried...)
		}
	}
	if appSpan != nil {
		w.ends(appSpan, &report{method: method, path: path, authority: to.name + "." + to.namespace, status: status}, at, tried...)
	}
	return at
}

// served is one attempt at a pod: its proxy, its policy, its application.
func (w *world) served(a *action, at time.Duration, h headers, depth, attempt int, ok, denied, long, timeout, entry bool) (time.Duration, int) {
	p, from := a.to, a.from
	a.trace = h.trace
	at += w.between(100*time.Microsecond, 2*time.Millisecond)
	start, incoming := at, h
	if !p.sidecar() {
		if p.appTraces {
			s := w.begins(p, "server", h, at)
			at = w.work(p, at, s.headers, depth)
			a.trace = s.headers.trace
			w.ends(s, &report{method: a.method, path: a.path, authority: p.name, status: 200}, at, a)
		} else {
			at = w.work(p, at, h, depth)
		}
		a.initiator, a.status = h.user, 200
		return at, 200
	}
	if h.request == "" {
		h.request = w.uuid()
	}
	var proxySpan *span
	if p.proxyTraces {
		proxySpan = w.begins(p, "proxy server", h, at)
		h = proxySpan.headers
	}
	a.trace = h.trace
	a.initiator = h.user
	mtls := from.mesh != unmeshed
	a.plaintext = !mtls
	r := &report{pod: p, inbound: true, final: true, start: w.stamp(p.node, start), method: a.method, path: a.path, authority: p.service.name + "." + p.namespace,
		request: h.request, details: "via_upstream", status: 200, attempt: attempt,
		local: fmt.Sprintf("%s:%d", p.ip, p.port), cluster: fmt.Sprintf("inbound|%d||", p.port),
		upstream: fmt.Sprintf("%s:%d", p.ip, p.port), upstreamLocal: "127.0.0.6:40123"}
	r.direct = fmt.Sprintf("%s:%d", from.ip, w.portOf(from, p.ip, 0))
	r.remote = r.direct
	if entry { // from x-forwarded-for
		r.remote = "203.0.113.7:0"
	}
	if mtls {
		r.peerSAN, r.localSAN, r.peer = from.id(), p.id(), from
		if p.mesh == byALS || p.mesh == byOTLP {
			a.peer = from.id()
		}
	}
	if proxySpan != nil {
		r.trace, r.span = h.trace, h.span
	}
	r.traceparent = h.traceparent() // what it forwards
	at += 200 * time.Microsecond
	forwarded := true
	switch {
	case denied:
		r.status, r.details = 403, fmt.Sprintf("rbac_access_denied_matched_policy[ns[%s]-policy[%s]-rule[0]]", p.rbac.namespace, p.rbac.name)
		forwarded = false
		a.decided, a.engine = "deny", "rbac"
	case p.opa:
		at = w.decide(a, r, incoming, at)
		forwarded = r.status == 200
	}
	if !forwarded {
		r.traceparent = incoming.traceparent()
		r.upstream, r.upstreamLocal = "", ""
		at += 200 * time.Microsecond
	} else if !ok {
		r.status = 503
		at += w.between(time.Millisecond, 10*time.Millisecond)
	} else {
		next := h
		if long {
			w.traps["streams longer than the window"]++
			if p.periodic {
				for t := start + 5*time.Second; t < start+20*time.Second; t += 5 * time.Second {
					i := *r
					i.final, i.interim, i.logType, i.duration = false, true, "DownstreamPeriodic", t-start
					i.status = 0
					w.log(&i, "interim", t, a)
				}
			}
			at += w.between(12*time.Second, 25*time.Second)
		}
		if p.appTraces {
			s := w.begins(p, "server", h, at)
			next = s.headers
			at = w.work(p, at, next, depth)
			w.ends(s, &report{method: a.method, path: a.path, authority: r.authority, status: 200}, at, a)
		} else {
			at = w.work(p, at, next, depth)
		}
		if timeout {
			at += 50 * time.Millisecond
			r.flags, r.status, r.details = "DC", 0, "downstream_remote_disconnect"
		}
	}
	r.duration = at - start
	if p.grpc && r.status == 200 {
		r.grpc = 1
	}
	a.callee = w.log(r, "callee", at, a)
	if proxySpan != nil {
		w.ends(proxySpan, r, at, a)
	}
	a.status = r.status
	if timeout && ok && forwarded {
		return at, 504
	}
	if r.status == 0 {
		return at, 504
	}
	return at, r.status
}

// decide asks OPA, beside the proxy.
func (w *world) decide(a *action, r *report, h headers, at time.Duration) time.Duration {
	deny := w.chance(0.08)
	id := w.uuid()
	a.engine, a.decided = "opa", "allow"
	if deny {
		a.decided = "deny"
		if a.to.failOpen && w.chance(0.3) { // the filter is in shadow by mistake
			a.deniedButServed = true
			w.traps["denied but served"]++
		} else {
			r.status, r.details, r.flags = 403, "ext_authz_denied", "UAEX"
		}
	}
	if a.to.opaNamed {
		r.decision = id
	}
	if w.chance(0.01) {
		a.spoofed, h.spoofs = true, "spiffe://cluster.local/ns/pay/sa/admin"
		w.traps["spoofed x-spiffe-id"]++
	}
	late := w.between(time.Second, 5*time.Second)
	if w.chance(0.1) {
		late = w.between(5*time.Minute, 10*time.Minute)
		w.traps["late decisions"]++
	}
	end := at + w.between(300*time.Microsecond, 2*time.Millisecond)
	p := w.piece("opa", "opa "+id, a)
	w.send(p, end+late, "opa", a.to, w.decision(p, a, r, h, id, at, a.decided == "allow"))
	return end
}

// log has a proxy report, and gives what it reports.
func (w *world) log(r *report, what string, at time.Duration, actions ...*action) *piece {
	p := w.piece(r.pod.mesh+" "+what, fmt.Sprint("at ", r.start.UnixNano()), actions...)
	if r.logType != "" {
		p.interim, p.key = true, ""
	}
	p.request = r.request
	if r.traceparent != "" && r.pod.mesh != byText && r.pod.mesh != byJSON {
		p.trace = r.traceparent[3:35]
	}
	switch r.pod.mesh {
	case byALS:
		w.send(p, w.flush(at, time.Second), byALS, r.pod, r.als())
	case byOTLP:
		w.send(p, w.flush(at, time.Second), byOTLP, r.pod, r.otlp)
	case byText, byJSON:
		line := r.text()
		if r.pod.mesh == byJSON {
			line = r.json()
		}
		p.key = ""
		w.send(p, at, "file", fileOf(r.pod, "istio-proxy"), logLine{p, line, w.begin.Add(at)})
	}
	return p
}

// connect is a connection of a protocol that is no HTTP, through both sidecars.
func (w *world) connect(from *pod, to *service, at time.Duration) time.Duration {
	p := w.podOf(to, at)
	a := w.newAction("connection", from, p, at)
	end := at + w.between(time.Millisecond, 30*time.Second)
	port := 32768 + w.IntN(28000)
	if from.sidecar() {
		r := &report{pod: from, tcp: true, final: true, start: w.stamp(from.node, at), duration: end - at,
			remote: fmt.Sprintf("%s:%d", from.ip, 32768+w.IntN(28000)), local: fmt.Sprintf("%s:%d", to.vip, to.port), peer: p,
			upstream: fmt.Sprintf("%s:%d", p.ip, p.port), upstreamLocal: fmt.Sprintf("%s:%d", from.ip, port),
			cluster: fmt.Sprintf("outbound|%d||%s", to.port, to.host())}
		a.caller = w.log(r, "tcp caller", end, a)
	}
	r := &report{pod: p, inbound: true, tcp: true, final: true, start: w.stamp(p.node, at+time.Millisecond), duration: end - at - 2*time.Millisecond,
		remote: fmt.Sprintf("%s:%d", from.ip, port), local: fmt.Sprintf("%s:%d", p.ip, p.port), cluster: fmt.Sprintf("inbound|%d||", p.port),
		upstream: fmt.Sprintf("%s:%d", p.ip, p.port), upstreamLocal: "127.0.0.6:40123"}
	r.direct = r.remote
	if a.plaintext = from.mesh == unmeshed; !a.plaintext {
		r.peerSAN, r.localSAN, r.peer = from.id(), p.id(), from
		if p.mesh == byALS || p.mesh == byOTLP {
			a.peer = from.id()
		}
	}
	a.callee = w.log(r, "tcp callee", end, a)
	return at + 2*time.Millisecond
}

// A tunnel is what a connection between two ambient pods is: kept alive for
// further requests, within a HBONE connection that is shared by all of the pair.
type tunnel struct {
	from, to    *pod
	service     *service // that was asked for
	first, last time.Duration
	port, hbone int
}

// ambient is a call between pods without sidecars: ztunnel reports connections,
// a waypoint requests.
func (w *world) ambient(from *pod, to *service, at time.Duration, h headers, depth int, method, path string, appSpan *span, entry bool) time.Duration {
	p := w.podOf(to, at)
	a := w.newAction("request", from, p, at)
	a.method, a.path, a.trace = method, path, h.trace
	start := at
	next := from
	// Who reports the request: the gateway, the waypoint, or both.
	type proxied struct {
		*report
		span  *span
		start time.Duration
	}
	var proxies []proxied
	reports := func(pod *pod, kind string) *report {
		if h.request == "" {
			h.request = w.uuid()
		}
		var s *span
		if pod.proxyTraces {
			s = w.begins(pod, kind, h, at)
			h = s.headers
			a.trace = h.trace
		}
		r := &report{pod: pod, final: true, start: w.stamp(pod.node, at), method: method, path: path, authority: to.name + "." + to.namespace,
			request: h.request, traceparent: h.traceparent(), details: "via_upstream", status: 200, attempts: 1, peer: p,
			upstream: fmt.Sprintf("envoy://connect_originate/%s:%d", p.ip, p.port), upstreamLocal: "envoy://internal_client_address/"}
		if s != nil {
			r.trace, r.span = h.trace, h.span
		}
		proxies = append(proxies, proxied{r, s, at})
		at += 300 * time.Microsecond
		return r
	}
	if entry {
		r := reports(from, "proxy client")
		r.cluster = fmt.Sprintf("outbound|%d||%s", to.port, to.host())
		r.remote, r.local, r.user = "203.0.113.7:41022", from.ip+":8080", h.user
	}
	if to.waypoint != nil {
		next = w.podOf(to.waypoint, at)
		w.carry(from, next, at, to)
		if entry {
			proxies[0].upstream = fmt.Sprintf("envoy://connect_originate/%s:%d", to.vip, to.port)
			proxies[0].peer = next
		}
		r := reports(next, "proxy server")
		r.inbound, r.principal = true, from.id()
		r.cluster = fmt.Sprintf("inbound-vip|%d|http|%s", to.port, to.host())
		r.remote, r.local = fmt.Sprintf("%s:%d", from.ip, w.portOf(from, to.vip, 0)), fmt.Sprintf("%s:%d", to.vip, to.port)
		if r.pod.mesh == byALS {
			a.peer = from.id()
		}
	}
	a.initiator, a.status, a.entry = h.user, 200, entry
	at += w.between(100*time.Microsecond, time.Millisecond)
	if p.appTraces {
		s := w.begins(p, "server", h, at)
		a.trace = s.headers.trace
		at = w.work(p, at, s.headers, depth)
		w.ends(s, &report{method: method, path: path, authority: to.name, status: 200}, at, a)
	} else {
		at = w.work(p, at, h, depth)
	}
	w.carry(next, p, start, to)
	w.conns[[2]*pod{next, p}].last = at
	for _, r := range proxies {
		r.duration = at - r.start
		piece := w.log(r.report, map[bool]string{true: "waypoint", false: "caller"}[r.inbound], at, a)
		if r.inbound {
			a.callee = piece
		} else {
			a.caller = piece
			w.entered[a.trace] = piece
		}
		if r.span != nil {
			w.ends(r.span, r.report, at, a)
		}
	}
	if appSpan != nil {
		w.ends(appSpan, &report{method: method, path: path, authority: to.name, status: 200}, at, a)
	}
	return at
}

// carry uses the connection that two pods keep, or makes a new one.
func (w *world) carry(from, to *pod, at time.Duration, service *service) {
	key := [2]*pod{from, to}
	c := w.conns[key]
	if c != nil && (at < c.last || at-c.last < 3*time.Second && at-c.first < 20*time.Second) {
		c.last = max(c.last, at)
		w.traps["requests on a kept connection"]++
		return
	}
	if c != nil {
		w.hangUp(c)
	}
	w.conns[key] = &tunnel{from: from, to: to, first: at, last: at + time.Millisecond, port: 32768 + w.IntN(28000),
		hbone: w.portOf(from, to.ip, 9), service: service}
}

// hangUp ends a connection: both ztunnels log it, but for a waypoint's and a
// gateway's own end.
func (w *world) hangUp(c *tunnel) {
	a := w.newAction("connection", c.from, c.to, c.first)
	end := c.last + time.Second
	if c.from.mesh == byZtunnel {
		a.caller = w.ztunnel(a, c, false, c.first, end)
	}
	if c.to.mesh == byZtunnel {
		a.callee = w.ztunnel(a, c, true, c.first+500*time.Microsecond, end+200*time.Microsecond)
		a.peer = c.from.id()
	}
}

func (w *world) ztunnel(a *action, c *tunnel, inbound bool, start, end time.Duration) *piece {
	n, what := c.from.node, "ztunnel caller"
	if inbound {
		n, what = c.to.node, "ztunnel callee"
	}
	p := w.piece(what, "", a)
	w.send(p, end, "file", ztunnelFile(n), logLine{p, ztunnelLine(c, inbound, w.begin.Add(end+n.off), end-start, n.json), w.begin.Add(end + n.off)})
	return p
}

// changePolicies has operators change policies, by Kubernetes.
func (w *world) changePolicies() {
	for i, p := range w.policies {
		p.by = fmt.Sprintf("operator-%d", i%5)
		w.send(&piece{}, 0, "k8s", nil, w.auditEvent(p))
	}
}
