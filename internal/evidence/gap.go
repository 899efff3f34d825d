package evidence

// A Gap states that evidence is known to be lost before it could be sealed. It
// is sealed itself, so that what is missing can be seen later.
type Gap struct {
	Source       Source
	Reporter     Reporter // whose evidence is lost
	Position     string   // unique; the same when the gap is offered again
	Reason       string
	Count        int64 // of entries or events; 0: unknown
	Since, Until int64 // unix nanoseconds of the first and the last loss
}

// A Raw is what could not be decoded: sealed all the same, redacted and
// bounded.
type Raw struct {
	Source   Source
	Reporter Reporter
	Text     string // what came, redacted; "": nothing of it can be shown
	Redacted int    // number of values that were replaced in Text
	Error    string // why it could not be decoded
	SHA256   string // hex, of what came, as far as it was read
}
