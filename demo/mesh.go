package main

import (
	"context"
	"errors"
	"os"
)

// mesh is everything that runs: the authority, the policy's bundle server and
// the services.
type mesh struct {
	reportTo  endpoints
	socketDir string
	authority *authority
	bundles   *bundleServer

	*shop
	services []*service // in the order of the calls: callers first
}

func startMesh(ctx context.Context, to endpoints) (_ *mesh, err error) {
	m := &mesh{reportTo: to}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close(ctx))
		}
	}()
	if m.socketDir, err = os.MkdirTemp("", "shop"); err != nil {
		return nil, err
	}
	if m.authority, err = newAuthority(); err != nil {
		return nil, err
	}
	if m.bundles, err = startBundleServer(revisionCancelling); err != nil {
		return nil, err
	}
	for _, w := range []workloadInfo{
		{name: "gateway", version: "v1", podHash: "6d5f7c9b8-2xk4p"},
		{name: "frontend", version: "v4", podHash: "74b8d6f5c-q9zlm"},
		{name: "orders", version: "v2", podHash: "5c7d9f8b6-h8vwn"},
		{name: "payments", version: "v7", podHash: "86f4c5d7b-t5rjs"},
	} {
		s, err := startService(ctx, m, w, w.name == "gateway")
		if err != nil {
			return nil, err
		}
		m.services = append(m.services, s)
	}
	for _, caller := range m.services {
		for _, callee := range m.services {
			if caller != callee && callee.name != "gateway" {
				caller.sidecar.addPeer(callee.workloadInfo, callee.address)
			}
		}
	}
	m.shop = openShop(m.services[0], m.services[1], m.services[2], m.services[3])
	return m, nil
}

// setPolicy publishes a revision of the policy and waits until every service's
// OPA has it.
func (m *mesh) setPolicy(ctx context.Context, revision string) error {
	if err := m.bundles.publish(revision); err != nil {
		return err
	}
	for _, s := range m.services {
		if err := s.policy.update(ctx); err != nil {
			return err
		}
	}
	return nil
}

// close ends the mesh in the order of the calls, so that none is cut off, and
// delivers every report.
func (m *mesh) close(ctx context.Context) error {
	var errs []error
	for _, s := range m.services {
		errs = append(errs, s.stop(ctx))
	}
	closed := make(chan error)
	for _, s := range m.services {
		go func() { closed <- s.close(ctx) }()
	}
	for range m.services {
		errs = append(errs, <-closed)
	}
	if m.bundles != nil {
		errs = append(errs, m.bundles.close())
	}
	return errors.Join(append(errs, os.RemoveAll(m.socketDir))...)
}

// accessLogEntries counts what the sidecars sent.
func (m *mesh) accessLogEntries() int {
	n := 0
	for _, s := range m.services {
		n += s.sidecar.log.entries
	}
	return n
}

// decisions counts what the policy was asked.
func (m *mesh) decisions() int {
	n := 0
	for _, s := range m.services {
		n += int(s.policy.decisions.Load())
	}
	return n
}
