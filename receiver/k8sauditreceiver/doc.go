//go:generate go -C ../../internal/tools tool mdatagen ../../receiver/k8sauditreceiver/metadata.yaml

// Package k8sauditreceiver is the endpoint of the Kubernetes API server's audit
// webhook backend.
//
// The API server tries each batch of events five times, whatever the answer,
// over some four minutes if it is answered as here, and then drops it. So the receiver answers 2xx as soon
// as what came is sealed, whatever it was: events that cannot be decoded are
// sealed raw. It answers 503 only while the next consumer refuses for now; a
// repeated batch gives the same evidence again, which downstream is the same
// evidence id.
package k8sauditreceiver // import "github.com/meshaudit/meshaudit/receiver/k8sauditreceiver"
