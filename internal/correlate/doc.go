// Package correlate turns evidence into audit records: one record for each
// action on one hop (caller to callee), whatever number of reporters saw it.
//
// It promises that
//
//   - every final statement about a call is cited by a record, an amendment,
//     or both attempts of a retry, and never by nothing, as long as the
//     correlator's bounds hold; what the bounds push out is counted;
//   - a record, once out, is never changed: later evidence gives an amendment
//     that cites it;
//   - which pieces join does not depend on the order in which they arrived,
//     as long as they arrived before the record left (the naive model in
//     model_test.go is the specification of that);
//   - the same evidence gives the same record id, and a resend changes nothing.
//
// It refuses nothing for being full: at its bounds the oldest actions leave
// early, as partial. It knows no collector, no pdata and no wall clock: time is
// an argument.
//
// # What one action is
//
// An action has at most one of each: the callee's access log, the callee
// proxy's span, the callee application's span, and the same three for the
// caller; and the decisions made about it.
//
//	caller app span -> caller proxy span -> callee proxy span -> callee app span
//	                   caller access log    callee access log
//
// An access log names its proxy's own span, so both stand on one node of the
// trace. Two reports for one callee place are two actions: a retry. The
// caller's statements attest all attempts that they cover and the record of
// each attempt cites them. From a server span to a client span beneath it is the
// next hop; client spans beside each other are never one action.
//
// What joins what:
//
//	tier         pieces                                found by             must agree
//	decision_id  the callee's log, its decision        decision id
//	span         those on one node of a trace, the     trace and span id    method, path; see below
//	             caller's on the node above
//	stream       one proxy's logs of one request       stream id            the proxy
//	request      the caller's log, the callee's log,   request or trace id, parties, time
//	             or its proxy's span; a decision       method, path
//	connection   both sides' reports                   both addresses,      parties, ports, time
//	                                                   source port
//
// A span id is an exact identifier only where its proxy or application made it. One
// that a log was merely told of may be that of a whole tree of calls; there the
// pieces must agree on method, path and parties as well.
//
// How well reports without spans fit is one scale (fit): well; roughly, the same
// identities at other addresses; perhaps, one party told by another address only. What is
// of one request id comes before all that, and what tells of another one, or of another
// connection, behind what fits as well (bond). Those
// that fit best are candidates, and the nearest in time of them is taken. Alike calls,
// each of whose reports fits each, are shared out so that their times differ evenly, also
// where one span leads to all.
// Of a connection each report must be the other's nearest.
//
// Joins take the best there is. What speaks against one is asked after (doubt.go): a join
// that may be wrong is marked ambiguous, also when what speaks against it comes after the
// record has left. Only what two calls leave that nobody could tell from one call's is
// not (TestLookalike).
//
// What an observer reports (a configuration change, an operator's action, an
// issued identity) is no call: it joins only with other stages of the same
// event, which share its stream id, and waits for nothing else.
//
// # The life of a piece
//
//	Add ──▶ waiting ──settle──▶ complete? ──▶ left ──late window──▶ forgotten
//	            └─────────────window─────────────▶ left (complete or partial)
//
// All pieces stand in one queue in order of arrival. Three cursors move along
// it with time: a piece is looked at when it has settled, at its deadline, which bounds
// and Flush bring forward, and when it is forgotten. There are no timers and no heap.
// A piece that has left keeps its keys, so that late evidence finds the record to amend;
// its content it keeps until its deadline, for the record of another attempt to cite. An
// interim report makes no record: past its deadline it waits, with its content, for the
// final one.
//
// A piece that has settled or is due leads to its actions (leads), each of which is
// gathered anew from all that is known (gather) and, if the expectation is met or the
// time is over, leaves (leave): as a record the first time, then as amendments. Each says
// the state anew:
//
//	ambiguous  something speaks against a join
//	partial    else, if something expected is not there
//	complete   else
//
// # A pass
//
// Add hashes and packs evidence, which needs no lock, and puts it into an inbox.
// Whoever then finds nobody at work makes a pass over all that is in the inbox;
// the others go. A pass goes in steps, and in a step as many workers as there are
// cores share the pieces: there are no locks, but in each step whatever is
// written has one writer (pass.go says which). What comes out is what one worker
// makes of one piece after the other.
//
// To read it top to bottom: what one calls (correlator.go, known.go, sharded.go), a piece and its keys
// (piece.go, packed by codec.go), the queue and the index in which it stands (queue.go,
// index.go), a pass (inbox.go, pass.go, parallel.go, outlook.go), what two pieces say of
// each other (compare.go), who else may be of a piece's call (nearest.go), what belongs to
// an action (join.go, decisions.go) and what speaks against that (doubt.go), the way back
// from a piece to its actions (leads.go), how a record leaves, is written and handed on
// (leave.go, write.go, record.go, upshot.go, outbox.go), what is kept of it (action.go,
// initiator.go).
//
// # Cost
//
// A piece costs the same however much is pending: chains of pieces under one key
// are cut at maxChain, after which the joins that rest on that key are ambiguous;
// nothing that is pending holds a pointer, so the garbage collector does not look
// at it. Keys are 64-bit seeded hashes; trace, span and evidence ids are compared
// exactly behind them.
package correlate
