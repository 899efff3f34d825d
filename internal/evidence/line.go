package evidence

import (
	"errors"
	"fmt"
)

// An Origin is what a collector knows of where a line came from, beside what
// the line says. Its fields may all be empty.
type Origin struct {
	Workload Workload // of the pod whose log it is
	Cluster  string
	Time     int64 // unix nanoseconds; when it was written, or else read
}

// A Decoder appends the evidence that one line (one record's body) holds to
// dst. It is called by several goroutines at once and must not keep line. What
// it refuses is none of the source's evidence (ErrNotEvidence), is broken
// (ErrMalformed), or tells of what was lost (a Loss); all are sealed without their
// content. It leaves Position
// empty unless the line holds one.
type Decoder func(dst []Evidence, from *Origin, line []byte) ([]Evidence, error)

// MaxLine bounds a line, in bytes. file_log cuts lines at 1 MiB by default.
const MaxLine = 1 << 20

// Why a line gives no evidence.
var (
	ErrNotEvidence = errors.New("not evidence of this source")
	ErrMalformed   = errors.New("malformed")
	ErrTooLong     = fmt.Errorf("longer than %d bytes", MaxLine)
)

// A Loss is why a line gives no evidence that tells of evidence which its source
// has lost. Reporter, Reason, Count, Since and Until are the decoder's to say.
type Loss struct{ Gap }

func (l *Loss) Error() string { return "tells of lost events: " + l.Reason }

// RefusedLoss is the name by which a Loss is counted.
const RefusedLoss = "loss"

// RefusalReason is the name by which a refusal is counted.
func RefusalReason(err error) string {
	var loss *Loss
	switch {
	case errors.As(err, &loss):
		return RefusedLoss
	case errors.Is(err, ErrNotEvidence):
		return "not_evidence"
	case errors.Is(err, ErrTooLong):
		return "too_long"
	}
	return "malformed"
}
