// Package sealedlogexporter writes what it is given into a sealed log: every
// request is durable and under a signed checkpoint before it is acknowledged.
// Package seal is the format and the writer; here is its collector face.
package sealedlogexporter

//go:generate go -C ../../internal/tools tool mdatagen ../../exporter/sealedlogexporter/metadata.yaml
