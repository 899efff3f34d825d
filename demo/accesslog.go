package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"
)

// accessLog is one sidecar's stream to Envoy's access log service. Like Envoy
// it names its node in the first message of the stream only.
type accessLog struct {
	node *corev3.Node
	to   string
	conn *grpc.ClientConn
	stop context.CancelFunc

	mu      sync.Mutex // a stream takes one Send at a time
	stream  grpc.ClientStreamingClient[alsv3.StreamAccessLogsMessage, alsv3.StreamAccessLogsResponse]
	entries int
	err     error // the first failure; nothing is sent after it
}

func openAccessLog(w workloadInfo, address string) (*accessLog, error) {
	node, err := w.node()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	// The stream outlives the context of whoever starts the mesh: what is sent
	// while it stops counts too.
	ctx, stop := context.WithCancel(context.Background())
	stream, err := alsv3.NewAccessLogServiceClient(conn).StreamAccessLogs(ctx)
	if err != nil {
		stop()
		return nil, errors.Join(fmt.Errorf("open the access log stream to %s: %w", address, err), conn.Close())
	}
	return &accessLog{node: node, to: address, conn: conn, stop: stop, stream: stream}, nil
}

// write reports one finished request.
func (l *accessLog) write(entry *accesslogv3.HTTPAccessLogEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	message := &alsv3.StreamAccessLogsMessage{
		LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{
			HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{
				LogEntry: []*accesslogv3.HTTPAccessLogEntry{entry},
			},
		},
	}
	if l.entries == 0 {
		message.Identifier = &alsv3.StreamAccessLogsMessage_Identifier{Node: l.node, LogName: "mesh"}
	}
	if l.err = l.stream.Send(message); l.err == nil {
		l.entries++
	}
}

// close ends the stream and waits until the collector has read all of it.
func (l *accessLog) close(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.stop()
	defer context.AfterFunc(ctx, l.stop)()

	// After a failed Send, too, the reason comes with the answer.
	_, err := l.stream.CloseAndRecv()
	if errors.Is(err, io.EOF) || err == nil {
		err = l.err
	}
	if err != nil {
		err = fmt.Errorf("send access logs to %s: %w", l.to, err)
	}
	return errors.Join(err, l.conn.Close())
}

// node is what the sidecar says of itself, with the metadata of an Istio proxy.
func (w workloadInfo) node() (*corev3.Node, error) {
	metadata, err := structpb.NewStruct(map[string]any{
		"NAME":            w.pod(),
		"NAMESPACE":       namespace,
		"WORKLOAD_NAME":   w.deployment(),
		"SERVICE_ACCOUNT": w.name,
		"CLUSTER_ID":      "demo",
		"MESH_ID":         trustDomain.Name(),
		"OWNER":           "kubernetes://apis/apps/v1/namespaces/" + namespace + "/deployments/" + w.deployment(),
		"LABELS": map[string]any{
			"app":                                 w.name,
			"version":                             w.version,
			"service.istio.io/canonical-name":     w.name,
			"service.istio.io/canonical-revision": w.version,
		},
	})
	if err != nil {
		return nil, err
	}
	return &corev3.Node{
		Id:       "sidecar~127.0.0.1~" + w.pod() + "." + namespace + "~" + namespace + ".svc.cluster.local",
		Cluster:  w.name + "." + namespace,
		Metadata: metadata,
	}, nil
}
