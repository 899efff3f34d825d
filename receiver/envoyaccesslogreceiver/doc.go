//go:generate go -C ../../internal/tools tool mdatagen ../../receiver/envoyaccesslogreceiver/metadata.yaml

// Package envoyaccesslogreceiver takes Envoy's access logs over its gRPC access
// log service, version 3.
//
// It promises that an entry which it read is either accepted by the next
// consumer or counted in a mesh.evidence.gap record that is. Envoy expects no
// answer and sends nothing twice, so the receiver itself offers a refused
// message again and meanwhile reads nothing more of its stream. What Envoy
// drops before sending it cannot see.
package envoyaccesslogreceiver // import "github.com/meshaudit/meshaudit/receiver/envoyaccesslogreceiver"
