package correlate

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What amends a record is given when that is back, however many take, and what
// is refused comes again before it.
func TestOutboxKeepsTheOrderOfARecord(t *testing.T) {
	o := outbox{away: make(map[RecordID]bool)}
	record := func(id byte) *Record { return &Record{ID: RecordID{id}} }
	amends := func(id, of byte) *Record { return &Record{ID: RecordID{id}, Amends: RecordID{of}} }
	one, two, three := record(1), record(2), record(3)
	late, later := amends(11, 1), amends(12, 1)
	o.add([]draft{{record: one}, {record: two}, {record: late}, {record: three}, {record: later}})
	_, all := o.size()

	first, bytes := o.take(2)
	require.Equal(t, []*Record{one, two}, first)
	second, more := o.take(2)
	require.Equal(t, []*Record{three}, second, "the amendments wait")
	none, _ := o.take(2)
	require.Empty(t, none)
	_, held := o.size()
	require.Equal(t, all, held, "what is away counts")

	o.back(first, bytes, true)
	o.back(second, more, false)
	again, bytes := o.take(4)
	require.Equal(t, []*Record{one, two, late, later}, again)
	require.False(t, o.drop(), "what is away is not dropped")
	o.back(again, bytes, false)
	n, left := o.size()
	require.Zero(t, n)
	require.Zero(t, left)
	require.Empty(t, o.away)
}
