// Package observe checks what is shipped to watch the collector with.
package observe

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// The dashboard and the alert rules ask for metrics and attribute values that the
// components have, and the dashboard shows all that the processor and the connector
// measure. That the alerts fire is tested in test/alerts.
func TestMetricsExist(t *testing.T) {
	type metadata struct {
		Attributes map[string]struct{ Enum []string }
		Telemetry  struct{ Metrics map[string]any }
	}
	metrics, values := map[string]bool{}, map[string]bool{} // values: ATTRIBUTE=VALUE
	files, err := filepath.Glob("../../../*/*/metadata.yaml")
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var m metadata
		if err := yaml.Unmarshal(b, &m); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		for name := range m.Telemetry.Metrics {
			metrics[name] = true
		}
		for name, a := range m.Attributes {
			for _, v := range a.Enum {
				values[name+"="+v] = true
			}
		}
	}
	var expressions []string
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	b, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			expressions = append(expressions, target.Expr)
		}
	}
	for name := range metrics {
		if strings.HasPrefix(name, "meshaudit_") && !strings.Contains(strings.Join(expressions, "\n"), "otelcol_"+name+"(") {
			t.Errorf("%s is on no panel", name)
		}
	}
	var alerts struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if b, err = os.ReadFile("alerts.yaml"); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(b, &alerts); err != nil {
		t.Fatal(err)
	}
	for _, g := range alerts.Groups {
		for _, r := range g.Rules {
			expressions = append(expressions, r.Expr)
		}
	}
	if len(expressions) < 20 {
		t.Fatalf("only %d expressions were found", len(expressions))
	}
	selector := regexp.MustCompile(`otelcol_([a-z_]+?)(\([a-z_|]+\))?(\(_total\)\?|\(_seconds\)\?_bucket)"`)
	attribute := regexp.MustCompile(`\b([a-z_]+)=~?"([a-z_|]+)"`)
	for _, e := range expressions {
		found := selector.FindAllStringSubmatch(e, -1)
		if len(found) == 0 {
			t.Errorf("no metric of ours in %s", e)
		}
		for _, f := range found {
			names := []string{f[1]}
			if f[2] != "" {
				names = nil
				for n := range strings.SplitSeq(strings.Trim(f[2], "()"), "|") {
					names = append(names, f[1]+n)
				}
			}
			for _, n := range names {
				if !metrics[n] {
					t.Errorf("%s is asked for, and no component has it: %s", n, e)
				}
			}
		}
		for _, f := range attribute.FindAllStringSubmatch(e, -1) {
			for v := range strings.SplitSeq(f[2], "|") {
				if !values[f[1]+"="+v] {
					t.Errorf("no %s=%s: %s", f[1], v, e)
				}
			}
		}
	}
}
