//go:build race

package seal

// sweepStep: with the race detector, which makes everything ten times slower,
// sweeps take every 23rd step. make test runs them whole without it.
const sweepStep = 23
