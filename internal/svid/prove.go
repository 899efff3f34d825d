package svid

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/evidence/token"
	"github.com/meshaudit/meshaudit/internal/trustbundle"
)

// Config says by what the SVIDs in evidence are verified.
type Config struct {
	// TrustBundles are the authorities. Default none: nothing is verified.
	TrustBundles trustbundle.Config `mapstructure:"trust_bundles"`
	// JWTAudiences are the audiences of which a JWT-SVID must name one. Default
	// none: no JWT-SVID is taken.
	JWTAudiences []string `mapstructure:"jwt_audiences"`
}

// Validate reports every fault but those of TrustBundles, which the Collector
// asks for itself.
func (c *Config) Validate() error {
	if len(c.JWTAudiences) > 0 && c.TrustBundles.Empty() {
		return errors.New("`jwt_audiences` needs `trust_bundles` that hold the keys of JWT-SVIDs")
	}
	for i, a := range c.JWTAudiences {
		if a == "" {
			return fmt.Errorf("`jwt_audiences::%d` must not be empty", i)
		}
	}
	return nil
}

// Credential is what kind of credential was verified.
type Credential string

// The credentials of evidence.Credentials.
const (
	PeerCertificate Credential = "peer_certificate"
	XFCCCertificate Credential = "xfcc_certificate"
	JWTSVID         Credential = "jwt_svid"
)

// An Observer is told what happens.
type Observer struct {
	// Verified: a credential proved what it says, or not.
	Verified func(c Credential, r Reason)
	// Source of bundles begins to fail, or works again (nil).
	Source func(source string, err error)
}

// NewObserver counts credentials by kind and outcome, and tells of sources of
// bundles in a log, when they begin to fail and when they work again.
func NewObserver(credentials metric.Int64Counter, l *zap.Logger) Observer {
	return Observer{
		Verified: func(c Credential, r Reason) {
			credentials.Add(context.Background(), 1, metric.WithAttributeSet(attribute.NewSet(
				attribute.String("credential", string(c)), attribute.String("outcome", r.Outcome()))))
		},
		Source: func(source string, err error) {
			if err != nil {
				l.Warn("trust bundles cannot be had from a source; what it gave last stays in force, and without any identities stay unproven",
					zap.String("source", source), zap.Error(err))
				return
			}
			l.Info("trust bundles can be had again", zap.String("source", source))
		},
	}
}

// A Prover states on evidence what the credentials in it prove. The nil Prover
// proves nothing.
type Prover struct {
	verifier *Verifier
	tokens   bool
	bundles  *trustbundle.Bundles
	observer Observer
}

// Open opens the bundles' sources; see trustbundle.Open. It gives nil if there
// are none.
func Open(ctx context.Context, cfg Config, o Observer) (*Prover, error) {
	if cfg.TrustBundles.Empty() {
		return nil, nil
	}
	bundles, err := trustbundle.Open(ctx, cfg.TrustBundles, o.Source)
	if err != nil {
		return nil, fmt.Errorf("`trust_bundles`: %w", err)
	}
	return &Prover{verifier: New(bundles, cfg.JWTAudiences, DefaultSkew), tokens: len(cfg.JWTAudiences) > 0, bundles: bundles, observer: o}, nil
}

// Close lets the sources go. It may be called twice.
func (p *Prover) Close() error {
	if p == nil {
		return nil
	}
	return p.bundles.Close()
}

// Prove verifies what e shows of its caller's credentials, states on e what they
// prove and takes them away. It reports whether it stated something.
//
// authenticated: it is known who reported e. Without it a certificate proves
// nothing: certificates are public, and anybody may send one along.
func (p *Prover) Prove(e *evidence.Evidence, authenticated bool) (changed bool) {
	shown := e.Shown
	if shown == nil {
		return false
	}
	e.Shown = nil
	if p == nil {
		return false
	}
	at := time.Unix(0, e.Start)
	if e.Start == 0 {
		at = time.Now()
	}
	if shown.Peer.Given() {
		v := p.verifier.Certificate(shown.Peer, at)
		if e.TLS.ClientSHA256 == "" {
			e.TLS.ClientSHA256 = v.SHA256
		}
		if e.TLS.ClientNotAfter == 0 && e.TLS.ClientSHA256 == v.SHA256 {
			e.TLS.ClientNotAfter = v.NotAfter
		}
		if v.Reason == Proven && !authenticated {
			v.Reason = Unauthenticated
		}
		p.state(e, PeerCertificate, v, evidence.ProofSVID, evidence.FromPeerCertificate)
		token.ApplyCertificate(e) // of which only now may be known which it is
		changed = true
	}
	if shown.XFCC.Given() {
		// A header is a claim. It is more when the proxy that reports it is trusted
		// to have written it, which is not known here.
		v := p.verifier.Certificate(shown.XFCC, at)
		p.state(e, XFCCCertificate, v, evidence.ProofClaimed, evidence.FromXFCCCertificate)
		changed = true
	}
	if shown.JWT != "" && p.tokens {
		v := p.verifier.Token(shown.JWT, at)
		if v.Reason == Proven && e.Actor != nil && e.Actor.Type == "" && e.User == v.ID.String() {
			e.Actor.Type = "service"
		}
		p.state(e, JWTSVID, v, evidence.ProofJWTSVID, evidence.FromJWTSVID)
		changed = true
	}
	return changed
}

// state adds what a credential says: with its proof; as a claim, and why it is no
// more; or, if it is false, as what contradicts.
func (p *Prover) state(e *evidence.Evidence, c Credential, v Verdict, proof evidence.Proof, from string) {
	p.observer.Verified(c, v.Reason)
	id := evidence.Identity{Proof: proof, From: from}
	if v.Reason != Proven {
		id.Proof = evidence.ProofClaimed
		id.From += ": " + string(v.Reason)
	}
	switch {
	case !v.Reason.Refuted():
		id.ID = v.ID
	case v.ID.IsZero():
		id.Invalid = "unreadable " + string(c)
	default:
		id.Invalid = evidence.Text(v.ID.String(), evidence.MaxInvalidIdentity)
	}
	e.From.AddIdentity(id)
}
