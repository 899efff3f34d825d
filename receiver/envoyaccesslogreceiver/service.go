package envoyaccesslogreceiver

import (
	"fmt"
	"strings"

	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// Messages are read as they came over the wire: building them as protobuf
// structures costs more than all that is read of them.

// service is Envoy's access log service.
var service = grpc.ServiceDesc{
	ServiceName: alsv3.AccessLogService_ServiceDesc.ServiceName,
	HandlerType: (*streamer)(nil),
	Streams: []grpc.StreamDesc{{
		StreamName:    alsv3.AccessLogService_ServiceDesc.Streams[0].StreamName,
		ClientStreams: true,
		Handler: func(srv any, stream grpc.ServerStream) error {
			return srv.(streamer).streamAccessLogs(stream)
		},
	}},
	Metadata: alsv3.AccessLogService_ServiceDesc.Metadata,
}

type streamer interface {
	streamAccessLogs(grpc.ServerStream) error
}

// raw is a message that is not decoded. It is a string because what is read of
// it is parts of it: so it is copied once.
type raw struct{ text string }

// rawCodec is gRPC's protobuf codec, but for messages that are to stay raw.
type rawCodec struct{}

var _ encoding.CodecV2 = rawCodec{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no protobuf message", v)
	}
	b, err := proto.Marshal(m)
	return mem.BufferSlice{mem.SliceBuffer(b)}, err
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	switch v := v.(type) {
	case *raw:
		var text strings.Builder
		text.Grow(data.Len())
		for _, part := range data {
			text.Write(part.ReadOnlyData())
		}
		v.text = text.String()
		return nil
	case proto.Message:
		return proto.Unmarshal(data.Materialize(), v)
	}
	return fmt.Errorf("%T is no protobuf message", v)
}
