//go:build !race

package faults_test

// sampled is the step of a sweep that is not whole.
const sampled = 6
