// Package meshauditprocessor is the Collector's face of internal/clerk: it
// redacts and names evidence on its way to the exporter, and derives audit
// records from what the exporter took.
package meshauditprocessor

//go:generate go -C ../../internal/tools tool mdatagen ../../processor/meshauditprocessor/metadata.yaml
