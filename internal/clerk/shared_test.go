package clerk

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"go.uber.org/zap"
)

// observed is a component's telemetry.
type observed struct{ shutdowns int }

func (*observed) RegisterMeshauditDuplicatesCallback(metric.Int64Callback) error      { return nil }
func (*observed) RegisterMeshauditForgottenCallback(metric.Int64Callback) error       { return nil }
func (*observed) RegisterMeshauditLeftEarlyCallback(metric.Int64Callback) error       { return nil }
func (*observed) RegisterMeshauditMaxPendingCallback(metric.Int64Callback) error      { return nil }
func (*observed) RegisterMeshauditMaxPendingBytesCallback(metric.Int64Callback) error { return nil }
func (*observed) RegisterMeshauditPendingCallback(metric.Int64Callback) error         { return nil }
func (*observed) RegisterMeshauditPendingBytesCallback(metric.Int64Callback) error    { return nil }
func (*observed) RegisterMeshauditRecordsDroppedCallback(metric.Int64Callback) error  { return nil }
func (*observed) RegisterMeshauditUnjoinedCallback(metric.Int64Callback) error        { return nil }
func (o *observed) Shutdown()                                                         { o.shutdowns++ }

func newClerk(o *observed, change func(*Config)) (*Clerk, error) {
	cfg := DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	var n noop.Int64Counter
	return New(Setup{
		Config: &cfg, Logger: zap.NewNop(), Permanent: func(error) bool { return false },
		Telemetry: Telemetry{n, n, n, n, n, n, n, n, n, n, n, noop.Float64Histogram{}, o},
	})
}

func TestShared(t *testing.T) {
	var shared Shared
	var a, b Face
	var o observed
	make := func() (*Clerk, error) { return newClerk(&o, nil) }

	a.Close() // never open
	_, err := a.Clerk()
	require.ErrorIs(t, err, ErrStopped)
	_, err = a.Open(&shared, func() (*Clerk, error) { return nil, errors.New("no") })
	require.Error(t, err)
	a.Close()

	for range 2 { // and once more, as after a reload with the same configuration
		first, err := a.Open(&shared, make)
		require.NoError(t, err)
		second, err := b.Open(&shared, make)
		require.NoError(t, err)
		require.Same(t, first, second)
		before := o.shutdowns
		a.Close()
		a.Close()
		require.Equal(t, before, o.shutdowns)
		_, err = a.Clerk()
		require.ErrorIs(t, err, ErrStopped)
		c, err := b.Clerk()
		require.NoError(t, err)
		require.Same(t, first, c)
		b.Close()
		require.Equal(t, before+1, o.shutdowns)
	}
}

// What fails leaves no instruments behind.
func TestNewFails(t *testing.T) {
	var o observed
	_, err := newClerk(&o, func(cfg *Config) { cfg.Identity.XFCCTrusted = []string{""} })
	require.Error(t, err)
	require.Equal(t, 1, o.shutdowns)
}
