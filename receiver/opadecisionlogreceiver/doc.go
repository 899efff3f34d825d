//go:generate go -C ../../internal/tools tool mdatagen ../../receiver/opadecisionlogreceiver/metadata.yaml

// Package opadecisionlogreceiver is the endpoint that OPA's decision_logs
// plugin uploads to, and its status plugin reports to.
//
// OPA repeats every upload that is not answered 2xx, in order, without end,
// from a buffer without a limit. So the receiver answers 2xx as soon as what
// came is sealed, whatever it was: events that cannot be decoded are sealed
// raw. It answers 503 only while the next consumer refuses for now; a repeated
// upload gives the same evidence again, which downstream is the same evidence
// id.
package opadecisionlogreceiver // import "github.com/meshaudit/meshaudit/receiver/opadecisionlogreceiver"
