package otlp

import (
	"slices"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/meshaudit/meshaudit/internal/evidence"
	"github.com/meshaudit/meshaudit/internal/semconv"
)

// The text attributes of an actor and of an act, in the order in which they
// are written.
var (
	actorNames = [...]string{
		semconv.AuditActorType, semconv.ChangeImpersonator, semconv.ActorTokenIssuer, semconv.ActorTokenAud,
		semconv.ActorTokenAZP, semconv.ActorTokenJKT, semconv.ActorTokenX5T, semconv.ActorTokenJTIHash, semconv.ActorTokenBound, semconv.ActorTokenProof,
	}
	actNames = [...]string{
		semconv.AuditAction, semconv.AuditOutcome, semconv.AuditTargetID, semconv.AuditTargetType,
		semconv.ChangeGroup, semconv.ChangeResource, semconv.ChangeNamespace, semconv.ChangeName,
		semconv.ChangeVerb, semconv.ChangeDiffSHA256, semconv.ChangeRevision,
	}
)

func actorField(a *evidence.Actor, name string) *string {
	switch name {
	case semconv.AuditActorType:
		return &a.Type
	case semconv.ChangeImpersonator:
		return &a.Impersonator
	case semconv.ActorTokenIssuer:
		return &a.Token.Issuer
	case semconv.ActorTokenAud:
		return &a.Token.Audience
	case semconv.ActorTokenAZP:
		return &a.Token.AuthorizedParty
	case semconv.ActorTokenJKT:
		return &a.Token.JKT
	case semconv.ActorTokenX5T:
		return &a.Token.X5T
	case semconv.ActorTokenJTIHash:
		return &a.Token.IDHash
	case semconv.ActorTokenBound:
		return &a.Token.Bound
	case semconv.ActorTokenProof:
		return &a.Token.Proof
	}
	return nil
}

func actField(a *evidence.Act, name string) *string {
	switch name {
	case semconv.AuditAction:
		return &a.Action
	case semconv.AuditOutcome:
		return &a.Outcome
	case semconv.AuditTargetID:
		return &a.TargetID
	case semconv.AuditTargetType:
		return &a.TargetType
	case semconv.ChangeGroup:
		return &a.Change.Group
	case semconv.ChangeResource:
		return &a.Change.Resource
	case semconv.ChangeNamespace:
		return &a.Change.Namespace
	case semconv.ChangeName:
		return &a.Change.Name
	case semconv.ChangeVerb:
		return &a.Change.Verb
	case semconv.ChangeDiffSHA256:
		return &a.Change.DiffSHA256
	case semconv.ChangeRevision:
		return &a.Change.Revision
	}
	return nil
}

// EncodeActor writes who acts, beyond user.id, to the attributes of evidence
// or of a record.
func EncodeActor(a *evidence.Actor, m pcommon.Map) {
	w := writer{m}
	for _, name := range actorNames {
		w.str(name, *actorField(a, name))
	}
	EncodeRoles(m, semconv.UserRoles, a.Roles)
	EncodeDelegation(m, semconv.ActorDelegation, a.Delegation)
}

// EncodeRoles writes roles, if there are any.
func EncodeRoles(m pcommon.Map, name string, roles []string) {
	if len(roles) == 0 {
		return
	}
	list := m.PutEmptySlice(name)
	for _, r := range roles {
		list.AppendEmpty().SetStr(r)
	}
}

// EncodeDelegation writes a delegation chain, if there is one.
func EncodeDelegation(m pcommon.Map, name string, chain []evidence.Delegate) {
	if len(chain) == 0 {
		return
	}
	list := m.PutEmptySlice(name)
	for _, d := range chain {
		link := writer{list.AppendEmpty().SetEmptyMap()}
		link.str(semconv.DelegateIssuer, d.Issuer)
		link.str(semconv.DelegateSubject, d.Subject)
	}
}

// EncodeAct writes what was done to what, to the attributes of evidence or of a
// record.
func EncodeAct(a *evidence.Act, m pcommon.Map) {
	w := writer{m}
	for _, name := range actNames {
		w.str(name, *actField(a, name))
	}
	w.num(semconv.IdentityNotAfter, a.NotAfter)
}

// act reads an attribute of an actor or an act, and passes over any other.
func (d *decoder) act(name string, v pcommon.Value) {
	switch name {
	case semconv.UserRoles:
		if v.Type() == pcommon.ValueTypeSlice {
			for _, r := range v.Slice().All() {
				if s := r.Str(); s != "" && len(d.actor().Roles) < evidence.MaxRoles {
					d.actor().Roles = append(d.actor().Roles, s)
				}
			}
		}
	case semconv.ActorDelegation:
		if v.Type() == pcommon.ValueTypeSlice {
			for _, link := range v.Slice().All() {
				if link.Type() == pcommon.ValueTypeMap && len(d.actor().Delegation) < evidence.MaxDelegates {
					d.actor().Delegation = append(d.actor().Delegation, delegate(link.Map()))
				}
			}
		}
	case semconv.IdentityNotAfter:
		d.deed().NotAfter = integer(v)
	default:
		switch {
		case slices.Contains(actorNames[:], name):
			*actorField(d.actor(), name) = v.Str()
		case slices.Contains(actNames[:], name):
			*actField(d.deed(), name) = v.Str()
		}
	}
}

func (d *decoder) actor() *evidence.Actor {
	if d.e.Actor == nil {
		d.e.Actor = new(evidence.Actor)
	}
	return d.e.Actor
}

func (d *decoder) deed() *evidence.Act {
	if d.e.Act == nil {
		d.e.Act = new(evidence.Act)
	}
	return d.e.Act
}

func delegate(m pcommon.Map) (out evidence.Delegate) {
	for name, v := range m.All() {
		switch name {
		case semconv.DelegateIssuer:
			out.Issuer = v.Str()
		case semconv.DelegateSubject:
			out.Subject = v.Str()
		}
	}
	return out
}
