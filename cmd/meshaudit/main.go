// Command meshaudit makes keys, verifies sealed logs and searches them; see
// docs/cli.md.
package main

import (
	"os"

	"github.com/meshaudit/meshaudit/internal/cli"
)

func main() { os.Exit(cli.Main()) }
