package witness

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/meshaudit/meshaudit/seal"
)

// Bounds of what is read from the other side.
const (
	maxRequestBytes  = 64 << 10 // 63 hashes and a note with some twenty post-quantum signatures
	maxResponseBytes = 64 << 10
	maxProofHashes   = 63
)

// Client speaks C2SP tlog-witness over HTTP.
type Client struct {
	// HTTP is used for every witness that has no entry in Of; nil:
	// http.DefaultClient.
	HTTP *http.Client
	Of   map[string]*http.Client // by the witness's verifier key
}

var _ seal.WitnessClient = (*Client)(nil)

// AddCheckpoint submits a checkpoint.
func (c *Client) AddCheckpoint(ctx context.Context, w *seal.Witness, old uint64, proof []seal.Hash, checkpoint []byte) ([]byte, error) {
	status, body, err := c.do(ctx, w, http.MethodPost, "/add-checkpoint", encodeRequest(old, proof, checkpoint))
	if err != nil {
		return nil, err
	}
	switch status {
	case http.StatusOK:
		return body, nil
	case http.StatusConflict:
		size, ok := decimal(strings.TrimSuffix(string(body), "\n"))
		if !ok {
			return nil, &seal.WitnessRefusal{Status: status, Text: "a conflict without a size"}
		}
		return nil, &seal.WitnessConflict{Size: size}
	}
	return nil, &seal.WitnessRefusal{Status: status, Text: string(body)}
}

// Checkpoint asks for the newest checkpoint that the witness cosigned.
func (c *Client) Checkpoint(ctx context.Context, w *seal.Witness, origin string) ([]byte, error) {
	status, body, err := c.do(ctx, w, http.MethodGet, "/"+originHash(origin)+"/checkpoint", nil)
	switch {
	case err != nil:
		return nil, err
	case status == http.StatusOK:
		return body, nil
	case status == http.StatusNotFound || status == http.StatusMethodNotAllowed:
		return nil, seal.ErrUnseen // the two cannot be told apart from a witness that serves nothing
	}
	return nil, &seal.WitnessRefusal{Status: status, Text: string(body)}
}

func (c *Client) do(ctx context.Context, w *seal.Witness, method, path string, body []byte) (int, []byte, error) {
	if w.URL == "" {
		return 0, nil, errors.New("no URL of this witness is known")
	}
	req, err := http.NewRequestWithContext(ctx, method, w.URL+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("User-Agent", "meshaudit")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	}
	client := c.Of[w.VerifierKey]
	if client == nil {
		client = c.HTTP
	}
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxResponseBytes+1))
	if err != nil {
		return 0, nil, err
	}
	if len(b) > maxResponseBytes {
		return 0, nil, fmt.Errorf("%s answered more than %d bytes", w.URL, maxResponseBytes)
	}
	return resp.StatusCode, b, nil
}

func originHash(origin string) string {
	h := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(h[:])
}

// request is an add-checkpoint request.
type request struct {
	old        uint64
	proof      []seal.Hash
	checkpoint []byte // signed note
}

func encodeRequest(old uint64, proof []seal.Hash, checkpoint []byte) []byte {
	b := fmt.Appendf(nil, "old %d\n", old)
	for i := range proof {
		b = base64.StdEncoding.AppendEncode(b, proof[i][:])
		b = append(b, '\n')
	}
	return append(append(b, '\n'), checkpoint...)
}

func parseRequest(b []byte) (*request, error) {
	head, checkpoint, ok := bytes.Cut(b, []byte("\n\n"))
	if !ok {
		return nil, errors.New("no empty line in front of the checkpoint")
	}
	lines := strings.Split(string(head), "\n")
	if len(lines)-1 > maxProofHashes {
		return nil, fmt.Errorf("a proof of %d hashes, at most %d are allowed", len(lines)-1, maxProofHashes)
	}
	r := &request{checkpoint: checkpoint}
	size, ok := strings.CutPrefix(lines[0], "old ")
	if ok {
		r.old, ok = decimal(size)
	}
	if !ok {
		return nil, errors.New(`the first line is not "old" and a size`)
	}
	for _, l := range lines[1:] {
		h, err := base64.StdEncoding.Strict().DecodeString(l)
		if err != nil || len(h) != sha256.Size || strings.ContainsAny(l, "\r\n") {
			return nil, errors.New("a line of the proof is no hash in base64")
		}
		r.proof = append(r.proof, seal.Hash(h))
	}
	return r, nil
}

// decimal parses a number without sign or leading zeros.
func decimal(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil && strconv.FormatUint(n, 10) == s
}
