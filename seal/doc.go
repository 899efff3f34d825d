// Package seal is the sealed log, format v1: a log that shows every change, cut
// and reordering to someone who trusts only a few public bytes.
//
// A [Writer] appends OTLP requests. Append returns when the request is on the
// disk, chained with an HMAC whose key is then forgotten, and under a signed
// Merkle checkpoint; an acknowledged record is not lost, and what was sealed
// cannot be forged later, not even with the writer's own keys. [Verify] proves
// a store against a [Trust] file, and with an auditor's key replays the HMAC
// chain too. [Log] reads, [Log.Prove] and [CheckProof] prove one record offline.
//
// The package refuses what it does not understand: every parser accepts one
// canonical form, checks lengths before it allocates, and names the place of
// what is wrong. It keeps a crash apart from tampering, and never writes on
// after a failed fsync.
//
// docs/sealed-log.md is the format. It is implemented here, top to bottom:
//
//	header.go, parse.go   a frame's header text, written and strictly read
//	otlp.go, filter.go    records within an OTLP request, what is indexed of them
//	batch.go              records to a batch entry and back
//	chain.go, escrow.go   the HMAC chain, its keys for auditors
//	tree.go, checkpoint.go  RFC 6962 tree, C2SP tiles, signed checkpoints
//	writer.go, commit.go  group commit; the end of the log
//	recover.go            what a crash or a failed fsync left
//	maintain.go           epochs that end, retention
//	erase.go              records taken out, the rest still proven
//	publish.go            checkpoint file and tiles
//	frame.go, log.go      reading
//	verify.go, verifyerase.go, verifyfiles.go, report.go, accepted.go  verification
//	prove.go              proofs of single records
//
// It imports the standard library, golang.org/x/mod/sumdb and a zstd package,
// so that an auditor can vendor it.
package seal
