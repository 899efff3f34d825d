//go:build !race

package seal

const sweepStep = 1
