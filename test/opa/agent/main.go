// Command agent is OPA, by its SDK, for the test one folder up: it makes the
// decisions that it is asked for and uploads its decision log. It is a program
// and a module of its own because OPA and the Collector need two versions of
// one library that cannot be in one binary.
//
//	agent URL TOKEN [DECISIONS-PER-SECOND]
//	agent config
//
// Each line on standard input, PATH SP METHOD, asks for a decision; its id is
// printed. The line break stops the server of its bundles. At the end of the
// input it stops. With config the input is OPA's configuration, and what is wrong
// with it fails.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"

	"github.com/open-policy-agent/opa/v1/config"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/plugins/logs"
	"github.com/open-policy-agent/opa/v1/plugins/status"
	"github.com/open-policy-agent/opa/v1/sdk"
	sdktest "github.com/open-policy-agent/opa/v1/sdk/test"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
)

const policy = `package mesh.authz

default allow := false

allow if {
	input.attributes.source.principal == "spiffe://example.org/ns/shop/sa/frontend"
	input.attributes.request.http.method == "GET"
}

reason := "identity not permitted" if not allow

undefined_rule if input.never
`

const mask = `package system.log

mask contains "/input/attributes/request/http/headers/authorization"
`

func main() {
	log.SetFlags(0)
	if len(os.Args) == 2 && os.Args[1] == "config" {
		if err := checkConfig(os.Stdin); err != nil {
			log.Fatalf("configuration: %v", err)
		}
		return
	}
	if len(os.Args) < 3 || len(os.Args) > 4 {
		log.Fatal("usage: agent URL TOKEN [DECISIONS-PER-SECOND]")
	}
	limit := ""
	if len(os.Args) == 4 {
		limit = ", max_decisions_per_second: " + os.Args[3]
	}
	if err := run(os.Args[1], os.Args[2], limit); err != nil {
		log.Fatalf("agent: %v", err)
	}
}

func run(url, token, limit string) error {
	ctx := context.Background()
	bundles := sdktest.MustNewServer(sdktest.MockBundle("/bundles/authz.tar.gz", map[string]string{
		"authz.rego": policy, "mask.rego": mask, ".manifest": `{"revision":"git-abc123"}`,
	}))
	defer bundles.Stop()
	configuration := fmt.Sprintf(`
services:
  bundles: {url: %q}
  audit: {url: %q, credentials: {bearer: {token: %q}}}
bundles:
  authz: {service: bundles, resource: /bundles/authz.tar.gz, polling: {min_delay_seconds: 1, max_delay_seconds: 1}}
decision_logs: {service: audit, reporting: {min_delay_seconds: 1, max_delay_seconds: 1%s}}
status: {service: audit}
labels: {cluster: east}
`, bundles.URL(), url, token, limit)
	opa, err := sdk.New(ctx, sdk.Options{ID: "opa-test", Config: strings.NewReader(configuration)})
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	defer opa.Stop(ctx)

	// OPA as a server counts; its SDK only if it is told to.
	counters := metrics.New()
	opa.Plugin(logs.Name).(*logs.Plugin).WithMetrics(counters)
	opa.Plugin(status.Name).(*status.Plugin).WithMetrics(counters)

	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if in.Text() == "break" {
			bundles.Stop()
			fmt.Println("broken")
			continue
		}
		path, method, _ := strings.Cut(in.Text(), " ")
		result, err := opa.Decision(ctx, sdk.DecisionOptions{Path: path, Input: input(method)})
		if err != nil && !sdk.IsUndefinedErr(err) {
			return fmt.Errorf("decide %s: %w", path, err)
		}
		fmt.Println(result.ID)
	}
	return in.Err()
}

func checkConfig(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	c, err := config.ParseConfig(raw, "opa-test")
	if err != nil {
		return err
	}
	if len(c.Warnings) > 0 {
		return fmt.Errorf("%q", c.Warnings)
	}
	manager, err := plugins.New(raw, "opa-test", inmem.New())
	if err != nil {
		return err
	}
	logging, err := logs.ParseConfig(c.DecisionLogs, manager.Services(), nil)
	if err != nil {
		return err
	}
	reporting, err := status.ParseConfig(c.Status, manager.Services(), nil)
	if err != nil {
		return err
	}
	if logging == nil || logging.Service == "" || reporting == nil || reporting.Service == "" {
		return errors.New("decisions or status go to no service")
	}
	return nil
}

func input(method string) any {
	return map[string]any{"attributes": map[string]any{
		"source": map[string]any{"principal": "spiffe://example.org/ns/shop/sa/frontend"},
		"request": map[string]any{"http": map[string]any{
			"id": "13359530607844510314", "method": method, "path": "/orders/1?token=SECRET", "host": "orders",
			"headers": map[string]any{"authorization": "Bearer SECRET", "x-request-id": "r1"},
		}},
	}}
}
