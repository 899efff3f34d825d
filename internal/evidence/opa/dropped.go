package opa

// Dropped is what one OPA counts of decisions that it made and will never
// upload, since it was started.
type Dropped struct {
	Node      string // labels.id
	RateLimit uint64 // max_decisions_per_second
	// Buffer counts whatever was pushed out of a full buffer, decisions if the
	// buffer is of events; Chunks those of them that were chunks of decisions.
	Buffer, Chunks uint64
	Encoding       uint64 // larger than upload_size_limit_bytes, mostly
}

// Reasons of gaps.
const (
	DroppedRateLimit = "dropped_rate_limit"
	DroppedBuffer    = "dropped_buffer_full"
	DroppedEncoding  = "dropped_encoding_failure"
)

// counter is where a report's counter of that name goes, nil if nowhere.
func (d *Dropped) counter(name []byte) *uint64 {
	switch string(name) {
	case "counter_decision_logs_dropped_rate_limit_exceeded", "counter_decision_logs_dropped": // as it was once named
		return &d.RateLimit
	case "counter_decision_logs_dropped_buffer_size_limit_exceeded":
		return &d.Buffer
	case "counter_decision_logs_dropped_buffer_size_limit_bytes_exceeded":
		return &d.Chunks
	case "counter_decision_logs_encoding_failure":
		return &d.Encoding
	}
	return nil
}

// Restarted tells whether now is of another process than before: it counts
// less.
func (d *Dropped) Restarted(now Dropped) bool {
	return now.RateLimit < d.RateLimit || now.Buffer < d.Buffer || now.Chunks < d.Chunks || now.Encoding < d.Encoding
}

// A Loss is a counter that grew.
type Loss struct {
	Reason    string
	From, To  uint64 // what the counter was and is
	Decisions uint64 // at the least; 0: it is not known how many
}

// Losses are what was dropped between two reports of one process.
func (d *Dropped) Losses(now Dropped) []Loss {
	var all []Loss
	add := func(reason string, from, to, decisions uint64) {
		if to > from {
			all = append(all, Loss{reason, from, to, decisions})
		}
	}
	add(DroppedRateLimit, d.RateLimit, now.RateLimit, now.RateLimit-d.RateLimit)
	// A buffer of chunks raises both counters.
	if now.Chunks > d.Chunks {
		add(DroppedBuffer, d.Chunks, now.Chunks, 0)
	} else {
		add(DroppedBuffer, d.Buffer, now.Buffer, now.Buffer-d.Buffer)
	}
	add(DroppedEncoding, d.Encoding, now.Encoding, now.Encoding-d.Encoding)
	return all
}
