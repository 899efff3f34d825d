package clerk

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/meshaudit/meshaudit/internal/evidence"
)

func TestRouteOfWhatIsNotUnderstood(t *testing.T) {
	assert.Equal(t, "02000000000000000000000000000000", routeOf(&evidence.Evidence{RequestID: "r"}, pcommon.TraceID{2}))
}
