package endpoint

import (
	"net"
	"sync/atomic"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.uber.org/zap"
)

// A Status is a receiver's health as its host sees it: whether the last offer
// to the next consumer was refused. It changes only with the first offer that
// is answered otherwise than the one before.
type Status struct {
	Host   component.Host // set when the receiver starts
	Logger *zap.Logger
	// Refusing is the message of the first refusal: what becomes of events.
	Refusing string

	refusing atomic.Bool
}

// Accepted says that an offer was accepted.
func (s *Status) Accepted() {
	if s.refusing.CompareAndSwap(true, false) {
		componentstatus.ReportStatus(s.Host, componentstatus.NewEvent(componentstatus.StatusOK))
	}
}

// Refused says that an offer was refused for now.
func (s *Status) Refused(err error) {
	if s.refusing.CompareAndSwap(false, true) {
		componentstatus.ReportStatus(s.Host, componentstatus.NewRecoverableErrorEvent(err))
		s.Logger.Warn(s.Refusing, zap.Error(err))
	}
}

// Loopback tells whether what is sent to an address stays on this machine.
func Loopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}
