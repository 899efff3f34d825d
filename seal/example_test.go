package seal_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/meshaudit/meshaudit/seal"
)

// A writer seals a request; whoever has the trust file verifies the store.
func Example() {
	dir, err := os.MkdirTemp("", "sealed")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	keys, store := filepath.Join(dir, "keys"), filepath.Join(dir, "store")
	const origin = "example.org/meshaudit/edge-0"

	// Once: the writer's keys, and an auditor's.
	if _, err := seal.CreateWriterKeys(keys, origin); err != nil {
		log.Fatal(err)
	}
	auditor, err := seal.CreateAuditorKey(keys, "x25519")
	if err != nil {
		log.Fatal(err)
	}
	logKey, err := seal.ReadLogKey(filepath.Join(keys, seal.LogKeyFile))
	if err != nil {
		log.Fatal(err)
	}

	w, err := seal.Open(seal.Config{
		Root: store, Origin: origin, LogKey: logKey, Auditors: []seal.Recipient{auditor},
		Chain: seal.ChainFile{FS: seal.OS, Path: filepath.Join(keys, seal.ChainKeyFile)},
	})
	if err != nil {
		log.Fatal(err)
	}
	// An ExportLogsServiceRequest with one empty log record.
	request := []byte{0x0a, 4, 0x12, 2, 0x12, 0}
	if err := w.Append(context.Background(), seal.SignalLogs, request); err != nil {
		log.Fatal(err)
	}
	if err := w.Close(context.Background()); err != nil {
		log.Fatal(err)
	}

	trust, err := seal.ReadTrust(filepath.Join(keys, seal.TrustFile))
	if err != nil {
		log.Fatal(err)
	}
	report, err := seal.Verify(context.Background(), store, seal.VerifyOptions{Trust: trust})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("exit code", report.ExitCode(), "records", report.Logs[0].Records)
	// Output: exit code 0 records 1
}
