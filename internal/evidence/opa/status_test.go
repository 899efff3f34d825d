package opa

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/evidencetest"
	"github.com/meshaudit/meshaudit/internal/evidence/jsonscan"
)

func report(request, rest string) string {
	return `{"labels":{"id":"opa-1","version":"1.22.2","cluster":"east","secret":"SECRET"},"plugins":{"bundle":{"state":"OK"}},"metrics":{"prometheus":{"a":"SECRET"}},
		"bundles":{"authz":{"name":"authz","active_revision":"git-1","last_successful_activation":"2026-11-24T10:00:00.5Z","last_successful_download":"2026-11-24T10:00:00.4Z",
		"last_successful_request":"` + request + `","last_request":"` + request + `"` + rest + `}}}`
}

func TestStatus(t *testing.T) {
	all, _, err := DecodeStatus([]byte(report("2026-11-24T10:00:00Z", "")))
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	e := all[0]
	evidencetest.RoundTrip(t, &e)
	if c := e.Act.Change; e.Event != evidence.EventConfigChange || c.Revision != "git-1" || c.Name != "authz" || c.Resource != "bundle" || e.Act.Outcome != "success" ||
		e.Reporter.Node != "opa-1" || e.Cluster != "east" || e.Start != 1795514400500000000 {
		t.Errorf("%+v %+v", e, e.Act)
	}
	// What has not changed is the same evidence.
	again, _, _ := DecodeStatus([]byte(report("2026-11-24T11:00:00Z", `,"metrics":{"timer":1}`)))
	if evidencetest.Render(&again[0]) != evidencetest.Render(&e) {
		t.Error("a repeated report is other evidence")
	}
	failed, _, err := DecodeStatus([]byte(report("2026-11-24T11:00:00Z", `,"code":"bundle_error","http_code":"500","message":"server replied with SECRET","errors":[{"message":"SECRET"}]`)))
	if err != nil || len(failed) != 2 || evidencetest.Render(&failed[0]) != evidencetest.Render(&e) {
		t.Fatalf("%+v, %v", failed, err)
	}
	f := failed[1]
	if f.Act.Outcome != "failure" || f.StatusDetail != "bundle_error" || f.Status != 500 || f.Position == e.Position || f.Act.Change.Revision != "" {
		t.Errorf("%+v %+v", f, f.Act)
	}
	for _, e := range failed {
		if got := evidencetest.Render(&e); strings.Contains(got, "SECRET") {
			t.Error(got)
		}
	}
	for in, n := range map[string]int{
		`{"labels":{"id":"a"}}`: 0,
		`{"labels":{"id":"a"},"bundles":{"b":{"last_successful_activation":"0001-01-01T00:00:00Z"}}}`:                                                      0,
		`{"labels":{"id":"a"},"bundle":{"name":"b","last_successful_activation":"2026-11-24T10:00:00Z"},"discovery":{"code":"x"},"decision_logs":{"a":1}}`: 2,
	} {
		if all, _, err := DecodeStatus([]byte(in)); err != nil || len(all) != n {
			t.Errorf("%s: %d, %v; want %d", in, len(all), err, n)
		}
	}
	many := `{"labels":{"id":"a"},"bundles":{"x":{"code":"c"}`
	for i := range 1000 {
		many += fmt.Sprintf(`,"b%d":{"code":"c"}`, i)
	}
	if all, _, err := DecodeStatus([]byte(many + "}}")); err != nil || len(all) != maxBundles {
		t.Errorf("%d, %v", len(all), err)
	}
}

func TestDropped(t *testing.T) {
	const in = `{"labels":{"id":"a"},"metrics":{"prometheus":{"counter_decision_logs_dropped_rate_limit_exceeded":3,"counter_decision_logs_nd_builtin_cache_dropped":9,
		"counter_decision_logs_dropped_buffer_size_limit_exceeded":2,"counter_decision_logs_encoding_failure":1,"decision_logs_dropped_rate_limit_exceeded_total":{"metric":[{"counter":{"value":3}}]}}}}`
	all, drops, err := DecodeStatus([]byte(in))
	if want := (Dropped{Node: "a", RateLimit: 3, Buffer: 2, Encoding: 1}); err != nil || len(all) != 0 || drops != want {
		t.Fatalf("%+v, %v", drops, err)
	}
	for name, tt := range map[string]struct {
		before, now Dropped
		want        []Loss
	}{
		"nothing new":          {drops, drops, nil},
		"since it was started": {Dropped{}, drops, []Loss{{DroppedRateLimit, 0, 3, 3}, {DroppedBuffer, 0, 2, 2}, {DroppedEncoding, 0, 1, 1}}},
		"by rate":              {Dropped{RateLimit: 3}, Dropped{RateLimit: 1 << 60}, []Loss{{DroppedRateLimit, 3, 1 << 60, 1<<60 - 3}}},
		"chunks":               {Dropped{Buffer: 1, Chunks: 1}, Dropped{Buffer: 4, Chunks: 4}, []Loss{{DroppedBuffer, 1, 4, 0}}},
	} {
		if got := tt.before.Losses(tt.now); !slices.Equal(got, tt.want) || tt.before.Restarted(tt.now) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if !drops.Restarted(Dropped{RateLimit: 9, Buffer: 2}) {
		t.Error("a counter that falls is a restart")
	}
}

func TestStatusRefuses(t *testing.T) {
	for in, want := range map[string]error{
		``: jsonscan.ErrSyntax, `[]`: errNoObject, `{"labels":{"id":"a"},"labels":{}}`: errDuplicate,
		`{"labels":{"id":"a"},"x":` + strings.Repeat("[", 10000) + strings.Repeat("]", 10000) + `}`: jsonscan.ErrDepth,
	} {
		if all, _, err := DecodeStatus([]byte(in)); !errors.Is(err, want) {
			t.Errorf("%.60s: %+v, %v; want %v", in, all, err, want)
		}
	}
	if _, _, err := DecodeStatus([]byte(`{"bundles":{}}`)); err == nil {
		t.Error("a report of nobody was accepted")
	}
}

func FuzzDecodeStatus(f *testing.F) {
	f.Add([]byte(report("2026-11-24T10:00:00Z", `,"code":"x","http_code":7`)))
	f.Add([]byte(`{"labels":{"id":1},"discovery":{"last_successful_activation":"2026-11-24T10:00:00Z"},"bundle":[]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		all, _, err := DecodeStatus(in)
		if err != nil {
			return
		}
		for i := range all {
			evidencetest.RoundTrip(t, &all[i])
		}
	})
}
