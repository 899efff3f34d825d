// Package meshauditconnector is internal/clerk between pipelines: evidence of
// any number of pipelines goes to those that seal it, and records, derived from
// what they took, to pipelines of their own.
package meshauditconnector

//go:generate go -C ../../internal/tools tool mdatagen ../../connector/meshauditconnector/metadata.yaml
