package evidence

import "github.com/meshaudit/meshaudit/internal/semconv"

// A Reporter is what a receiver of this process saw of its peer. Receivers put
// it into the request's context as the client's auth data (the two methods
// make it the Collector's client.AuthData without importing that package);
// that is the only way in which reporter attributes are believed.

// GetAttribute returns the reporter's value for one of the
// mesh.evidence.reporter.* names, nil for any other name: a string, or a bool
// for semconv.EvidenceReporterAuthenticated.
func (r Reporter) GetAttribute(name string) any {
	switch name {
	case semconv.EvidenceReporterSPIFFEID:
		return r.SPIFFEID.String()
	case semconv.EvidenceReporterAuthenticated:
		return r.Authenticated
	case semconv.EvidenceReporterAddress:
		return r.Address
	case semconv.EvidenceReporterCertSHA256:
		return r.CertSHA256
	case semconv.EvidenceReporterNode:
		return r.Node
	}
	return nil
}

// GetAttributeNames lists the names that GetAttribute knows.
func (Reporter) GetAttributeNames() []string {
	return []string{
		semconv.EvidenceReporterSPIFFEID,
		semconv.EvidenceReporterAuthenticated,
		semconv.EvidenceReporterAddress,
		semconv.EvidenceReporterCertSHA256,
		semconv.EvidenceReporterNode,
	}
}
