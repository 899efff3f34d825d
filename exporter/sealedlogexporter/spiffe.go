package sealedlogexporter

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// SPIFFEConfig says from where the writer has its SPIFFE identity.
type SPIFFEConfig struct {
	// WorkloadAPI is the address of the SPIFFE Workload API, e.g.
	// unix:///run/spire/agent.sock. The writer's SVID then vouches for its
	// log key in every epoch. Default: none.
	WorkloadAPI string `mapstructure:"workload_api"`
}

func (c *SPIFFEConfig) validate() error {
	if c.WorkloadAPI == "" {
		return nil
	}
	return workloadapi.ValidateAddress(c.WorkloadAPI)
}

// firstSVIDTimeout bounds how long a start waits for the Workload API. A variable for tests.
var firstSVIDTimeout = 30 * time.Second

// identity is a writer's identity, kept up to date by the Workload API.
type identity struct{ source *workloadapi.X509Source }

func (c *SPIFFEConfig) connect(ctx context.Context) (*identity, error) {
	ctx, cancel := context.WithTimeout(ctx, firstSVIDTimeout)
	defer cancel()
	s, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(c.WorkloadAPI)))
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no SVID within %v: %w; does the agent run, and is this workload registered?", firstSVIDTimeout, err)
		}
		return nil, fmt.Errorf("`spiffe::workload_api` %s: %w", c.WorkloadAPI, err)
	}
	return &identity{s}, nil
}

// SVID is the identity at the moment.
func (i *identity) SVID() ([]*x509.Certificate, crypto.Signer, error) {
	s, err := i.source.GetX509SVID()
	if err != nil {
		return nil, nil, err
	}
	return s.Certificates, s.PrivateKey, nil
}

func (i *identity) close() error {
	if i == nil {
		return nil
	}
	return i.source.Close()
}
