package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const exportMethod = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"

// emptyPartialSuccess is how the receiver says that it took all of a request:
// field 1, nothing in it.
const emptyPartialSuccess = "\x0a\x00"

// encoded is the gRPC codec of messages that are encoded already.
type encoded struct{}

func (encoded) Name() string                  { return "proto" }
func (encoded) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (encoded) Unmarshal(b []byte, v any) error {
	*v.(*[]byte) = slices.Clone(b)
	return nil
}

// outcome is what was measured of one exporter under one load.
type outcome struct {
	Window    time.Duration
	Requests  int           // acknowledged in the window
	Records   int           // acknowledged in the window
	CPU       time.Duration // of the receiving process in the window
	Latencies []time.Duration
	Sent      int   // records acknowledged, out of the window too
	Stored    int64 // bytes that became of them
}

func (o *outcome) recordsPerSecond() float64  { return float64(o.Records) / o.Window.Seconds() }
func (o *outcome) requestsPerSecond() float64 { return float64(o.Requests) / o.Window.Seconds() }

// cpuPerRecord is in seconds.
func (o *outcome) cpuPerRecord() float64 { return o.CPU.Seconds() / float64(max(1, o.Records)) }

// bytesPerRecord is what a record takes on the disk.
func (o *outcome) bytesPerRecord() float64 { return float64(o.Stored) / float64(max(1, o.Sent)) }

// percentile gives the latency, in seconds, that p of 1 requests did not exceed.
func (o *outcome) percentile(p float64) float64 {
	if len(o.Latencies) == 0 {
		return 0
	}
	slices.Sort(o.Latencies)
	return o.Latencies[min(len(o.Latencies)-1, int(p*float64(len(o.Latencies))))].Seconds()
}

// send puts the load on the receiver at address and measures the time between
// warm and warm + window. Usage tells the CPU time that the receiver has used.
func send(ctx context.Context, address string, l load, warm, window time.Duration, usage func() (time.Duration, error)) (outcome, error) {
	senders := make([]*sender, l.senders)
	for i := range senders {
		var err error
		if senders[i], err = newSender(address, uint64(i), l.records); err != nil {
			return outcome{}, err
		}
		defer senders[i].conn.Close()
	}
	begin := time.Now().Add(warm)
	end := begin.Add(window)
	var wg sync.WaitGroup
	for _, s := range senders {
		wg.Go(func() { s.err = s.run(ctx, begin, end) })
	}
	o := outcome{Window: window}
	time.Sleep(time.Until(begin))
	before, err := usage()
	time.Sleep(time.Until(end))
	after, err2 := usage()
	wg.Wait()
	errs := []error{err, err2}
	o.CPU = after - before
	for _, s := range senders {
		o.Requests += len(s.latencies)
		o.Latencies = append(o.Latencies, s.latencies...)
		o.Sent += s.acknowledged * l.records
		errs = append(errs, s.err)
	}
	o.Records = o.Requests * l.records
	return o, errors.Join(errs...)
}

// sender is one client with a connection of its own.
type sender struct {
	conn         *grpc.ClientConn
	source       *source
	latencies    []time.Duration
	acknowledged int
	err          error
}

func newSender(address string, seed uint64, records int) (*sender, error) {
	src, err := newSource(seed, records)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return &sender{conn: conn, source: src}, nil
}

func (s *sender) run(ctx context.Context, begin, end time.Time) error {
	for {
		request := s.source.request()
		var response []byte
		sent := time.Now()
		if !sent.Before(end) {
			return nil
		}
		if err := s.conn.Invoke(ctx, exportMethod, &request, &response, grpc.ForceCodec(encoded{})); err != nil {
			return err
		}
		if len(response) != 0 && string(response) != emptyPartialSuccess {
			return fmt.Errorf("a request was acknowledged in part only: response %q", response)
		}
		acknowledged := time.Now()
		s.acknowledged++
		if !acknowledged.Before(begin) && acknowledged.Before(end) {
			s.latencies = append(s.latencies, acknowledged.Sub(sent))
		}
	}
}
