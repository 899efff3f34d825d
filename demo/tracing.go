package main

import (
	"context"
	"fmt"
	"net/http"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/credentials/insecure"
)

// tracing is one service's OpenTelemetry SDK: a server span for each call that
// it takes, a client span for each that it makes.
type tracing struct {
	provider *sdktrace.TracerProvider
	exportTo string
}

func startTracing(ctx context.Context, w workloadInfo, otlp string) (*tracing, error) {
	exporter, err := otlptracegrpc.New(ctx,
		otlptracegrpc.WithEndpoint(otlp),
		otlptracegrpc.WithTLSCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return &tracing{
		exportTo: otlp,
		provider: sdktrace.NewTracerProvider(
			sdktrace.WithBatcher(exporter),
			sdktrace.WithResource(resource.NewSchemaless(
				attribute.String("service.name", w.name),
				attribute.String("service.namespace", namespace),
				attribute.String("service.version", w.version),
				attribute.String("k8s.namespace.name", namespace),
				attribute.String("k8s.deployment.name", w.deployment()),
				attribute.String("k8s.pod.name", w.pod()),
			))),
	}, nil
}

func (t *tracing) options() []otelhttp.Option {
	return []otelhttp.Option{
		otelhttp.WithTracerProvider(t.provider),
		otelhttp.WithPropagators(propagation.TraceContext{}),
	}
}

// server traces the calls that an application's handler takes.
func (t *tracing) server(handler http.Handler) http.Handler {
	return otelhttp.NewHandler(handler, "", t.options()...)
}

// client traces the calls that an application makes. A call that repeats one
// says so on its span, see withResend.
func (t *tracing) client(next http.RoundTripper) http.RoundTripper {
	return otelhttp.NewTransport(roundTripperFunc(func(r *http.Request) (*http.Response, error) {
		if n, ok := r.Context().Value(resendKey{}).(int); ok {
			trace.SpanFromContext(r.Context()).SetAttributes(attribute.Int("http.request.resend_count", n))
		}
		return next.RoundTrip(r)
	}), t.options()...)
}

// close exports what is left.
func (t *tracing) close(ctx context.Context) error {
	if err := t.provider.ForceFlush(ctx); err != nil {
		return fmt.Errorf("export spans to %s: %w", t.exportTo, err)
	}
	return t.provider.Shutdown(ctx)
}

type resendKey struct{}

// withResend marks a call as the n-th repetition of an earlier one.
func withResend(ctx context.Context, n int) context.Context {
	return context.WithValue(ctx, resendKey{}, n)
}

type roundTripperFunc func(*http.Request) (*http.Response, error)

func (f roundTripperFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
