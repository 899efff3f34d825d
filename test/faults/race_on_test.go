//go:build race

package faults_test

// sampled: with the race detector everything takes ten times as long.
const sampled = 60
