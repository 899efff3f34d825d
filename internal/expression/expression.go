// Package expression makes parsers of OTTL over log records. It is the one
// package beneath the components that names a type of the Collector, because
// OTTL wants its logger in one.
package expression

import (
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/ottl"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/ottl/contexts/ottllog"
	"go.opentelemetry.io/collector/component"
	"go.uber.org/zap"
)

// Record is the log record that an expression is about, and what it stands
// under.
type Record = *ottllog.TransformContext

// NewParser makes a parser that knows functions.
func NewParser(functions map[string]ottl.Factory[Record], logger *zap.Logger) (ottl.Parser[Record], error) {
	return ottllog.NewParser(functions, component.TelemetrySettings{Logger: logger})
}
