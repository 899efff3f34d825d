package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/plugins/bundle"
	"github.com/open-policy-agent/opa/v1/plugins/logs"
	"github.com/open-policy-agent/opa/v1/sdk"
)

//go:embed policy
var policyFiles embed.FS

// Where OPA fetches its policy and where it uploads its decisions.
const (
	bundleName          = "shop"
	bundleResource      = "/bundles/shop.tar.gz"
	decisionPath        = "mesh/authz/decision"
	decisionLogResource = "logs" // OPA's own default
)

// The two revisions of the shop's policy: the second one no longer lets orders
// be cancelled.
const (
	revisionCancelling   = "revision-1"
	revisionNoCancelling = "revision-2"
)

// bundleServer hands the current revision of the policy to every OPA.
type bundleServer struct {
	server *http.Server
	url    string
	served sync.WaitGroup

	current atomic.Pointer[policyBundle]
}

type policyBundle struct {
	revision string
	tarball  []byte
}

func startBundleServer(revision string) (*bundleServer, error) {
	b := &bundleServer{}
	if err := b.publish(revision); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b.url = "http://" + listener.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+bundleResource, func(w http.ResponseWriter, r *http.Request) {
		bundle := b.current.Load()
		w.Header().Set("Content-Type", "application/gzip")
		w.Header().Set("ETag", `"`+bundle.revision+`"`)
		// ServeContent answers 304 to an OPA that has this revision.
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(bundle.tarball))
	})
	b.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	b.served.Go(func() { _ = b.server.Serve(listener) })
	return b, nil
}

// publish makes revision the one that is served from now on.
func (b *bundleServer) publish(revision string) error {
	manifest, err := json.Marshal(map[string]any{"revision": revision, "roots": []string{"mesh", "rules"}})
	if err != nil {
		return err
	}
	rego, err := policyFiles.ReadFile("policy/shop.rego")
	if err != nil {
		return err
	}
	rules, err := policyFiles.ReadFile("policy/" + revision + ".json")
	if err != nil {
		return err
	}

	var buf bytes.Buffer
	zipped := gzip.NewWriter(&buf)
	archive := tar.NewWriter(zipped)
	for _, file := range []struct {
		name    string
		content []byte
	}{
		{"/.manifest", manifest},
		{"/data.json", rules},
		{"/shop.rego", rego},
	} {
		if err := archive.WriteHeader(&tar.Header{Name: file.name, Mode: 0o644, Size: int64(len(file.content))}); err != nil {
			return err
		}
		if _, err := archive.Write(file.content); err != nil {
			return err
		}
	}
	if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
		return err
	}
	b.current.Store(&policyBundle{revision: revision, tarball: buf.Bytes()})
	return nil
}

func (b *bundleServer) close() error {
	err := b.server.Close()
	b.served.Wait()
	return err
}

// policyAgent is the OPA beside one service.
type policyAgent struct {
	opa       *sdk.OPA
	logTo     string
	decisions atomic.Int64
}

// verdict is what the sidecar does with a request.
type verdict struct {
	decisionID string
	allowed    bool
	reason     string
}

func startPolicyAgent(ctx context.Context, w workloadInfo, bundles *bundleServer, logTo string) (*policyAgent, error) {
	config, err := json.Marshal(map[string]any{
		"services": map[string]any{
			"bundles": map[string]any{"url": bundles.url},
			"audit":   map[string]any{"url": logTo},
		},
		"labels": map[string]any{"app": w.name, "namespace": namespace, "pod": w.pod()},
		"bundles": map[string]any{bundleName: map[string]any{
			"service":  "bundles",
			"resource": bundleResource,
			"trigger":  "manual", // when the story says so, not by polling
		}},
		"decision_logs": map[string]any{
			"service":   "audit",
			"resource":  decisionLogResource,
			"reporting": map[string]any{"min_delay_seconds": 1, "max_delay_seconds": 2},
		},
	})
	if err != nil {
		return nil, err
	}
	// What OPA would print, the demo learns from the plugins' own answers.
	ready := make(chan struct{})
	opa, err := sdk.New(ctx, sdk.Options{
		Config:        bytes.NewReader(config),
		Logger:        logging.NewNoOpLogger(),
		ConsoleLogger: logging.NewNoOpLogger(),
		Ready:         ready,
	})
	if err != nil {
		return nil, fmt.Errorf("start OPA: %w", err)
	}
	p := &policyAgent{opa: opa, logTo: logTo}
	if err := p.update(ctx); err != nil {
		opa.Stop(context.Background())
		return nil, fmt.Errorf("fetch the policy: %w", err)
	}
	select {
	case <-ready:
		return p, nil
	case <-ctx.Done():
		opa.Stop(context.Background())
		return nil, fmt.Errorf("wait for the policy: %w", ctx.Err())
	}
}

// decide asks the policy about one request. input has the shape that Envoy's
// external authorization gives to OPA.
func (p *policyAgent) decide(ctx context.Context, input any) (verdict, error) {
	result, err := p.opa.Decision(ctx, sdk.DecisionOptions{Path: decisionPath, Input: input})
	if err != nil {
		return verdict{}, fmt.Errorf("ask the policy: %w", err)
	}
	p.decisions.Add(1)
	answer, _ := result.Result.(map[string]any)
	allowed, ok := answer["allowed"].(bool)
	if !ok {
		return verdict{}, fmt.Errorf("ask the policy: %s gives no verdict: %v", decisionPath, result.Result)
	}
	reason, _ := answer["reason"].(string)
	return verdict{decisionID: result.ID, allowed: allowed, reason: reason}, nil
}

// update fetches and activates the newest bundle.
func (p *policyAgent) update(ctx context.Context) error {
	plugin, ok := p.opa.Plugin(bundle.Name).(*bundle.Plugin)
	if !ok {
		return errors.New("OPA runs without its bundle plugin")
	}
	return plugin.Trigger(ctx)
}

// close uploads the decisions that OPA has not uploaded yet and stops OPA.
func (p *policyAgent) close(ctx context.Context) error {
	err := p.flush(ctx)
	if err != nil {
		// Without a deadline OPA stops at once, rather than to try until it
		// has passed.
		ctx = context.Background()
	}
	p.opa.Stop(ctx)
	return err
}

// flushAttempts and flushPause are how long an upload that fails is repeated:
// a collector may be busy for a moment.
const (
	flushAttempts = 5
	flushPause    = time.Second
)

func (p *policyAgent) flush(ctx context.Context) error {
	plugin, ok := p.opa.Plugin(logs.Name).(*logs.Plugin)
	if !ok {
		return errors.New("OPA runs without its decision log plugin")
	}
	for attempt := 1; ; attempt++ {
		err := plugin.Trigger(ctx)
		if err == nil {
			return nil
		}
		if attempt == flushAttempts {
			return fmt.Errorf("upload decisions to %s: %w", p.logTo, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("upload decisions to %s: %w", p.logTo, err)
		case <-time.After(flushPause):
		}
	}
}
